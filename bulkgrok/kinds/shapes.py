"""The shapes of a row, told apart by their keys.

Law: pure functions from a row (plain JSON values) and the run's settings to a kind and the fields of its body, before
defaults and checks. What a row says of itself goes before flags.

    1  {"prompt", ...}                          chat           4  {"kind": "video", "prompt", ...}       generation
    2  {"messages", ...}                        chat           5  {"kind": "video", ..., "video"}        edit, extension
    3  {"method", "url", "body"}                by its url     6  any row, with --prompt                 by `kind`

`--system` and a row's own `system` become the system message of a chat that has none; in a row of shape 2 or 3 with a
system message of its own that message stays, and a `system` field beside it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import JsonObject, Mode
from bulkgrok.core.values import quick
from bulkgrok.kinds.rowvalues import parse_text

#: Fields that steer bulkgrok and never reach the API.
CONTROL_KEYS: Final = frozenset({"custom_id", "id", "kind", "mode", "deferred", "prompt", "system"})
#: Without any of these a row is a conversation, or a prompt of the run's kind.
_STEERING_KEYS: Final = frozenset({"kind", "mode", "deferred", "system", "body", "method"})
#: What a row is read for besides its template.
NAMING_KEYS: Final = frozenset({"custom_id", "id", "kind", "mode", "deferred", "model"})

_VIDEO_KINDS: Final = frozenset({"video", "video-edit", "video-extension"})
_URLS: Final = {
    "/chat/completions": "chat",
    "/videos/generations": "video",
    "/videos": "video",
    "/videos/edits": "video-edit",
    "/videos/extensions": "video-extension",
}
_SYSTEM_ROLES: Final = ("system", "developer")

System = Callable[[], str | None]


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """A row whose shape is known."""

    kind: str
    fields: JsonObject
    """Of the body, the row's own."""
    mode: Mode | None
    """None when the row does not say."""


def custom_id_of(row: Mapping[str, object], ordinal: int) -> str | None:
    """Return the row's name: `custom_id`, else `id`, else its number; anything but a string as JSON text."""
    for key in ("custom_id", "id"):
        found = row.get(key)
        if isinstance(found, str):
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        if found is not None:
            return None
    return str(ordinal)


def shape(row: JsonObject, *, default_kind: str, prompt: str | None, system: System) -> Shaped:
    """Tell what a row asks for.

    Args:
        row: The row.
        default_kind: Kind of rows that do not say.
        prompt: What `--prompt` gave for this row, None without it.
        system: Gives what `--system` makes of this row, None without it; called only where it is needed.

    Raises:
        InvalidRow: It has none of the shapes, or two of them.
    """
    if prompt is not None:
        return _templated(row, default_kind, prompt, system)
    steered = not _STEERING_KEYS.isdisjoint(row)  # most rows are not, and need not be asked key by key
    if steered and ("body" in row or ("method" in row and "url" in row)):
        return _batch_line(row, default_kind, system)
    prompted, has_messages = row.get("prompt") is not None, row.get("messages") is not None
    kind = "chat" if has_messages else default_kind
    kind = _kind(row, kind) if steered else kind
    own = {key: value for key, value in row.items() if key not in CONTROL_KEYS}
    if kind != "chat":
        if has_messages:
            msg = f"a row of kind {kind} has a prompt, not messages"
            raise InvalidRow(msg)
        if prompted:
            own["prompt"] = row["prompt"]
        if kind == "video" and own.get("video") is not None:
            kind = "video-edit"
        return Shaped(kind=kind, fields=own, mode=_mode(row))
    if prompted and has_messages:
        msg = "the row has both prompt and messages; give one of them"
        raise InvalidRow(msg)
    own_system = _own_system(row) if steered else None
    if prompted:
        own["messages"] = _conversation(row["prompt"], system() if own_system is None else own_system)
    elif has_messages:
        own["messages"] = _with_system(_messages(own["messages"]), own_system, system)
    else:
        raise InvalidRow(_no_shape(row))
    return Shaped(kind="chat", fields=own, mode=_mode(row) if steered else None)


def _templated(row: JsonObject, default_kind: str, prompt: str, system: System) -> Shaped:
    kind = _kind(row, default_kind)
    fields: JsonObject = {"model": row["model"]} if row.get("model") is not None else {}
    if kind == "chat":
        fields["messages"] = _conversation(prompt, system())
    else:
        fields["prompt"] = prompt
    return Shaped(kind=kind, fields=fields, mode=_mode(row))


def _batch_line(row: JsonObject, default_kind: str, system: System) -> Shaped:
    for key in ("prompt", "messages"):
        if row.get(key) is not None:
            msg = f"the row has both body and {key}; a batch line holds everything in its body"
            raise InvalidRow(msg)
    method = row.get("method")
    if method is not None and not (isinstance(method, str) and method.upper() == "POST"):
        msg = f"method is {method!r:.80}; only POST can be sent"
        raise InvalidRow(msg)
    kind = _kind(row, default_kind) if row.get("url") is None else _kind_of_url(row["url"])
    body = row.get("body")
    if isinstance(body, str):
        body = parse_text("body", body)
    if not isinstance(body, dict):
        msg = f"body must be an object, it is {'missing' if body is None else f'{body!r:.80}'}"
        raise InvalidRow(msg)
    fields = dict(body)
    if kind == "chat" and fields.get("messages") is not None:
        fields["messages"] = _with_system(_messages(fields["messages"]), None, system)
    return Shaped(kind=kind, fields=fields, mode=_mode(row))


def _kind_of_url(url: object) -> str:
    path = url.strip().rstrip("/") if isinstance(url, str) else ""
    if path.startswith(("https://", "http://")):
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    path = "/" + path.lstrip("/")
    found = _URLS.get(path.removeprefix("/v1"))
    if found is None:
        known = ", ".join("/v1" + known for known in _URLS)
        msg = f"url is {url!r:.120}; the urls that can be sent are {known}"
        raise InvalidRow(msg)
    return found


def _kind(row: JsonObject, default: str) -> str:
    found = row.get("kind")
    if found is None:
        return default
    name = found.strip().lower().replace("_", "-") if isinstance(found, str) else ""
    if name == "chat" or name in _VIDEO_KINDS:
        return name
    msg = f"kind is {found!r:.80}; there are chat, video, video-edit and video-extension"
    raise InvalidRow(msg)


def _mode(row: JsonObject) -> Mode | None:
    """Return what the row says of its handshake; `"deferred": false` says nothing, `--mode` stands."""
    deferred = is_true(row, "deferred")
    found = row.get("mode")
    if found is None:
        return Mode.DEFERRED if deferred else None
    if found not in ("direct", "deferred"):
        msg = f"mode is {found!r:.80}; it can be direct or deferred"
        raise InvalidRow(msg)
    if deferred and found == "direct":
        msg = 'the row says both "mode": "direct" and "deferred": true'
        raise InvalidRow(msg)
    return Mode(found)


def is_true(fields: JsonObject, key: str) -> bool:
    """Return a switch of a row, off when it is missing.

    Raises:
        InvalidRow: It is neither true nor false.
    """
    found = fields.get(key)
    if found is None or isinstance(found, bool):
        return bool(found)
    msg = f"{key} is {found!r:.80}; it can be true or false"
    raise InvalidRow(msg)


def _own_system(row: JsonObject) -> str | None:
    found = row.get("system")
    if found is None or isinstance(found, str):
        return found
    msg = f"system must be a string, it is {found!r:.80}"
    raise InvalidRow(msg)


def _conversation(prompt: object, system: str | None) -> list[object]:
    if not isinstance(prompt, str) or not prompt.strip():
        msg = f"prompt must be a non-empty string, it is {prompt!r:.80}"
        raise InvalidRow(msg)
    user = {"role": "user", "content": prompt}
    return [{"role": "system", "content": system}, user] if system else [user]


def _messages(found: object) -> object:
    return parse_text("messages", found) if isinstance(found, str) else found


def _with_system(messages: object, own: str | None, flag: System) -> object:
    """Put the system message in front; what is no list is left to the kind's own checks."""
    if not isinstance(messages, list) or not messages:
        return messages
    for message in messages:
        if isinstance(message, dict) and message.get("role") in _SYSTEM_ROLES:
            if own:
                msg = "the row has both system and a system message in messages; give one of them"
                raise InvalidRow(msg)
            return messages
    text = flag() if own is None else own
    return [{"role": "system", "content": text}, *messages] if text else messages


def _no_shape(row: JsonObject) -> str:
    names = ", ".join(f"{name:.40}{' (null)' if row[name] is None else ''}" for name in list(row)[:20]) or "no fields"
    return f"the row has neither prompt nor messages nor body (it has {names}); --prompt makes a prompt of its columns"
