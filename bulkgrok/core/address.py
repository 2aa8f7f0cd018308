"""Addresses in object stores: `s3://bucket/key`, `gs://bucket/key`, `abfs://container@account.dfs.core.windows.net/key`.

Law: pure text. An address names one object, or all that lies below it, and says itself again the way it is read: `%41`
is a byte, a `%` that no two hex digits follow is itself, blanks and any letters may stand as they are. It never holds
a secret: credentials come from the environment. A name that a store, a proxy or a client would read as another one
(an empty part, `.`, `..`, a control character) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote_to_bytes

#: The schemes that are read, and what they are called in an address.
SCHEMES: Final[Mapping[str, str]] = {
    "s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfss", "az": "abfs",
}  # fmt: skip
#: What may stand behind a question mark: where the store is, never who asks.
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "s3": frozenset({"region", "endpoint_override", "scheme"}),
    "gs": frozenset({"endpoint_override", "scheme", "retry_limit_seconds", "project_id"}),
    "abfs": frozenset(
        {
            "enable_tls", "blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme",
            "dfs_storage_scheme", "credential_kind",
        }
    ),
}  # fmt: skip
_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)/*([^?#]*)(?:\?([^#]*))?")
_ROOT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*")
_HEX: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONGEST_KEY: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A place in an object store."""

    scheme: str
    root: str
    """The bucket; for abfs also the account."""
    key: str
    """The object's name in it, or what the names of several begin with; no slash at either end. "" is the bucket."""
    query: str = ""

    @property
    def name(self) -> str:
        """The last part of the key; of a bucket its own name."""
        return self.key.rpartition("/")[2] or self.root.partition("@")[0]

    @property
    def suffix(self) -> str:
        """The name's suffix with its dot, or ""."""
        stem, dot, end = self.name.rpartition(".")
        return dot + end if stem and end else ""

    @property
    def parent(self) -> Address:
        """What it lies in; a bucket lies in itself."""
        return replace(self, key=self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> Address:
        return replace(self, key=f"{self.key}/{name}" if self.key else name)

    def joined(self, path: str) -> Address:
        """Return where a way such as `relative_to` returns leads from here; an address stays as it is."""
        if is_address(path):
            return parse(path)
        parts = self.key.split("/") if self.key else []
        for part in path.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in {"", "."}:
                parts.append(part)
        return replace(self, key="/".join(parts))

    def with_name(self, name: str) -> Address:
        """Return the address of another object beside this one."""
        return self.parent / name

    def same_store(self, other: Address) -> bool:
        """Tell whether another address is in the same bucket."""
        return (self.scheme, self.root, self.query) == (other.scheme, other.root, other.query)

    def holds(self, other: Address) -> bool:
        """Tell whether another address lies below this one."""
        return self.same_store(other) and (not self.key or other.key.startswith(f"{self.key}/"))

    def relative_to(self, base: Address) -> str:
        """Return the way from `base`, with `../` where it leads out of it; the address itself where there is none."""
        if not self.same_store(base):
            return str(self)
        here, there = self.key.split("/"), base.key.split("/") if base.key else []
        same = 0
        while same < min(len(here) - 1, len(there)) and here[same] == there[same]:
            same += 1
        return "/".join([".."] * (len(there) - same) + here[same:])

    def __str__(self) -> str:
        key = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", self.key).replace("?", "%3F").replace("#", "%23")
        return f"{self.scheme}://{self.root}" + (f"/{key}" if key else "") + (f"?{self.query}" if self.query else "")


def is_address(text: object) -> bool:
    """Tell whether a text is written as an address in an object store."""
    return isinstance(text, str) and text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse(text: str) -> Address:
    """Read an address; a slash at its end is dropped.

    Raises:
        ValueError: It is none, with the half-sentence that says why; nothing of a secret in it is repeated.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1].lower() not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "abfs", "az"))
        msg = f"must be an address such as s3://bucket/name ({known}; write # as %23)"
        raise ValueError(msg)
    scheme = SCHEMES[found[1].lower()]
    root, query = found[2], found[4] or ""
    _check_root(scheme, root)
    _check_query(scheme, query)
    try:
        key = unquote_to_bytes(_HEX.sub("%25", found[3])).decode("utf-8").rstrip("/")
    except UnicodeError:
        msg = "must be UTF-8 once its %XX are read"
        raise ValueError(msg) from None
    _check_key(key)
    return Address(scheme=scheme, root=root, key=key, query=query)


def _check_root(scheme: str, root: str) -> None:
    user, at, _ = root.rpartition("@")
    allowed = not at or (scheme.startswith("abfs") and ":" not in user) or (scheme == "gs" and user == "anonymous")
    if not allowed:
        msg = "must not hold credentials: they come from the environment (AWS_ACCESS_KEY_ID and the like)"
        raise ValueError(msg)
    if not _ROOT.fullmatch(root):
        msg = f"must name a bucket, as {scheme}://bucket/name does"
        raise ValueError(msg)


def _check_query(scheme: str, query: str) -> None:
    known = _OPTIONS["abfs" if scheme.startswith("abfs") else scheme]
    for option in filter(None, query.split("&")):
        name = option.partition("=")[0]
        if name not in known:
            msg = f"must have no options but {', '.join(sorted(known))} (a ? in a name is written %3F)"
            raise ValueError(msg)


def _check_key(key: str) -> None:
    parts = key.split("/") if key else []
    if any(part in {"", ".", ".."} for part in parts):
        msg = "must not have empty parts, . or .. in it: clients and proxies read them as another name"
        raise ValueError(msg)
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        msg = "must not have control characters in it"
        raise ValueError(msg)
    if len(key.encode()) > _LONGEST_KEY:
        msg = f"must not be longer than {_LONGEST_KEY} bytes"
        raise ValueError(msg)
