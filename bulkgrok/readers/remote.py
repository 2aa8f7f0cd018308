"""An input in an object store: looked at, pinned to one content, opened.

Law: which content is meant is settled once, by the store's ETag where it has one and by a hash of the bytes where it
has none; what is read later is that, or the run stops. The store's own failures leave as InputError while nothing was
sent and as StorageFailed afterwards.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from bulkgrok.core.address import Address
from bulkgrok.core.errors import BulkgrokError, InputError, RunMismatch, StorageFailed
from bulkgrok.core.model import Fingerprint
from bulkgrok.objects import Denied, Found, NotThere, ObjectFailure, ObjectFile, ObjectStore, store_of
from bulkgrok.objects.failures import NoObject
from bulkgrok.objects.reading import Changed

#: How long a store that cannot be reached is asked again once a run reads its rows.
_PATIENCE_S: Final = 300.0
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInput:
    """An object that is an input; stands where a path of a file does."""

    address: Address
    pinned: Found | None = None
    """What is said of the content that is meant; None before that is settled."""
    stores: Callable[[Address], ObjectStore] = store_of
    given_up: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set when nobody waits for it any more: a store that is away is then an error at once."""

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.address.name

    @property
    def suffix(self) -> str:
        """That one's suffix."""
        return self.address.suffix

    def __str__(self) -> str:
        return str(self.address)

    def look(self) -> Found:
        """Return what the store says of it.

        Raises:
            InputError: It is not there or out of reach.
        """
        with self._speaking(pinned=False):
            store = self.stores(self.address)
            found = store.look(self.address.key)
            if found is None:
                store.look_at_bucket()
                raise NoObject
            return found

    def pin(self, found: Found) -> ObjectInput:
        """Return it, tied to one content."""
        return replace(self, pinned=found)

    def open(self) -> ObjectFile:
        """Open it for reading.

        Raises:
            InputError: It cannot be read; nothing was sent.
            RunMismatch: It is pinned, and another content is there; any read may raise that too.
            StorageFailed: It is pinned, and out of reach.
        """
        with self._speaking(pinned=self.pinned is not None):
            try:
                return _Speaking(self)
            except NoObject:
                self.stores(self.address).look_at_bucket()
                raise

    def fingerprint(self, found: Found) -> Fingerprint:
        """Return what ties a run to it: its ETag, or a hash of its bytes where the store has none.

        Raises:
            InputError: It cannot be read, or changed meanwhile.
        """
        if found.etag is not None:
            return Fingerprint(size=found.size, sha256=f"etag:{found.etag}")
        digest = hashlib.sha256()
        try:
            with self.pin(found).open() as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except (RunMismatch, StorageFailed):
            msg = f"{self} changed while it was read, or is out of reach. Nothing was sent."
            raise InputError(msg, hint="Wait until it is complete, then type the same command again.") from None
        return Fingerprint(size=found.size, sha256=digest.hexdigest())

    @contextmanager
    def _speaking(self, *, pinned: bool) -> Iterator[None]:
        try:
            yield
        except ObjectFailure as failure:
            raise _worded(self, failure, pinned=pinned) from None


class _Speaking(ObjectFile):
    """An object as a file whose failures are bulkgrok's own."""

    def __init__(self, source: ObjectInput) -> None:
        self._source = source
        super().__init__(
            source.stores(source.address),
            source.address.key,
            expected=source.pinned,
            patience_s=_PATIENCE_S if source.pinned is not None else 0.0,
            given_up=source.given_up,
        )

    def _fetch(self, place: int) -> bytes:
        try:
            return super()._fetch(place)
        except ObjectFailure as failure:
            raise _worded(self._source, failure, pinned=self._source.pinned is not None) from None


def _worded(source: ObjectInput, failure: ObjectFailure, *, pinned: bool) -> BulkgrokError:
    if pinned and isinstance(failure, Changed | NoObject):
        what = "changed" if isinstance(failure, Changed) else "removed or put out of reach"
        msg = f"{source} was {what} while the run was reading it. What was sent is in the checkpoint."
        hint = "Put the old input back and type the command again, or start afresh with -o OTHER.jsonl"
        return RunMismatch(msg, hint=hint)
    if pinned:
        msg = f"{source} cannot be read further: {failure}. Every answer so far is kept in the checkpoint."
        return StorageFailed(msg, hint="When it can be read again, type the same command.")
    if isinstance(failure, NoObject):
        return InputError(f"There is no input {source}. Nothing was sent.", hint="Check the address.")
    hint = "Check that the store can be reached (AWS_ENDPOINT_URL, proxies), then type the same command again."
    if isinstance(failure, NotThere):
        hint = "Check the address."
    if isinstance(failure, Denied):
        hint = "Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, …) and that they may read and list this bucket."
    return InputError(f"{source} cannot be read: {failure}. Nothing was sent.", hint=hint)
