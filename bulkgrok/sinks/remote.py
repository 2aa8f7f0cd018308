"""Output in an object store: parts are made on the disk first, then put in one go.

Law: an object is whole or not there, and putting it again is harmless: what a name holds is settled before it is first
written. A store has no lock and pyarrow no way to ask for "only if it is new": each put looks first, and what is
neither known nor of the same bytes is not replaced. Nothing that lies in the scratch folder is needed later.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from bulkgrok.core.address import Address
from bulkgrok.core.errors import StorageFailed, UsageError
from bulkgrok.core.failpoints import hit
from bulkgrok.objects import Denied, NotThere, ObjectFailure, ObjectFile, ObjectStore, Unreachable, store_of
from bulkgrok.objects.failures import NoObject
from bulkgrok.sinks import files, ownership
from bulkgrok.sinks.files import Draft, Marks
from bulkgrok.sinks.places import Away, Owned


class Bucket:
    """What lies below an address.

    Args:
        address: Where.
        scratch: A folder on the disk, for what is being made; created when needed.
        stores: Opens the store.
    """

    remote: Final = True

    def __init__(self, address: Address, *, scratch: Path, stores: Callable[[Address], ObjectStore] = store_of) -> None:
        self._address = address
        self._scratch = scratch
        self._stores = stores
        self._mine: dict[str, Marks] = {}
        """What is known to lie there as this run's, by name; without an ETag where that is not known."""

    def __str__(self) -> str:
        return str(self._address)

    @property
    def _store(self) -> ObjectStore:
        return self._stores(self._address)

    def _key(self, name: str) -> str:
        return (self._address / name).key

    def where(self, name: str) -> str:
        """Return the object's address."""
        return str(self._address / name)

    # Before anything is sent

    def check(self, *, folder: bool) -> None:
        """See that the bucket is there and may be listed."""
        del folder
        self.names()

    def names(self) -> list[str]:
        """List it."""
        with self.looking(""):
            return list(self._store.names(self._address.key))

    def holds(self, name: str) -> bool:
        """Tell whether an object is there."""
        with self.looking(name):
            return self._store.look(self._key(name)) is not None

    def ours(self, name: str, marks: Mapping[str, object], owned: Owned) -> bool:
        """Tell by marks, or by what it says."""
        with self.looking(name):
            try:
                found = self._store.look(self._key(name))
                if found is None:
                    return False
                if found.size == 0 or self.intact(name, marks) is not None:
                    self._mine[name] = {"etag": found.etag}
                    return True
                with ObjectFile(self._store, self._key(name), expected=found) as file:
                    # Lines are looked for byte by byte in what has no buffer.
                    said = ownership.says_so(cast("BinaryIO", io.BufferedReader(file)), marks, owned, same=False)
            except NoObject:
                return False
        if said:
            self._mine[name] = {"etag": found.etag}
        return said

    def probe(self, name: str) -> None:
        """Put an empty object where none is: what may be written is told by nothing else. UsageError if it may not."""
        with self.looking(name):
            if self._store.look(self._key(name)) is None:
                self._mine[name] = {"etag": self._store.put(self._key(name), (), size=0).etag}

    @contextmanager
    def looking(self, name: str) -> Iterator[None]:
        """Map the store's failures: nothing was sent."""
        try:
            yield
        except ObjectFailure as failure:
            msg = f"{self.where(name) if name else self} cannot be used: {failure}; nothing was sent"
            raise UsageError(msg, hint=_hint(failure)) from None

    # Afterwards

    def open(self, *, folder: bool) -> None:
        """Throw away what is left of earlier drafts; in the store there is nothing to make."""
        del folder
        files.make_folder(self._scratch, mode=0o700)
        for left in self._scratch.glob(".*.tmp"):
            left.unlink(missing_ok=True)

    def intact(self, name: str, marks: Mapping[str, object]) -> Marks | None:
        """Compare the ETag; without a known one, read it all."""
        found = self._store.look(self._key(name))
        if found is None or found.size != marks.get("size"):
            return None
        if found.etag is None or marks.get("etag") != found.etag:
            digest = hashlib.sha256()
            try:
                with ObjectFile(self._store, self._key(name), expected=found) as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except NoObject:
                return None
            if digest.hexdigest() != marks.get("sha256"):
                return None
        self._mine[name] = {"etag": found.etag}
        return {"etag": found.etag}

    def stamp(self, name: str) -> Marks | None:
        """Return the ETag."""
        found = self._store.look(self._key(name))
        if found is not None:
            self._mine[name] = {"etag": found.etag}
        return None if found is None else {"etag": found.etag}

    def draft(self, name: str) -> Draft:
        """Begin a file in the scratch folder."""
        return Draft(self._scratch / name)

    def publish(
        self, name: str, draft: Draft, marks: Mapping[str, object], plan: Callable[[Marks], None] | None = None
    ) -> Marks:
        """Put it, unless it is there."""
        made = draft.seal()
        if plan is not None:
            plan(dict(made))
        known = {**made, "etag": marks.get("etag") if marks.get("sha256") == made["sha256"] else None}
        there = self.intact(name, known)
        if there is None:
            self.refuse_stranger(name, {})
            self._mine.setdefault(name, {})
            hit("sink.before_rename")
            found = self._store.put(self._key(name), draft.blocks(), size=draft.size)
            hit("sink.renamed")
            there = self._mine[name] = {"etag": found.etag}
        draft.discard()
        return made | there

    def refuse_stranger(self, name: str, known: Mapping[str, object]) -> None:
        """Stop where an object is that this run neither found nor put there."""
        del known
        if name not in self._mine and self._store.look(self._key(name)) is not None:
            raise files.failed(self.where(name), "another object was put there during the run")

    def read(self, name: str, most: int) -> bytes | None:
        """Read an object's beginning."""
        with self.looking(name):
            try:
                with ObjectFile(self._store, self._key(name)) as file:
                    return file.read(most)
            except NoObject:
                return None

    def remove(self, name: str) -> None:
        """Delete an object."""
        self._store.delete(self._key(name))

    def settle(self) -> None:
        """Do nothing: stores forget nothing."""

    @contextmanager
    def storing(self, name: str = "") -> Iterator[None]:
        """Map the store's failures, and those of the scratch folder: the answers are in the checkpoint."""
        try:
            with files.storing(self._scratch):
                yield
        except Unreachable as failure:
            error = files.failed(self.where(name) if name else str(self), str(failure))
            error.hint = "when it can be reached again, type the same command again"
            raise Away(error) from None
        except ObjectFailure as failure:
            raise _refused(self.where(name) if name else str(self), failure) from None

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _refused(where: str, failure: ObjectFailure) -> StorageFailed:
    error = files.failed(where, str(failure))
    if isinstance(failure, Denied | NotThere):
        error.hint = f"{_hint(failure)}; then type the same command again"
    return error


def _hint(failure: ObjectFailure) -> str:
    match failure:
        case NotThere():
            return "make the bucket, or name another one with -o"
        case Denied():
            return (
                "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, …): they must list, get, put and delete there"
            )
        case Unreachable():
            return "check that the store can be reached (AWS_ENDPOINT_URL, proxies), then type the same command again"
        case _:
            return "name another place with -o"
