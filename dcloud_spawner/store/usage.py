"""What was used: sums of use by the hour, and sessions one part at a time.

A session is one workload's run, from admission on. Whoever asks gives a :class:`Scope`: what of
it all the reader may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    cast,
    false,
    func,
    literal,
    or_,
    select,
    type_coerce,
)

from dcloud_spawner.store.ledger_schema import meters, usage_hours
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
class Session:
    """A workload with its meter."""

    workload: Workload
    meter: Meter


_SUMS = [func.sum(usage_hours.c[each.name]).label(each.name) for each in fields(Use)]


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
    keys = [_key(connection, each).label(_label(each)) for each in by]
    query = select(*keys, *_SUMS).where(_hours_seen(scope), *_hours_wanted(wanted))
    query = query.group_by(*keys).order_by(*keys).limit(limit).offset(offset)
    return [_group(row) for row in connection.execute(query)]


def total(connection: Connection, scope: Scope, wanted: Wanted) -> Use:
    """The sum of everything."""
    query = select(*_SUMS).where(_hours_seen(scope), *_hours_wanted(wanted))
    return _use(connection.execute(query).one())


def _label(by: By) -> str:
    return "period" if by in PERIODS else by.value


def _key(connection: Connection, by: By) -> ColumnElement[str]:
    if by not in PERIODS:
        found: ColumnElement[str] = usage_hours.c[by.value]
        return found
    length = {By.HOUR: 13, By.DAY: 10, By.MONTH: 7}[by]
    if connection.dialect.name == "sqlite":
        text = func.replace(type_coerce(usage_hours.c.hour, String), " ", "T")
    else:
        text = func.to_char(
            func.timezone("UTC", usage_hours.c.hour), cast(literal('YYYY-MM-DD"T"HH24'), String)
        )
    return func.substr(text, 1, length)


def _group(row: Any) -> Group:
    names = ("period", "user", "account", "gpu_model")
    found = row._mapping
    return Group(use=_use(row), **{name: found[name] for name in names if name in found})


def _use(row: Any) -> Use:
    return Use(**{each.name: int(row._mapping[each.name] or 0) for each in fields(Use)})


def _hours_seen(scope: Scope) -> ColumnElement[bool]:
    return _seen(scope, usage_hours.c.user, usage_hours.c.account)


def _hours_wanted(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(usage_hours.c.hour > wanted.since - timedelta(hours=1))
    if wanted.until is not None:
        found.append(usage_hours.c.hour < wanted.until)
    if wanted.user:
        found.append(usage_hours.c.user == wanted.user)
    if wanted.account:
        found.append(usage_hours.c.account == wanted.account)
    if wanted.gpu_model is not None:
        found.append(usage_hours.c.gpu_model == wanted.gpu_model)
    return found


def _seen(scope: Scope, user: Any, account: Any) -> ColumnElement[bool]:
    if scope.everything:
        return literal(True) == literal(True)
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
    if running is not None:
        over = meters.c.settled_at.is_not(None)
        query = query.where(~over if running else over)
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
