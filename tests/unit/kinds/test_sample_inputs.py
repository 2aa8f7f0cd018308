import json
from pathlib import Path

import pytest

from bulkgrok.core.model import Item, RawRow
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings

SAMPLES = Path(__file__).parents[3] / "sample_inputs"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixed.jsonl", {}),
        ("questions.jsonl", {"prompt": "A question on {{ topic }}: {{ question }}"}),
        ("prompts.txt", {}),
    ],
)
def test_every_sample_row_can_be_sent_for_little_money(name, settings):
    encoder = RowEncoder(RowSettings(**settings), Prices.shipped())
    for number, line in enumerate((SAMPLES / name).read_text("utf-8").splitlines()):
        value = {"prompt": line} if name.endswith(".txt") else line.encode()
        item = encoder.encode(RawRow(row=number, line=number + 1, value=value))
        assert isinstance(item, Item), item
        assert item.kind == "chat" or json.loads(item.body).get("duration", 2) <= 2
        assert item.max_usd < 1
