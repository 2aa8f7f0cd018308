"""Rows become requests.

Law: `encode` never raises for what a row holds; every row is an Item or a BadRow whose message names field, value and
limit. Equal requests have equal bytes: top-level fields are sorted, the order inside values is the row's own, because
models read it (a JSON schema, a tool). Nothing is altered unseen (see `rowvalues`).

Precedence, high to low: the row's own fields, `--model`, `--param`, the built-in defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

import orjson

from bulkgrok.core.errors import InvalidRow, UsageError
from bulkgrok.core.model import BadRow, Item, JsonObject, Mode, RawRow
from bulkgrok.kinds import KINDS, AnyKind
from bulkgrok.kinds.prices import Prices
from bulkgrok.kinds.rowvalues import encoded, is_text, parse_line, plain, plain_cells
from bulkgrok.kinds.shapes import NAMING_KEYS, custom_id_of, is_true, shape
from bulkgrok.kinds.templates import PromptTemplate

_DIGEST_BYTES: Final = 16
_MESSAGE_CHARS: Final = 2_000
_HELP: Final = "`bulkgrok run --help` explains every flag."
#: `--param` cannot set these: they are what a row is, or have a flag of their own.
_NOT_PARAMS: Final = {
    "prompt": "--prompt", "messages": "--prompt", "system": "--system", "mode": "--mode", "deferred": "--mode",
    "kind": "--kind", "custom_id": "the rows", "id": "the rows", "body": "the rows",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """What the flags say about every row."""

    mode: str = Mode.DIRECT
    kind: str = "chat"
    model: str | None = None
    prompt: str | None = None
    """Text of the template."""
    system: str | None = None
    """Text of the template."""
    params: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    stream: bool = False


class RowEncoder:
    """Turns raw rows into requests; implements `core.ports.Encoder`.

    Raises:
        UsageError: The settings cannot be used (a malformed template, an unknown kind, a parameter JSON cannot say).
    """

    def __init__(self, settings: RowSettings, prices: Prices) -> None:
        _check(settings)
        self._settings = settings
        self._prices = prices
        self._mode = Mode(settings.mode)
        self._params = dict(settings.params)
        self._begun: dict[tuple[str, Mode, bool], blake2b] = {}
        """Digests of what comes before the body, by path, mode and streaming."""
        self._prompt = None if settings.prompt is None else PromptTemplate(settings.prompt, flag="--prompt")
        self._system = None if settings.system is None else PromptTemplate(settings.system, flag="--system")

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns of a table that are needed; None means all."""
        if self._prompt is None or self._prompt.columns is None:
            return None
        if self._system is None:
            return self._prompt.columns | NAMING_KEYS
        if self._system.columns is None:
            return None
        return self._prompt.columns | self._system.columns | NAMING_KEYS

    def encode(self, raw: RawRow) -> Item | BadRow:
        """Return the request of a row, or why there is none. Never raises for what a row holds."""
        custom_id = str(raw.row)
        try:
            if raw.defect is not None:
                raise InvalidRow(raw.defect)  # noqa: TRY301 - one way out for every bad row
            if isinstance(raw.value, bytes):
                row = parse_line(raw.value)
                custom_id = _name(row, raw.row)
                return self._item(raw, row, row, custom_id)
            custom_id = _name(raw.value, raw.row)
            return self._item(raw, self._cells(raw.value), raw.value, custom_id)
        except InvalidRow as error:
            return self._bad(raw, custom_id, error.message, template=error.template)
        except RecursionError:
            return self._bad(raw, custom_id, "the row is nested too deeply")
        except Exception as error:  # noqa: BLE001 - whatever a row holds, it stops no other row
            return self._bad(raw, custom_id, f"the row cannot be encoded: {type(error).__name__}: {error}")

    def _bad(self, raw: RawRow, custom_id: str, message: str, *, template: bool = False) -> BadRow:
        text = " ".join(message.encode("utf-8", "replace").decode().split())[:_MESSAGE_CHARS]
        kind, model = self._known(raw)
        return BadRow(
            row=raw.row,
            line=raw.line,
            custom_id=custom_id,
            message=text,
            digest=_hashed("bad row", _raw_bytes(raw.value)).digest(),
            template=template,
            kind=kind,
            model=model,
        )

    def _known(self, raw: RawRow) -> tuple[str, str]:
        """Return kind and model of a bad row as far as they can be told; good rows pay nothing for it."""
        kind = model = ""
        with suppress(Exception):  # whatever made it a bad row may do so again
            row = self._cells(raw.value) if isinstance(raw.value, Mapping) else parse_line(raw.value)
            prompt = None if self._prompt is None else "-"
            shaped = shape(row, default_kind=self._settings.kind, prompt=prompt, system=_no_system)
            kind = shaped.kind
            fields = {**self._params, **shaped.fields}
            found = self._model(KINDS[kind], fields, own=shaped.fields.get("model"))
            model = found if is_text(found) else ""
        return kind, model

    def _cells(self, columns: Mapping[str, object]) -> JsonObject:
        """Return what is needed of a table row as JSON values; other columns may hold what JSON cannot say."""
        if self._prompt is None:
            return plain_cells(columns)
        return plain_cells({key: columns[key] for key in columns.keys() & NAMING_KEYS})

    def _item(self, raw: RawRow, row: JsonObject, columns: Mapping[str, object], custom_id: str) -> Item:
        settings = self._settings
        shaped = shape(
            row,
            default_kind=settings.kind,
            prompt=None if self._prompt is None else self._prompt.render(columns),
            system=_no_system if self._system is None else partial(self._system.render, columns),
        )
        kind = KINDS[shaped.kind]
        fields = {**self._params, **shaped.fields} if self._params else shaped.fields
        mode, stream = self._handshake(kind, fields, shaped.mode)
        model = self._model(kind, fields, own=shaped.fields.get("model"))
        body = kind.prepare(fields)
        sent = encoded(body)
        max_usd, tokens = kind.appraise(body, sent, model, self._prices)
        return Item(
            row=raw.row,
            line=raw.line,
            custom_id=custom_id,
            kind=kind.name,
            mode=mode,
            model=model,
            stream=stream,
            body=sent,
            digest=self._digest(sent, kind.submit_path, mode, stream=stream),
            max_usd=max_usd,
            tokens=tokens,
        )

    def _digest(self, sent: bytes, path: str, mode: Mode, *, stream: bool) -> bytes:
        """Return the digest of a request; what most rows have in common is hashed once."""
        begun = self._begun.get((path, mode, stream))
        if begun is None:
            begun = _hashed(f"{path} {mode.value} {stream:d}")
            self._begun[path, mode, stream] = begun
        whole = begun.copy()
        whole.update(sent)
        return whole.digest()

    def _handshake(self, kind: AnyKind, fields: JsonObject, own: Mode | None) -> tuple[Mode, bool]:
        """Decide mode and streaming, and leave in `fields` what the API must be told of them."""
        body_deferred = is_true(fields, "deferred")
        fields.pop("deferred", None)
        if kind.name != "chat":
            fields.pop("stream", None)
            fields.pop("stream_options", None)
            return Mode.DEFERRED, False
        if body_deferred and own is Mode.DIRECT:
            msg = 'the row says both "mode": "direct" and "deferred": true'
            raise InvalidRow(msg)
        mode = Mode.DEFERRED if body_deferred else own or self._mode
        stream = is_true(fields, "stream") if fields.get("stream") is not None else self._settings.stream
        if mode is Mode.DEFERRED:
            fields.pop("stream", None)
            fields.pop("stream_options", None)
            fields["deferred"] = True
            return mode, False
        if stream:
            options = fields.get("stream_options")
            fields["stream"] = True
            fields["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return mode, stream

    def _model(self, kind: AnyKind, fields: JsonObject, *, own: object) -> str:
        model = own
        if model is None:
            model = self._settings.model or fields.get("model") or kind.default_model
        if not isinstance(model, str) or not model.strip():
            msg = f"model must be a non-empty string, it is {model!r:.80}"
            raise InvalidRow(msg)
        fields["model"] = model
        return model


def _check(settings: RowSettings) -> None:
    if settings.kind not in KINDS:
        msg = f"--kind {settings.kind}: there are {', '.join(KINDS)}. Nothing was sent."
        raise UsageError(msg, hint=_HELP)
    if settings.mode not in tuple(Mode):
        msg = f"--mode {settings.mode}: there are {', '.join(Mode)}. Nothing was sent."
        raise UsageError(msg, hint=_HELP)
    for key, value in settings.params.items():
        if (instead := _NOT_PARAMS.get(key)) is not None:
            msg = f"--param {key}: this cannot be a default of every body; use {instead}. Nothing was sent."
            raise UsageError(msg, hint=_HELP)
        try:
            same = orjson.loads(orjson.dumps(value)) == value
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            msg = f"--param {key}: the value cannot be sent as JSON unaltered. Nothing was sent."
            raise UsageError(msg, hint="Give a large number as text: --param 'KEY=\"…\"'")


def _name(columns: Mapping[str, object], ordinal: int) -> str:
    """Return the row's custom_id; what is neither text nor an integer, as JSON text.

    Raises:
        InvalidRow: It is a table's cell that JSON cannot say, or no UTF-8 text.
    """
    found = custom_id_of(columns, ordinal)
    if found is None:
        given = columns.get("custom_id")
        value = plain("custom_id", columns.get("id") if given is None else given)
        found = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not (found.isascii() or is_text(found)):
        msg = "custom_id holds half a surrogate pair, which UTF-8 cannot say"
        raise InvalidRow(msg)
    return found


def _no_system() -> None:
    return None


def _hashed(what: str, content: bytes = b"") -> blake2b:
    return blake2b(what.encode() + b"\n" + content, digest_size=_DIGEST_BYTES)


def _raw_bytes(value: bytes | Mapping[str, object]) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return repr(sorted(value.items())).encode("utf-8", "surrogatepass")
    except Exception:  # noqa: BLE001 - only equality is asked of these bytes
        return repr([str(key) for key in value]).encode("utf-8", "replace")
