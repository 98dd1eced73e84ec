"""The beginning of a CSV file, with the types of its columns as its first rows show them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from hub_services.preview.model import MOST_COLUMNS, MOST_ROWS, Column, Table, cell
from hub_services.preview.text import decode

DELIMITERS = ",;\t|"
SAMPLE_LINES = 30
TYPED_ROWS = 2000
"""Rows by which the types are told."""
EMPTY = frozenset(("", "na", "n/a", "nan", "null", "none"))

_TYPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("true or false", re.compile(r"true|false|yes|no", re.I)),
    ("whole number", re.compile(r"[+-]?\d{1,19}")),
    ("number", re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.I)),
    ("day", re.compile(r"\d{4}-\d{2}-\d{2}")),
    (
        "time",
        re.compile(r"\d{4}(-\d\d){2}[ T]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?"),
    ),
)


def csv_head(head: bytes, size_bytes: int, *, tabs: bool = False) -> Table | None:
    """The first rows, or None where the file is no text. ``head`` are its first bytes; ``tabs``
    where its name says that tabs divide."""
    whole = len(head) >= size_bytes
    text = decode(head, whole=whole)
    if text is None:
        return None
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    delimiter = "\t" if tabs else _delimiter(text)
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if row:
                rows.append(row)
            if len(rows) > TYPED_ROWS:
                break
    except csv.Error:
        return None
    if not rows:
        return Table((), (), total_rows=0 if whole else None, note="There are no rows in it.")
    names, body = (rows[0], rows[1:]) if _has_head(rows) else (_numbered(rows), rows)
    width = max(len(row) for row in rows)
    names = [*names, *(f"column {number}" for number in range(len(names) + 1, width + 1))]
    columns = tuple(
        Column(cell(name) or f"column {index + 1}", _type(body, index))
        for index, name in enumerate(names[:MOST_COLUMNS])
    )
    shown = tuple(
        tuple(cell(value) for value in [*row, *[""] * width][: len(columns)])
        for row in body[:MOST_ROWS]
    )
    total = len(body) if whole and len(rows) <= TYPED_ROWS else None
    return Table(columns, shown, max(0, width - MOST_COLUMNS), total)


def _delimiter(text: str) -> str:
    """The one that divides the first lines into equally many parts, the most of them."""
    lines = [line for line in text.splitlines()[:SAMPLE_LINES] if line.strip()]

    def even(delimiter: str) -> tuple[bool, int]:
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        return len(counts) == 1 and max(counts) > 1, max(counts, default=0)

    try:
        return max(DELIMITERS, key=even)
    except csv.Error:
        return ","


def _has_head(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: it has no figures, no two alike, none empty."""
    first = [value.strip() for value in rows[0]]
    if len(set(first)) != len(first) or not all(first):
        return False
    return all(_type([[value]], 0) == "text" for value in first)


def _numbered(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"column {number}" for number in range(1, len(rows[0]) + 1)]


def _type(rows: Sequence[Sequence[str]], index: int) -> str:
    values = {row[index].strip() for row in rows if index < len(row)}
    values = {value for value in values if value.lower() not in EMPTY}
    if not values:
        return "empty"
    return next(
        (name for name, rule in _TYPES if all(rule.fullmatch(value) for value in values)), "text"
    )
