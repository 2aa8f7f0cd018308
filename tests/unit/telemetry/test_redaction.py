"""Secrets taken out of text."""

import pytest

from bulkgrok.core.secret import Secret
from bulkgrok.telemetry.redaction import Redaction


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2hunter2",
        "authorization=hunter2hunter2",
        "{'Authorization': 'hunter2hunter2'}",
        '{"authorization": "Bearer hunter2hunter2"}',
        '{\\"Authorization\\": \\"hunter2hunter2\\"}',
        "key xai-hunter2hunter2hunter2hunter2 was refused",
        "https://user:hunter2hunter2@proxy:3128/",
        "GET https://media.x.ai/a.mp4?sig=hunter2hunter2&exp=1 failed",
        "see http://127.0.0.1:9/v?token=hunter2hunter2",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text):
    assert "hunter2" not in Redaction()(text)


@pytest.mark.parametrize("text", ["row 3 of 5: is it xai-short?", "https://docs.x.ai/models", "what? yes", "a://b"])
def test_ordinary_text_passes(text):
    assert Redaction([Secret(""), Secret("abc")])(text) == text


def test_a_known_key_is_hidden_whatever_it_looks_like():
    assert "my\\key!" not in Redaction([Secret("my\\key!")])("x my\\key! y")
    assert "my" not in Redaction([Secret('my"key')])('{"a": "my\\"key"}')
