"""The second host: finished videos at signed addresses, for everybody who knows one and nobody who shows a key.

Law: pure. Credentials that reach it are counted and refused. An address is good until its own time is over; reading the
job again gives a fresh one.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qs, unquote

from bulkgrok.simulator import media
from bulkgrok.simulator.chance import Chance
from bulkgrok.simulator.faults import Faults
from bulkgrok.simulator.ledger import Entry, Ledger
from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.wire import File, Wire

_NAME: Final = "xai-video-"
_CREDENTIALS: Final = ("authorization", "x-api-key", "cookie", "proxy-authorization")


class MediaHost:
    """Serves the files of the videos in a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.base_url = "http://127.0.0.1:9"
        """Where it is to be found; set by whoever serves it."""

    def configure(self, settings: SimulatorSettings, chance: Chance, faults: Faults) -> None:
        """Behave differently from now on."""
        self._settings = settings
        self._chance = chance
        self._faults = faults

    def address(self, entry: Entry, now: float) -> str:
        """Return a fresh signed address of a video."""
        expires = int(now + self._settings.media_ttl)
        signature = self._signature(entry.id, expires)
        return f"{self.base_url}{media.FOLDER}{_NAME}{entry.id}.mp4?sig={signature}&exp={expires}"

    def _signature(self, identifier: str, expires: int) -> str:
        return self._chance.digest(f"{identifier}|{expires}".encode(), "signature").hex()

    def fetch(self, method: str, target: str, headers: Mapping[str, str], now: float) -> File:
        """Answer a GET or HEAD."""
        self._ledger.media_gets += 1
        if any(headers.get(name) for name in _CREDENTIALS):
            self._ledger.media_with_credentials += 1
            return _refused(400, "InvalidArgument: credentials do not belong here", now)
        if method not in {"GET", "HEAD"}:
            return _refused(405, "MethodNotAllowed", now)
        path, _, query = target.partition("?")
        entry = self._find(path)
        if entry is None:
            return _refused(404, "NoSuchKey", now)
        if not self._signed(entry.id, query, now):
            return _refused(403, "AccessDenied: the signature is wrong or its time is over", now)
        return self._file(entry, method, headers, now)

    def _find(self, path: str) -> Entry | None:
        name = unquote(path.removeprefix(media.FOLDER))
        if not path.startswith(media.FOLDER) or not (name.startswith(_NAME) and name.endswith(".mp4")):
            return None
        entry = self._ledger.jobs.get(name[len(_NAME) : -4])
        if entry is None or entry.kind == "deferred" or entry.fate != "answer" or entry.ask is None:
            return None
        return entry

    def _signed(self, identifier: str, query: str, now: float) -> bool:
        fields = parse_qs(query, max_num_fields=20) if query.count("&") < 20 else {}
        expires, signature = fields.get("exp", [""])[0], fields.get("sig", [""])[0]
        if not (expires.isascii() and expires.isdecimal() and len(expires) < 16):
            return False
        good = hmac.compare_digest(self._signature(identifier, int(expires)).encode(), signature.encode())
        return good and now < int(expires)

    def _file(self, entry: Entry, method: str, headers: Mapping[str, str], now: float) -> File:
        key = self._chance.digest(entry.id.encode(), "file")
        subject = entry.id.encode() + self._ledger.media_gets.to_bytes(8, "big")
        fault = self._faults.draw("media", subject)
        if fault == "media_drop":
            return File(status=200, headers=(), wire=Wire.DROP)
        if fault == "media_error":
            return _refused(503, "SlowDown", now)
        size, etag = self._settings.media_size, f'"{key.hex()}"'
        wanted = headers.get("range") if self._settings.media_ranges else None
        if headers.get("if-range") not in {None, etag}:
            wanted = None
        span = media.parse_range(wanted, size)
        common: tuple[tuple[str, str], ...] = (
            ("ETag", etag),
            ("Date", formatdate(now, usegmt=True)),
            ("Content-Type", "video/mp4"),
        )
        if self._settings.media_ranges:
            common = (*common, ("Accept-Ranges", "bytes"))
        if span is None:
            return File(status=416, headers=(*common, ("Content-Range", f"bytes */{size}")))
        start, stop = span
        partial = (wanted or "").startswith("bytes=") and ((start, stop) != (0, size) or wanted == "bytes=0-")
        if partial:
            common = (*common, ("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        cut = fault == "media_cut" and method == "GET"
        return File(
            status=206 if partial else 200,
            headers=common,
            key=key,
            size=size,
            start=start,
            stop=stop,
            wire=Wire.CUT if cut else Wire.WHOLE,
            cut_after=int((stop - start) * self._chance.uniform(subject, "media-cut")),
            entry=entry if method == "GET" else None,
        )

    def fetched(self, file: File) -> None:
        """Note that a file was sent to its end."""
        if file.entry is not None and file.wire is Wire.WHOLE and file.stop == file.size:
            file.entry.media_fetched += 1
            self._ledger.media_fetched += 1
            if self._settings.itemised and not file.entry.sha256:
                file.entry.sha256 = sha256(b"".join(media.content(file.key, file.size, 0, file.size))).digest()


def _refused(status: int, text: str, now: float) -> File:
    code, _, message = text.partition(": ")
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = (("Content-Type", "application/xml"), ("Date", formatdate(now, usegmt=True)))
    return File(status=status, headers=headers, body=body.encode())
