import json

import pytest

from bulkgrok.core.errors import InvalidRow
from bulkgrok.core.model import BadRow, RawRow
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings
from bulkgrok.kinds.templates import PromptTemplate

NAMES = {"custom_id", "id", "kind", "mode", "deferred", "model"}


def render(text, columns):
    return PromptTemplate(text, flag="--prompt").render(columns)


def test_a_template_sees_all_columns_and_the_row_itself():
    assert render("{{ a }} {{ row['odd key'] }} {{ row.a }}", {"a": 1, "odd key": "é<&"}) == "1 é<& 1"


def test_a_null_column_is_empty_text():
    assert render("[{{ a }}]{% if a %}x{% endif %}", {"a": None}) == "[]"


@pytest.mark.parametrize(
    "text", ["{{ b }}", "{{ row.b }}", "{{ row['b'] }}", "{{ b.c }}", "{% for x in b %}{% endfor %}"]
)
def test_a_missing_column_names_itself_and_those_there_are(text):
    with pytest.raises(InvalidRow, match=r"'b'.*the row has a, c") as caught:
        render(text, {"a": 1, "c": 2})
    assert caught.value.template


@pytest.mark.parametrize(
    "text",
    [
        "{{ 1 / 0 }}",
        "{{ a.__class__.__mro__ }}",
        "{{ range(10**9) | list }}",
        "{% include 'x' %}",
        "{{ a | int + 'x' }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_fails_fails_only_the_row(text):
    with pytest.raises(InvalidRow) as caught:
        render(text, {"a": "x"})
    assert caught.value.template


def test_what_a_row_holds_is_no_template():
    assert render("{{ a }}", {"a": "{{ 1 / 0 }}"}) == "{{ 1 / 0 }}"


def test_columns_may_be_called_like_globals():
    template = PromptTemplate("{{ range }} {{ dict }}", flag="--prompt")
    assert template.columns == {"range", "dict"}
    assert template.render({"range": 1, "dict": 2}) == "1 2"


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, None),
        ({"system": "{{ a }}"}, None),
        ({"prompt": "{{ a }} {% for x in b %}{{ x }}{% endfor %}"}, NAMES | {"a", "b"}),
        ({"prompt": "{{ a }}", "system": "{{ c.d }}"}, NAMES | {"a", "c"}),
        ({"prompt": "{{ row['x'] }}"}, None),
        ({"prompt": "{{ a }}", "system": "{{ row }}"}, None),
        ({"prompt": "constant"}, NAMES),
    ],
)
def test_the_encoder_names_the_columns_it_needs(settings, columns):
    assert RowEncoder(RowSettings(**settings), Prices.shipped()).columns == columns


def test_a_row_the_template_fails_on_is_marked():
    encoder = RowEncoder(RowSettings(prompt="{{ question }}"), Prices.shipped())
    bad = encoder.encode(RawRow(row=0, line=1, value=json.dumps({"custom_id": "c", "q": 1}).encode()))
    assert isinstance(bad, BadRow)
    assert bad.template
    assert bad.custom_id == "c"
    assert "'question' is undefined; the row has custom_id, q" in bad.message
    blank = encoder.encode(RawRow(row=0, line=1, value=b'{"question": " "}'))
    assert not blank.template
    assert "prompt must be a non-empty string" in blank.message


def test_text_jinja_renders_that_utf_8_cannot_say_is_a_bad_row():
    encoder = RowEncoder(RowSettings(prompt="{{ q }}"), Prices.shipped())
    assert isinstance(
        encoder.encode(RawRow(row=0, line=1, value=b'{"q": "\\ud800", "n": 11111111111111111111111}')), BadRow
    )


def test_the_system_template_is_not_asked_where_no_system_message_goes():
    encoder = RowEncoder(RowSettings(system="{{ missing }}"), Prices.shipped())
    row = {"kind": "video", "prompt": "x"}
    assert encoder.encode(RawRow(row=0, line=1, value=json.dumps(row).encode())).kind == "video"
