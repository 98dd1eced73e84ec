"""What was used: sums of use by the hour, and sessions one part at a time.

A session is one workload's run, from admission on. Whoever asks gives a :class:`Scope`: what of
it all the reader may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    Subquery,
    Table,
    and_,
    cast,
    false,
    func,
    literal,
    or_,
    select,
    true,
    type_coerce,
    union_all,
)

from dcloud_spawner.store.ledger_schema import meters, usage_hours, usage_totals
from dcloud_spawner.store.meters import Meter
from dcloud_spawner.store.schema import State, workloads
from dcloud_spawner.store.workloads import Workload


@dataclass(frozen=True)
class Scope:
    """Whose use may be seen: everybody's, or one user's and all that some accounts pay for."""

    everything: bool = False
    user: str | None = None
    accounts: tuple[str, ...] = ()


class By(StrEnum):
    """What sums are made for. Hours, days and months are those of UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    USER = "user"
    ACCOUNT = "account"
    GPU_MODEL = "gpu_model"


PERIODS = frozenset({By.HOUR, By.DAY, By.MONTH})


@dataclass(frozen=True)
class Wanted:
    """Of what a reader may see, what they want to see. Empty: all."""

    since: datetime | None = None
    until: datetime | None = None
    user: str = ""
    account: str = ""
    gpu_model: str | None = None
    """Empty text: use without a GPU."""


@dataclass(frozen=True)
class Use:
    """One sum. Quantities in microseconds of one, the amount in micro-credits, positive."""

    gpu_microseconds: int = 0
    cpu_microseconds: int = 0
    memory_gib_microseconds: int = 0
    microcredits: int = 0
    measured_microseconds: int = 0
    """GPU time that samples cover."""
    busy_microseconds: int = 0
    """Of it, what the GPUs were used."""
    energy_millijoules: int = 0


@dataclass(frozen=True)
class Group:
    """The sum for one value of each thing that was asked for; None where it was not."""

    use: Use
    period: str | None = None
    """``2026-11``, ``2026-11-21`` or ``2026-11-21T19``."""
    user: str | None = None
    account: str | None = None
    gpu_model: str | None = None


@dataclass(frozen=True)
class PartOfTime:
    """A time that is read from rows of one length. None: without a bound."""

    length: By
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True)
class Session:
    """A workload with its meter."""

    workload: Workload
    meter: Meter


_NAMES = [each.name for each in fields(Use)]


def sums(
    connection: Connection,
    scope: Scope,
    wanted: Wanted,
    by: Sequence[By],
    *,
    limit: int = 100,
    offset: int = 0,
) -> list[Group]:
    """Sums in the order of what they are for. Hours count whole: the one in which ``since`` lies,
    and the one in which ``until`` lies."""
    finest = next((each for each in (By.HOUR, By.DAY) if each in by), By.MONTH)
    used = _used(scope, wanted, finest)
    keys = [_key(connection, used, each).label(_label(each)) for each in by]
    query = select(*keys, *_sums(used)).group_by(*keys).order_by(*keys)
    labels = [_label(each) for each in by]
    rows = connection.execute(query.limit(limit).offset(offset)).all()
    return [_group(tuple(row), labels) for row in rows]


def total(connection: Connection, scope: Scope, wanted: Wanted) -> Use:
    """The sum of everything."""
    return _use(connection.execute(select(*_sums(_used(scope, wanted, By.MONTH)))).one())


def parts_of(since: datetime | None, until: datetime | None, finest: By) -> list[PartOfTime]:
    """A time in parts, hours at its ends and the longest that there are between; ``finest`` is
    the longest that may be taken. Both ends are widened to whole hours."""
    lengths = (By.HOUR, By.DAY, By.MONTH)
    before: list[PartOfTime] = []
    after: list[PartOfTime] = []
    begin, end = _whole(since, By.HOUR, up=False), _whole(until, By.HOUR, up=True)
    for length, longer in pairwise(lengths):
        if length is finest:
            return [*before, PartOfTime(length, begin, end), *after]
        inner, outer = _whole(begin, longer, up=True), _whole(end, longer, up=False)
        if inner is not None and outer is not None and inner >= outer:
            return [*before, PartOfTime(length, begin, end), *after]
        if begin is not None and begin != inner:
            before.append(PartOfTime(length, begin, inner))
        if end is not None and end != outer:
            after.insert(0, PartOfTime(length, outer, end))
        begin, end = inner, outer
    return [*before, PartOfTime(By.MONTH, begin, end), *after]


def _whole(at: datetime | None, length: By, *, up: bool) -> datetime | None:
    """The beginning of the hour, day or month that a time is in, or ``up`` of the next one."""
    if at is None:
        return None
    found = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if length is not By.HOUR:
        found = found.replace(hour=0)
    if length is By.MONTH:
        found = found.replace(day=1)
    if not up or found == at:
        return found
    if length is By.MONTH:
        return (found + timedelta(days=31)).replace(day=1)
    return found + (timedelta(days=1) if length is By.DAY else timedelta(hours=1))


def _sums(used: Subquery) -> list[ColumnElement[int]]:
    return [func.sum(used.c[name]).label(name) for name in _NAMES]


def _used(scope: Scope, wanted: Wanted, finest: By) -> Subquery:
    """All use that is asked for: whole months and days where nothing finer is, hours else."""
    parts = []
    for part in parts_of(wanted.since, wanted.until, finest):
        table = usage_hours if part.length is By.HOUR else usage_totals
        at = table.c.hour if part.length is By.HOUR else table.c.at
        columns = (at.label("at"), table.c.account, table.c.user, table.c.gpu_model)
        query = select(*columns, *(table.c[name] for name in _NAMES))
        query = query.where(_seen(scope, table.c.user, table.c.account), *_wanted(table, wanted))
        if part.length is not By.HOUR:
            query = query.where(table.c.length == part.length.value)
        if part.since is not None:
            query = query.where(at >= part.since)
        if part.until is not None:
            query = query.where(at < part.until)
        parts.append(query)
    return union_all(*parts).subquery()


def totals_apart(connection: Connection) -> list[str]:
    """Days and months that are not what their hours add up to, in words."""
    found = []
    for length in (By.DAY, By.MONTH):
        of_hours = _all_of(connection, By.HOUR, length)
        kept = _all_of(connection, length, length)
        for other, query in (("less", of_hours.except_(kept)), ("more", kept.except_(of_hours))):
            for row in connection.execute(query):
                period, account, user, model, *amounts = row
                if any(amounts):
                    found.append(
                        f"Use of {user} on account {account} with {model or 'no GPU'} in {period}: "
                        f"the {length.value} has {other} than its hours, or another amount."
                    )
    return found


def _all_of(connection: Connection, read: By, length: By) -> Select[Any]:
    """All use by one length, made from rows of another."""
    table = usage_hours if read is By.HOUR else usage_totals
    at = (table.c.hour if read is By.HOUR else table.c.at).label("at")
    mine = true() if read is By.HOUR else table.c.length == read.value
    names = ("account", "user", "gpu_model")
    columns = (table.c[name] for name in (*names, *_NAMES))
    used = select(at, *columns).where(mine).subquery()
    keys = [_key(connection, used, length), *(used.c[name] for name in names)]
    return select(*keys, *_sums(used)).group_by(*keys)


def _label(by: By) -> str:
    return "period" if by in PERIODS else by.value


def _key(connection: Connection, used: Subquery, by: By) -> ColumnElement[Any]:
    if by not in PERIODS:
        found: ColumnElement[Any] = used.c[by.value]
        return found
    if by is By.HOUR:
        hour: ColumnElement[Any] = used.c.at  # as it is: it is summed in the order of its index
        return hour
    length = {By.DAY: 10, By.MONTH: 7}[by]
    if connection.dialect.name == "sqlite":
        text = func.replace(type_coerce(used.c.at, String), " ", "T")
    else:
        text = func.to_char(
            func.timezone("UTC", used.c.at), cast(literal('YYYY-MM-DD"T"HH24'), String)
        )
    return func.substr(text, 1, length)


def _group(row: Sequence[Any], labels: Sequence[str]) -> Group:
    """Of a row of keys and sums. By position: the hours of a month are many rows."""
    keys = dict(zip(labels, row, strict=False))
    if isinstance(keys.get("period"), datetime):
        keys["period"] = f"{keys['period']:%Y-%m-%dT%H}"
    return Group(use=_use(row[len(labels) :]), **keys)


def _use(sums: Sequence[Any]) -> Use:
    return Use(*(int(each or 0) for each in sums))


def _wanted(table: Table, wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.user:
        found.append(table.c.user == wanted.user)
    if wanted.account:
        found.append(table.c.account == wanted.account)
    if wanted.gpu_model is not None:
        found.append(table.c.gpu_model == wanted.gpu_model)
    return found


def _seen(scope: Scope, user: Any, account: Any) -> ColumnElement[bool]:
    if scope.everything:
        return true()
    seen: list[ColumnElement[bool]] = []
    if scope.user is not None:
        seen.append(user == scope.user)
    if scope.accounts:
        seen.append(account.in_(scope.accounts))
    return or_(*seen) if seen else false()


# ---------------------------------------------------------------------------- sessions


def find_session(connection: Connection, workload: str) -> Session | None:
    """The session of a workload; None before its admission."""
    found = connection.execute(session_columns().where(meters.c.workload == workload)).one_or_none()
    return session_of(found) if found else None


def sessions(
    connection: Connection,
    scope: Scope,
    wanted: Wanted,
    *,
    running: bool | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Session]:
    """Sessions, the last submitted first, from before a sequence number: those that were admitted
    at ``wanted.since`` or later, and before ``wanted.until``."""
    query = session_columns().order_by(workloads.c.sequence.desc()).limit(limit)
    if before is not None:
        query = query.where(workloads.c.sequence < before)
    if wanted.since is not None:
        query = query.where(workloads.c.admitted_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(workloads.c.admitted_at < wanted.until)
    if wanted.user:
        query = query.where(meters.c.user == wanted.user)
    if wanted.account:
        query = query.where(meters.c.account == wanted.account)
    if wanted.gpu_model is not None:
        query = query.where(workloads.c.gpu_model == wanted.gpu_model)
    if running:  # by ids, for there are few: else everything that is over would be read
        running_ids = connection.execute(
            select(meters.c.workload).where(meters.c.settled_at.is_(None))
        ).scalars()
        query = query.where(workloads.c.id.in_(list(running_ids)))
    elif running is not None:
        query = query.where(meters.c.settled_at.is_not(None))
    found: dict[str, Session] = {}
    for part in _parts(query, scope):
        for row in connection.execute(part):
            found[row.id] = session_of(row)
    newest = sorted(found.values(), key=lambda each: -each.workload.sequence)
    return newest[:limit]


def _parts(query: Select[Any], scope: Scope) -> list[Select[Any]]:
    """One query for each way to see something: each is answered from an index of its own, where
    their disjunction would read everything."""
    if scope.everything:
        return [query]
    parts = []
    if scope.user is not None:
        parts.append(query.where(meters.c.user == scope.user))
    if scope.accounts:
        parts.append(query.where(meters.c.account.in_(scope.accounts)))
    return parts


_METER = {f"meter_{column.name}": column for column in meters.c}


def session_columns() -> Select[Any]:
    charged = [column.label(name) for name, column in _METER.items()]
    return select(workloads, *charged).join(meters, and_(meters.c.workload == workloads.c.id))


def session_of(row: Any) -> Session:
    values = row._mapping
    meter = Meter(**{name.removeprefix("meter_"): values[name] for name in _METER})
    own = {column.name: values[column.name] for column in workloads.c}
    return Session(Workload(**{**own, "state": State(own["state"])}), meter)
