"""Which addresses may be asked: https to the public internet, and loopback for those who test on it.

Law: an address is judged after it was resolved, and the connection goes to the very address that was judged. A name
that leads to private and public addresses leads to the public ones only.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost."})

# Public by the IANA registries, yet no place a file comes from: protocol assignments and the 6to4 relay.
_NOT_PUBLIC_4: Final = tuple(ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24"))
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
# Parts of it that carry other addresses inside (Teredo, 6to4) or are set aside (RFC 6890, 3849, 9637).
_NOT_PUBLIC_6: Final = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


class Forbidden(OSError):
    """Every address of a name is one that must not be asked."""


def is_loopback(host: str) -> bool:
    """Tell whether a host, as a URL has it, is this machine by name or address."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    address = _literal(host)
    return address is not None and address.is_loopback


def allowed(host: str, *, loopback: bool) -> bool:
    """Tell whether an IP address may be connected to: public, or with `loopback` this machine."""
    address = _literal(host)
    if address is None:
        return False
    if address.is_loopback:
        return loopback
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC_4)
    if address.scope_id or address not in _GLOBAL_UNICAST:
        return False
    return not any(address in net for net in _NOT_PUBLIC_6)


def objection(url: URL, *, loopback: bool) -> str | None:
    """Say why a URL must not be fetched, None if its name may be looked up and connected to."""
    try:
        host, _ = url.raw_host, url.port
    except ValueError:  # parsed only now
        return "not a usable address"
    if not host or url.scheme not in {"http", "https"}:
        return "not an https address"
    if url.user is not None or url.password is not None:
        return "an address with a user name or password in it"
    if url.scheme == "http" and not (loopback and is_loopback(host)):
        return "not an https address"
    if _literal(host) is not None and not allowed(host, loopback=loopback):
        return "not a public address"
    if host.lower() in _LOOPBACK_NAMES and not loopback:
        return "not a public address"
    return None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


class PublicResolver(AbstractResolver):
    """Looks names up and leaves out what must not be asked.

    Args:
        loopback: Whether this machine may be asked.
    """

    def __init__(self, *, loopback: bool) -> None:
        self._inner = ThreadedResolver()
        self._loopback = loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of a name.

        Raises:
            Forbidden: There are addresses, and none of them is allowed.
        """
        found = await self._inner.resolve(host, port, family)
        kept = [entry for entry in found if allowed(entry["host"], loopback=self._loopback)]
        if found and not kept:
            msg = "not a public address"
            raise Forbidden(msg)
        return kept

    async def close(self) -> None:
        """Nothing is held."""
