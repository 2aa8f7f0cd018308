"""What would be sent: the first rows as encoded requests. Sends nothing."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import orjson

from bulkgrok import kinds, readers
from bulkgrok.config import RunConfig
from bulkgrok.core.model import BadRow, JsonObject
from bulkgrok.core.ports import Encoder
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rows import RowEncoder, RowSettings


def encoder_of(config: RunConfig) -> RowEncoder:
    """Return the encoder that a configuration asks for."""
    prices = prices_of(config)
    settings = RowSettings(
        mode=config.mode,
        kind=config.kind,
        model=config.model,
        prompt=config.prompt,
        system=config.system,
        params=config.params,
        stream=config.stream,
    )
    return RowEncoder(settings, prices)


def prices_of(config: RunConfig) -> Prices:
    """Return the price table of a configuration."""
    return Prices.load(config.prices)


async def preview(config: RunConfig, n: int) -> list[JsonObject]:
    """Return the first n rows as requests: row, custom_id, kind, mode, method, url and body, or an error.

    Raises:
        InputError: The input cannot be read.
        UsageError: A template or price table is malformed.
    """
    encoder = encoder_of(config)
    if config.input != "-":
        return _encoded(config, Path(config.input), encoder, n)
    with tempfile.TemporaryDirectory() as folder:
        spool = readers.spool_stdin(sys.stdin.buffer if sys.stdin else None, Path(folder))
        return _encoded(config, spool, encoder, n)


def _encoded(config: RunConfig, path: Path, encoder: Encoder, n: int) -> list[JsonObject]:
    columns = encoder.columns if isinstance(encoder, RowEncoder) else None
    requests: list[JsonObject] = []
    for chunk in readers.open_reader(path, columns=columns).chunks():
        for raw in chunk:
            if len(requests) == n:
                return requests
            item = encoder.encode(raw)
            if isinstance(item, BadRow):
                requests.append(
                    {"row": item.row, "custom_id": item.custom_id, "error": item.message, "line": item.line}
                )
                continue
            requests.append(
                {
                    "row": item.row,
                    "custom_id": item.custom_id,
                    "kind": item.kind,
                    "mode": str(item.mode),
                    "method": "POST",
                    "url": config.base_url + kinds.get(item.kind).submit_path,
                    "body": orjson.loads(item.body),
                }
            )
    return requests
