"""Outstanding jobs between two polls: a million of them in some dozens of megabytes.

Law: a job is columns in arrays here, an object only while it is polled. When it is next asked for stands in a timer
wheel of four levels; an entry of a coarse level moves to a finer one when its bucket begins, so that each comes due
within 8 ms of its time and never before it. What is due stands in a heap for each model, the earliest deadline first.

Knows nothing of rates or schedules. Times to come due are monotonic seconds, deadlines UNIX seconds.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from math import ceil
from typing import Final

from bulkgrok.core.model import Job, RequestId

_TICKS_A_S: Final = 128
_LEVELS: Final = (0, 6, 12, 18)
"""Widths of the buckets as powers of two, in ticks: 8 ms, 0.5 s, 32 s, 2,048 s."""
_NONE: Final = 0xFFFF_FFFF
_DEADLINES_A_S: Final = 8
_FOREVER: Final = float("inf")
_JOBS_LOOKED_AT_A_S: Final = 100_000
_PLAIN: Final = (0, 0.0, 0, 0.0, 0, 0.0)
"""What `_rest` holds for a job that nothing unusual happened to: nothing."""


def _id_bytes(request_id: str) -> bytes | None:
    """Return the 16 bytes of an id that is a UUID as UUIDs are written, else None."""
    if len(request_id) != 36:
        return None
    try:
        found = bytes.fromhex(request_id.replace("-", ""))
    except ValueError:
        return None
    return found if len(found) == 16 and _id_text(found) == request_id else None


def _id_text(found: bytes) -> str:
    text = found.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Waiting:
    """Jobs that wait to be polled."""

    def __init__(self) -> None:
        self._rows = array("q")
        self._submitted_at = array("d")
        self._deadlines_at = array("d")
        self._due_at = array("d")
        self._pending_s = array("f")
        self._tokens = array("I")
        self._polls = array("H")
        self._groups = array("I")
        self._ids = bytearray()
        self._other_ids: dict[int, str] = {}
        self._rest: dict[int, tuple[int, float, int, float, int, float]] = {}
        self._names: list[tuple[str, str, list[int]]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._due: dict[str, list[int]] = {}
        self._next = array("I")
        self._free = _NONE
        self._heads: dict[int, int] = {}
        self._begins: list[int] = []
        self._count = 0
        self._nearest: tuple[float, float] = (-_FOREVER, _FOREVER)

    def __len__(self) -> int:
        return self._count

    def due(self, model: str) -> list[int]:
        """Return the heap of a model's jobs that are due, which fills and empties; `pop` takes from it."""
        return self._due.setdefault(model, [])

    def deadline_at(self, due: list[int]) -> float:
        """Return about when the first of those that are due expires."""
        return (due[0] >> 32) / _DEADLINES_A_S

    @property
    def next_at(self) -> float:
        """When `wake` has something to do."""
        return (self._begins[0] >> 2) / _TICKS_A_S if self._begins else _FOREVER

    def due_at(self, part: float) -> float:
        """Return when so large a part of the jobs, at least one, has come due; infinite where there is none."""
        times = [at for at, end in zip(self._due_at, self._deadlines_at, strict=True) if end != _FOREVER]
        if not times:
            return _FOREVER
        times.sort()
        return times[int(part * (len(times) - 1))]

    def put(self, job: Job, *, at: float, now: float) -> None:
        """Take a job that is to be polled at `at`."""
        slot = self._slot()
        self._count += 1
        self._rows[slot] = job.row
        self._submitted_at[slot] = job.submitted_at
        self._deadlines_at[slot] = job.deadline_at
        self._pending_s[slot] = job.pending_s
        self._tokens[slot] = min(job.tokens, _NONE)
        self._polls[slot] = min(job.polls, 0xFFFF)
        self._groups[slot] = self._group(job.kind, job.model)
        if (found := _id_bytes(job.request_id)) is not None:
            self._ids[16 * slot : 16 * slot + 16] = found
        else:
            self._other_ids[slot] = job.request_id
        rest = (job.missing, job.missing_since, job.overdue, job.overdue_since, job.errors, job.errors_since)
        if rest != _PLAIN:
            self._rest[slot] = rest
        self._due_at[slot] = at
        if at <= now:
            self._come_due(slot)
        else:
            self._place(slot, ceil(at * _TICKS_A_S), int(now * _TICKS_A_S))

    def wake(self, now: float) -> None:
        """Let come due what is due."""
        tick = int(now * _TICKS_A_S)
        begins = self._begins
        while begins and begins[0] >> 2 <= tick:
            key = heappop(begins)
            slot = self._heads.pop(key)
            while slot != _NONE:
                following = self._next[slot]
                if key & 3 and (at := ceil(self._due_at[slot] * _TICKS_A_S)) > tick:
                    self._place(slot, at, tick)
                else:
                    self._come_due(slot)
                slot = following

    def pop(self, due: list[int]) -> Job:
        """Return the first of those that are due, and forget it."""
        return self._take(heappop(due) & _NONE)

    def look(self, due: list[int]) -> Job:
        """Return the first of those that are due, without its id: enough to tell when to poll it."""
        return self._job(due[0] & _NONE, RequestId(""))

    def postpone(self, due: list[int], *, at: float, now: float) -> None:
        """Let the first of those that are due come due again at `at`, which is ahead."""
        slot = heappop(due) & _NONE
        self._due_at[slot] = at
        self._place(slot, max(ceil(at * _TICKS_A_S), int(now * _TICKS_A_S) + 1), int(now * _TICKS_A_S))

    def hurry(self, by_s: float, *, now: float) -> None:
        """Let whatever waits come due so much earlier."""
        heads = list(self._heads.values())
        self._heads.clear()
        self._begins.clear()
        tick = int(now * _TICKS_A_S)
        for head in heads:
            slot = head
            while slot != _NONE:
                following = self._next[slot]
                at = self._due_at[slot] = self._due_at[slot] - by_s
                if at <= now:
                    self._come_due(slot)
                else:
                    self._place(slot, ceil(at * _TICKS_A_S), tick)
                slot = following

    def pop_any(self) -> Job | None:
        """Return the job that is due, or comes due, first, and forget it."""
        due = min(filter(None, self._due.values()), key=lambda heap: heap[0], default=None)
        if due is not None:
            return self.pop(due)
        if not self._begins:
            return None
        key = self._begins[0]
        slot = self._heads[key]
        if self._next[slot] == _NONE:
            heappop(self._begins)
            del self._heads[key]
        else:
            self._heads[key] = self._next[slot]
        return self._take(slot)

    def nearest_deadline_at(self, now: float) -> float | None:
        """Return about when the first of all jobs expires, None where there is none; many are looked at rarely."""
        if not self._count:
            return None
        looked_at, nearest = self._nearest
        if now - looked_at >= len(self._deadlines_at) / _JOBS_LOOKED_AT_A_S or nearest == _FOREVER:
            nearest = min(self._deadlines_at)
            self._nearest = now, nearest
        return nearest

    def _slot(self) -> int:
        slot = self._free
        if slot != _NONE:
            self._free = self._next[slot]
            return slot
        for column in (self._rows, self._tokens, self._polls, self._groups, self._next):
            column.append(0)
        for times in (self._submitted_at, self._deadlines_at, self._due_at, self._pending_s):
            times.append(0.0)
        self._ids += bytes(16)
        return len(self._rows) - 1

    def _take(self, slot: int) -> Job:
        other = self._other_ids.pop(slot, None) if self._other_ids else None
        job = self._job(slot, RequestId(other or _id_text(bytes(self._ids[16 * slot : 16 * slot + 16]))))
        if self._rest:
            self._rest.pop(slot, None)
        self._deadlines_at[slot] = _FOREVER
        self._next[slot], self._free = self._free, slot
        self._count -= 1
        return job

    def _job(self, slot: int, request_id: RequestId) -> Job:
        kind, model, _ = self._names[self._groups[slot]]
        rest = self._rest.get(slot, _PLAIN) if self._rest else _PLAIN
        return Job(
            row=self._rows[slot],
            kind=kind,
            request_id=request_id,
            submitted_at=self._submitted_at[slot],
            deadline_at=self._deadlines_at[slot],
            model=model,
            tokens=self._tokens[slot],
            pending_s=self._pending_s[slot],
            polls=self._polls[slot],
            missing=rest[0],
            missing_since=rest[1],
            overdue=rest[2],
            overdue_since=rest[3],
            errors=rest[4],
            errors_since=rest[5],
        )

    def _group(self, kind: str, model: str) -> int:
        number = self._numbers.get((kind, model))
        if number is None:
            number = self._numbers[kind, model] = len(self._names)
            self._names.append((kind, model, self.due(model)))
        return number

    def _come_due(self, slot: int) -> None:
        heappush(self._names[self._groups[slot]][2], int(self._deadlines_at[slot] * _DEADLINES_A_S) << 32 | slot)

    def _place(self, slot: int, at: int, tick: int) -> None:
        """Put a slot into the bucket for tick `at`, which is ahead of the present `tick`."""
        ahead = at - tick
        level = 0 if ahead < 64 else 1 if ahead < 4_096 else 2 if ahead < 262_144 else 3
        width = _LEVELS[level]
        key = at >> width << width << 2 | level
        head = self._heads.get(key)
        if head is None:
            heappush(self._begins, key)
            head = _NONE
        self._next[slot] = head
        self._heads[key] = slot
