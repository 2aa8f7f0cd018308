"""bespokelabs-curator with its openai backend and limits out of the way, each answer to a line of JSON.

python curator_client.py BASE_URL INPUT OUTPUT CONCURRENCY
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    url, source, output, concurrency = sys.argv[1:]
    os.environ |= {
        "CURATOR_CACHE_DIR": str(Path(output).parent / "curator"),
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
        "CURATOR_VIEWER": "0",
        "TELEMETRY_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "benchmark",
        "OPENAI_BASE_URL": url,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    # It counts tokens with a table that is fetched from the net; litellm, which it depends on, ships one.
    litellm = Path(find_spec("litellm").origin).parent
    table = next((path.parent for path in litellm.rglob("9b5ad71b2ce5302211f9c61530b329a4922fc6a4")), litellm)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(table)
    from bespokelabs import curator

    limits = {
        "max_requests_per_minute": 100_000_000,
        "max_tokens_per_minute": 100_000_000_000,
        "max_concurrent_requests": int(concurrency),
        "base_url": url,
    }
    asker = curator.LLM(model_name="grok-4.3", backend="openai", backend_params=limits)
    with open(source) as lines:
        rows = [json.loads(line) for line in lines]
    found = asker([row["prompt"] for row in rows])
    answers = getattr(found, "dataset", found)
    with open(output, "w") as file:
        file.writelines(json.dumps({"answer": answer["response"]}) + "\n" for answer in answers)
    print(len(answers))


if __name__ == "__main__":
    main()
