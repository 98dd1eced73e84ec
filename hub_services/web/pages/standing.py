"""How accounts stand now: what is set aside, what runs on them, and when nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.budgets import Level, Runway, runway
from dcloud_spawner.live.ledger import LedgerReading
from dcloud_spawner.store import accounts, entries
from dcloud_spawner.store.accounts import Account, Budget
from dcloud_spawner.store.entries import Part


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
        return self.runway.level if self.counts and self.runway.granted_microcredits else None


def standings(
    connection: Connection, found: Sequence[Account], running: LedgerReading, now: datetime
) -> list[Standing]:
    """The standing of some accounts, in their order. Lots are read only of those on which
    something runs."""
    held = accounts.held_microcredits(connection, [each.id for each in found])
    unsettled: dict[str, Fraction] = {}
    for each in running.running.values():
        more = max(each.cost_microcredits(now) - each.charged_microcredits, Fraction(0))
        unsettled[each.account] = unsettled.get(each.account, Fraction(0)) + more
    made = []
    for account in found:
        burn = running.burn.get(account.id, Fraction(0))
        lots = entries.open_lots(connection, account.id) if burn else []
        made.append(
            Standing(
                account,
                held.get(account.id, 0),
                runway(
                    account.balance_microcredits,
                    [Part(lot.left_microcredits, lot.expires_at) for lot in lots],
                    sum(lot.microcredits for lot in lots),
                    int(unsettled.get(account.id, Fraction(0))),
                    burn,
                    now,
                ),
            )
        )
    return made
