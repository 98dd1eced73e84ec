"""When a wish would start. The pages ask this of whoever forecasts, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """A choice that nobody has made yet."""

    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class Range:
    """In which something is expected to start, aware UTC."""

    earliest: datetime
    latest: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """How good the ranges were lately: of the last ``of`` starts, ``inside`` were in theirs."""

    inside: int
    of: int


Expected = Callable[[Wish], Range | None]
"""The forecast for a wish, None while it cannot say."""


def no_forecast(wish: Wish) -> Range | None:
    """Before there is a history to go by."""
    return None
