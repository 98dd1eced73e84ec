"""A second opinion on the ledger, in plain Python and fractions: nothing here is the product's.

It is told what happened (who started when, what a rate became, when the clock stood where) and
says what every account must then have, what is left of every lot, and what each session must have
been charged.
"""

from __future__ import annotations

import calendar
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

HOUR_MICROSECONDS = 60 * 60 * 1_000_000
GIB = 1 << 30
NEVER = datetime.max.replace(tzinfo=UTC)


def microseconds(length: timedelta) -> int:
    return (length.days * 86400 + length.seconds) * 1_000_000 + length.microseconds


@dataclass
class Held:
    """What a session holds from a time on."""

    since: datetime
    gpus: dict[str, int]
    millicores: int
    memory_bytes: int
    faulty: bool


@dataclass
class Session:
    """One workload that became ready."""

    account: str
    user: str
    tier: str
    began: datetime
    held: list[Held]
    mark: datetime
    """Up to here it is charged."""
    at_most: datetime = NEVER
    over: bool = False
    refunds: dict[tuple[datetime, datetime], int] = field(default_factory=dict)
    """What was refunded of charges, by the time that each was for."""
    ended: datetime | None = None
    """When it ended, where more had been charged."""
    before: dict[tuple[datetime, datetime], int] = field(default_factory=dict)
    """What was refunded when it ended."""
    not_given: int = 0
    """Of what was charged after its end, what had been refunded by then."""

    def changes(self, at: datetime, held: Held) -> None:
        """It holds something else from now on, but never in what is charged already."""
        held.since = max(at, self.mark, self.held[-1].since)
        self.held.append(held)

    def holds_at(self, at: datetime) -> Held:
        return [held for held in self.held if held.since <= at][-1]


@dataclass
class Lot:
    """What came in at once."""

    left: int
    expires: datetime


@dataclass
class Purse:
    """One account."""

    balance: int = 0
    lots: list[Lot] = field(default_factory=list)

    def put(self, parts: list[tuple[int, datetime]]) -> None:
        debt = max(0, -self.balance)
        for amount, expires in sorted(parts, key=lambda part: part[1]):
            paid = min(amount, debt)
            debt -= paid
            self.lots.append(Lot(amount - paid, expires))
            self.balance += amount

    def put_for_ever(self, amount: int) -> None:
        self.put([(amount, NEVER)])

    def take(self, amount: int) -> list[tuple[int, datetime]]:
        self.balance -= amount
        taken = []
        for lot in sorted(self.lots, key=lambda lot: lot.expires):  # sorting keeps equals in order
            part = min(amount, lot.left)
            if part:
                lot.left -= part
                amount -= part
                taken.append((part, lot.expires))
        return taken

    def expire(self, now: datetime) -> None:
        for lot in self.lots:
            if lot.left and lot.expires <= now:
                self.balance -= lot.left
                lot.left = 0

    def left(self) -> list[tuple[datetime, int]]:
        return sorted((lot.expires, lot.left) for lot in self.lots if lot.left)


@dataclass
class Grant:
    """One grant, as it was asked for."""

    account: str
    amount: int
    every: str
    carries: bool
    starts: datetime
    ends: datetime | None
    given: int = 0
    over: bool = False

    def due(self) -> datetime | None:
        return None if self.over else period(self.starts, self.every, self.given)


def period(starts: datetime, every: str, number: int) -> datetime:
    """When a period begins, the first being number 0."""
    if every == "once":
        return starts
    if every == "week":
        return starts + 7 * number * timedelta(days=1)
    year, month = starts.year, starts.month
    for _ in range(number):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return starts.replace(
        year=year, month=month, day=min(starts.day, calendar.monthrange(year, month)[1])
    )


class Opinion:
    """All of it."""

    def __init__(self) -> None:
        self.purses: dict[str, Purse] = {}
        self.sessions: dict[str, Session] = {}
        self.grants: dict[str, Grant] = {}
        self.rates: list[tuple[datetime, str, str, str, int]] = []
        """Valid from, resource, model, tier, micro-credits an hour; in the order of making."""
        self.charged_until = datetime.min.replace(tzinfo=UTC)

    # -- rates -----------------------------------------------------------------------------------

    def newest_mark(self, now: datetime) -> datetime:
        return max(now, self.charged_until)

    def rate(self, resource: str, model: str, tier: str, at: datetime) -> int:
        found = [
            ((bool(each[2]), bool(each[3])), each[0], number, each[4])
            for number, each in enumerate(self.rates)
            if each[0] <= at
            and each[1] == resource
            and each[2] in ("", model)
            and each[3] in ("", tier)
        ]
        if not found:
            return 1_000_000 if resource == "gpu" else 0
        return max(found)[-1]

    def price(self, held: Held, tier: str, at: datetime) -> Fraction:
        """Micro-credits an hour."""
        if held.faulty:
            return Fraction(0)
        price = Fraction(self.rate("cpu_core", "", tier, at) * held.millicores, 1000)
        price += Fraction(self.rate("memory_gib", "", tier, at) * held.memory_bytes, GIB)
        for model, count in held.gpus.items():
            price += count * self.rate("gpu", model, tier, at)
        return price

    def due(self, session: Session, until: datetime) -> int:
        """What a session costs from its beginning until a time."""
        times = {session.began, until}
        times |= {held.since for held in session.held} | {each[0] for each in self.rates}
        ordered = sorted(at for at in times if session.began <= at <= until)
        total = Fraction(0)
        for at, then in itertools.pairwise(ordered):
            price = self.price(session.holds_at(at), session.tier, at)
            total += price * microseconds(then - at) / HOUR_MICROSECONDS
        return total.numerator // total.denominator

    def gpu_microseconds(self, session: Session) -> int:
        """GPU time that is charged."""
        total = 0
        times = sorted({session.mark, *(held.since for held in session.held)})
        times = [at for at in times if session.began <= at <= session.mark]
        for at, then in itertools.pairwise(times):
            held = session.holds_at(at)
            total += 0 if held.faulty else sum(held.gpus.values()) * microseconds(then - at)
        return total

    # -- sessions --------------------------------------------------------------------------------

    def charge(self, session: Session, until: datetime) -> None:
        """The meter was here."""
        until = min(until, session.at_most)
        if session.over or until <= session.mark:
            return
        owed = self.due(session, until) - self.due(session, session.mark)
        session.mark = until
        self.charged_until = max(self.charged_until, until)
        self.purses[session.account].take(owed)

    def end(self, session: Session, finished: datetime | None) -> None:
        """It is over; nobody may know when it ended."""
        if session.over:
            return
        if finished is None:  # there is an entry that says so
            self.charged_until = max(self.charged_until, session.mark)
        until = min(finished or session.mark, session.at_most)
        until = max(until, session.began)
        self.charge(session, until)
        back = self.due(session, session.mark) - self.due(session, until)
        session.over, session.mark, session.ended = True, until, until
        session.before = dict(session.refunds)
        for times, amount in session.before.items():
            session.not_given += min(amount, self.after_end(session, times))
        back -= session.not_given
        if back:
            self.purses[session.account].put([(back, NEVER)])

    def after_end(self, session: Session, times: tuple[datetime, datetime]) -> int:
        """Of what was charged for a time, what is for the time after the end."""
        begins, ends = times
        if session.ended is None or ends <= session.ended:
            return 0
        return self.due(session, ends) - self.due(session, max(begins, session.ended))

    def refund(
        self, session: Session, times: tuple[datetime, datetime], charged: int, amount: int
    ) -> None:
        """No credit of a charge comes back twice, whichever way it came first."""
        refunded = session.refunds[times] = session.refunds.get(times, 0) + amount
        given = max(0, self.after_end(session, times) - session.before.get(times, 0))
        assert amount > 0
        assert refunded + given <= charged

    # -- credits ---------------------------------------------------------------------------------

    def turn(self, now: datetime) -> None:
        """What the time brings: what is over goes, then what is due comes."""
        for purse in self.purses.values():
            purse.expire(now)
        waiting = [
            (due, key)
            for key, grant in self.grants.items()
            if (due := grant.due()) is not None and due <= now
        ]
        for _, key in sorted(waiting):
            self.give(self.grants[key], now)

    def give(self, grant: Grant, now: datetime) -> None:
        while (due := grant.due()) is not None and due <= now:
            following = period(grant.starts, grant.every, grant.given + 1)
            ends = grant.ends or NEVER
            expires = ends if grant.every == "once" or grant.carries else min(following, ends)
            if expires > now:
                self.purses[grant.account].put([(grant.amount, expires)])
            grant.given += 1
            grant.over = grant.every == "once" or following >= ends
