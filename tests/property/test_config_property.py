"""Whatever is typed is either understood or refused in words."""

import contextlib
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.config import FLAGS, load
from bulkgrok.core.errors import UsageError
from bulkgrok.core.secret import Secret
from bulkgrok.telemetry.redaction import Redaction
from bulkgrok.telemetry.wording import printable

ANYTHING = st.one_of(
    st.text(),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Nd", "Ll"])),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.from_regex(r"(https?|s3)://[a-z:@/?#\[\]0-9.]{0,20}", fullmatch=True),
    st.from_regex(r"[0-9]{1,4}\.?[0-9]{0,3}[smh]?", fullmatch=True),
)


@given(st.dictionaries(st.sampled_from([flag.keyword for flag in FLAGS]), ANYTHING, max_size=4))
def test_any_value_of_any_flag_is_used_or_refused_in_words(flags):
    with contextlib.suppress(UsageError):
        load({**flags, "input": "in.jsonl"}, environ={"XAI_API_KEY": "xai-test"})


@given(st.dictionaries(st.sampled_from([flag.variable for flag in FLAGS] + ["XAI_BASE_URL", "XAI_API_KEY"]), st.text()))
def test_any_environment_is_used_or_refused_in_words(environ):
    with contextlib.suppress(UsageError):
        load({"input": "in.jsonl"}, environ=environ)


@given(st.text(), st.integers(2, 50))
def test_printable_text_steers_no_terminal_and_encodes(text, limit):
    shown = printable(text, limit=limit)
    assert not [char for char in shown if char != "\u200d" and unicodedata.category(char) in {"Cc", "Cf", "Cs"}]
    shown.encode()


@given(
    st.text(max_size=20), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8), st.text(max_size=20)
)
def test_a_key_is_hidden_wherever_it_stands(before, key, after):
    assert key not in Redaction([Secret(key)])(f"{before} {key} {after}").replace("[hidden]", "")
