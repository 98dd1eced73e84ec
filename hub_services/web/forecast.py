"""How many GPUs will be free over the next hours, from what is known now. Pure.

Two lines. The upper one: every server runs to its limit and nobody else comes. The lower one:
those who wait have started as well, each at its expected time or as soon as enough are free, and
runs to its limit too. Reservations are taken off both while they last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

AHEAD = timedelta(hours=24)


@dataclass(frozen=True)
class Taken:
    """GPUs in one hand from a time to a time; None: for ever."""

    gpus: int
    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class Wish:
    """Somebody who waits."""

    gpus: int
    seconds: int
    expected: datetime | None = None


@dataclass(frozen=True)
class Step:
    """From this moment on; what is not there is never less than 0."""

    at: datetime
    low: int
    high: int


def free_ahead(
    now: datetime,
    total: int,
    taken: Iterable[Taken],
    queue: Sequence[Wish],
    reserved: Iterable[Taken] = (),
) -> tuple[Step, ...]:
    """Steps from now to a day ahead, the first of them now; equal neighbours are one step."""
    upper = [*taken, *reserved]
    lower = list(upper)
    for wish in queue:
        if wish.gpus:
            start = wish.expected or _when_free(now, total, lower, wish.gpus)
            if start is not None:
                start = max(now, start)
                lower.append(Taken(wish.gpus, start, start + timedelta(seconds=wish.seconds)))
    steps: list[Step] = []
    for at in _moments(now, [*lower, *upper]):
        high = max(0, total - _held(upper, at))
        low = min(high, max(0, total - _held(lower, at)))
        if not steps or (low, high) != (steps[-1].low, steps[-1].high):
            steps.append(Step(at, low, high))
    return tuple(steps)


def _moments(now: datetime, hands: Iterable[Taken]) -> list[datetime]:
    until = now + AHEAD
    edges = {edge for hand in hands for edge in (hand.start, hand.end) if edge is not None}
    return [now, *sorted(edge for edge in edges if now < edge < until)]


def _held(hands: Iterable[Taken], at: datetime) -> int:
    return sum(
        hand.gpus for hand in hands if hand.start <= at and (hand.end is None or at < hand.end)
    )


def _when_free(now: datetime, total: int, hands: list[Taken], gpus: int) -> datetime | None:
    for at in _moments(now, hands):
        if total - _held(hands, at) >= gpus:
            return at
    return None
