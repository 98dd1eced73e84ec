"""How far the credits of each account with a budget reach now, read from the store.

What is set aside does not count here: it is not used yet. What runs and was not charged yet does,
to the second, so that an end does not depend on when the meter last looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.budgets import FEW_PERCENT, Runway, runway
from dcloud_spawner.ledger.cost import Span, exact_cost
from dcloud_spawner.ledger.rates import RateBook, hourly
from dcloud_spawner.store import budgets, rates
from dcloud_spawner.store.accounts import Account
from dcloud_spawner.store.budgets import Metered, Watched
from dcloud_spawner.store.entries import Part

AHEAD = timedelta(days=7)
"""Grants that are due later do not make an end any later yet."""


@dataclass(frozen=True)
class Session:
    """One that is charged to an account."""

    metered: Metered
    an_hour_microcredits: Fraction
    """What it costs now; 0 while it is not ready or a fault makes its time free."""
    unsettled_microcredits: int

    @property
    def costs(self) -> bool:
        """Whether it uses credits, or will when it is ready."""
        ready = self.metered.began_at is not None
        return self.an_hour_microcredits > 0 if ready else self.metered.held_microcredits > 0


@dataclass(frozen=True)
class Funds:
    """One account with a budget."""

    account: Account
    runway: Runway
    sessions: Sequence[Session]


def read_funds(connection: Connection, now: datetime) -> list[Funds]:
    """Every account with a budget on which something runs, or that has few credits left."""
    watched = budgets.watched(connection, FEW_PERCENT)
    if not watched:
        return []
    known = [found.account.id for found in watched]
    metered = budgets.metered(connection, known)
    book = rates.read_book(connection)
    spans = budgets.spans_of(connection, [found.workload for found in metered])
    running: dict[str, list[Session]] = {}
    for found in metered:
        session = _session(found, spans.get(found.workload, []), book, now)
        running.setdefault(found.account, []).append(session)
    left = budgets.left_of(connection, known)
    coming = budgets.coming_to(connection, known, now + AHEAD)
    return [
        Funds(
            found.account,
            _runway(found, left, coming, running.get(found.account.id, []), now),
            running.get(found.account.id, []),
        )
        for found in watched
    ]


def available(connection: Connection, account: Account, now: datetime) -> int:
    """What of an account may be given away: its balance without what its sessions have set aside,
    or have used already and nobody has charged yet, whichever is more."""
    metered = budgets.metered(connection, (account.id,))
    book = rates.read_book(connection)
    spans = budgets.spans_of(connection, [found.workload for found in metered])
    left = account.balance_microcredits
    for found in metered:
        used = _session(found, spans.get(found.workload, []), book, now).unsettled_microcredits
        left -= max(used, found.aside_microcredits)
    return left


def is_used_up(connection: Connection, account: str | None, now: datetime) -> bool:
    """Whether an account with a budget has nothing left now, whatever was reckoned before."""
    for found in read_funds(connection, now):
        if found.account.id == account:
            ends_at = found.runway.ends_at
            return found.runway.left_microcredits <= 0 or (ends_at is not None and ends_at <= now)
    return False


def _runway(
    watched: Watched,
    left: Mapping[str, Sequence[Part]],
    coming: Mapping[str, Sequence[tuple[datetime, int]]],
    sessions: Sequence[Session],
    now: datetime,
) -> Runway:
    return runway(
        watched.account.balance_microcredits,
        left.get(watched.account.id, ()),
        watched.granted_microcredits,
        sum(session.unsettled_microcredits for session in sessions),
        sum((session.an_hour_microcredits for session in sessions), Fraction(0)),
        now,
        coming.get(watched.account.id, ()),
    )


def _session(found: Metered, spans: Sequence[Span], book: RateBook, now: datetime) -> Session:
    if found.began_at is None or found.watermark_at is None:
        return Session(found, Fraction(0), 0)
    until = min(now, found.charge_until) if found.charge_until else now
    used = exact_cost(spans, found.tier, book, found.watermark_at, max(until, found.watermark_at))
    last = spans[-1] if spans else None
    over = found.charge_until is not None and found.charge_until <= now
    if last is None or last.free_reason or over:
        return Session(found, Fraction(0), int(used))
    held = (last.gpu_models, last.cpu_millicores, last.memory_bytes)
    return Session(found, hourly(book, *held, found.tier, now), int(used))
