"""What a session costs: a pure function of what it held, when, and the rates of then.

A session is a row of spans; within one it held the same all the time. The cost of a time is the
difference of the costs from the beginning until its two ends, each rounded down to a whole
micro-credit. So however often and whenever a session is settled, the entries add up to exactly
what one entry at the end would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from dcloud_spawner.ledger.rates import (
    GIB,
    HOURS_IN_MONTH,
    MILLI,
    RateBook,
    Resource,
    hourly,
    used_rates,
)

HOUR_MICROSECONDS = 3_600_000_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Span:
    """What a session holds from a time on, until its next span begins."""

    begins_at: datetime
    gpu_models: Mapping[str, int]
    """How many GPUs of each model."""
    cpu_millicores: int
    memory_bytes: int
    free_reason: str = ""
    """Why this time costs nothing (a fault of the platform); empty where it costs."""

    @property
    def gpus(self) -> int:
        """GPUs of all models."""
        return sum(self.gpu_models.values())


@dataclass(frozen=True)
class Quantity:
    """How much of what was held: microseconds of one GPU, one core, one GiB."""

    gpu_microseconds: int = 0
    cpu_microseconds: int = 0
    memory_gib_microseconds: int = 0
    free_microseconds: int = 0
    """Time of the session that cost nothing; of the others then nothing is counted."""

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(
            self.gpu_microseconds + other.gpu_microseconds,
            self.cpu_microseconds + other.cpu_microseconds,
            self.memory_gib_microseconds + other.memory_gib_microseconds,
            self.free_microseconds + other.free_microseconds,
        )

    def __neg__(self) -> Quantity:
        return Quantity(
            -self.gpu_microseconds,
            -self.cpu_microseconds,
            -self.memory_gib_microseconds,
            -self.free_microseconds,
        )


@dataclass(frozen=True)
class Piece:
    """A time within one span in which no rate changed."""

    from_at: datetime
    until_at: datetime
    span: Span
    rates: Mapping[str, int] = field(default_factory=dict)
    """As they stand on the entry; empty where it costs nothing."""
    an_hour: Fraction = Fraction(0)
    """Micro-credits an hour, exact."""

    @property
    def microseconds(self) -> int:
        """Its length."""
        return (self.until_at - self.from_at) // _MICROSECOND

    @property
    def exact(self) -> Fraction:
        """Its cost in micro-credits, not rounded."""
        return self.an_hour * self.microseconds / HOUR_MICROSECONDS


def pieces(
    spans: Sequence[Span], tier: str, book: RateBook, from_at: datetime, until_at: datetime
) -> Iterator[Piece]:
    """A time of a session in pieces; what lies before its first span is in none."""
    for number, span in enumerate(spans):
        ends = spans[number + 1].begins_at if number + 1 < len(spans) else until_at
        begins, ends = max(from_at, span.begins_at), min(until_at, ends)
        if begins >= ends:
            continue
        for at, until in pairwise([begins, *book.changes(begins, ends), ends]):
            if span.free_reason:
                yield Piece(at, until, span)
                continue
            price = hourly(book, span.gpu_models, span.cpu_millicores, span.memory_bytes, tier, at)
            yield Piece(at, until, span, used_rates(book, span.gpu_models, tier, at), price)


def exact_cost(
    spans: Sequence[Span], tier: str, book: RateBook, from_at: datetime, until_at: datetime
) -> Fraction:
    """Micro-credits for a time of a session, not rounded."""
    return sum((piece.exact for piece in pieces(spans, tier, book, from_at, until_at)), Fraction(0))


def cost(
    spans: Sequence[Span], tier: str, book: RateBook, began_at: datetime, until_at: datetime
) -> int:
    """Micro-credits for a session from its beginning until a time, rounded down."""
    return int(exact_cost(spans, tier, book, began_at, until_at))


def quantity(
    spans: Sequence[Span], began_at: datetime, from_at: datetime, until_at: datetime
) -> Quantity:
    """What a session held between two times; the parts of a time add up to the whole."""
    return _until(spans, began_at, until_at) + -_until(spans, began_at, from_at)


def _until(spans: Sequence[Span], began_at: datetime, until_at: datetime) -> Quantity:
    gpu = free = 0
    cpu = memory = Fraction(0)
    for piece in pieces(spans, "", RateBook(), began_at, until_at):
        if piece.span.free_reason:
            free += piece.microseconds
            continue
        gpu += piece.microseconds * piece.span.gpus
        cpu += Fraction(piece.microseconds * piece.span.cpu_millicores, MILLI)
        memory += Fraction(piece.microseconds * piece.span.memory_bytes, GIB)
    return Quantity(gpu, int(cpu), int(memory), free)


def by_hour(from_at: datetime, until_at: datetime) -> Iterator[tuple[datetime, datetime]]:
    """A time cut at full hours UTC."""
    at = from_at
    while at < until_at:
        hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        until = min(until_at, hour + timedelta(hours=1))
        yield at, until
        at = until


def storage_cost(
    book: RateBook, size_bytes: int, from_at: datetime, until_at: datetime
) -> Fraction:
    """Micro-credits for some bytes over a time, not rounded; a month has 30 days."""
    times = [from_at, *book.changes(from_at, until_at), until_at]
    total = Fraction(0)
    for at, until in pairwise(times):
        rate = book.of(Resource.STORAGE_GIB_MONTH, "", "", at)
        total += Fraction((until - at) // _MICROSECOND) * rate * size_bytes
    return total / (GIB * HOURS_IN_MONTH * HOUR_MICROSECONDS)
