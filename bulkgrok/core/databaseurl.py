"""The address of a checkpoint in a database: shown to everybody without its password, given whole only to the driver.

Law: what is shown can be typed again, with the password in PGPASSWORD, in a password file or in a service file. An
address whose password could be taken for another part of it is refused, and no refusal repeats a part of it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from bulkgrok.core.secret import Secret

SCHEMES: Final = ("postgresql", "postgres")
_URL: Final = re.compile(r"(postgresql|postgres)://(?:([^@/]*)@)?([^?]*)(?:\?(.*))?", re.DOTALL)
#: Settings of a connection that are secrets.
_HIDDEN: Final = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
#: What may stand behind the question mark: the settings of PostgreSQL's library.
_SETTINGS: Final = frozenset({
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name",
    "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "krbsrvname", "load_balance_hosts", "options", "passfile", "port", "require_auth",
    "requirepeer", "service", "servicefile", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
    "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslrootcert",
    "sslsni", "target_session_attrs", "tcp_user_timeout", "user", *_HIDDEN,
})  # fmt: skip


class DatabaseUrl:
    """The address of a shared checkpoint.

    Args:
        text: `postgresql://[user[:password]@][host[:port]][/database][?setting=value&…]`, without a fragment.

    Raises:
        ValueError: It is none; the message is the half-sentence that follows the setting's name.
    """

    __slots__ = ("secrets", "shown", "whole")

    def __init__(self, text: str) -> None:
        match = _URL.fullmatch(text.strip())
        if match is None or not text.isprintable():
            msg = "must be an address such as postgresql://user@host/database"
            raise ValueError(msg)
        scheme, login, place, query = match.groups()
        if "#" in text:
            msg = "must hold no # (the run is named by --run-id; a # in a password is written %23)"
            raise ValueError(msg)
        if "@" in place:
            msg = "holds an @ or a / in a name or password: write it as %40 or %2F"
            raise ValueError(msg)
        user, colon, password = (login or "").partition(":")
        hidden = [password] if colon else []
        settings = []
        for pair in query.split("&") if query else []:
            name, _, value = pair.partition("=")
            if name not in _SETTINGS:
                msg = "holds a setting behind the ? that PostgreSQL's connections do not have"
                raise ValueError(msg)
            if name in _HIDDEN:
                hidden.append(value)
            else:
                settings.append(pair)
        self.whole = Secret(text.strip())
        """All of it, for whoever connects."""
        self.secrets = tuple(Secret(one) for word in hidden for one in dict.fromkeys((unquote(word), word)) if one)
        """Passwords in it, as they are and as they are written."""
        at = f"{user}@" if user else ""
        self.shown = f"{scheme}://{at}{place}" + (f"?{'&'.join(settings)}" if settings else "")
        """It without its passwords."""

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseUrl) and self.whole.reveal() == other.whole.reveal()

    def __hash__(self) -> int:
        return hash(self.shown)


def is_database(text: str) -> bool:
    """Tell whether a text is meant to be such an address."""
    return text.strip().partition("://")[0].lower() in SCHEMES and "://" in text


def split_run(text: str) -> tuple[DatabaseUrl, str | None]:
    """Return the parts of `postgresql://…#RUN_ID`; None where no run is named.

    Raises:
        ValueError: As DatabaseUrl.
    """
    address, mark, run_id = text.partition("#")
    return DatabaseUrl(address), (run_id if mark and run_id else None)
