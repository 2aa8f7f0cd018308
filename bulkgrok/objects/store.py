"""One bucket: look, list, read, put, delete.

Law: a put is whole or not there, and may be repeated. What was put is looked at again: a store that keeps less than it
was given is found out. A call ends: no byte for 30 s, or no connection within 10, is a failure, after three tries.
Names are those of `core.address`: nothing here reads a % or a slash at an end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from bulkgrok.core.address import Address
from bulkgrok.objects.failures import NoObject, NotThere, ObjectFailure, mapping

_CONNECT_S: Final = 10.0
_IDLE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a store says of an object."""

    size: int
    mtime_ns: int | None
    etag: str | None
    """Tells one content from another; None where the store has none."""

    def same(self, other: Found) -> bool:
        """Tell whether two looks saw the same content; by the time of writing where there is no ETag."""
        if self.etag is not None or other.etag is not None:
            return (self.size, self.etag) == (other.size, other.etag)
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


class ObjectStore:
    """One bucket.

    Args:
        filesystem: A `pyarrow.fs.FileSystem`.
        base: What all paths in it begin with.
    """

    def __init__(self, filesystem: Any, base: str) -> None:  # noqa: ANN401 - pyarrow has no types
        self._fs = filesystem
        self._base = base.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def look(self, key: str) -> Found | None:
        """Return what is said of an object, None where there is none.

        Raises:
            ObjectFailure: The store refused.
        """
        try:
            with mapping(), self._fs.open_input_file(self._path(key)) as file:
                return self._found(key, file)
        except NoObject:
            return None

    def _found(self, key: str, file: Any) -> Found:  # noqa: ANN401 - as above
        said: Mapping[Any, Any] = file.metadata() or {}
        words = {str(_text(name)).lower(): _text(value) for name, value in said.items()}
        etag = words.get("etag") or None
        mtime_ns = None
        if etag is None:
            mtime_ns = self._fs.get_file_info(self._path(key)).mtime_ns
        return Found(size=file.size(), mtime_ns=mtime_ns, etag=etag)

    def look_at_bucket(self) -> None:
        """See that the bucket is there.

        Raises:
            NotThere: It is not.
            ObjectFailure: The store refused.
        """
        import pyarrow.fs as pafs  # noqa: PLC0415 - only where an address was given

        with mapping():
            if self._base and self._fs.get_file_info(self._base).type == pafs.FileType.NotFound:
                raise NotThere

    def names(self, folder: str) -> dict[str, int]:
        """Return the names of the objects directly below a folder, in order, with their sizes; none where it is empty.

        Raises:
            NotThere: There is no such bucket.
            ObjectFailure: The store refused.
        """
        import pyarrow.fs as pafs  # noqa: PLC0415 - as above

        with mapping():
            found = self._fs.get_file_info(pafs.FileSelector(self._path(folder), allow_not_found=True))
        if not found:
            self.look_at_bucket()
        named = sorted((info.base_name, info.size) for info in found if info.type == pafs.FileType.File)
        return dict(named)

    def open(self, key: str) -> tuple[Any, Found]:
        """Open an object for reading at any place; return it and what was said of it.

        Raises:
            NoObject: There is none.
            ObjectFailure: The store refused.
        """
        with mapping():
            file = self._fs.open_input_file(self._path(key))
            return file, self._found(key, file)

    def put(self, key: str, blocks: Iterable[bytes], *, size: int) -> Found:
        """Write an object, replacing one of that name; return what is said of it then.

        Args:
            key: Its name.
            blocks: Its bytes.
            size: How many there are of them.

        Raises:
            ObjectFailure: The store refused, or keeps something else; what was there before may be there or not.
        """
        with mapping():
            out = self._fs.open_output_stream(self._path(key), compression=None)
        written = 0
        try:
            for block in blocks:
                with mapping():
                    out.write(block)
                written += len(block)
        except ObjectFailure:
            with suppress(Exception):  # an upload of which a piece failed is not completed
                out.close()
            raise
        except BaseException:
            # Where the bytes stopped coming, pyarrow can only complete the upload: what is cut short would be there.
            with suppress(Exception):
                out.close()
            with suppress(Exception):
                self._fs.delete_file(self._path(key))
            raise
        with mapping():
            out.close()
        found = self.look(key)
        if found is None or found.size != size or written != size:
            msg = f"the store keeps {'nothing' if found is None else f'{found.size:,} bytes'} of {size:,} it was given"
            raise ObjectFailure(msg)
        return found

    def delete(self, key: str) -> None:
        """Remove an object; harmless where there is none.

        Raises:
            ObjectFailure: The store refused.
        """
        with suppress(NoObject), mapping():
            self._fs.delete_file(self._path(key))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def blocks_of(file: Any, size: int, block_bytes: int = 1 << 20) -> Iterator[bytes]:  # noqa: ANN401 - as above
    """Yield the bytes of an object that `ObjectStore.open` returned.

    Raises:
        ObjectFailure: The store refused.
    """
    offset = 0
    while offset < size:
        with mapping():
            block = file.read_at(min(block_bytes, size - offset), offset)
        if not block:
            msg = "the object ended early"
            raise ObjectFailure(msg)
        yield block
        offset += len(block)


@lru_cache(maxsize=16)
def _opened(scheme: str, root: str, query: str) -> ObjectStore:
    import pyarrow.fs as pafs  # noqa: PLC0415 - as above

    if scheme == "gs" and "retry_limit_seconds=" not in query:  # a quarter of an hour otherwise
        query = f"{query}&retry_limit_seconds={_IDLE_S:.0f}".lstrip("&")
    if scheme.startswith("abfs"):
        root = _with_account(root, os.environ)
    with mapping():
        filesystem, base = pafs.FileSystem.from_uri(f"{scheme}://{root}/" + (f"?{query}" if query else ""))
        if filesystem.type_name == "s3":
            filesystem = _with_limits(filesystem)
        elif filesystem.type_name == "abfs":
            filesystem = _with_key(filesystem, os.environ)
    return ObjectStore(filesystem, base)


def _with_account(root: str, environ: Mapping[str, str]) -> str:
    """Return an Azure container with the account of the environment where it has none of its own.

    The clients of the other stores read such variables themselves; these are those of Microsoft's tools.
    """
    account = environ.get("AZURE_STORAGE_ACCOUNT_NAME") or environ.get("AZURE_STORAGE_ACCOUNT")
    return f"{account}@{root}" if account and "@" not in root and "." not in root else root


def _with_key(filesystem: Any, environ: Mapping[str, str]) -> Any:  # noqa: ANN401 - as above
    """Return an Azure filesystem with the key of the environment; without one it asks for credentials as Azure does."""
    key = environ.get("AZURE_STORAGE_ACCOUNT_KEY") or environ.get("AZURE_STORAGE_KEY")
    if not key:
        return filesystem
    make, (options,) = filesystem.__reduce__()
    return make({**options, "account_key": key})


def _with_limits(filesystem: Any) -> Any:  # noqa: ANN401 - as above
    """Return an S3 filesystem with time-outs, which no address can give it; small objects take one request."""
    make, (options,) = filesystem.__reduce__()
    wanted = {"connect_timeout": _CONNECT_S, "request_timeout": _IDLE_S, "allow_delayed_open": True}
    return make({**options, **{name: value for name, value in wanted.items() if name in options}})


def store_of(address: Address) -> ObjectStore:
    """Return the store that an address is in.

    Raises:
        ObjectFailure: It cannot be opened (no such scheme in this pyarrow, no account, a region that cannot be told).
    """
    return _opened(address.scheme, address.root, address.query)
