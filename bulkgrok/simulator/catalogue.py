"""The models the simulated API offers, and its price list.

Law: prices are whole ticks (1 USD is 10,000,000,000 of them), so that bills add up exactly. This table is the
simulator's own, kept apart from the client's, as the API's is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

TICKS_PER_USD: Final = 10_000_000_000
LONG_PROMPT_TOKENS: Final = 200_000
#: What a prompt refused before generation may cost.
REFUSAL_FEE_USD: Final = 0.05


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A language model; prices in ticks a token."""

    context_tokens: int
    prompt: int
    cached: int
    completion: int


CHAT_MODELS: Final[dict[str, ChatModel]] = {
    "grok-4.7": ChatModel(500_000, 20_000, 5_000, 60_000),
    "grok-4.6": ChatModel(500_000, 20_000, 5_000, 60_000),
    "grok-4.5": ChatModel(500_000, 20_000, 3_000, 60_000),
    "grok-4.3": ChatModel(1_000_000, 12_500, 2_000, 25_000),
    "grok-4.20-0309-reasoning": ChatModel(1_000_000, 12_500, 2_000, 25_000),
    "grok-4.20-0309-non-reasoning": ChatModel(1_000_000, 12_500, 2_000, 25_000),
    "grok-4.20-multi-agent-0309": ChatModel(1_000_000, 12_500, 2_000, 25_000),
    "grok-build-0.1": ChatModel(256_000, 10_000, 2_000, 20_000),
    "grok-3-mini": ChatModel(131_072, 3_000, 750, 5_000),
}
_DEFAULT: Final = "grok-4.3"

#: Retired models are served by another one, silently.
_RETIRED: Final = ("grok-4-1-fast", "grok-4-fast", "grok-4-0709", "grok-code-fast-1")
_RETIRED_EXACTLY: Final = frozenset({"grok-4", "grok-3"})

#: model -> resolution -> ticks a second.
VIDEO_MODELS: Final[dict[str, dict[str, int]]] = {
    "grok-imagine-video": {"480p": 500_000_000, "720p": 700_000_000, "1080p": 700_000_000},
    "grok-imagine-video-1.5": {"480p": 800_000_000, "720p": 1_400_000_000, "1080p": 2_500_000_000},
    "grok-imagine-video-1.5-lite": {"480p": 200_000_000, "720p": 300_000_000, "1080p": 1_400_000_000},
}
DEFAULT_VIDEO_MODEL: Final = "grok-imagine-video"
_INPUT_SECOND: Final = 100_000_000
_INPUT_IMAGE: Final = 20_000_000


def known(model: str) -> bool:
    """Tell whether a model is served. Names nobody has heard of are, so that tests may invent some."""
    return not model.startswith("no-such")


def serving_model(model: str) -> str:
    """Return the model that answers for the asked one."""
    return _DEFAULT if model.startswith(_RETIRED) or model in _RETIRED_EXACTLY else model


def chat_model(model: str) -> ChatModel:
    """Return what a model costs; an invented one costs what the default does."""
    return CHAT_MODELS.get(model) or CHAT_MODELS[_DEFAULT]


def completion_ticks(model: str, *, prompt: int, cached: int, generated: int, priority: bool) -> int:
    """Return the price of one completion; `cached` tokens are part of the prompt's."""
    price = chat_model(model)
    ticks = (prompt - cached) * price.prompt + cached * price.cached + generated * price.completion
    return ticks * (2 if prompt >= LONG_PROMPT_TOKENS else 1) * (2 if priority else 1)


def video_ticks(model: str, *, seconds: float, resolution: str, input_seconds: float, images: int) -> int:
    """Return the price of one video."""
    table = VIDEO_MODELS.get(model) or VIDEO_MODELS[DEFAULT_VIDEO_MODEL]
    second = table.get(resolution) or table["480p"]
    return round(seconds * second + input_seconds * _INPUT_SECOND) + images * _INPUT_IMAGE


def models_page() -> dict[str, Any]:
    """Return the body of `GET /v1/models`."""
    return {"object": "list", "data": [model_entry(name) for name in (*CHAT_MODELS, *VIDEO_MODELS)]}


def model_entry(name: str) -> dict[str, Any]:
    """Return one model as `GET /v1/models` lists it."""
    return {"id": name, "created": 1_780_000_000, "object": "model", "owned_by": "xai"}


def language_models_page() -> dict[str, Any]:
    """Return the body of `GET /v1/language-models`; its prices are US cents per 100 million tokens."""
    return {
        "models": [
            {
                **model_entry(name),
                "fingerprint": f"fp_{index:010x}",
                "version": "1.0",
                "input_modalities": ["text", "image"],
                "output_modalities": ["text"],
                "prompt_text_token_price": model.prompt,
                "cached_prompt_text_token_price": model.cached,
                "prompt_image_token_price": model.prompt,
                "completion_text_token_price": model.completion,
                "search_price": 0,
                "aliases": [],
            }
            for index, (name, model) in enumerate(CHAT_MODELS.items(), 1)
        ]
    }
