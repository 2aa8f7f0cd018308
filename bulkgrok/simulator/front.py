"""The pages anybody with a key may read, who that is, and the controls of the simulator itself.

Law: pure. The controls under `/_simulator/` need no key and are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson

from bulkgrok.simulator import catalogue
from bulkgrok.simulator.refusals import NO_CREDENTIALS, TEAM, Refusal, wrong_key
from bulkgrok.simulator.replies import Replies
from bulkgrok.simulator.wire import Reply

if TYPE_CHECKING:
    from bulkgrok.simulator.world import World

_MODELS: Final = "/v1/models/"
_PAGES: Final = frozenset({"/v1/models", "/v1/language-models", "/v1/api-key", "/v1/me"})
_PREFIXES: Final = (_MODELS, "/v1/chat/deferred-completion/", "/v1/videos/")
_USER: Final = "00000000-51ab-4000-8000-000000000003"
_API_KEY: Final[dict[str, Any]] = {
    "redacted_api_key": "xai-...tor",
    "user_id": _USER,
    "name": "simulator",
    "create_time": "2026-01-01T00:00:00.000000Z",
    "modify_time": "2026-01-01T00:00:00.000000Z",
    "modified_by": _USER,
    "team_id": TEAM,
    "acls": ["api-key:model:*", "api-key:endpoint:*"],
    "api_key_id": "00000000-51ab-4000-8000-000000000002",
    "team_blocked": False,
    "api_key_blocked": False,
    "api_key_disabled": False,
}


def is_page(path: str) -> bool:
    """Tell whether a path can be read with GET."""
    return path in _PAGES or any(
        path.startswith(prefix) and "/" not in path[len(prefix) :] and len(path) > len(prefix) for prefix in _PREFIXES
    )


def authenticate(header: str | None, accepted: tuple[str, ...]) -> Refusal | None:
    """Return why an Authorization header is not good enough, None if it is."""
    scheme, _, key = (header or "").strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        return Refusal(401, "no-credentials", NO_CREDENTIALS)
    if accepted:
        return None if key in accepted else wrong_key(key)
    if key.startswith("blocked"):
        return Refusal(403, "blocked", "Your team is blocked. [WKE=unauthorized:blocked-user]", shape="kebab")
    return wrong_key(key) if key.startswith("bad") else None


def page(path: str, replies: Replies, now: float) -> Reply:
    """Return one of the pages that tell of models and keys."""
    if path == "/v1/models":
        return replies.json(catalogue.models_page(), now)
    if path == "/v1/language-models":
        return replies.json(catalogue.language_models_page(), now)
    if path == "/v1/me":
        return replies.json({"user_id": _USER, "team_id": TEAM, "name": "simulator"}, now)
    if path == "/v1/api-key":
        return replies.json(_API_KEY, now)
    name = unquote(path.removeprefix(_MODELS))
    if name in catalogue.CHAT_MODELS or name in catalogue.VIDEO_MODELS:
        return replies.json(catalogue.model_entry(name), now)
    return replies.refusal(Refusal(404, "not-found", f"The model {name[:80]} does not exist."), now, path.encode())


def control(world: World, method: str, target: str, body: bytes, *, now: float) -> Reply:
    """Answer a request to the simulator's controls."""
    replies = Replies(world.settings, world.chance, 0)
    path, _, query = target.partition("?")
    what = path.removeprefix("/_simulator/")
    if (method, what) == ("GET", "ledger"):
        return replies.json(world.ledger.as_json(requests="requests=0" not in query.split("&")), now)
    if (method, what) == ("GET", "settings"):
        return replies.json(world.settings.as_json(), now)
    if method != "POST" or what not in {"settings", "clock"}:
        return replies.json({"error": f"there is no {method} {path}"[:200]}, now, status=404)
    try:
        value = orjson.loads(body or b"{}")
        if not isinstance(value, dict):
            msg = "the body must be a JSON object"
            raise ValueError(msg)  # noqa: TRY004, TRY301 - told in the same words as any other refusal
        if what == "settings":
            world.configure(world.settings.merged(value))
            return replies.json(world.settings.as_json(), now)
        world.advance(_seconds(value))
        return replies.json({"skew_s": world.skew_s}, now)
    except ValueError as error:
        return replies.json({"error": str(error)[:300]}, now, status=400)


def _seconds(value: dict[str, Any]) -> float:
    found = value.get("advance_s")
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 10 * 366 * 86_400:
        msg = f"advance_s must be seconds from 0 to ten years, not {found!r:.80}"
        raise ValueError(msg)
    return float(found)
