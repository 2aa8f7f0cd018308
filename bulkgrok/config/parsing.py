"""One setting as it was typed, made into the value that is used.

Law: a parser takes what a flag, a variable, TOML or a keyword holds (text, or a value of the right type) and returns
the value, or raises ValueError with the half-sentence that follows the setting's name: "must be at least 1, not 0".
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bulkgrok.core.address import Address, is_address
from bulkgrok.core.address import parse as parse_address
from bulkgrok.core.databaseurl import DatabaseUrl, is_database

Parser = Callable[[object], object]

MAX_RUN_ID: Final = 1_000
MAX_DURATION_S: Final = 366 * 86_400.0
MAX_USD: Final = 1e8
MAX_TEMPLATE_BYTES: Final = 4 << 20
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", re.ASCII)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DOLLARS = re.compile(r"\s*\$?(\d{1,9}(?:\.\d{0,10})?|\.\d{1,10})\s*", re.ASCII)
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_YES: Final = frozenset({"1", "true", "yes", "on"})
#: What Python reads as numbers and JSON has no word for.
_CONSTANTS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_NO: Final = frozenset({"0", "false", "no", "off"})


def _shown(value: object) -> str:
    """Quote a value for a message, cut at a sensible length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def parse_duration(value: object) -> float:
    """Return seconds from a number of seconds, or from text such as `90`, `90s`, `15m` or `24h`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < MAX_DURATION_S * 2 else math.inf
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _UNITS[match[2]]
    else:
        msg = f"must be seconds, or text such as 90s, 15m or 24h, not {_shown(value)}"
        raise ValueError(msg)
    if not 0 <= seconds <= MAX_DURATION_S:
        msg = f"must be between 0 and 366 days, not {_shown(value)}"
        raise ValueError(msg)
    return seconds


def duration_above_zero(value: object) -> float:
    """Return a duration in seconds that is more than nothing."""
    seconds = parse_duration(value)
    if seconds <= 0:
        msg = f"must be more than 0 seconds, not {_shown(value)}"
        raise ValueError(msg)
    return seconds


def whole_number(least: int, most: int = 2**53) -> Parser:
    """Return a parser of whole numbers from `least` to `most`, both inclusive."""

    def parse(value: object) -> int:
        number = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str):
            try:
                number = int(value)
            except ValueError:
                number = None
        if number is None:
            msg = f"must be a whole number, not {_shown(value)}"
            raise ValueError(msg)
        if not least <= number <= most:
            msg = f"must be at least {least}, not {number}" if number < least else f"must be at most {most}"
            raise ValueError(msg)
        return number

    return parse


def positive_number(value: object) -> float:
    """Return a finite number above 0."""
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not (math.isfinite(number) and number > 0):
        msg = f"must be a number above 0, not {_shown(value)}"
        raise ValueError(msg)
    return number


def dollars(value: object) -> float:
    """Return an amount of money in USD, at least 0."""
    if isinstance(value, str) and (match := _DOLLARS.fullmatch(value)):
        value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_USD:
        msg = f"must be an amount in US dollars, such as 12.50, not {_shown(value)}"
        raise ValueError(msg)
    return float(value)


def switch(value: object) -> bool:
    """Return a truth from a boolean, or from the words 1/true/yes/on and 0/false/no/off."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _YES or word in _NO:
        return word in _YES
    msg = f"must be true or false, not {_shown(value)}"
    raise ValueError(msg)


def choice(*allowed: str) -> Parser:
    """Return a parser of one of some words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value.strip().lower() in allowed:
            return value.strip().lower()
        msg = f"must be one of {', '.join(allowed)}, not {_shown(value)}"
        raise ValueError(msg)

    return parse


def text(value: object) -> str:
    """Return text that is not empty and can be sent as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        msg = f"must be text that is not empty, not {_shown(value)}"
        raise ValueError(msg)
    _utf8(value)
    return value


def template(value: object) -> str:
    """Return a template's text; `@file` reads it from a file."""
    if not isinstance(value, str) or not value:
        msg = f"must be a template that is not empty, not {_shown(value)}"
        raise ValueError(msg)
    if not value.startswith("@"):
        _utf8(value)
        return value
    file = path(value[1:])
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        msg = f"cannot be read from {file}: {error.strerror or error}"
        raise ValueError(msg) from None
    if len(raw) > MAX_TEMPLATE_BYTES:
        msg = f"names {file}, which is larger than {MAX_TEMPLATE_BYTES >> 20} MiB: is it a template?"
        raise ValueError(msg)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"names {file}, which is not UTF-8 at byte {error.start}"
        raise ValueError(msg) from None


def _utf8(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        msg = f"must be valid Unicode, not {_shown(value)}"
        raise ValueError(msg) from None


def path(value: object) -> Path:
    """Return an absolute path; an address such as s3://… is none."""
    raw = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(raw, str) or not raw or "\0" in raw:
        msg = f"must be a path, not {_shown(value)}"
        raise ValueError(msg)
    if match := _URI.match(raw):
        msg = f"must be a local path, not an address of {match[1].lower()}://"
        raise ValueError(msg)
    if raw.startswith("~/"):
        raw = str(Path(raw).expanduser())
    return Path(os.path.abspath(raw))  # noqa: PTH100 - resolve() would follow links and rename the run


def checkpoint(value: object) -> Path | DatabaseUrl:
    """Return the place of a checkpoint: a local path, or a database that several machines reach."""
    if isinstance(value, DatabaseUrl):
        return value
    if isinstance(value, str) and is_database(value):
        return DatabaseUrl(value)
    if isinstance(value, str) and (match := _URI.match(value)):
        msg = f"must be a file on a local disk or postgresql://…, and is {match[1].lower()}://"
        raise ValueError(msg)
    return path(value)


def run_id(value: object) -> str:
    """Return the name of a run: a line of text."""
    name = text(value)
    if not name.isprintable() or len(name) > MAX_RUN_ID:
        msg = f"must be one line of at most {MAX_RUN_ID:,} characters, not {_shown(value)}"
        raise ValueError(msg)
    return name


def place(value: object) -> Path | Address:
    """Return an absolute path, or an address in an object store."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str) and is_address(value):
        return parse_address(value)
    try:
        return path(value)
    except ValueError as error:
        if isinstance(value, str) and (match := _URI.match(value)):
            msg = f"must be a path or an address of s3://, gs://, abfs:// or az://, not of {match[1].lower()}://"
            raise ValueError(msg) from None
        raise error from None


def existing_file(value: object) -> Path:
    """Return the absolute path of a file that is there."""
    file = path(value)
    if not file.is_file():
        msg = f"names {file}, which is no file"
        raise ValueError(msg)
    return file


def _constant(name: str) -> object:
    msg = f"{name} is no JSON"
    raise ValueError(msg)


def params(value: object) -> dict[str, object]:
    """Return body defaults from a mapping, a JSON object, or KEY=VALUE texts whose VALUE is JSON or else text.

    Text that begins as JSON does (a brace, a bracket, a quote) must be JSON: it was meant to be.
    """
    if isinstance(value, Mapping):
        checked = {str(key): item for key, item in value.items()}
    elif isinstance(value, str) and value.lstrip().startswith("{"):
        checked = _json_object(value)
    else:
        lines = value.splitlines() if isinstance(value, str) else value
        if not isinstance(lines, Sequence) or isinstance(lines, bytes):
            msg = f"must be KEY=VALUE, not {_shown(value)}"
            raise ValueError(msg)  # noqa: TRY004 - parsers raise one type
        checked = dict(_pair(line) for line in lines)
    try:
        json.dumps(checked, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        msg = f"must hold JSON values only, not {_shown(value)}"
        raise ValueError(msg) from None
    return checked


def _json_object(value: str) -> dict[str, object]:
    try:
        loaded = json.loads(value, parse_constant=_constant)
    except (ValueError, RecursionError):
        msg = f"must be a JSON object or KEY=VALUE, not {_shown(value)}"
        raise ValueError(msg) from None
    return dict(loaded)


def _pair(line: object) -> tuple[str, object]:
    key, equals, raw = line.partition("=") if isinstance(line, str) else ("", "", "")
    if not equals or not key.strip():
        msg = f"must be KEY=VALUE, not {_shown(line)}"
        raise ValueError(msg)
    try:
        return key.strip(), json.loads(raw, parse_constant=_constant)
    except (ValueError, RecursionError):
        if raw.strip() in _CONSTANTS:
            msg = f"must hold JSON values or text, and {_shown(line)} is a number that JSON does not have"
            raise ValueError(msg) from None
        if raw.lstrip().startswith(("{", "[", '"')):
            msg = f"must hold JSON or text, and {_shown(line)} begins as JSON and is none"
            raise ValueError(msg) from None
        return key.strip(), raw


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _address(value: object, what: str) -> SplitResult:
    """Split a URL. Messages never repeat it: it may hold a password."""
    if not isinstance(value, str) or not value.strip().isprintable() or " " in value.strip():
        msg = f"must be the URL of {what}"
        raise ValueError(msg)
    try:
        parts = urlsplit(value.strip())
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.scheme not in {"http", "https"}:
        msg = f"must be the URL of {what}, such as https://host/path"
        raise ValueError(msg)
    return parts


def base_url(value: object) -> str:
    """Return the API's address with its version and without a trailing slash; https only, unless it is loopback."""
    parts = _address(value, "the API")
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        msg = "must hold no user name or password; the key comes from XAI_API_KEY"
        raise ValueError(msg)
    if parts.query or parts.fragment or "?" in str(value) or "#" in str(value):
        msg = "must hold no ? or #"
        raise ValueError(msg)
    if parts.scheme == "http" and not is_loopback(host):
        msg = "must begin with https:// (plain http is for this machine only): the key would travel unprotected"
        raise ValueError(msg)
    name = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in {None, usual} else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}{parts.path.rstrip('/') or '/v1'}"


def proxy(value: object) -> str:
    """Return the address of an HTTP proxy as it was given."""
    _address(value, "a proxy")
    return str(value).strip()
