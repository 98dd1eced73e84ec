"""What a preview shows of a file. Everything here is text that a template escapes, or the bytes
of a picture whose kind was read from the bytes themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Read = Callable[[int, int], bytes]
"""From which byte and how many: reads a part of one object. Blocks."""

LONGEST_CELL = 200
"""Characters of a value."""
MOST_COLUMNS = 50
MOST_ROWS = 50
NUMBERS = ("whole number", "number", "int", "uint", "float", "double", "half", "decimal")
"""How types of numbers begin."""


class Kind(StrEnum):
    """How a file is shown."""

    TEXT = "text"
    TABLE = "table"
    PICTURE = "picture"
    NONE = "none"


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: str

    @property
    def is_number(self) -> bool:
        """Whether its values stand to the right."""
        return self.type.startswith(NUMBERS)


@dataclass(frozen=True)
class Table:
    """The first rows of a table."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    more_columns: int = 0
    total_rows: int | None = None
    """Where the file says it."""
    note: str = ""


@dataclass(frozen=True)
class Text:
    """The first lines of a text."""

    text: str
    whole: bool
    """Whether nothing was left out."""


@dataclass(frozen=True)
class Picture:
    """A picture that a browser may draw."""

    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Preview:
    """One file; what is not there, is None, and ``note`` says why."""

    kind: Kind
    table: Table | None = None
    text: Text | None = None
    picture: Picture | None = None
    note: str = ""


def cell(value: object) -> str:
    """A value as a short text on one line."""
    text = "" if value is None else str(value)
    if len(text) > LONGEST_CELL:
        text = text[: LONGEST_CELL - 1] + "…"
    return text.replace("\r", " ").replace("\n", " ")
