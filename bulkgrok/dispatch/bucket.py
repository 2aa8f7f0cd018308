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

from bulkgrok.core.address import Address, is_address
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
        base: What the paths of assets are relative to; None: their paths are whole addresses.
        scratch: A folder on the disk for part files.
        stores: Opens the store.
    """

    def __init__(
        self,
        address: Address,
        *,
        base: Address | None,
        scratch: Path,
        stores: Callable[[Address], ObjectStore] = store_of,
    ) -> None:
        self._address = address
        self._base = base or address
        self._whole = base is None
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
            path = str(address) if self._whole else address.relative_to(self._base)
            return Asset(url=url, path=path, bytes=part.size, sha256=digest)
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


class Moved:
    """Where files of a run go now, and where those are that it had when its output lay elsewhere.

    Args:
        now: Where they go.
        before: Where paths lead that are not whole.
    """

    def __init__(self, now: MediaFolder | MediaBucket, before: MediaFolder | MediaBucket) -> None:
        self.begin, self.place = now.begin, now.place
        self._now, self._before = now, before

    def _of(self, asset: Asset) -> MediaFolder | MediaBucket:
        whole = asset.path is not None and (asset.path.startswith("/") or is_address(asset.path))
        return self._now if whole else self._before

    def lacks(self, assets: Sequence[Asset]) -> list[bool]:
        """Tell, at a glance, which of some files the output names are not there."""
        there = {id(place): place for place in (self._now, self._before)}
        told: dict[int, bool] = {}
        for each, place in there.items():
            own = [index for index, asset in enumerate(assets) if id(self._of(asset)) == each]
            told |= dict(zip(own, place.lacks([assets[index] for index in own]), strict=True))
        return [told[index] for index in range(len(assets))]

    def holds(self, asset: Asset) -> bool:
        """Tell whether a file the output names is there and whole."""
        return self._of(asset).holds(asset)


def media_place(
    media_dir: Path | Address,
    base: Path | Address,
    scratch: Path | None,
    stores: Callable[[Address], ObjectStore] = store_of,
) -> MediaFolder | MediaBucket | Moved:
    """Return where files go.

    Args:
        media_dir: The folder, on the disk or in an object store.
        base: What the paths of assets are relative to.
        scratch: A folder on the disk for part files of what goes to an object store.
        stores: Opens an object store.
    """
    now = _place(media_dir, base if type(base) is type(media_dir) else None, scratch, stores)
    return now if type(base) is type(media_dir) else Moved(now, _place(base, base, scratch, stores))


def _place(
    media_dir: Path | Address,
    base: Path | Address | None,
    scratch: Path | None,
    stores: Callable[[Address], ObjectStore],
) -> MediaFolder | MediaBucket:
    if isinstance(media_dir, Path):
        return MediaFolder(media_dir, base=base if isinstance(base, Path) else None)
    if scratch is None:
        msg = f"{media_dir} needs a folder on the disk"
        raise ValueError(msg)
    return MediaBucket(media_dir, base=base if isinstance(base, Address) else None, scratch=scratch, stores=stores)


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
