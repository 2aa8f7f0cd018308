"""Tokens a minute: how long a large request waits behind a stream of small ones, and what is used of the limit.

    python -m benchmarks.fairness TPM     one run in virtual time; prints its figures as JSON

Its fair time is what its tokens take to come free: half of a minute's budget, half a minute.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import orjson

from benchmarks.nginx import ANSWER
from benchmarks.processes import run
from benchmarks.table import Table
from benchmarks.virtual import RTT_S, play, reply
from bulkgrok.core.model import Reply

_MINUTES = 6
_SMALL, _SHARE = 400, 0.5
"""Tokens of a small request; a large one's share of a minute's budget."""
_COMPLETION = 100
_MINUTE_S = 60.0


def measure(work: Path, *, short: bool) -> list[Table]:
    """Measure some budgets."""
    del work
    table = Table(
        title="--tpm with mixed sizes (virtual time)",
        columns=["tokens/min", "requests", "large wait / fair time", "share of tokens used", "most in 60 s / limit"],
        notes=[
            "one request in the middle of each two minutes is worth half a minute's budget; all others 400 tokens",
            "wait: from the last small one before it to its own sending; fair time: 30 s",
            "share: of what the limit allows from the first request to the last; tokens are counted as the API bills",
        ],
    )
    for tpm in (60_000,) if short else (60_000, 600_000, 6_000_000):
        table.add(tpm, *json.loads(run([sys.executable, "-m", "benchmarks.fairness", str(tpm)]).output))
    return [table]


# In the process that is measured


class _Api:
    """Answers after 2 s, and notes when requests came and what they were worth."""

    def __init__(self) -> None:
        self.came: list[tuple[float, int]] = []

    async def post(self, path: str, body: bytes, **_: object) -> Reply:
        del path
        await asyncio.sleep(RTT_S / 2)
        tokens = len(orjson.loads(body)["messages"][-1]["content"]) // 4 + _COMPLETION
        self.came.append((asyncio.get_running_loop().time(), tokens))
        await asyncio.sleep(2.0)
        answer = orjson.loads(ANSWER)
        answer["usage"] |= {
            "prompt_tokens": tokens - _COMPLETION, "completion_tokens": _COMPLETION, "total_tokens": tokens,
        }  # fmt: skip
        return reply(200, orjson.dumps(answer))

    async def get(self, path: str, **_: object) -> Reply:
        del path
        await asyncio.sleep(RTT_S)
        return reply(200, b"{}")


def _rows(tpm: int) -> list[dict[str, object]]:
    """Return small requests with a large one in the middle of each two minutes."""
    small, large = "s" * 4 * (_SMALL - _COMPLETION), "l" * int(4 * (tpm * _SHARE - _COMPLETION))
    around = int(tpm * (2 - _SHARE) / _SMALL) // 2
    two_minutes = [small] * around + [large] + [small] * around
    return [{"prompt": prompt, "max_completion_tokens": _COMPLETION} for prompt in two_minutes * (_MINUTES // 2)]


def _main() -> None:
    tpm, api = int(sys.argv[1]), _Api()
    play(api, _rows(tpm), tpm=float(tpm), concurrency=2_000)
    fair_s = _SHARE * _MINUTE_S
    waits = [
        at - before for (before, _), (at, tokens) in zip(api.came, api.came[1:], strict=False) if tokens > 2 * _SMALL
    ]
    assert len(waits) == _MINUTES // 2, waits
    used = sum(tokens for _, tokens in api.came)
    lasted_s = api.came[-1][0] - api.came[0][0] + _SMALL / tpm * _MINUTE_S
    print(json.dumps([len(api.came), max(waits) / fair_s, used / (tpm * lasted_s / _MINUTE_S), _most(api.came) / tpm]))


def _most(came: list[tuple[float, int]]) -> int:
    """Return the most tokens of any 60 s, begun at any whole tenth of a second."""
    tenths: Counter[int] = Counter()
    for at, tokens in came:
        tenths[int(at * 10)] += tokens
    last, width = max(tenths), int(_MINUTE_S * 10)
    within = sum(tenths[tenth] for tenth in range(width))
    most = within
    for tenth in range(width, last + 1):
        within += tenths[tenth] - tenths[tenth - width]
        most = max(most, within)
    return most


if __name__ == "__main__":
    _main()
