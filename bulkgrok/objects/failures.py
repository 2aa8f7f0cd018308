"""What an object store refused, in words and by what it stops: nothing (try again), or whatever needs it.

Law: of what the store said only its code is repeated: its texts name requests, hosts and at times what was signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_AWS: Final = re.compile(r"AWS Error ([A-Z_]+)")
_STATUS: Final = re.compile(r"Status\((\w+)")
_TEMPORARY: Final = frozenset(
    {
        "NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING", "INTERNAL_FAILURE",
        "REQUEST_TIME_TOO_SKEWED", "NO_SUCH_UPLOAD", "UNKNOWN",
    }
)  # fmt: skip
_DENIED: Final = frozenset(
    {
        "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID",
        "INVALID_SIGNATURE", "EXPIRED_TOKEN", "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "OPT_IN_REQUIRED",
        "NOT_INITIALIZED", "MISSING_PARAMETER", "VALIDATION",
    }
)  # fmt: skip
_NONE: Final = "No such file or directory"
_NO_BUCKET: Final = "NO_SUCH_BUCKET"
_WORDS: Final = (
    # What Google's and Microsoft's clients say, in the words of their own codes.
    ("denied", re.compile(r"PERMISSION_DENIED|UNAUTHENTICATED|Authenti?cationFailed|Authorization\w*|NoAuthent\w*")),
    ("missing", re.compile(r"ContainerNotFound|FilesystemNotFound|bucket does not exist", re.IGNORECASE)),
    ("away", re.compile(
        r"UNAVAILABLE|DEADLINE_EXCEEDED|[Cc]ould not (?:connect|resolve)|Fail(?:ed)? to (?:connect|get)|"
        r"[Tt]imeout|[Cc]onnection|ServerBusy|OperationTimedOut|InternalError"
    )),
)  # fmt: skip


class ObjectFailure(Exception):
    """A store refused; `str` says why in a few words."""


class Unreachable(ObjectFailure):
    """It does not answer, or says to come back later: trying again may help."""


class Denied(ObjectFailure):
    """It does not accept the credentials, or they do not allow what was tried."""


class NotThere(ObjectFailure):
    """There is no such bucket or container."""

    def __init__(self, words: str = "there is no such bucket") -> None:
        super().__init__(words)


class NoObject(ObjectFailure):
    """There is no such object; perhaps no such bucket either."""

    def __init__(self) -> None:
        super().__init__("no such object")


@contextmanager
def mapping() -> Iterator[None]:
    """Turn what pyarrow raises into what this module knows."""
    try:
        yield
    except FileNotFoundError:
        raise NoObject from None
    except Exception as error:
        if isinstance(error, ObjectFailure) or not _is_of_a_store(error):
            raise
        raise _failure(error) from None


def _is_of_a_store(error: Exception) -> bool:
    return isinstance(error, OSError | ValueError | NotImplementedError | MemoryError)


def _failure(error: Exception) -> ObjectFailure:
    text = str(error)
    if text.startswith(_NONE):  # as Google's client says it
        return NoObject()
    if (found := _AWS.search(text)) is not None:
        return _of_amazon(found[1], text)
    for kind, words in _WORDS:
        if (said := words.search(text)) is not None:
            code = said[0]
            if kind == "denied":
                return Denied(f"the credentials do not allow it ({code})")
            if kind == "missing":
                return NotThere(f"there is no such container or bucket ({code})")
            return Unreachable(f"the store cannot be reached ({code})")
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return ObjectFailure(error.strerror)
    said = _STATUS.search(text)
    return ObjectFailure(f"the store refused ({said[1] if said else type(error).__name__})")


def _of_amazon(code: str, text: str) -> ObjectFailure:
    if code == _NO_BUCKET:
        return NotThere("there is no such bucket (NO_SUCH_BUCKET)")
    if code in _DENIED or "HTTP Status 403" in text:
        return Denied(f"the credentials do not allow it ({code})")
    if code in _TEMPORARY:
        return Unreachable(f"the store cannot be reached or is busy ({code})")
    return ObjectFailure(f"the store refused ({code})")
