"""What aiohttp and the operating system raise, in words that hold no secret.

Law: an address's path, query and user part never get into a reason; bytes of a server's only as printable text, cut.
"""

from __future__ import annotations

import os
import ssl
from typing import Final

import aiohttp

#: Everything that a request may end with besides a reply. TimeoutError and ssl.SSLError are OSErrors.
FAILURES: Final = (aiohttp.ClientError, OSError)

_LONGEST: Final = 200


class StaleConnection(aiohttp.ClientConnectionResetError):
    """A kept connection was closed, or spoken on, by the server before anything was written to it."""


class NoHttp(aiohttp.ClientError):
    """What came was no reply."""


#: Raised before the first byte of a request is written.
UNCONNECTED: Final = (
    StaleConnection,
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.ServerFingerprintMismatch,
)


def reason(error: BaseException) -> str:
    """Say in a few words why a request failed."""
    return printable(_words(error))


def printable(text: str) -> str:
    """Return text as one short line of printable characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:_LONGEST].strip()


def _words(error: BaseException) -> str:  # noqa: C901, PLR0912 - a table
    match error:
        case StaleConnection():
            return "the kept connection had been closed by the server"
        case aiohttp.ClientConnectorDNSError():
            return f"no address found for {error.host}"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {error.host} is not accepted: {_certificate(error.certificate_error)}"
        case aiohttp.ClientSSLError():
            return f"no TLS with {error.host}: {_system(error.os_error)}"
        case aiohttp.ClientProxyConnectionError():
            return f"cannot connect to the proxy: {_system(error.os_error)}"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}:{error.port}: {_system(error.os_error)}"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refused: {error.status} {error.message}"
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without a reply"
        case aiohttp.ClientResponseError():
            return f"the reply is not HTTP: {error.message}"
        case NoHttp():
            return f"the reply is not HTTP: {error}"
        case aiohttp.ClientPayloadError():
            return "the connection was closed inside the reply"
        case aiohttp.InvalidURL():
            return "not a usable address"
        case TimeoutError():
            return "no reply in time"
        case OSError():
            return f"the connection broke: {_system(error)}"
        case _:
            return type(error).__name__


def _certificate(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__


def _system(error: OSError) -> str:
    """Name a system error without what else its text may hold."""
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
