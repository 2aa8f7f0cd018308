import json

import pytest

from bulkgrok.core.errors import UsageError
from bulkgrok.core.model import Answer, Code, RawRow, Unusable
from bulkgrok.kinds import get
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings

PRICES = Prices.shipped()


def completion(model, usage):
    choices = [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]
    return get("chat").decode(json.dumps({"id": "i", "model": model, "choices": choices, "usage": usage}).encode())


def usage(prompt, cached, visible, reasoning, **more):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": visible,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        **more,
    }


def max_usd(row):
    item = RowEncoder(RowSettings(), PRICES).encode(RawRow(row=0, line=1, value=json.dumps(row).encode()))
    return item.max_usd


def test_the_formula_gives_what_the_api_billed():
    """12 prompt tokens (2 cached), 1 visible, 228 of reasoning on grok-3-mini were billed 1,176,500 ticks."""
    answer = completion("grok-3-mini", usage(12, 2, 1, 228))
    assert PRICES.cost_usd("chat", "other", answer, 0.0) == pytest.approx(1_176_500 / 1e10, rel=1e-12)


def test_ticks_go_before_the_table():
    answer = completion("grok-3-mini", usage(12, 2, 1, 228, cost_in_usd_ticks=20_000_000_000))
    assert PRICES.cost_usd("chat", "grok-3-mini", answer, 0.0) == 2.0


@pytest.mark.parametrize("ticks", [-1, True, "x", None, [], 1e30, 10**18, 1e300])
def test_ticks_that_are_no_price_are_ignored(ticks):
    answer = completion("grok-3-mini", usage(12, 2, 1, 228, cost_in_usd_ticks=ticks))
    assert PRICES.cost_usd("chat", "x", answer, 0.0) == pytest.approx(0.00011765)


@pytest.mark.parametrize(("ticks", "usd"), [(0, 0.0), (1e10, 1.0), ("10000000000", 1.0)])
def test_ticks_may_be_any_number(ticks, usd):
    assert PRICES.cost_usd("chat", "x", completion("x", {"cost_in_usd_ticks": ticks}), 0.0) == usd


def test_the_model_that_answered_is_billed():
    tokens = usage(1_000_000 - 900_000, 0, 0, 0)
    assert PRICES.cost_usd("chat", "grok-3", completion("grok-4.3", tokens), 0.0) == pytest.approx(0.125)
    assert PRICES.cost_usd("chat", "grok-4.3", completion(None, tokens), 0.0) == pytest.approx(0.125)


def test_long_prompts_and_priority_cost_double():
    assert PRICES.cost_usd("chat", "", completion("grok-4.3", usage(200_000, 0, 0, 0)), 0) == pytest.approx(0.5)
    assert PRICES.cost_usd("chat", "", completion("grok-4.3", usage(199_999, 0, 0, 0)), 0) == pytest.approx(0.25, 1e-4)


def test_what_has_no_price_has_no_cost():
    assert PRICES.cost_usd("chat", "x", completion("unknown-model", usage(1, 0, 1, 0)), 5.0) is None
    assert PRICES.cost_usd("chat", "grok-4.3", completion("grok-4.3", None), 5.0) is None
    assert max_usd({"prompt": "x", "model": "unknown-model"}) is None


def test_a_video_without_a_figure_costs_what_was_computed_before():
    answer = Answer(model="grok-imagine-video", usage=None, ticks=None)
    assert PRICES.cost_usd("video", "grok-imagine-video", answer, 0.4) == 0.4
    assert PRICES.cost_usd("video", "grok-imagine-video", answer, 0.0) is None
    withheld = Unusable(code=Code.MODERATED, message="", usage={})
    assert PRICES.cost_usd("video", "grok-imagine-video", withheld, 0.4) == 0.4
    failed = Unusable(code=Code.FAILED, message="")
    assert PRICES.cost_usd("video", "grok-imagine-video", failed, 0.4) is None


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("grok-4.3", "grok-4.3"),
        ("grok-4.3-latest", "grok-4.3"),
        ("xai/grok-4.3", "grok-4.3"),
        ("grok-4-0709", "grok-4"),
        ("GROK-3-mini-beta", "grok-3-mini"),
        ("grok-4.5-2026-08-01", "grok-4.5"),
        ("grok-4-fast-reasoning-latest", "grok-4-fast-reasoning"),
    ],
)
def test_a_model_is_found_by_its_dated_names(model, key):
    assert PRICES.of_chat(model) == PRICES.chat[key]


@pytest.mark.parametrize(
    "model", ["grok-4-heavy", "grok", "grok-5", "", None, "gpt-4", "-latest", "grok-imagine-video"]
)
def test_another_models_price_is_never_guessed(model):
    assert PRICES.of_chat(model) is None


def test_a_chat_costs_at_most_its_prompt_and_the_whole_completion():
    assert max_usd({"prompt": "x", "max_completion_tokens": 1_000_000}) == pytest.approx(2.5, abs=0.01)
    assert max_usd({"prompt": "x", "max_tokens": 1_000_000, "n": 3}) == pytest.approx(7.5, abs=0.01)
    assert max_usd({"prompt": "x"}) == pytest.approx(0.128 * 2.5, abs=0.01)
    assert max_usd({"prompt": "x" * 100_000, "max_tokens": 1}) == pytest.approx(0.126, abs=0.001)
    assert max_usd({"prompt": "x" * 300_000, "max_tokens": 1}) == pytest.approx(0.752, abs=0.001)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    assert max_usd({"messages": [{"role": "user", "content": [image]}], "max_tokens": 1}) < 0.01


@pytest.mark.parametrize(
    ("fields", "usd"),
    [
        ({}, 8 * 0.05),
        ({"duration": 2}, 0.1),
        ({"seconds": "2", "resolution": "720p"}, 0.14),
        ({"duration": 1, "resolution": "1080p"}, 0.07),
        ({"duration": 1, "image": "u"}, 0.052),
        ({"duration": 1, "reference_images": [{"url": "u"}] * 3}, 0.056),
        ({"duration": 10, "model": "grok-imagine-video-1.5", "resolution": "1080p"}, 2.5),
        ({"duration": 10, "model": "grok-imagine-video-1.5-lite"}, 0.2),
        ({"video": "u"}, 8.7 * 0.08),
        ({"video": "u", "kind": "video-extension", "duration": 2}, 2 * 0.07 + 0.15),
    ],
)
def test_a_video_costs_at_most_its_seconds(fields, usd):
    assert max_usd({"kind": "video", "prompt": "x", **fields}) == pytest.approx(usd)


def test_a_price_file_of_ones_own_replaces_the_table(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text('[chat."m"]\ninput = 1\noutput = 2\n')
    prices = Prices.load(path)
    assert prices.cost_usd("chat", "", completion("m", usage(10, 5, 1, 1)), 0) == pytest.approx(14 / 1e6)
    assert prices.of_chat("grok-4.3") is None
    assert Prices.load(None) is Prices.shipped()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 5", "not valid TOML"),
        ("chat = 5", "chat must be a table"),
        ("[chat]\nm = 5", "chat.m must be a table"),
        ('[chat."m"]\ninput = 1', "chat.m.output is missing"),
        ('[chat."m"]\ninput = "1"\noutput = 1', "chat.m.input must be a number"),
        ('[chat."m"]\ninput = -1\noutput = 1', "chat.m.input must be a number"),
        ('[chat."m"]\ninput = nan\noutput = 1', "chat.m.input must be a number"),
        ('[chat."m"]\ninput = true\noutput = 1', "chat.m.input must be a number"),
        (f'[chat."m"]\ninput = 1{"0" * 400}\noutput = 1', "chat.m.input must be a number"),
        ('[chat."m"]\nimput = 1\noutput = 1', "chat.m.imput is unknown"),
        ("prices = 1", "prices is unknown"),
        ('[video."v"]\nper_s = {}', "video.v.per_s must name"),
        ('[video."v"]\nimage = 1', "video.v.per_s must be a table"),
        ('[video."v"]\nper_s = {"480p" = "x"}', "video.v.per_s.480p must be a number"),
        ("long_context_factor = []", "long_context_factor must be a number"),
    ],
)
def test_a_malformed_price_file_names_file_and_key(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Prices.load(path)
    assert words in caught.value.message
    assert "mine.toml" in caught.value.message


def test_a_price_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    (tmp_path / "latin").write_bytes(b"# \xff")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "latin"):
        with pytest.raises(UsageError, match="cannot be read"):
            Prices.load(path)
