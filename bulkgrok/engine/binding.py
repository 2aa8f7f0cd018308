"""Does this checkpoint belong to this input, these settings, this endpoint and key?

Law: asked before anything is sent. What differs is named, with the way out. While nothing has been billed, settings and
key may change freely: then failed rows become pending again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bulkgrok.config import Places, RunConfig
from bulkgrok.core.errors import RunMismatch, UsageError
from bulkgrok.core.lifecycle import Retry
from bulkgrok.core.model import Fingerprint, RunIdentity
from bulkgrok.core.ports import Store
from bulkgrok.telemetry.wording import printable

SIMULATOR: Final = "simulator"
_NAMES: Final[Mapping[str, str]] = {
    name: f"--{name}" for name in ("mode", "kind", "model", "prompt", "system", "stream")
} | {"params": "--param"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What this command wants to run."""

    config: RunConfig
    places: Places
    input_name: str
    fingerprint: Fingerprint | None
    """None for a stream of rows, which is compared row by row."""
    at: float
    reads_input: bool = True
    """Whether the input is there to be compared: not where nothing is sent."""

    @property
    def settings(self) -> dict[str, object]:
        """The fixed flags."""
        config = self.config
        return {
            "mode": config.mode,
            "kind": config.kind,
            "model": config.model,
            "prompt": config.prompt,
            "system": config.system,
            "params": dict(config.params),
            "stream": config.stream,
        }

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return SIMULATOR if self.config.simulate else self.config.base_url

    def key_hash(self, salt: str) -> str:
        """Return the salted hash that stands for the key."""
        key = "" if self.config.simulate else self.config.api_key.reveal()
        return hmac.new(bytes.fromhex(salt), f"{key}\n{self.endpoint}".encode(), hashlib.sha256).hexdigest()

    def identity(self, salt: str | None = None) -> RunIdentity:
        """Return the identity of a new run."""
        salt = salt or secrets.token_hex(16)
        return RunIdentity(
            run_id=self.places.run_id,
            input_name=self.input_name,
            input=self.fingerprint,
            settings=self.settings,
            endpoint=self.endpoint,
            key_salt=salt,
            key_hash=self.key_hash(salt),
            simulated=self.config.simulate,
            created_at=self.at,
            extra={"output": str(self.places.output)} if self.config.run_id else {},
        )


def is_replaced(store: Store, wanted: Wanted) -> bool:
    """Whether the checkpoint is a simulated run that the same command without `--simulate` replaces.

    Raises:
        RunMismatch: The reverse: a real run and `--simulate`.
    """
    identity = store.identity()
    if identity is None or identity.simulated == wanted.config.simulate:
        return False
    if identity.simulated:
        return True
    run_dir = wanted.places.run_dir
    msg = f"{run_dir} holds a real run, and --simulate would mix invented answers into it. Nothing was sent."
    raise RunMismatch(msg, hint="Type the same with -o SIMULATED.jsonl")


def bind(store: Store, wanted: Wanted) -> bool:
    """Tie a new run to what was asked, or verify that it is the same; return whether digests may be of other settings.

    Raises:
        RunMismatch: It is not the same. Nothing was sent.
    """
    found = store.identity()
    if found is None:
        if not wanted.reads_input:
            raise _no_run(wanted)
        store.bind(wanted.identity())
        return False
    if compare(store, wanted):
        _rebind(store, found, wanted)
        return True
    if not _same_key(found, wanted):
        store.bind(replace(found, key_hash=wanted.key_hash(found.key_salt)))
    return bool(store.recall("rebound"))


def _no_run(wanted: Wanted) -> UsageError:
    msg = f"There is no run in {wanted.places.checkpoint}: nothing was ever submitted."
    return UsageError(msg, hint="bulkgrok submit INPUT --mode deferred")


def compare(store: Store, wanted: Wanted) -> bool:
    """Refuse a run that `bind` would refuse, without writing; return whether it is to be tied to other settings.

    Raises:
        RunMismatch: It is not the same. Nothing was sent.
    """
    found = store.identity()
    if found is None:
        return False
    _same_run(found, wanted)
    if wanted.reads_input:
        _same_input(found, wanted)
    differences = [
        _NAMES.get(name, name) for name, value in wanted.settings.items() if found.settings.get(name) != value
    ]
    same_key = _same_key(found, wanted)
    if not differences and same_key and found.endpoint == wanted.endpoint:
        return False
    if _unbilled(store):
        return True
    _same_endpoint(found, wanted)
    if differences:
        names = ", ".join(differences)
        differ = "differs" if len(differences) == 1 else "differ"
        msg = f"This run was begun with other settings: {names} {differ}. Nothing was sent."
        raise RunMismatch(
            msg,
            hint="Type the first command again to continue it, or this one with -o OTHER.jsonl to start afresh.",
        )
    if not same_key and not wanted.config.new_key:
        msg = "This run was begun with another API key: accepted requests belong to it. Nothing was sent."
        raise RunMismatch(msg, hint="Set XAI_API_KEY to that key; or, if this key replaces it, add --new-key.")
    return False


def _same_key(found: RunIdentity, wanted: Wanted) -> bool:
    return hmac.compare_digest(found.key_hash, wanted.key_hash(found.key_salt))


def _same_run(found: RunIdentity, wanted: Wanted) -> None:
    named = wanted.config.run_id
    if named is not None and named != found.run_id:
        msg = f"This checkpoint holds the run {printable(found.run_id)}, not {printable(named)}. Nothing was sent."
        raise RunMismatch(msg, hint="Leave --run-id away or give that one, or start afresh with -o OTHER.jsonl")


def _same_input(found: RunIdentity, wanted: Wanted) -> None:
    if found.input == wanted.fingerprint:
        return
    here = printable(wanted.input_name)
    if found.input_name != wanted.input_name:
        what = f"{wanted.places.run_dir} belongs to another input, {printable(found.input_name)}, not {here}."
        hint = "Start afresh beside it: type the same with -o OTHER.jsonl"
    else:
        what = f"{here} has changed since the run was begun{_sizes(found.input, wanted.fingerprint)}."
        hint = (
            "Put the old input back, and new rows in a file of their own; or start afresh beside it, which pays for "
            "every row again: type the same with -o OTHER.jsonl"
        )
    msg = f"{what} Nothing was sent, and nothing of the old run is lost."
    raise RunMismatch(msg, hint=hint)


def _sizes(old: Fingerprint | None, new: Fingerprint | None) -> str:
    if old is None or new is None:
        return ""
    if old.size == new.size and old.sha256.startswith("etag:"):
        return f" (same size, another ETag: {old.sha256[5:]} was, {new.sha256.removeprefix('etag:')} is)"
    if old.size == new.size:
        return f" (same size, other content: SHA-256 {old.sha256[:12]}… was, {new.sha256[:12]}… is)"
    return f" (was {old.size:,} bytes, is {new.size:,})"


def _same_endpoint(found: RunIdentity, wanted: Wanted) -> None:
    if found.endpoint != wanted.endpoint:
        msg = f"This run was begun against {found.endpoint}, not {wanted.endpoint}. Nothing was sent."
        raise RunMismatch(msg, hint="Use the same --base-url, or start afresh with -o OTHER.jsonl")


def _unbilled(store: Store) -> bool:
    totals = store.totals()
    return not (totals.billed or totals.in_doubt or totals.submitting or totals.redeemed)


def _rebind(store: Store, found: RunIdentity, wanted: Wanted) -> None:
    new = replace(wanted.identity(found.key_salt), created_at=found.created_at, run_id=found.run_id)
    if not wanted.reads_input:
        new = replace(new, input_name=found.input_name, input=found.input)
    store.apply([Retry(row=failed.row, at=wanted.at) for failed in store.failures()])
    store.note("rebound", value=True)
    store.note("stopped_alike", value=False)
    store.bind(new)
