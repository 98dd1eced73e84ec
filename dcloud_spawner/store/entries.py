"""The lines of the ledger, and the one way to write one.

An entry is only ever added. It changes the balance of its account in the same statement block,
so in every committed state of the database the entries of an account add up to its balance. Two
further rules hold in every such state:

- ``balance_after`` of an entry is ``balance_after`` of the one before it on its account plus its
  amount; the last one is the balance.
- what is left in the lots of an account adds up to its balance, or to nothing while it is in
  debt. A lot is what came in at once and may expire; whatever goes out is taken from what
  expires first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, literal_column, select, update

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.ledger.cost import Quantity
from dcloud_spawner.store.database import storable
from dcloud_spawner.store.ledger_schema import accounts, entries, lots, meters

MOST_MICROCREDITS = 10**15
"""No amount that people move, and no balance that they make, is larger: a billion credits, far from
what a column, or a number in JSON, holds."""


class Kind(StrEnum):
    """Why an amount moved."""

    CHARGE = "charge"
    """A session or storage used something; 0 or less. An amount of 0 says why it cost nothing."""
    GRANT = "grant"
    TRANSFER = "transfer"
    REFUND = "refund"
    """Given back for an earlier charge, by an administrator."""
    ADJUSTMENT = "adjustment"
    """Set right: by an administrator with a reason, or by the platform where a session proves to
    have ended before what was charged."""
    EXPIRY = "expiry"


@dataclass(frozen=True)
class NewEntry:
    """What one entry will say."""

    account: str
    kind: Kind
    microcredits: int
    """Positive where the account gets something."""
    key: str
    """Names what happened: the same key is written once, however often it is tried."""
    actor: str
    reason: str = ""
    workload: str | None = None
    from_at: datetime | None = None
    until_at: datetime | None = None
    quantity: Quantity = field(default_factory=Quantity)
    rates: Mapping[str, int] | None = None
    other_account: str | None = None
    refund_of: int | None = None
    parts: Sequence[Part] = ()
    """Of what comes in, what expires when; empty: all of it never does."""
    lot: int | None = None
    """The lot that expires, of an expiry."""
    grant: str | None = None


@dataclass(frozen=True)
class Part:
    """An amount that expires at a time, or never."""

    microcredits: int
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """One line. Amounts in micro-credits, times aware UTC, quantities in microseconds of one."""

    id: int
    account: str
    at: datetime
    kind: Kind
    microcredits: int
    balance_after: int
    workload: str | None
    from_at: datetime | None
    until_at: datetime | None
    gpu_microseconds: int
    cpu_microseconds: int
    memory_gib_microseconds: int
    rates: Mapping[str, int] | None
    key: str
    actor: str
    reason: str
    other_account: str | None
    refund_of: int | None


@dataclass(frozen=True)
class Lot:
    """What came in at once and what is left of it."""

    id: int
    account: str
    entry: int
    grant: str | None
    microcredits: int
    left_microcredits: int
    expires_at: datetime | None


@dataclass(frozen=True)
class Posted:
    """What :func:`post` did."""

    entry: Entry
    new: bool
    """False when the key was there already: then nothing changed."""
    taken: Sequence[Part] = ()
    """From where an amount that went out was taken; less than it where the account got into
    debt."""


def post(connection: Connection, new: NewEntry, at: datetime) -> Posted:
    """Write an entry with its balance and lots, in the caller's write transaction.

    An entry of the same key that is there already is returned, and nothing changes. Raises
    InvalidChoice for an amount or a balance beyond :data:`MOST_MICROCREDITS`; but never for what
    a session or storage used, for a session that cannot be settled would never give its GPUs back.
    """
    known = find_by_key(connection, new.key)
    if known is not None:
        return Posted(known, new=False)
    balance = connection.execute(
        select(accounts.c.balance_microcredits).where(accounts.c.id == new.account)
    ).scalar_one()
    after = balance + new.microcredits
    too_large = max(abs(new.microcredits), abs(after)) > MOST_MICROCREDITS
    if too_large and not _is_due(new):
        raise InvalidChoice(
            "microcredits: the amount is too large.",
            hint=f"No amount or balance may be beyond {MOST_MICROCREDITS // 10**6:,} credits.",
            field="microcredits",
        )
    last = connection.execute(select(func.max(entries.c.id))).scalar() or 0
    row = {
        "id": last + 1,
        "account": new.account,
        "at": at,
        "kind": new.kind.value,
        "microcredits": new.microcredits,
        "balance_after": after,
        "workload": new.workload,
        "from_at": new.from_at,
        "until_at": new.until_at,
        "gpu_microseconds": new.quantity.gpu_microseconds,
        "cpu_microseconds": new.quantity.cpu_microseconds,
        "memory_gib_microseconds": new.quantity.memory_gib_microseconds,
        "rates": dict(new.rates) if new.rates else None,
        "key": new.key,
        "actor": storable(new.actor)[:255],
        "reason": new.reason,
        "other_account": new.other_account,
        "refund_of": new.refund_of,
    }
    connection.execute(entries.insert(), row)
    taken: Sequence[Part] = ()
    if new.microcredits:
        connection.execute(
            update(accounts).where(accounts.c.id == new.account).values(balance_microcredits=after)
        )
        if new.microcredits > 0:
            _put(connection, new, last + 1, debt=max(0, -balance))
        else:
            taken = _take(connection, new.account, -new.microcredits, new.lot)
    return Posted(Entry(**{**row, "kind": new.kind}), new=True, taken=taken)


def _is_due(new: NewEntry) -> bool:
    """Whether the platform itself reckons it, from what was used or has expired."""
    settled = new.kind is Kind.ADJUSTMENT and new.workload is not None
    return settled or new.kind in (Kind.CHARGE, Kind.EXPIRY)


def _put(connection: Connection, new: NewEntry, entry: int, debt: int) -> None:
    """New lots; what the account owed is taken off them, first off what expires first."""
    parts = new.parts or (Part(new.microcredits),)
    assert sum(part.microcredits for part in parts) == new.microcredits
    rows = []
    for part in sorted(parts, key=_first_to_expire):
        paid = min(debt, part.microcredits)
        debt -= paid
        rows.append(
            {
                "account": new.account,
                "entry": entry,
                "grant": new.grant,
                "microcredits": part.microcredits,
                "left_microcredits": part.microcredits - paid,
                "expires_at": part.expires_at,
            }
        )
    connection.execute(lots.insert(), rows)


def _first_to_expire(part: Part) -> tuple[bool, float]:
    return part.expires_at is None, part.expires_at.timestamp() if part.expires_at else 0.0


def _take(connection: Connection, account: str, amount: int, lot: int | None) -> Sequence[Part]:
    """Take an amount out of the lots, or out of one; what they do not hold becomes debt."""
    taken = []
    for found in open_lots(connection, account):
        if lot is not None and found.id != lot:
            continue
        part = min(amount, found.left_microcredits)
        if part:
            connection.execute(
                update(lots)
                .where(lots.c.id == found.id)
                .values(left_microcredits=found.left_microcredits - part)
            )
            taken.append(Part(part, found.expires_at))
            amount -= part
        if not amount:
            break
    return taken


def open_lots(connection: Connection, account: str) -> list[Lot]:
    """Lots of an account with something left, what expires first first."""
    rows = connection.execute(
        select(lots)
        .where(lots.c.account == account, lots.c.left_microcredits > 0)
        .order_by(lots.c.expires_at.is_(None), lots.c.expires_at, lots.c.id)
    )
    return [Lot(**row._mapping) for row in rows]


def expired_lots(connection: Connection, now: datetime) -> list[Lot]:
    """Lots of all accounts with something left whose time is over."""
    rows = connection.execute(
        select(lots)
        .where(lots.c.left_microcredits > 0, lots.c.expires_at <= now)
        .order_by(lots.c.expires_at, lots.c.id)
    )
    return [Lot(**row._mapping) for row in rows]


def find_by_key(connection: Connection, key: str) -> Entry | None:
    """The entry of a key."""
    row = connection.execute(select(entries).where(entries.c.key == key)).one_or_none()
    return _entry(row) if row else None


def find(connection: Connection, identifier: int) -> Entry | None:
    """The entry of an id."""
    row = connection.execute(select(entries).where(entries.c.id == identifier)).one_or_none()
    return _entry(row) if row else None


def page(
    connection: Connection,
    account: str,
    *,
    user: str | None = None,
    workload: str | None = None,
    above: int = 0,
    before: int | None = None,
    limit: int = 100,
    kinds: Collection[Kind] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Entry]:
    """Entries of an account, the newest first, with ids above one and before another; of a
    ``user`` only those of their own sessions, of a ``workload`` only its own."""
    query = select(entries).where(entries.c.account == account, entries.c.id > above)
    if user is not None:
        own = select(meters.c.workload).where(meters.c.user == user, meters.c.account == account)
        query = query.where(entries.c.workload.in_(own))
    if workload is not None:
        query = query.where(entries.c.workload == workload)
    if before is not None:
        query = query.where(entries.c.id < before)
    if kinds:
        query = query.where(entries.c.kind.in_([kind.value for kind in kinds]))
        if Kind.CHARGE not in kinds:  # as their index has it, to the letter
            query = query.where(entries.c.kind != literal_column("'charge'"))
    if since is not None:
        query = query.where(entries.c.at >= since)
    if until is not None:
        query = query.where(entries.c.at < until)
    rows = connection.execute(query.order_by(entries.c.id.desc()).limit(limit))
    return [_entry(row) for row in rows]


def of_workload(connection: Connection, workload: str) -> list[Entry]:
    """Entries of a session in the order of writing."""
    rows = connection.execute(
        select(entries).where(entries.c.workload == workload).order_by(entries.c.id)
    )
    return [_entry(row) for row in rows]


def refunded_microcredits(connection: Connection, entry: int) -> int:
    """What was given back of an entry so far."""
    total = connection.execute(
        select(func.sum(entries.c.microcredits)).where(entries.c.refund_of == entry)
    ).scalar()
    return int(total or 0)


def refunds_of(connection: Connection, workload: str) -> list[Entry]:
    """What was refunded of a session's charges, in the order of writing."""
    found = of_workload(connection, workload)
    return [entry for entry in found if entry.refund_of is not None]


def _entry(row: Any) -> Entry:
    values = dict(row._mapping)
    values["kind"] = Kind(values["kind"])
    return Entry(**values)
