"""A secret is not seen, and is taken out of what others say."""

import base64
import copy
import json
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.core.secret import HIDDEN, Secret

KEY = 'xai-A"b\\c+/%9'


def test_a_secret_shows_itself_only_by_name():
    secret = Secret(KEY)
    assert KEY not in f"{secret!r}{secret}{[secret]}{vars(type(secret))}"
    assert secret.reveal() == KEY
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(secret)


@pytest.mark.parametrize("before", ["", "x", "Bearer ", "Bearer  "])
@pytest.mark.parametrize("after", ["", "\n", "yz"])
def test_a_secret_is_found_however_it_is_written(before, after):
    whole = f"{before}{KEY}{after}"
    ways = [
        whole, json.dumps(whole), json.dumps(json.dumps(whole)), repr(whole), quote(whole, safe=""), quote(whole),
        "".join(f"%{byte:02x}" for byte in whole.encode()), base64.b64encode(whole.encode()).decode(),
        base64.urlsafe_b64encode(whole.encode()).decode(), whole.encode().hex(),
    ]  # fmt: skip
    for text in ways:
        hidden = Secret(KEY).hide(text)
        assert HIDDEN in hidden, text
        assert Secret(KEY).hide_bytes(text.encode()) == hidden.encode()


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8),
    st.binary(max_size=5),
    st.binary(max_size=5),
)
def test_any_secret_is_found_in_base64_wherever_it_begins(value, before, after):
    text = base64.b64encode(before + value.encode() + after).decode()
    assert HIDDEN in Secret(value).hide(text)


@given(st.text(max_size=20), st.sampled_from(["", "a", "abcde"]))
def test_short_strings_blot_out_nothing(text, value):
    assert Secret(value).hide(text) == text
