"""When an account runs out, what holds it up, and what its people have to know. Pure.

An account's credits lie in lots, some of which expire. What its servers cost is taken from what
expires first, so the time at which nothing is left is found by walking along the lots: each lasts
until it is used up or expires, whichever is first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from dcloud_spawner.ledger.cost import HOUR_MICROSECONDS
from dcloud_spawner.ledger.rates import MICRO, RateBook, hourly
from dcloud_spawner.store.entries import Part

HOUR_SECONDS = 3600
FAR = timedelta(days=3650)
"""What lasts longer than this does not run out."""

_MICROSECOND = timedelta(microseconds=1)
_NEVER = datetime.max.replace(tzinfo=UTC)

FEW_PERCENT = 20
LONG_BEFORE = timedelta(minutes=30)
SHORTLY_BEFORE = timedelta(minutes=5)


class Level(StrEnum):
    """How near the end of a budget is; the later, the nearer."""

    FEW = "few"
    """At most 20 % of its credits are left."""
    SOON = "soon"
    """30 minutes or less."""
    NOW = "now"
    """5 minutes or less."""
    OUT = "out"
    """Nothing is left."""


@dataclass(frozen=True)
class Runway:
    """How far the credits of an account reach from a time on."""

    at: datetime
    left_microcredits: int
    """The balance, without what its servers used and were not charged yet; below 0 is debt."""
    an_hour_microcredits: Fraction
    """What its running servers cost an hour."""
    granted_microcredits: int
    """What the lots held at first of which something is left."""
    ends_at: datetime | None
    """When nothing is left at this pace; None when that is not in sight."""

    @property
    def share_left(self) -> float:
        """Part of the credits that is left, 0 to 1."""
        if self.left_microcredits <= 0:
            return 0.0
        return min(1.0, self.left_microcredits / max(1, self.granted_microcredits))

    @property
    def level(self) -> Level | None:
        """The warning that holds; None when none does."""
        if self.left_microcredits <= 0:
            return Level.OUT
        if self.ends_at is not None and self.ends_at - self.at <= SHORTLY_BEFORE:
            return Level.NOW
        if self.ends_at is not None and self.ends_at - self.at <= LONG_BEFORE:
            return Level.SOON
        if self.left_microcredits * 100 <= self.granted_microcredits * FEW_PERCENT:
            return Level.FEW
        return None


def runway(
    balance_microcredits: int,
    parts: Sequence[Part],
    granted_microcredits: int,
    unsettled_microcredits: int,
    an_hour_microcredits: Fraction,
    at: datetime,
    coming: Sequence[tuple[datetime, int]] = (),
) -> Runway:
    """How far credits reach.

    ``parts`` is what is left in the lots, what expires first first; ``unsettled_microcredits`` is
    what servers used by ``at`` and were not charged yet; ``coming`` are grants that are due at
    later times, in their order.
    """
    left = balance_microcredits - unsettled_microcredits
    return Runway(
        at=at,
        left_microcredits=left,
        an_hour_microcredits=an_hour_microcredits,
        granted_microcredits=granted_microcredits,
        ends_at=at
        if left <= 0 and an_hour_microcredits
        else _end(parts, unsettled_microcredits, an_hour_microcredits, at, coming),
    )


def _end(
    parts: Sequence[Part],
    used: int,
    an_hour_microcredits: Fraction,
    at: datetime,
    coming: Sequence[tuple[datetime, int]],
) -> datetime | None:
    end = _used_up(parts, used, an_hour_microcredits, at)
    for due_at, microcredits in coming:
        if end is None or due_at > end:
            break
        parts = (*parts, Part(microcredits))
        end = _used_up(parts, used, an_hour_microcredits, at)
    return end


def _used_up(
    parts: Sequence[Part], used: int, an_hour_microcredits: Fraction, at: datetime
) -> datetime | None:
    if not an_hour_microcredits:
        return None
    end = at
    for part in parts:
        rest = max(0, part.microcredits - used)
        used = max(0, used - part.microcredits)
        lasts = rest * HOUR_MICROSECONDS / an_hour_microcredits
        if lasts > FAR / timedelta(microseconds=1):
            until = None
        else:
            until = end + timedelta(microseconds=int(lasts))
        if part.expires_at is not None and (until is None or part.expires_at < until):
            until = max(end, part.expires_at)
        if until is None or until - at > FAR:
            return None
        end = until
    return end


@dataclass(frozen=True)
class LastsUntil:
    """When nothing is left of some credits."""

    at: datetime
    expires: bool
    """Whether the last of them expires unused; else it is used up."""


def lasts_until(
    parts: Sequence[Part],
    used_microcredits: int,
    an_hour_microcredits: Fraction,
    at: datetime,
    coming: Iterable[tuple[datetime, Part]] = (),
) -> LastsUntil | None:
    """How long credits last at a steady pace, which may be 0: then until the last one expires.
    None where that is not in sight. ``coming`` are all parts that grants will bring, in the order
    of their times. Use is taken from what expires first; of it ``used_microcredits`` is over."""
    lots: dict[datetime, Fraction] = {}
    for part in parts:
        _put(lots, part)
    lots = _taken(lots, Fraction(used_microcredits))
    grants, now = iter(coming), at
    following = next(grants, None)
    pace = an_hour_microcredits / HOUR_MICROSECONDS
    while lots and now - at <= FAR:
        turn = max(now, min(min(lots), following[0] if following else _NEVER))
        used = pace * ((min(turn, now + FAR) - now) // _MICROSECOND)
        total = sum(lots.values(), Fraction(0))
        if pace and used >= total:
            return LastsUntil(now + int(total / pace) * _MICROSECOND, expires=False)
        lots, now = _taken(lots, used), turn
        lots = {expires: left for expires, left in lots.items() if expires > now}
        while following is not None and following[0] <= now:
            _put(lots, following[1])
            following = next(grants, None)
        if not lots and now - at <= FAR:
            return LastsUntil(now, expires=True)
    return None


def _put(lots: dict[datetime, Fraction], part: Part) -> None:
    expires = part.expires_at or _NEVER
    lots[expires] = lots.get(expires, Fraction(0)) + part.microcredits


def _taken(lots: Mapping[datetime, Fraction], amount: Fraction) -> dict[datetime, Fraction]:
    """What is left when an amount was taken from what expires first."""
    left = {}
    for expires in sorted(lots):
        part = min(amount, lots[expires])
        amount -= part
        if lots[expires] > part:
            left[expires] = lots[expires] - part
    return left


def hold_microcredits(
    book: RateBook,
    gpu_models: Mapping[str, int],
    cpu_millicores: int,
    memory_bytes: int,
    tier: str,
    seconds: int,
    at: datetime,
) -> int:
    """What so many seconds of a choice cost at the rates of a time, rounded up."""
    exact = hourly(book, gpu_models, cpu_millicores, memory_bytes, tier, at)
    exact *= Fraction(seconds, HOUR_SECONDS)
    return -int(-exact // 1)


def credits_words(microcredits: int) -> str:
    """``5.20 credits``; what is below a hundredth is not rounded up to it."""
    sign = "-" if microcredits < 0 else ""
    hundredths = abs(microcredits) * 100 // MICRO
    return f"{sign}{hundredths // 100:,}.{hundredths % 100:02d} credits"
