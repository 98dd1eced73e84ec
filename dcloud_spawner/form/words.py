"""Figures and things in words, the same on every page. ``static/words.js`` says them alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction

from dcloud_spawner.datasets.sizes import size_words as size_words
from dcloud_spawner.live.availability import model_words

MICROCREDITS = 1_000_000
"""In a credit."""


def length_words(seconds: float) -> str:
    """A length of time: ``44 s``, ``3 min``, ``1 h 43 min``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def count_words(number: float, noun: str) -> str:
    """``1 GPU``, ``2 GPUs``, ``0.5 cores``."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def gpus_words(count: int, model: str | None) -> str:
    """``2 × A100 80 GB``, or ``2 GPUs`` when any model will do."""
    return f"{count} × {model_words(model)}" if model else count_words(count, "GPU")


def credits_figure(microcredits: float | Fraction, decimals: int = 2) -> str:
    """A price in credits, rounded to the nearest: ``5.20``."""
    return _decimal(math.floor(Fraction(microcredits) / _step(decimals) + Fraction(1, 2)), decimals)


def left_figure(microcredits: float | Fraction, decimals: int = 2) -> str:
    """What is left, rounded down, so that what is shown is there: ``399.6``."""
    return _decimal(math.floor(Fraction(microcredits) / _step(decimals)), decimals)


def credits_words(microcredits: float | Fraction, decimals: int = 2) -> str:
    """``5.20 credits``."""
    return f"{credits_figure(microcredits, decimals)} credits"


def _step(decimals: int) -> int:
    return int(MICROCREDITS // 10**decimals)


def _decimal(steps: int, decimals: int) -> str:
    whole, rest = divmod(abs(steps), 10**decimals)
    return f"{'−' if steps < 0 else ''}{whole:,}{f'.{rest:0{decimals}}' if decimals else ''}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def moment(value: object) -> datetime | None:
    """A time from a view: ISO text or a datetime, made aware (UTC where it says nothing)."""
    if isinstance(value, str) and value:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def number(value: object, default: float = 0) -> float:
    """A number from a view, or the default."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return value


def section(view: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A nested object of a view, empty when it is missing."""
    found = view.get(key)
    return found if isinstance(found, Mapping) else {}


def rows(view: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """A list of objects of a view, empty when it is missing."""
    found = view.get(key)
    if not isinstance(found, list | tuple):
        return []
    return [item for item in found if isinstance(item, Mapping)]


def texts(view: Mapping[str, object], key: str) -> list[str]:
    """A list of texts of a view, empty when it is missing."""
    found = view.get(key)
    return [str(item) for item in found] if isinstance(found, list | tuple) else []
