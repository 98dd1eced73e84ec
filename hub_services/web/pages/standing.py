"""How accounts stand now: what is set aside, what runs on them, and when nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.budget_funds import read_funds
from dcloud_spawner.budgets import Level, Runway
from dcloud_spawner.live.ledger import LedgerReading
from dcloud_spawner.store import accounts
from dcloud_spawner.store.accounts import Account, Budget


@dataclass(frozen=True)
class Standing:
    """One account at a time. Amounts in micro-credits."""

    account: Account
    held: int
    """Set aside by admissions and not charged yet."""
    runway: Runway

    @property
    def an_hour(self) -> Fraction:
        """What runs on it costs so much an hour."""
        return self.runway.an_hour_microcredits

    @property
    def counts(self) -> bool:
        """Whether having nothing left means anything."""
        return self.account.budget is not Budget.NONE and self.account.closed_at is None

    @property
    def ends_at(self) -> datetime | None:
        """When nothing is left at this pace."""
        return self.runway.ends_at if self.counts else None

    @property
    def level(self) -> Level | None:
        """How near the end is."""
        return self.runway.level if self.counts else None


def standings(
    connection: Connection, found: Sequence[Account], running: LedgerReading, now: datetime
) -> list[Standing]:
    """The standing of some accounts, in their order; what runs on those without a budget is as it
    was in the last reading of the pool."""
    held = accounts.held_microcredits(connection, [each.id for each in found])
    reach = {each.account.id: each.runway for each in read_funds(connection, now)}
    made = []
    for account in found:
        balance, burn = account.balance_microcredits, running.burn.get(account.id, Fraction(0))
        # Whatever the budgets do not watch has enough: nothing of it ends.
        runway = reach.get(account.id) or Runway(now, balance, burn, max(1, balance), None)
        made.append(Standing(account, held.get(account.id, 0), runway))
    return made
