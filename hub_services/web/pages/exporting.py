"""Tables as files: CSV that no spreadsheet takes for formulas, and Parquet with exact types."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

MICRO = Decimal(1_000_000)

Cell = str | int | float | bool | Decimal | datetime | date | None
Row = tuple[Cell, ...]

FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")
"""A text that begins so is a formula to some spreadsheet, the signs in full width too."""


class Type(StrEnum):
    """What a column holds."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    TIME = "time"
    """Aware; written as ISO 8601 in UTC."""
    DAY = "day"
    CREDITS = "credits"
    """Exact, six decimals."""


@dataclass(frozen=True)
class Column:
    """One column. Its name says the unit."""

    name: str
    type: Type = Type.TEXT


@dataclass(frozen=True)
class Export:
    """One table: its rows come in parts, each read when it is its turn."""

    name: str
    """Of the file, without its ending."""
    columns: Sequence[Column]
    parts: Iterator[Sequence[Row]]


def credits(microcredits: int) -> Decimal:
    """The same in credits, exactly."""
    return (Decimal(microcredits) / MICRO).quantize(Decimal("0.000001"))


# ---------------------------------------------------------------------------- CSV


def csv_head(columns: Sequence[Column]) -> bytes:
    """The first line."""
    return _lines([[column.name for column in columns]])


def csv_part(columns: Sequence[Column], rows: Sequence[Row]) -> bytes:
    """Some lines."""
    return _lines(
        [
            [_cell(column.type, value) for column, value in zip(columns, row, strict=True)]
            for row in rows
        ]
    )


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(kind: Type, value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    text = str(value)
    if kind is Type.TEXT and text.lstrip(" ").startswith(FORMULA):
        return f"'{text}"
    return text


# ---------------------------------------------------------------------------- Parquet

_PARQUET = {
    Type.TEXT: pa.string(),
    Type.WHOLE: pa.int64(),
    Type.NUMBER: pa.float64(),
    Type.TIME: pa.timestamp("us", tz="UTC"),
    Type.DAY: pa.date32(),
    Type.CREDITS: pa.decimal128(24, 6),
}


class ParquetFile:
    """A file that is written part by part; :meth:`close` ends it."""

    def __init__(self, file: IO[bytes], columns: Sequence[Column]) -> None:
        self._schema = pa.schema([(column.name, _PARQUET[column.type]) for column in columns])
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")

    def add(self, rows: Sequence[Row]) -> None:
        """Some rows."""
        columns = list(zip(*rows, strict=True)) or [() for _ in self._schema]
        arrays = [
            pa.array(values, type=field.type)
            for values, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the end."""
        self._writer.close()
