"""What the usage pages, statements and exports read: of one account, by index, part by part.

Nothing here walks over all entries of an account. Sums come from ``usage_hours``; the balance at
a time is found by halving the numbers of the entries, which are in the order of their times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, and_, cast, func, literal_column, select

from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.ledger_schema import entries, meters, spans, usage_hours
from dcloud_spawner.store.schema import workloads
from dcloud_spawner.store.usage import Session, Use, session_columns, session_of

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Cursor:
    """Behind which session a list goes on: its admission, and its number for those of one time."""

    admitted_at: datetime
    sequence: int


@dataclass(frozen=True)
class HourOfUse:
    """What one user used of one GPU model within an hour."""

    user: str
    gpu_model: str
    hour: datetime
    use: Use


@dataclass(frozen=True)
class Lines:
    """Entries of a session that are alike, as one: what, for which time, how many, how much."""

    kind: Kind
    reason: str
    actor: str
    count: int
    microcredits: int
    from_at: datetime | None
    until_at: datetime | None
    first_at: datetime
    gpu_microseconds: int
    rates: str
    """As they are stored; empty where nothing was charged."""


# ---------------------------------------------------------------------------- sessions


def _of(account: str, since: datetime | None, until: datetime | None, user: str) -> Any:
    found: list[ColumnElement[bool]] = [
        workloads.c.account == account,
        workloads.c.admitted_at.is_not(None),
    ]
    if since is not None:
        found.append(workloads.c.admitted_at >= since)
    if until is not None:
        found.append(workloads.c.admitted_at < until)
    if user:
        found.append(workloads.c.user == user)
    return and_(*found)


def sessions(
    connection: Connection,
    account: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    user: str = "",
    after: Cursor | None = None,
    oldest_first: bool = False,
    limit: int = 25,
) -> list[Session]:
    """Sessions that an account pays for, by their admission, from behind a cursor."""
    at, number = workloads.c.admitted_at, workloads.c.sequence
    query = session_columns().where(_of(account, since, until, user))
    if after is not None:
        query = query.where(_behind(after, oldest_first))
    order = (at.asc(), number.asc()) if oldest_first else (at.desc(), number.desc())
    rows = connection.execute(query.order_by(*order).limit(limit))
    return [session_of(row) for row in rows]


def _behind(after: Cursor, oldest_first: bool) -> ColumnElement[bool]:
    at, number = workloads.c.admitted_at, workloads.c.sequence
    if oldest_first:
        rest = (at > after.admitted_at) | (number > after.sequence)
        return and_(at >= after.admitted_at, rest)
    rest = (at < after.admitted_at) | (number < after.sequence)
    return and_(at <= after.admitted_at, rest)


def count_sessions(
    connection: Connection, account: str, since: datetime, until: datetime, user: str = ""
) -> int:
    """How many sessions were admitted in a time."""
    query = select(func.count()).select_from(workloads).where(_of(account, since, until, user))
    return int(connection.execute(query).scalar_one())


def running(connection: Connection, account: str, user: str = "") -> list[Session]:
    """Sessions of an account that are not settled, the oldest first."""
    query = session_columns().where(meters.c.account == account, meters.c.settled_at.is_(None))
    if user:
        query = query.where(meters.c.user == user)
    rows = connection.execute(query.order_by(workloads.c.sequence))
    return [session_of(row) for row in rows]


def models_of(connection: Connection, identifiers: Collection[str]) -> dict[str, dict[str, int]]:
    """How many GPUs of each model some sessions held last, by workload."""
    rows = connection.execute(
        select(spans.c.workload, spans.c.gpu_models)
        .where(spans.c.workload.in_(identifiers))
        .order_by(spans.c.begins_at, spans.c.id)
    )
    return {row.workload: row.gpu_models for row in rows}


# ---------------------------------------------------------------------------- use by the hour

_SUMS = [func.sum(usage_hours.c[each.name]).label(each.name) for each in fields(Use)]


def _hours(account: str, since: datetime, until: datetime, user: str) -> ColumnElement[bool]:
    found = [
        usage_hours.c.account == account,
        usage_hours.c.hour > since - HOUR,
        usage_hours.c.hour < until,
    ]
    if user:
        found.append(usage_hours.c.user == user)
    return and_(*found)


def hours(
    connection: Connection, account: str, since: datetime, until: datetime, user: str = ""
) -> list[HourOfUse]:
    """Use of an account by GPU model and hour, all users together (``user`` is then empty)."""
    keys = (usage_hours.c.gpu_model, usage_hours.c.hour)
    query = select(*keys, *_SUMS).where(_hours(account, since, until, user)).group_by(*keys)
    rows = connection.execute(query.order_by(usage_hours.c.hour, usage_hours.c.gpu_model))
    return [HourOfUse("", row.gpu_model, row.hour, _use(row)) for row in rows]


def hours_by_user(
    connection: Connection,
    account: str,
    since: datetime,
    until: datetime,
    user: str = "",
    *,
    limit: int = 1000,
    offset: int = 0,
) -> list[HourOfUse]:
    """Rows of use of an account, as they are."""
    query = select(usage_hours).where(_hours(account, since, until, user))
    order = (usage_hours.c.hour, usage_hours.c.user, usage_hours.c.gpu_model)
    rows = connection.execute(query.order_by(*order).limit(limit).offset(offset))
    return [HourOfUse(row.user, row.gpu_model, row.hour, _use(row)) for row in rows]


def shares(
    connection: Connection, account: str, since: datetime, until: datetime
) -> dict[str, Use]:
    """What each user of an account used in a time."""
    query = (
        select(usage_hours.c.user, *_SUMS)
        .where(_hours(account, since, until, ""))
        .group_by(usage_hours.c.user)
    )
    return {row.user: _use(row) for row in connection.execute(query)}


def _use(row: Any) -> Use:
    return Use(**{each.name: int(row._mapping[each.name] or 0) for each in fields(Use)})


# ---------------------------------------------------------------------------- entries


def last_entry_before(connection: Connection, account: str, at: datetime) -> Entry | None:
    """The last entry of an account that was written before a time.

    Found by halving: some 40 look-ups by ``ix_entries_account``, however many entries there are.
    Where the clock was once set back by seconds, entries of those seconds may count to either side.
    """
    low, high = 0, int(connection.execute(select(func.max(entries.c.id))).scalar() or 0)
    newest = _at_or_below(connection, account, high)
    if newest is None or newest.at < at:
        return newest
    while low < high:  # everything up to low is before, everything from high on is not
        middle = (low + high) // 2
        found = _at_or_below(connection, account, middle)
        if found is None or found.at < at:
            low = middle + 1
        else:
            high = found.id
    return _at_or_below(connection, account, low - 1)


def _at_or_below(connection: Connection, account: str, number: int) -> Entry | None:
    query = (
        select(entries)
        .where(entries.c.account == account, entries.c.id <= number)
        .order_by(entries.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return entry_of(row) if row else None


def entry_of(row: Any) -> Entry:
    """A row of the table as a value."""
    return Entry(**{**row._mapping, "kind": Kind(row.kind)})


NO_CHARGE = entries.c.kind != literal_column("'charge'")
"""As the index of such entries has it, to the letter."""


def page(
    connection: Connection,
    account: str,
    *,
    kinds: Sequence[Kind] = (),
    user: str = "",
    above: int = 0,
    before: int | None = None,
    upto: int | None = None,
    limit: int = 50,
) -> list[Entry]:
    """Entries of an account, the newest first: with numbers above one and below another, and of
    one user's sessions alone."""
    query = select(entries).where(entries.c.account == account, entries.c.id > above)
    if before is not None:
        query = query.where(entries.c.id < before)
    if upto is not None:
        query = query.where(entries.c.id <= upto)
    if kinds:
        query = query.where(entries.c.kind.in_([kind.value for kind in kinds]))
        if Kind.CHARGE not in kinds:
            query = query.where(NO_CHARGE)
    if user:
        query = query.join(workloads, workloads.c.id == entries.c.workload)
        query = query.where(workloads.c.user == user)
    rows = connection.execute(query.order_by(entries.c.id.desc()).limit(limit))
    return [entry_of(row) for row in rows]


def each_entry(
    connection: Connection,
    account: str,
    *,
    kinds: Sequence[Kind] = (),
    user: str = "",
    above: int,
    upto: int,
) -> Iterator[Entry]:
    """Entries of an account between two numbers, part by part, the newest first."""
    before = upto + 1
    while part := page(
        connection, account, kinds=kinds, user=user, above=above, before=before, limit=1000
    ):
        yield from part
        before = part[-1].id


def lines_of(connection: Connection, workload: str) -> list[Lines]:
    """The entries of a session, those that are alike as one, the newest first."""
    rates = cast(entries.c.rates, String)
    keys = (entries.c.kind, entries.c.reason, entries.c.actor, rates)
    query = (
        select(
            entries.c.kind,
            entries.c.reason,
            entries.c.actor,
            rates.label("rates"),
            func.count().label("number"),
            func.sum(entries.c.microcredits).label("microcredits"),
            func.min(entries.c.from_at).label("from_at"),
            func.max(entries.c.until_at).label("until_at"),
            func.min(entries.c.at).label("first_at"),
            func.sum(entries.c.gpu_microseconds).label("gpu_microseconds"),
            func.max(entries.c.id).label("last"),
        )
        .where(entries.c.workload == workload)
        .group_by(*keys)
    )
    rows = sorted(connection.execute(query), key=lambda row: -row.last)
    return [
        Lines(
            Kind(row.kind),
            row.reason,
            row.actor,
            row.number,
            int(row.microcredits),
            row.from_at,
            row.until_at,
            row.first_at,
            int(row.gpu_microseconds),
            "" if row.rates in (None, "null") else row.rates,
        )
        for row in rows
    ]
