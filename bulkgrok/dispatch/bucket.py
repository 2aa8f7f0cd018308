"""Files in an object store: a part file on the disk while bytes arrive, then an object of a name that nobody else has.

Law: what is there is never replaced. A store cannot be asked for "only if it is new" through pyarrow, so each put looks
first; what holds the same bytes already is taken as it is, which is what a crash in between comes back to. A store that
cannot be reached raises Unreachable, and the call may be repeated; other refusals leave as StorageFailed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bulkgrok.core.address import Address
from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.model import Asset
from bulkgrok.dispatch.placing import MediaFolder, PartFile, names
from bulkgrok.objects import Found, ObjectFailure, ObjectFile, ObjectStore, Unreachable, store_of
from bulkgrok.objects.failures import NoObject

_BLOCK_BYTES = 1 << 20


class MediaBucket:
    """The place in an object store that files of a run go to.

    Args:
        address: Where.
        base: What the paths of assets are relative to.
        scratch: A folder on the disk for part files.
        stores: Opens the store.
    """

    def __init__(
        self, address: Address, *, base: Address, scratch: Path, stores: Callable[[Address], ObjectStore] = store_of
    ) -> None:
        self._address = address
        self._base = base
        self._parts = MediaFolder(scratch, base=scratch)
        self._stores = stores

    def begin(self, row: int, custom_id: str, number: int) -> PartFile:
        """Open the part file of a row's n-th file (0-based); see `MediaFolder`."""
        return self._parts.begin(row, custom_id, number)

    def place(self, part: PartFile, url: str) -> Asset:
        """Put a whole part file under a name of its own and return what the output says of it.

        Raises:
            Unreachable: The store is away for now.
            StorageFailed: It refused.
        """
        digest = part.finish()
        for candidate in names(part.name):
            address = self._address / f"{candidate}.mp4"
            with _storing(address):
                store = self._stores(address)
                found = store.look(address.key)
                if found is None:
                    store.put(address.key, _blocks(part.path), size=part.size)
                elif not _is(store, address.key, found, part.size, digest):
                    continue
            return Asset(url=url, path=address.relative_to(self._base), bytes=part.size, sha256=digest)
        raise AssertionError

    def lacks(self, assets: Sequence[Asset]) -> list[bool]:
        """Tell, at a glance, which of some files the output names are not there.

        Raises:
            Unreachable, StorageFailed: As `place`.
        """
        listed: dict[Address, dict[str, int]] = {}
        lacking = []
        for asset in assets:
            if asset.path is None:
                lacking.append(False)
                continue
            address = self._base.joined(asset.path)
            if address.parent not in listed:
                with _storing(address.parent):
                    listed[address.parent] = self._stores(address).names(address.parent.key)
            lacking.append(listed[address.parent].get(address.name) != asset.bytes)
        return lacking

    def holds(self, asset: Asset) -> bool:
        """Tell whether a file the output names is there and whole.

        Raises:
            Unreachable, StorageFailed: As `place`.
        """
        if asset.path is None or asset.bytes is None or asset.sha256 is None:
            return False
        address = self._base.joined(asset.path)
        with _storing(address):
            store = self._stores(address)
            found = store.look(address.key)
            return found is not None and _is(store, address.key, found, asset.bytes, asset.sha256)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _is(store: ObjectStore, key: str, found: Found, size: int, digest: str) -> bool:
    """Tell whether an object holds that content."""
    if found.size != size:
        return False
    hashed = hashlib.sha256()
    try:
        with ObjectFile(store, key, expected=found) as file:
            while block := file.read(_BLOCK_BYTES):
                hashed.update(block)
    except NoObject:
        return False
    return hashed.hexdigest() == digest


@contextmanager
def _storing(address: Address) -> Iterator[None]:
    try:
        yield
    except Unreachable:
        raise
    except ObjectFailure as failure:
        msg = f"{address} could not be written: {failure}; every answer so far is kept in the checkpoint"
        raise StorageFailed(msg, hint="mend it, then type the same command again") from None
