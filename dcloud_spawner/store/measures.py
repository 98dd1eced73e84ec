"""Measures of sessions: pieces of 10 seconds, minutes and hours, and each session in all.

Whatever is read is added to all four at once, in one transaction with the counters it was read
from. So there is no roll-up that could be done twice or be forgotten, and the minute and the
hour that are not over are there already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, select, update

from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.measuring.step import Reading
from dcloud_spawner.store.ledger_schema import meters, usage_hours
from dcloud_spawner.store.measures_schema import measures, session_measures
from dcloud_spawner.store.schema import State, accelerators, leases, workloads

SAMPLE, MINUTE, HOUR = 10, 60, 3600
RESOLUTIONS = (SAMPLE, MINUTE, HOUR)
"""Lengths of the pieces, in seconds."""
MOST_POINTS = 500
"""A graph is not drawn from more, so that a page is as quick for a month as for an hour."""
PIECES_FORGOTTEN = 60
"""Of each session in one transaction."""

_NAMES = tuple(field.name for field in fields(Figures))
_AT_ONCE = 500


@dataclass(frozen=True)
class Measure:
    """One piece of time of one session: its beginning and what was measured in it."""

    workload: str
    seconds: int
    at: datetime
    figures: Figures


@dataclass(frozen=True)
class SessionMeasures:
    """One session in all. None: nobody could read it."""

    workload: str
    read_at: datetime
    """When it was last read."""
    figures: Figures

    @property
    def gpu_utilisation_percent(self) -> float | None:
        """Mean over its GPUs and its time."""
        return self.figures.gpu_utilisation_percent

    @property
    def energy_kwh(self) -> float | None:
        """Energy of its GPUs."""
        return self.figures.energy_kwh

    @property
    def memory_bytes_max(self) -> int | None:
        """The most memory it had in use."""
        return self.figures.memory_bytes_max


@dataclass(frozen=True)
class Subject:
    """A session that runs: whose it is, and which accelerators it holds, by UUID with model."""

    workload: str
    started_at: datetime
    account: str | None
    """None for what is older than the ledger."""
    user: str
    held: Mapping[str, str]


@dataclass(frozen=True)
class Addition:
    """What one reading adds to one session."""

    subject: Subject
    figures: Figures
    by_model: Mapping[str, Figures]
    reading: Reading


# ---------------------------------------------------------------------------- writing


def subjects(connection: Connection) -> list[Subject]:
    """Every session whose container the engine has started."""
    rows = connection.execute(
        select(
            workloads.c.id,
            workloads.c.engine_started_at,
            func.coalesce(meters.c.user, workloads.c.user).label("user"),
            meters.c.account,
        )
        .outerjoin(meters, meters.c.workload == workloads.c.id)
        .where(
            workloads.c.state.in_([State.RUNNING.value, State.STOPPING.value]),
            workloads.c.engine_started_at.is_not(None),
        )
    ).all()
    held: dict[str, dict[str, str]] = {}
    for lease in connection.execute(
        select(leases.c.workload, leases.c.accelerator, accelerators.c.model)
        .join(accelerators, accelerators.c.uuid == leases.c.accelerator)
        .where(leases.c.closed_at.is_(None))
    ):
        held.setdefault(lease.workload, {})[lease.accelerator] = lease.model
    return [
        Subject(row.id, row.engine_started_at, row.account, row.user, held.get(row.id, {}))
        for row in rows
    ]


def last_readings(connection: Connection, ids: Collection[str]) -> dict[str, Reading]:
    """The counters of sessions as they were last read."""
    found: dict[str, Reading] = {}
    for some in _parts(ids):
        for row in connection.execute(
            select(
                session_measures.c.workload, session_measures.c.read_at, session_measures.c.reading
            ).where(session_measures.c.workload.in_(some))
        ):
            found[row.workload] = Reading.from_json(row.read_at, row.reading)
    return found


def add(connection: Connection, additions: Sequence[Addition]) -> None:
    """Add to samples, minutes, hours, sessions and use by the hour. The caller has made them from
    :func:`last_readings` of this very transaction."""
    if not additions:
        return
    for seconds in RESOLUTIONS:
        _add_pieces(connection, seconds, additions)
    _add_sessions(connection, additions)
    _add_hours(connection, additions)


def _add_pieces(connection: Connection, seconds: int, additions: Sequence[Addition]) -> None:
    keys = [
        (each.subject.workload, seconds, _floor(each.reading.at, seconds)) for each in additions
    ]
    known: dict[tuple[str, int, datetime], Figures] = {}
    for some in _parts([workload for workload, _, _ in keys]):
        for row in connection.execute(
            select(measures).where(
                measures.c.workload.in_(some),
                measures.c.seconds == seconds,
                measures.c.at.in_({at for _, _, at in keys}),
            )
        ):
            known[(row.workload, row.seconds, row.at)] = _figures(row)
    fresh, changed = [], []
    for key, each in zip(keys, additions, strict=True):
        values = vars(known.get(key, Figures()) + each.figures)
        names = dict(zip(("workload", "seconds", "at"), key, strict=True))
        if key in known:
            changed.append({**values, **{f"of_{name}": value for name, value in names.items()}})
        else:
            fresh.append({**values, **names})
    if fresh:
        connection.execute(measures.insert(), fresh)
    if changed:
        connection.execute(
            update(measures)
            .where(*(measures.c[name] == bindparam(f"of_{name}") for name in names))
            .values({name: bindparam(name) for name in _NAMES}),
            changed,
        )


def _add_sessions(connection: Connection, additions: Sequence[Addition]) -> None:
    known = of_sessions(connection, [each.subject.workload for each in additions])
    fresh, changed = [], []
    for each in additions:
        before = known.get(each.subject.workload)
        values = {
            **vars((before.figures if before else Figures()) + each.figures),
            "read_at": each.reading.at,
            "reading": each.reading.as_json(),
        }
        if before:
            changed.append({**values, "of_workload": each.subject.workload})
        else:
            fresh.append({**values, "workload": each.subject.workload})
    if fresh:
        connection.execute(session_measures.insert(), fresh)
    if changed:
        connection.execute(
            update(session_measures)
            .where(session_measures.c.workload == bindparam("of_workload"))
            .values({name: bindparam(name) for name in (*_NAMES, "read_at", "reading")}),
            changed,
        )


_KEY = ("account", "user", "gpu_model", "hour")
_USED = {
    "measured_microseconds": "gpu_measured_microseconds",
    "busy_microseconds": "gpu_busy_microseconds",
    "energy_millijoules": "energy_millijoules",
}


def _add_hours(connection: Connection, additions: Sequence[Addition]) -> None:
    used: dict[tuple[str, str, str, datetime], Figures] = {}
    for each in additions:
        for model, figures in each.by_model.items():
            if each.subject.account is not None:
                hour = _floor(each.reading.at, HOUR)
                key = (each.subject.account, each.subject.user, model, hour)
                used[key] = used.get(key, Figures()) + figures
    if not used:
        return
    mine = [usage_hours.c[name] == bindparam(f"of_{name}") for name in _KEY]
    grow = (
        update(usage_hours)
        .where(*mine)
        .values({name: usage_hours.c[name] + bindparam(f"add_{name}") for name in _USED})
    )
    for key, figures in used.items():
        amounts = {name: vars(figures)[source] or 0 for name, source in _USED.items()}
        names = dict(zip(_KEY, key, strict=True))
        changed = connection.execute(
            grow,
            {
                **{f"of_{name}": value for name, value in names.items()},
                **{f"add_{name}": value for name, value in amounts.items()},
            },
        )
        if changed.rowcount == 0:
            connection.execute(usage_hours.insert(), {**names, **amounts})


def forget_oldest(connection: Connection, seconds: int, before: datetime) -> bool:
    """Delete the oldest pieces of a length that began before a time; returns whether there were
    any. A few at a time, so that no writer waits long. What a session used in all stays."""
    oldest: datetime | None = connection.execute(
        select(func.min(measures.c.at)).where(measures.c.seconds == seconds, measures.c.at < before)
    ).scalar()
    if oldest is None:
        return False
    until = min(before, oldest + timedelta(seconds=seconds * PIECES_FORGOTTEN))
    connection.execute(delete(measures).where(measures.c.seconds == seconds, measures.c.at < until))
    return True


# ---------------------------------------------------------------------------- reading


def series(
    connection: Connection,
    workload: str,
    since: datetime,
    until: datetime,
    resolution: int | None = None,
) -> list[Measure]:
    """Pieces of a session between two times, oldest first, at most some :data:`MOST_POINTS`.

    Without ``resolution`` (10, 60, 3600 or a multiple of one, in seconds) the finest that is
    still kept from ``since`` on and does not make too many points. Pieces without any row are
    missing: nothing was measured in them.
    """
    seconds = resolution or _finest(connection, workload, since, until)
    kept = next((each for each in reversed(RESOLUTIONS) if seconds % each == 0), SAMPLE)
    rows = connection.execute(
        select(measures)
        .where(
            measures.c.workload == workload,
            measures.c.seconds == kept,
            measures.c.at >= _floor(since, kept),
            measures.c.at < until + timedelta(microseconds=999_999),  # times here are whole seconds
        )
        .order_by(measures.c.at)
    )
    found: dict[datetime, Figures] = {}
    for row in rows:
        at = _floor(row.at, seconds)
        found[at] = found.get(at, Figures()) + _figures(row)
    return [Measure(workload, seconds, at, figures) for at, figures in found.items()]


def _finest(connection: Connection, workload: str, since: datetime, until: datetime) -> int:
    length = max(1.0, (until - since).total_seconds())
    for seconds in RESOLUTIONS:
        if length / seconds > MOST_POINTS and seconds != HOUR:
            continue
        if seconds == HOUR or _reaches(connection, workload, seconds, since):
            break
    while length / seconds > MOST_POINTS:
        seconds += HOUR
    return seconds


def _reaches(connection: Connection, workload: str, seconds: int, since: datetime) -> bool:
    """Whether pieces of this length go back as far as those of the next length do."""
    longer = RESOLUTIONS[RESOLUTIONS.index(seconds) + 1]
    first = {
        length: connection.execute(
            select(func.min(measures.c.at)).where(
                measures.c.workload == workload,
                measures.c.seconds == length,
                measures.c.at >= _floor(since, longer),
            )
        ).scalar()
        for length in (seconds, longer)
    }
    mine, theirs = first[seconds], first[longer]
    return theirs is None or (mine is not None and _floor(mine, longer) <= theirs)


def of_session(connection: Connection, workload: str) -> SessionMeasures | None:
    """A session in all; None where it was never measured."""
    return of_sessions(connection, [workload]).get(workload)


def of_sessions(connection: Connection, ids: Collection[str]) -> dict[str, SessionMeasures]:
    """The same of several, by workload; what was never measured is missing."""
    found: dict[str, SessionMeasures] = {}
    for some in _parts(ids):
        for row in connection.execute(
            select(session_measures).where(session_measures.c.workload.in_(some))
        ):
            found[row.workload] = SessionMeasures(row.workload, row.read_at, _figures(row))
    return found


def latest(connection: Connection, ids: Collection[str], since: datetime) -> dict[str, Measure]:
    """The newest sample of each session that has one since a time, by workload."""
    newest = (
        select(measures.c.workload, func.max(measures.c.at).label("at"))
        .where(
            measures.c.workload.in_(bindparam("ids", expanding=True)),
            measures.c.seconds == SAMPLE,
            measures.c.at >= since,
        )
        .group_by(measures.c.workload)
        .subquery()
    )
    query = select(measures).join(
        newest,
        and_(
            measures.c.workload == newest.c.workload,
            measures.c.seconds == SAMPLE,
            measures.c.at == newest.c.at,
        ),
    )
    found: dict[str, Measure] = {}
    for some in _parts(ids):
        for row in connection.execute(query, {"ids": some}):
            found[row.workload] = Measure(row.workload, SAMPLE, row.at, _figures(row))
    return found


def _figures(row: Row[Any]) -> Figures:
    return Figures(**{name: row._mapping[name] for name in _NAMES})


def _floor(at: datetime, seconds: int) -> datetime:
    whole = int(at.timestamp())
    return datetime.fromtimestamp(whole - whole % seconds, UTC)


def _parts(items: Collection[Any]) -> Iterator[list[Any]]:
    listed = list(items)
    for begin in range(0, len(listed), _AT_ONCE):
        yield listed[begin : begin + _AT_ONCE]
