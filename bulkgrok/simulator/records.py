"""What of a world outlives its process: changes as small JSON objects, and a ledger made of them again.

Law: pure. A record says what happened, so records are only ever appended. One that cannot be read is left out and
counted: a simulated world holds nothing paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bulkgrok.simulator.answers import Ask
from bulkgrok.simulator.clips import Clip
from bulkgrok.simulator.ledger import Entry, Ledger


@dataclass(slots=True)
class Restored:
    """What records tell besides the ledger."""

    generation: int = 0
    skew_s: float = 0.0
    unreadable: int = 0


def started(generation: int, skew_s: float) -> dict[str, Any]:
    """Return the record of a new life, or of a clock that was put forward."""
    return {"t": "life", "generation": generation, "skew_s": skew_s}


def accepted(entry: Entry) -> dict[str, Any]:
    """Return the record of an accepted request; of a direct one only its bill."""
    if entry.kind == "chat":
        return {"t": "direct", "ticks": entry.ticks}
    return {
        "t": "job",
        "id": entry.id,
        "kind": entry.kind,
        "path": entry.path,
        "model": entry.model,
        "marker": entry.marker.hex(),
        "ordinal": entry.ordinal,
        "accepted_at": entry.accepted_at,
        "ready_at": entry.ready_at,
        "fate": entry.fate,
        "ticks": entry.ticks,
        "ask": None if entry.ask is None else asdict(entry.ask),
    }


def consumed(entry: Entry) -> dict[str, Any]:
    """Return the record of a once-only result that is handed out."""
    return {"t": "consumed", "id": entry.id, "at": entry.consumed_at, "sha256": entry.sha256.hex()}


def delivered(entry: Entry) -> dict[str, Any]:
    """Return the record of a result that was sent in whole."""
    return {"t": "delivered", "id": entry.id}


def refused_content() -> dict[str, Any]:
    """Return the record of a refusal that may cost a fee."""
    return {"t": "refused"}


def short_name(marker: bytes, path: str) -> bytes:
    """Name content and path in few bytes: there may be millions of them."""
    return marker[:10] + path[-5:].encode()


def restore(found: Iterable[Mapping[str, Any]], ledger: Ledger, ordinals: dict[bytes, int]) -> Restored:
    """Fill an empty ledger from records."""
    restored = Restored()
    for record in found:
        try:
            _apply(record, ledger, ordinals, restored)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            restored.unreadable += 1
    return restored


def _apply(record: Mapping[str, Any], ledger: Ledger, ordinals: dict[bytes, int], restored: Restored) -> None:
    match record["t"]:
        case "job":
            entry = _entry(record)
            ledger.add(entry, itemised=True)
            short = short_name(entry.marker, entry.path)
            ordinals[short] = max(ordinals.get(short, 0), entry.ordinal + 1)
        case "direct":
            ledger.accepted += 1
            ledger.billed += 1
            ledger.direct_billed += 1
            ledger.ticks += int(record["ticks"])
        case "consumed":
            entry = ledger.jobs[record["id"]]
            entry.sha256 = bytes.fromhex(record.get("sha256", ""))
            ledger.consume(entry, float(record.get("at", 0.0)))
        case "delivered":
            ledger.delivered(ledger.jobs[record["id"]])
        case "refused":
            ledger.content_refusals += 1
        case "life":
            restored.generation = max(restored.generation, int(record["generation"]))
            restored.skew_s = float(record["skew_s"])
        case other:
            msg = f"unknown record {other!r:.40}"
            raise ValueError(msg)


def _entry(record: Mapping[str, Any]) -> Entry:
    kind, ask = str(record["kind"]), record["ask"]
    fate = str(record["fate"])
    return Entry(
        id=str(record["id"]),
        kind=kind,
        path=str(record["path"]),
        model=str(record["model"]),
        marker=bytes.fromhex(record["marker"]),
        ordinal=int(record["ordinal"]),
        accepted_at=float(record["accepted_at"]),
        ready_at=float(record["ready_at"]),
        fate=fate,
        ticks=int(record["ticks"]),
        billed=not fate.startswith("failed"),
        ask=Ask(**ask) if kind == "deferred" else Clip(**ask),
    )
