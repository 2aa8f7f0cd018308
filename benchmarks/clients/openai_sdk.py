"""AsyncOpenAI, a semaphore and gather, each answer to a line of JSON: what most people write.

python openai_sdk.py BASE_URL INPUT OUTPUT CONCURRENCY [aiohttp]
"""

from __future__ import annotations

import asyncio
import json
import sys

from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient


async def main() -> None:
    url, source, output, concurrency, *backend = sys.argv[1:]
    http = DefaultAioHttpClient() if backend else DefaultAsyncHttpxClient()
    client = AsyncOpenAI(base_url=url, api_key="benchmark", http_client=http)
    slots = asyncio.Semaphore(int(concurrency))

    async def ask(row: dict[str, str]) -> str:
        async with slots:
            messages = [{"role": "user", "content": row["prompt"]}]
            reply = await client.chat.completions.create(model="grok-4.3", messages=messages)
            return json.dumps({"custom_id": row["custom_id"], "answer": reply.choices[0].message.content})

    with open(source) as lines:
        rows = [json.loads(line) for line in lines]
    answers = await asyncio.gather(*(ask(row) for row in rows))
    with open(output, "w") as file:
        file.writelines(answer + "\n" for answer in answers)
    await client.close()
    print(len(answers))


asyncio.run(main())
