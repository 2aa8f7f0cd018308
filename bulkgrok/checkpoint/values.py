"""Rows of the tables to values of the core, and back.

Law: what goes in comes out equal, whatever an input or the API put into it: halves of surrogate pairs, infinities,
numbers too large for a column. Only money that is none (not finite, beyond all sense) becomes unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from bulkgrok.core.model import (
    Asset,
    Code,
    Counts,
    Entry,
    Fingerprint,
    Job,
    JsonObject,
    LedgerEntry,
    Mode,
    Record,
    RequestId,
    RowError,
    RunIdentity,
    Settled,
)

TTL: Final = "deferred_ttl"
"""The fact that tells how long results are kept, in seconds."""

Columns = Sequence[Any]

_MODES: Final = {mode.value: mode for mode in Mode}
_MOST_USD: Final = 1e8
_MOST_TOKENS: Final = 1 << 48
_LARGEST_INT: Final = (1 << 63) - 1


def stored_text(value: str) -> str | bytes:
    """Return text as it is stored: as it is, or as WTF-8 where it is no Unicode."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def text(value: Any) -> str:  # noqa: ANN401 - a column
    """Return stored text."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def optional_text(value: Any) -> str | None:  # noqa: ANN401 - a column
    """Return stored text, or None."""
    return None if value is None else text(value)


def stored_optional(value: str | None) -> str | bytes | None:
    """Return text as it is stored, or None."""
    return None if value is None else stored_text(value)


def money(value: float | None) -> float | None:
    """Return a cost, None where it is none that could be meant."""
    return value + 0.0 if value is not None and -_MOST_USD <= value <= _MOST_USD else None  # the file knows no -0.0


def token_counts(tokens: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return n tokens each, within what sums can hold."""
    prompt, completion, reasoning, cached = tokens
    return _count(prompt), _count(completion), _count(reasoning), _count(cached)


def _count(number: int) -> int:
    return 0 if number < 0 else min(number, _MOST_TOKENS)


def small(value: int | None) -> int | None:
    """Return a number that fits a column, else None."""
    return value if value is not None and -_LARGEST_INT <= value <= _LARGEST_INT else None


def stored_assets(assets: tuple[Asset, ...]) -> str | None:
    """Return assets as JSON."""
    if not assets:
        return None
    return json.dumps([[asset.url, asset.path, asset.bytes, asset.sha256] for asset in assets])


def assets_from(value: str | None) -> tuple[Asset, ...]:
    """Return stored assets."""
    if value is None:
        return ()
    return tuple(Asset(url=url, path=path, bytes=size, sha256=sha256) for url, path, size, sha256 in json.loads(value))


def counts_from(columns: Columns) -> Counts:
    """Return counts from posts, attempts, doubts, losses, digest."""
    posts, attempts, doubts, losses, digest = columns
    return Counts(posts=posts, attempts=attempts, doubts=doubts, losses=losses, digest=digest)


def job_from(columns: Columns) -> Job:
    """Return a job from its columns in reads.sql."""
    row, kind, request_id, submitted_at, deadline_at, model = columns
    return Job(
        row=row,
        kind=text(kind),
        request_id=RequestId(text(request_id)),
        submitted_at=submitted_at,
        deadline_at=deadline_at,
        model=text(model),
    )


def record_from(columns: Columns) -> Record:
    """Return a stored answer from its columns in reads.sql."""
    (
        row, line, custom_id, kind, mode, model, posts, attempts, submitted_at, completed_at, request_id, status_code,
        raw, max_usd,
    ) = columns  # fmt: skip
    return Record(
        row=row,
        line=line,
        custom_id=text(custom_id),
        kind=text(kind),
        mode=_MODES[mode],
        model=text(model),
        attempts=posts,
        counted=attempts,
        submitted_at=submitted_at,
        completed_at=completed_at,
        request_id=optional_text(request_id),
        status_code=status_code,
        raw=raw,
        max_usd=max_usd,
    )


def settled_from(columns: Columns) -> Settled:
    """Return an outcome from its columns in reads.sql."""
    (
        seq, row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id, status_code, raw,
        cost_usd, usage, assets, error_code, error_message, error_status, retryable,
    ) = columns  # fmt: skip
    error = None
    if error_code is not None:
        error = RowError(
            code=Code(error_code),
            message=text(error_message),
            status_code=error_status,
            retryable=bool(retryable),
            line=line,
        )
    return Settled(
        seq=seq,
        row=row,
        line=line,
        custom_id=text(custom_id),
        kind=text(kind),
        mode=_MODES[mode],
        model=text(model),
        attempts=posts,
        submitted_at=submitted_at,
        completed_at=completed_at,
        request_id=optional_text(request_id),
        status_code=status_code,
        body=raw,
        cost_usd=cost_usd,
        usage=usage,
        assets=assets_from(assets),
        error=error,
    )


def ledger_entry_from(columns: Columns) -> LedgerEntry:
    """Return a ledger entry from row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd."""
    row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd = columns
    return LedgerEntry(
        row=row,
        custom_id=text(custom_id),
        attempt=attempt,
        at=at,
        entry=Entry(entry),
        reason=text(reason),
        max_usd=max_usd,
        request_id=optional_text(request_id),
        cost_usd=cost_usd,
    )


def stored_identity(identity: RunIdentity) -> JsonObject:
    """Return what a run belongs to as a JSON object."""
    return {
        "run_id": identity.run_id,
        "input_name": identity.input_name,
        "input": None if identity.input is None else [identity.input.size, identity.input.sha256],
        "settings": dict(identity.settings),
        "endpoint": identity.endpoint,
        "key_salt": identity.key_salt,
        "key_hash": identity.key_hash,
        "simulated": identity.simulated,
        "created_at": identity.created_at,
        "extra": dict(identity.extra),
    }


def identity_from(value: Any) -> RunIdentity:  # noqa: ANN401 - parsed JSON
    """Return the stored identity."""
    found = dict(value)
    fingerprint = found.pop("input")
    return RunIdentity(
        input=None if fingerprint is None else Fingerprint(size=fingerprint[0], sha256=fingerprint[1]), **found
    )
