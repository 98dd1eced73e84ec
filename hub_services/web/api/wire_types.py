"""Kinds of values that the API takes and gives: money, times, names, reasons.

Money is exact: an integer number of micro-credits, a millionth of a credit each. Beside it an
answer has the same amount in credits as a text, to be read. What is sent is micro-credits only,
as a JSON integer.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from hub_services.web.api.operation import View

MICROCREDITS = 1_000_000
"""In one credit."""

LARGEST_MICROCREDITS = 1_000_000_000 * MICROCREDITS
"""Of one act: a billion credits. A JSON number holds it exactly in any language."""

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Times outside are a slip of the keyboard, and some are beyond what a database holds."""

_NO_NUL = r"^[^\x00]*$"


class Amount(View):
    """Money: an exact integer, and the same to be read."""

    microcredits: int = Field(description="Exact: millionths of a credit.")
    credits: str = Field(description="The same amount in credits, exact, with a point.")


def amount(microcredits: int) -> Amount:
    """An amount as the API writes it."""
    return Amount(microcredits=microcredits, credits=credits_text(microcredits))


def credits_text(microcredits: int) -> str:
    """Credits in decimal, exact: at least two decimals, at most six."""
    whole, part = divmod(abs(microcredits), MICROCREDITS)
    decimals = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if microcredits < 0 else ''}{whole}.{decimals}"


def _written_time(value: object) -> object:
    """Only what ISO 8601 says: a bare number would be taken for seconds since 1970."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[T ]", value, re.ASCII):
        raise ValueError("not a time with a zone, such as 2030-01-31T12:00:00Z")
    return value


def _in_range(value: datetime) -> datetime:
    offset = value.utcoffset() or timedelta()
    bare = value.replace(tzinfo=UTC)
    if not EARLIEST + timedelta(days=1) <= bare <= LATEST - timedelta(days=1):
        raise ValueError("a time between the years 2000 and 2200 is expected")
    return bare - offset


Moment = Annotated[AwareDatetime, BeforeValidator(_written_time), AfterValidator(_in_range)]
"""A time with a zone, given back in UTC."""

Microcredits = Annotated[
    int, Field(strict=True, gt=0, le=LARGEST_MICROCREDITS, description="Millionths of a credit.")
]
SignedMicrocredits = Annotated[
    int,
    Field(
        strict=True,
        ge=-LARGEST_MICROCREDITS,
        le=LARGEST_MICROCREDITS,
        description="Millionths of a credit; below 0 takes away.",
    ),
]

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=500, pattern=_NO_NUL),
]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=_NO_NUL),
]
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def is_name(text: str) -> bool:
    """Whether somebody may be called so: what a path had, which no model has checked."""
    try:
        return _NAME.validate_python(text) == text
    except ValidationError:
        return False


Filter = Annotated[str, StringConstraints(max_length=255, pattern=_NO_NUL)]
"""A name to look for; empty: any."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]{0,64}$")]
"""An id of ours; empty: none was given."""
