"""lm-deluge with limits out of the way, each answer to a line of JSON.

python lm_deluge_client.py BASE_URL INPUT OUTPUT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from lm_deluge import LLMClient
from lm_deluge.models import register_model


async def main() -> None:
    url, source, output, concurrency = sys.argv[1:]
    os.environ["BENCHMARK_KEY"] = "benchmark"
    register_model(
        id="bench", name="grok-4.3", api_base=url, api_key_env_var="BENCHMARK_KEY", api_spec="openai", provider="openai"
    )
    client = LLMClient(
        "bench",
        max_requests_per_minute=100_000_000,
        max_tokens_per_minute=100_000_000_000,
        max_concurrent_requests=int(concurrency),
        max_attempts=3,
        request_timeout=600,
        progress="manual",
    )
    with open(source) as lines:
        rows = [json.loads(line) for line in lines]
    replies = await client.process_prompts_async([row["prompt"] for row in rows], show_progress=False)
    with open(output, "w") as file:
        answers = (reply.completion for reply in replies)
        file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
    print(sum(reply.completion is not None for reply in replies))


asyncio.run(main())
