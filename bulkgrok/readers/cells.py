"""Cells of an Arrow table as JSON values, by their type.

Law: a missing value is None in a row, for templates, whose columns are the table's; in structs it is an absent key,
because a table cannot tell the two apart; inside lists it stays. Numbers stay numbers, text stays text (JSON in a text
column is the encoder's business), times become ISO 8601 in UTC. What JSON cannot say (NaN, binary that is no text) is a
defect of that row alone.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import types

from bulkgrok.core.model import JsonObject

Convert = Callable[[Any], object]


class Unsayable(ValueError):
    """A value that JSON cannot say; the message tells why, for the user."""


def converted(batch: pa.RecordBatch, names: list[str]) -> Iterator[JsonObject | str]:
    """Yield each row of a batch as an object, or as the sentence that says why it is none."""
    columns = {name: batch.column(name) for name in names}
    try:
        cells = {name: _cells(column) for name, column in columns.items()}
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        # One bad cell spoils its column: look at each row alone.
        for index in range(batch.num_rows):
            yield _one({name: column.slice(index, 1) for name, column in columns.items()})
        return
    for index in range(batch.num_rows):
        yield {name: cells[name][index] for name in names}


def _one(row: Mapping[str, pa.Array]) -> JsonObject | str:
    found: JsonObject = {}
    for name, column in row.items():
        try:
            (value,) = _cells(column)
        except Unsayable as error:
            return f"column {name}: {error}"
        except UnicodeDecodeError:
            return f"column {name}: the text is not UTF-8"
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
            return f"column {name}: this {column.type} cannot be written as JSON ({' '.join(str(error).split())[:100]})"
        found[name] = value
    return found


def _cells(column: pa.Array) -> list[Any]:
    kind = column.type
    for plain in (_in_utc(kind), _plain(kind)):
        if plain != column.type:
            column = column.cast(plain, safe=False)
    convert = _conversion(kind)
    cells: list[Any] = column.to_pylist()
    if convert is None:
        return cells
    return [None if cell is None else convert(cell) for cell in cells]


def _in_utc(kind: pa.DataType) -> pa.DataType:
    """Return the type with all times in UTC: stored they are anyway, and names of zones need not be known here."""

    def change(leaf: pa.DataType) -> pa.DataType:
        return pa.timestamp(leaf.unit, "UTC") if types.is_timestamp(leaf) and leaf.tz else leaf

    return _mapped(kind, change)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type to cast to first, for what Python's own types cannot hold exactly (nanoseconds)."""

    def change(leaf: pa.DataType) -> pa.DataType:
        if types.is_timestamp(leaf) or types.is_time(leaf):
            return pa.string()
        return pa.duration("us") if types.is_duration(leaf) else leaf

    return _mapped(kind, change)


def _mapped(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_mapped(kind.field(i).type, change)) for i in range(kind.num_fields)])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_mapped(kind.value_type, change)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_mapped(kind.value_type, change)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_mapped(kind.value_type, change)), kind.list_size)
    if types.is_map(kind):
        return pa.map_(_mapped(kind.key_type, change), _mapped(kind.item_type, change))
    if types.is_dictionary(kind):
        # Casting decodes; without a need for it the dictionary stays.
        value = _mapped(kind.value_type, change)
        return kind if value == kind.value_type else value
    return change(kind)


def _conversion(kind: pa.DataType) -> Convert | None:
    """Return what turns a non-null cell of this type, cast to `_plain`, into a JSON value; None where it is one."""
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return _object({field.name: _conversion(field.type) for field in fields})
    if types.is_map(kind):
        return _map(_conversion(kind.item_type))
    if _is_any_list(kind):
        return _list(_conversion(kind.value_type))
    if types.is_dictionary(kind):
        return _conversion(kind.value_type)
    return _scalar(kind)


def _is_any_list(kind: pa.DataType) -> bool:
    # List views came to pyarrow later than our minimum.
    views = [getattr(types, name)(kind) for name in ("is_list_view", "is_large_list_view") if hasattr(types, name)]
    return any(views) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _scalar(kind: pa.DataType) -> Convert | None:
    if types.is_boolean(kind) or types.is_integer(kind):
        return None
    if types.is_string(kind) or types.is_large_string(kind):
        return None
    if types.is_floating(kind):
        return _finite
    if types.is_timestamp(kind):
        return _instant
    return _said


def _object(fields: Mapping[str, Convert | None]) -> Convert:
    def convert(cell: Mapping[str, Any]) -> object:
        return {
            name: value if (field := fields[name]) is None else field(value)
            for name, value in cell.items()
            if value is not None
        }

    return convert


def _map(item: Convert | None) -> Convert:
    def convert(cell: list[tuple[object, Any]]) -> object:
        return {
            key if isinstance(key, str) else str(_said(key)): value if item is None else item(value)
            for key, value in cell
            if value is not None
        }

    return convert


def _list(item: Convert | None) -> Convert | None:
    if item is None:
        return None

    def convert(cell: list[Any]) -> object:
        return [None if value is None else item(value) for value in cell]

    return convert


def _finite(cell: float) -> float:
    if not math.isfinite(cell):
        msg = f"{cell} is not JSON"
        raise Unsayable(msg)
    return cell


def _instant(cell: str) -> str:
    return cell.replace(" ", "T", 1)


def _said(cell: object) -> object:
    """Return a value of any type as JSON says it."""
    match cell:
        case bool() | int() | str() | None:
            return cell
        case float():
            return _finite(cell)
        case bytes():
            return _text(cell)
        case Decimal():
            return _number(cell)
        case dt.timedelta():
            return cell.total_seconds()
        case dt.date() | dt.time():
            return cell.isoformat()
        case uuid.UUID():
            return str(cell)
        case dict():
            return {str(key): _said(value) for key, value in cell.items() if value is not None}
        case list() | tuple():
            return [_said(value) for value in cell]
        case _:
            msg = f"{type(cell).__name__} is not JSON"
            raise Unsayable(msg)


def _text(cell: bytes) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        msg = "binary data is not JSON"
        raise Unsayable(msg) from None


def _number(cell: Decimal) -> object:
    """Return a decimal as the JSON number of the same value, or as text where that would round it."""
    if cell == cell.to_integral_value() and abs(cell) < 2**63:
        return int(cell)
    number = float(cell)
    return number if math.isfinite(number) and Decimal(repr(number)) == cell else format(cell, "f")
