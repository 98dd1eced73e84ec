"""Recomputes the whole ledger and says, one sentence each, what differs.

Everything that could be wrong is made again from what it was made of: balances and lots from the
entries in their order, and (``ledger_verify_sessions``) the entries, meters and hours of a session
from its leases, its spans, the engine's times and the rates; (``ledger_verify_storage``) what
storage was charged from its measured sizes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection

from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.ledger_verify_sessions import verify_sessions
from dcloud_spawner.ledger_verify_storage import verify_storage
from dcloud_spawner.store import ledger_rows, usage
from dcloud_spawner.store.entries import Kind, Lot

Progress = Callable[[int], None]
"""Told how many more rows were looked at."""

_NEVER = datetime.max.replace(tzinfo=UTC)
_STEP = 1000


def verify(connection: Connection, progress: Progress = lambda rows: None) -> Iterator[str]:
    """Sentences about what is wrong; none when everything is right. Reads only."""
    yield from _verify_accounts(connection, progress)
    yield from _verify_grants(connection)
    yield from verify_sessions(connection, progress)
    yield from verify_storage(connection)
    yield from usage.totals_apart(connection)


def credits(microcredits: int) -> str:
    """An amount, exact."""
    return f"{microcredits / MICRO:.6f} credits"


@dataclass
class _Purse:
    """One account as its entries leave it."""

    name: str
    balance: int = 0
    open_lots: list[tuple[datetime, int]] = field(default_factory=list)
    """Heap of the lots with something left: when each expires, and its id."""
    left: dict[int, int] = field(default_factory=dict)

    def put(self, lots: list[Lot]) -> None:
        """What comes in, after the debt was paid from what expires first."""
        debt = max(0, -self.balance)
        for lot in lots:
            paid = min(debt, lot.microcredits)
            debt -= paid
            self.left[lot.id] = lot.microcredits - paid
            if lot.microcredits > paid:
                heapq.heappush(self.open_lots, (lot.expires_at or _NEVER, lot.id))

    def take(self, amount: int) -> None:
        """What goes out is taken from what expires first; the rest becomes debt."""
        while amount and self.open_lots:
            identifier = self.open_lots[0][1]
            part = min(amount, self.left[identifier])
            self.left[identifier] -= part
            amount -= part
            if not self.left[identifier]:
                heapq.heappop(self.open_lots)

    def expire(self, identifier: int, amount: int) -> None:
        """What goes out because its time is over is taken from that lot alone."""
        self.left[identifier] = self.left.get(identifier, 0) - amount


def _verify_accounts(connection: Connection, progress: Progress) -> Iterator[str]:
    written = ledger_rows.balances(connection)
    purses = {identifier: _Purse(name) for identifier, (name, _) in written.items()}
    lots = ledger_rows.lots_by_entry(connection)
    expected_id = 1
    for entry in ledger_rows.all_entries(connection):
        if entry.id != expected_id:
            yield f"Entry {expected_id} is missing before entry {entry.id}."
        expected_id = entry.id + 1
        if entry.id % _STEP == 0:
            progress(_STEP)
        purse = purses.get(entry.account)
        if purse is None:
            yield f"Entry {entry.id} is of an account that does not exist."
            continue
        if not _sign_is_right(entry.kind, entry.microcredits):
            yield f"Entry {entry.id} is a {entry.kind} of {credits(entry.microcredits)}."
        yield from _apply(purse, entry, lots.pop(entry.id, []))
    for identifier, (name, balance) in written.items():
        purse = purses[identifier]
        if balance != purse.balance:
            yield (
                f"The balance of {name} is {credits(balance)}; its entries add up to "
                f"{credits(purse.balance)}."
            )
    yield from _verify_lots(connection, purses, lots)


def _sign_is_right(kind: str, amount: int) -> bool:
    if kind in (Kind.CHARGE, Kind.EXPIRY):
        return amount <= 0
    return amount > 0 if kind in (Kind.GRANT, Kind.REFUND) else True


def _apply(purse: _Purse, entry: ledger_rows.EntryRow, lots: list[Lot]) -> Iterator[str]:
    """One entry on its account."""
    came_in = sum(lot.microcredits for lot in lots)
    if came_in != max(0, entry.microcredits):
        yield (
            f"Entry {entry.id} brought {credits(max(0, entry.microcredits))}, "
            f"its lots hold {credits(came_in)}."
        )
    if entry.microcredits > 0:
        purse.put(lots)
    elif entry.kind == Kind.EXPIRY:
        purse.expire(int(entry.key.rpartition(":")[2]), -entry.microcredits)
    else:
        purse.take(-entry.microcredits)
    purse.balance += entry.microcredits
    if entry.balance_after != purse.balance:
        yield (
            f"Entry {entry.id} says that {purse.name} then had {credits(entry.balance_after)}; "
            f"it had {credits(purse.balance)}."
        )
        purse.balance = entry.balance_after  # one sentence for one difference


def _verify_lots(
    connection: Connection, purses: dict[str, _Purse], unnamed: dict[int, list[Lot]]
) -> Iterator[str]:
    for entry, lots in unnamed.items():
        yield f"Lot {lots[0].id} came in with entry {entry}, which does not exist."
    left_of: dict[str, int] = {}
    for lots in ledger_rows.lots_by_entry(connection).values():
        for lot in lots:
            left_of[lot.account] = left_of.get(lot.account, 0) + lot.left_microcredits
            purse = purses.get(lot.account)
            expected = purse.left.get(lot.id, 0) if purse else 0
            if lot.left_microcredits != expected:
                yield (
                    f"Lot {lot.id} has {credits(lot.left_microcredits)} left; by the entries "
                    f"it has {credits(expected)}."
                )
    for identifier, purse in purses.items():
        left = left_of.get(identifier, 0)
        if left != max(0, purse.balance):
            yield (
                f"The lots of {purse.name} hold {credits(left)}; its balance is "
                f"{credits(purse.balance)}."
            )


def _verify_grants(connection: Connection) -> Iterator[str]:
    for identifier, given, found in ledger_rows.grants_given(connection):
        if found > given:
            yield f"Grant {identifier} was due {given} times and given {found} times."
    for key in ledger_rows.transfers_apart(connection):
        yield f"The two halves of {key} are not each other's opposite."
    for entry, amount, charged in ledger_rows.refunds(connection):
        if charged is None:
            yield f"A refund names entry {entry}, which does not exist."
        elif amount > -charged:
            yield f"Of entry {entry} {credits(amount)} were given back, it was {credits(-charged)}."
