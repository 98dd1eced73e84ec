"""What pages show of the ledger: everybody's accounts, and what runs at which price. It is read
with the pool, so no page reads it for itself; whatever decides something reads the database.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.ledger.rates import MICRO, RateBook, hourly
from dcloud_spawner.live.purse import OWN, Payer
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import accounts, limits, meters, purses, rates
from dcloud_spawner.store.accounts import Account, Budget
from dcloud_spawner.store.limits import Override
from dcloud_spawner.store.meters import Meter
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

LEDGER_AGAIN = timedelta(seconds=1)
"""After which accounts and meters are read again."""

REST = 4
"""Times that a reading took, in which there is no other."""

OLDEST = timedelta(seconds=3)
"""Older than this no reading gets for that."""

HOUR = timedelta(hours=1)

BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Running:
    """One server that is charged for."""

    account: str
    an_hour_microcredits: Fraction
    """What it costs an hour now."""
    charged_microcredits: int
    since: datetime | None
    """What it used from here on is not charged yet."""

    def cost_microcredits(self, at: datetime) -> Fraction:
        """What it has cost until a time, as far as it can be told before it is settled."""
        if self.since is None:
            return Fraction(self.charged_microcredits)
        passed = max(at - self.since, timedelta(0)) // timedelta(microseconds=1)
        hours = Fraction(passed, HOUR // timedelta(microseconds=1))
        return self.charged_microcredits + hours * self.an_hour_microcredits


@dataclass(frozen=True)
class LedgerReading:
    """One consistent reading."""

    at: datetime = BEFORE_ALL
    took: timedelta = timedelta(0)
    book: RateBook = field(default_factory=RateBook)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    """By id."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Everybody's own account, by user."""
    projects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of projects by user."""
    held: Mapping[str, int] = field(default_factory=dict)
    """What is set aside and not charged yet, by account."""
    meters: Mapping[str, Meter] = field(default_factory=dict)
    """Of what is admitted and not settled, by workload."""
    free: frozenset[str] = frozenset()
    """Servers that cost nothing now, because of a fault of the platform."""
    overrides: Mapping[str, tuple[Override, ...]] = field(default_factory=dict)
    """Limits that were set for one person alone, by user."""
    running: Mapping[str, Running] = field(default_factory=dict)
    """By workload."""
    burn: Mapping[str, Fraction] = field(default_factory=dict)
    """What runs on an account costs so much an hour."""

    def serves(self, open_workloads: Iterable[Workload], now: datetime) -> bool:
        """Whether it need not be read again yet: it is young, and knows all that runs."""
        if any(
            each.state is State.RUNNING and each.account and each.id not in self.meters
            for each in open_workloads
        ):
            return False
        return now - self.at < max(LEDGER_AGAIN, min(REST * self.took, OLDEST))


def read_ledger(connection: Connection, now: datetime) -> LedgerReading:
    """Read accounts, meters and rates. Blocks."""
    began = time.perf_counter()
    known = {found.id: found for found in accounts.all_accounts(connection)}
    open_meters = {found.workload: found for found in meters.open_meters(connection)}
    held: Counter[str] = Counter()
    for meter in open_meters.values():
        held[meter.account] += max(0, meter.held_microcredits - meter.charged_microcredits)
    overrides: defaultdict[str, list[Override]] = defaultdict(list)
    for found in limits.active_overrides(connection, now):
        overrides[found.user].append(found)
    reading = LedgerReading(
        at=now,
        book=rates.read_book(connection),
        accounts=known,
        own={found.name: found.id for found in known.values() if found.kind == accounts.USER},
        projects=purses.projects_of_users(connection),
        held=held,
        meters=open_meters,
        free=purses.free_now(connection, tuple(open_meters)),
        overrides={user: tuple(mine) for user, mine in overrides.items()},
    )
    return replace(reading, took=timedelta(seconds=time.perf_counter() - began))


def with_running(
    reading: LedgerReading,
    open_workloads: Iterable[Workload],
    held: Mapping[str, Sequence[AcceleratorRow]],
    now: datetime,
) -> LedgerReading:
    """A reading with what runs at this moment, at its price."""
    running: dict[str, Running] = {}
    burn: defaultdict[str, Fraction] = defaultdict(Fraction)
    for workload in open_workloads:
        meter = reading.meters.get(workload.id)
        if meter is None or workload.state is not State.RUNNING:
            continue
        models = Counter(row.model for row in held.get(workload.id, ()))
        size = workload.cpu_millicores, workload.memory_bytes, workload.tier
        free = workload.id in reading.free
        price = Fraction(0) if free else hourly(reading.book, models, *size, now)
        since = meter.watermark_at or meter.began_at
        found = Running(meter.account, price, meter.charged_microcredits, since)
        running[workload.id] = found
        burn[meter.account] += price
    return replace(reading, running=running, burn=dict(burn))


def payers_of(reading: LedgerReading, settings: Settings, user: str) -> tuple[Payer, ...]:
    """Who may pay for what a user starts, their own account first."""
    own = reading.accounts.get(reading.own.get(user, ""))
    mine = _payer(reading, own, OWN) if own is not None else _first(settings)
    projects = (reading.accounts.get(each) for each in reading.projects.get(user, ()))
    shared = sorted(
        (found for found in projects if found is not None and found.closed_at is None),
        key=lambda found: found.shown_name,
    )
    return (mine, *(_payer(reading, found, found.name) for found in shared))


def _first(settings: Settings) -> Payer:
    """The account that somebody gets with their first request."""
    given = round(settings.personal_grant_credits * MICRO)
    return Payer(OWN, "", Budget(settings.personal_budget), given, given)


def _payer(reading: LedgerReading, found: Account, name: str) -> Payer:
    balance = found.balance_microcredits
    return Payer(
        name=name,
        title=found.shown_name,
        budget=found.budget,
        balance_microcredits=balance,
        available_microcredits=balance - reading.held.get(found.id, 0),
        burn_microcredits=reading.burn.get(found.id, Fraction(0)),
    )
