"""How far the credits of each account with a budget reach now, read from the store.

What is set aside does not count here: it is not used yet. What runs and was not charged yet does,
to the second, so that an end does not depend on when the meter last looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.budgets import FEW_PERCENT, Runway, runway
from dcloud_spawner.ledger.cost import exact_cost
from dcloud_spawner.ledger.rates import RateBook, hourly
from dcloud_spawner.store import budgets, entries, meters, rates
from dcloud_spawner.store.accounts import Account
from dcloud_spawner.store.budgets import Metered, Watched
from dcloud_spawner.store.entries import Part


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
    book = rates.read_book(connection)
    running: dict[str, list[Session]] = {}
    for found in budgets.metered(connection, [one.account.id for one in watched]):
        running.setdefault(found.account, []).append(_session(connection, found, book, now))
    return [_funds(connection, one, running.get(one.account.id, []), now) for one in watched]


def _funds(
    connection: Connection, watched: Watched, sessions: Sequence[Session], now: datetime
) -> Funds:
    parts = [
        Part(lot.left_microcredits, lot.expires_at)
        for lot in entries.open_lots(connection, watched.account.id)
    ]
    reaches = runway(
        watched.account.balance_microcredits,
        parts,
        watched.granted_microcredits,
        sum(session.unsettled_microcredits for session in sessions),
        sum((session.an_hour_microcredits for session in sessions), Fraction(0)),
        now,
    )
    return Funds(watched.account, reaches, sessions)


def _session(connection: Connection, found: Metered, book: RateBook, now: datetime) -> Session:
    if found.began_at is None or found.watermark_at is None:
        return Session(found, Fraction(0), 0)
    spans = meters.spans_of(connection, found.workload)
    until = min(now, found.charge_until) if found.charge_until else now
    used = exact_cost(spans, found.tier, book, found.watermark_at, max(until, found.watermark_at))
    last = spans[-1] if spans else None
    over = found.charge_until is not None and found.charge_until <= now
    if last is None or last.free_reason or over:
        return Session(found, Fraction(0), int(used))
    held = (last.gpu_models, last.cpu_millicores, last.memory_bytes)
    return Session(found, hourly(book, *held, found.tier, now), int(used))
