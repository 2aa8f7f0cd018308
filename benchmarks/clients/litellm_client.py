"""litellm.acompletion, a semaphore and gather, each answer to a line of JSON.

python litellm_client.py BASE_URL INPUT OUTPUT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm


async def main() -> None:
    url, source, output, concurrency = sys.argv[1:]
    slots = asyncio.Semaphore(int(concurrency))

    async def ask(row: dict[str, str]) -> str:
        async with slots:
            messages = [{"role": "user", "content": row["prompt"]}]
            reply = await litellm.acompletion(
                model="openai/grok-4.3", messages=messages, api_base=url, api_key="benchmark"
            )
            return json.dumps({"custom_id": row["custom_id"], "answer": reply.choices[0].message.content})

    with open(source) as lines:
        rows = [json.loads(line) for line in lines]
    answers = await asyncio.gather(*(ask(row) for row in rows))
    with open(output, "w") as file:
        file.writelines(answer + "\n" for answer in answers)
    print(len(answers))


asyncio.run(main())
