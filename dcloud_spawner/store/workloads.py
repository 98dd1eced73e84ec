"""Rows of the workloads table and the transitions between their states.

Each transition names the states it may come from and returns whether it happened, so that
two processes that both want to end a workload cannot both do it. None of these functions
touches leases or writes the action log: ``lifecycle`` joins them in one transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from dcloud_spawner.store.schema import HOLDING, OPEN, State, workloads

RESERVATION_ENDS = "reservation"
"""``notice_reason`` of what ends with its advance reservation."""

PREEMPTED = "preempted"
"""``notice_reason`` of what ends because a request of a higher tier needs its place."""

NOTEBOOK = "notebook"
"""Kind of a workload that is a user's server."""


@dataclass(frozen=True)
class Workload:
    """One row. Times are aware UTC; memory in bytes, CPU in thousandths of a core.

    Its place in the queue is not here: it is its rank among all that wait, so whoever shows it
    counts.
    """

    id: str
    sequence: int
    kind: str
    user: str
    server_name: str
    profile: str
    choice: Mapping[str, Any]
    image: str
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    state: State
    reasons: Sequence[str]
    latest_start_at: datetime | None
    node: str | None
    url: str
    submitted_at: datetime
    admitted_at: datetime | None
    starting_at: datetime | None
    launch_until: datetime | None
    ready_at: datetime | None
    stopping_at: datetime | None
    ended_at: datetime | None
    engine_started_at: datetime | None
    engine_finished_at: datetime | None
    exit_code: int | None
    oom_killed: bool
    end_reason: str
    end_detail: str
    due_at: datetime
    slack_seconds: int = 0
    fair_seconds: int = 0
    tier: str = "bronze"
    held_at: datetime | None = None
    held_by: str = ""
    held_reason: str = ""
    moved_at: datetime | None = None
    moved_by: str = ""
    moved_reason: str = ""
    reservation: str | None = None
    alternatives: Sequence[str] = ()
    expected_from: datetime | None = None
    expected_to: datetime | None = None
    first_expected_from: datetime | None = None
    first_expected_to: datetime | None = None
    first_expected_at: datetime | None = None
    first_forecast_seconds: float | None = None
    connected_at: datetime | None = None
    notice_at: datetime | None = None
    notice_reason: str = ""
    notice_detail: str = ""
    keeps_place_for: str | None = None
    resize_until: datetime | None = None
    charge_until: datetime | None = None
    account: str | None = None
    """Who pays; None for what is older than the ledger."""
    blocked: str = ""
    """Code of what the ledger or a limit has against its start; empty when nothing."""
    blocked_reason: str = ""
    budget_ends_at: datetime | None = None

    @property
    def server(self) -> str:
        """``user/server`` as people write it; the default server has no second part."""
        return f"{self.user}/{self.server_name}" if self.server_name else self.user


@dataclass(frozen=True)
class NewWorkload:
    """What a validated choice asks for."""

    kind: str
    user: str
    server_name: str
    profile: str
    choice: Mapping[str, Any]
    image: str
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    slack_seconds: int = 0
    """Time that it is due after its submission: for its size and tier."""
    fair_seconds: int = 0
    """The same for what its user had lately beyond their share."""
    tier: str = "bronze"
    reservation: str | None = None
    keeps_place_for: str | None = None
    account: str | None = None


def _workload(row: Any) -> Workload:
    values = dict(row._mapping)
    values["state"] = State(values["state"])
    return Workload(**values)


def insert(connection: Connection, new: NewWorkload, at: datetime) -> Workload:
    """Put a workload at the end of the queue."""
    last = connection.execute(select(func.max(workloads.c.sequence))).scalar()
    identifier = uuid.uuid4().hex
    connection.execute(
        workloads.insert().values(
            id=identifier,
            sequence=(last or 0) + 1,
            state=State.QUEUED.value,
            reasons=[],
            submitted_at=at,
            due_at=at + timedelta(seconds=new.slack_seconds + new.fair_seconds),
            **{name: getattr(new, name) for name in NewWorkload.__dataclass_fields__},
        )
    )
    return get(connection, identifier)


def get(connection: Connection, identifier: str) -> Workload:
    """The workload, which must exist."""
    return _workload(
        connection.execute(select(workloads).where(workloads.c.id == identifier)).one()
    )


def get_all(connection: Connection, identifiers: Collection[str]) -> Sequence[Workload]:
    """The workloads of some ids, in the order of submission."""
    query = select(workloads).where(workloads.c.id.in_(identifiers)).order_by(workloads.c.sequence)
    return [_workload(row) for row in connection.execute(query)]


def find(connection: Connection, identifier: str) -> Workload | None:
    """The workload of an id, if there is one."""
    row = connection.execute(select(workloads).where(workloads.c.id == identifier)).one_or_none()
    return _workload(row) if row else None


def find_open(
    connection: Connection, user: str, server_name: str, kind: str = NOTEBOOK
) -> Workload | None:
    """The workload of a server that has not ended, if there is one."""
    row = connection.execute(
        select(workloads).where(
            workloads.c.kind == kind,
            workloads.c.user == user,
            workloads.c.server_name == server_name,
            workloads.c.state != State.ENDED.value,
        )
    ).one_or_none()
    return _workload(row) if row else None


def last_choice(connection: Connection, user: str) -> Mapping[str, Any] | None:
    """What this user asked for last time, to start the form with."""
    return connection.execute(
        select(workloads.c.choice)
        .where(
            workloads.c.user == user,
            workloads.c.kind == NOTEBOOK,
            workloads.c.keeps_place_for.is_(None),
        )
        .order_by(workloads.c.sequence.desc())
        .limit(1)
    ).scalar()


def _in_states(states: Collection[State]) -> Select[Any]:
    return (
        select(workloads)
        .where(workloads.c.state.in_([state.value for state in states]))
        .order_by(workloads.c.sequence)
    )


def in_states(connection: Connection, states: Collection[State]) -> Sequence[Workload]:
    """Workloads in any of these states, in the order of their submission."""
    return [_workload(row) for row in connection.execute(_in_states(states))]


def queued(connection: Connection) -> Sequence[Workload]:
    """The queue in the order of submission."""
    return in_states(connection, (State.QUEUED,))


def holding(connection: Connection) -> Sequence[Workload]:
    """Workloads that hold leases, memory or cores."""
    return in_states(connection, HOLDING)


def open_workloads(connection: Connection) -> Sequence[Workload]:
    """Everything that has not ended."""
    return in_states(connection, OPEN)


def open_of(connection: Connection, user: str) -> Sequence[Workload]:
    """What of a user has not ended."""
    mine = _in_states(OPEN).where(workloads.c.user == user)
    return [_workload(row) for row in connection.execute(mine)]


def last_ends(connection: Connection, since: datetime) -> Sequence[Workload]:
    """The last workload of each server that has ended since a time and has no open one."""
    newest = (
        select(func.max(workloads.c.sequence))
        .where(workloads.c.kind == NOTEBOOK)
        .group_by(workloads.c.user, workloads.c.server_name)
    )
    rows = connection.execute(
        select(workloads)
        .where(workloads.c.sequence.in_(newest), workloads.c.ended_at >= since)
        .order_by(workloads.c.sequence.desc())
    )
    return [_workload(row) for row in rows]


def count_queued(connection: Connection) -> int:
    """Length of the queue."""
    return connection.execute(
        select(func.count()).select_from(workloads).where(workloads.c.state == State.QUEUED.value)
    ).scalar_one()


def states_of(connection: Connection, identifiers: Collection[str]) -> Mapping[str, State]:
    """The present state of some workloads; cheap enough to ask several times a second."""
    rows = connection.execute(
        select(workloads.c.id, workloads.c.state).where(workloads.c.id.in_(identifiers))
    )
    return {row.id: State(row.state) for row in rows}


def transition(
    connection: Connection,
    identifier: str,
    to: State,
    *,
    come_from: Collection[State],
    **values: object,
) -> bool:
    """Move to a state and set columns, if the workload is in one of ``come_from``."""
    return transition_all(connection, (identifier,), to, come_from=come_from, **values) == 1


def transition_all(
    connection: Connection,
    identifiers: Collection[str],
    to: State,
    *,
    come_from: Collection[State],
    **values: object,
) -> int:
    """Move each of some that is in one of ``come_from`` to a state, and set the same columns;
    returns how many did."""
    result = connection.execute(
        update(workloads)
        .where(
            workloads.c.id.in_(identifiers),
            workloads.c.state.in_([state.value for state in come_from]),
        )
        .values(state=to.value, **values)
    )
    return result.rowcount


def mark_launch(connection: Connection, identifier: str, until: datetime) -> bool:
    """Note a launch under way, if the workload is STARTING."""
    result = connection.execute(
        update(workloads)
        .where(workloads.c.id == identifier, workloads.c.state == State.STARTING.value)
        .values(launch_until=until)
    )
    return result.rowcount == 1


def mark_connected(connection: Connection, identifier: str, at: datetime) -> bool:
    """Note the first time that somebody was connected to a running workload."""
    result = connection.execute(
        update(workloads)
        .where(
            workloads.c.id == identifier,
            workloads.c.state == State.RUNNING.value,
            workloads.c.connected_at.is_(None),
        )
        .values(connected_at=at)
    )
    return result.rowcount == 1


def beside(connection: Connection, identifier: str) -> Workload | None:
    """What its owner works with while this workload waits, if there is something."""
    row = connection.execute(
        select(workloads)
        .where(workloads.c.keeps_place_for == identifier, workloads.c.state != State.ENDED.value)
        .order_by(workloads.c.sequence.desc())
        .limit(1)
    ).one_or_none()
    return _workload(row) if row else None


def renew_launch(connection: Connection, identifier: str, until: datetime) -> None:
    """A launch that was noted is still under way, whatever state the workload is in."""
    connection.execute(
        update(workloads)
        .where(workloads.c.id == identifier, workloads.c.launch_until.is_not(None))
        .values(launch_until=until)
    )


def end_resize(connection: Connection, identifier: str, until: datetime, **values: object) -> bool:
    """Set columns at the end of a resize that was marked until then; False when the mark has run
    out meanwhile and another one was made."""
    result = connection.execute(
        update(workloads)
        .where(workloads.c.id == identifier, workloads.c.resize_until == until)
        .values(resize_until=None, **values)
    )
    return result.rowcount == 1


def change_queued(connection: Connection, identifier: str, **values: object) -> bool:
    """Set columns of a workload that waits; False when it does not."""
    result = connection.execute(
        update(workloads)
        .where(workloads.c.id == identifier, workloads.c.state == State.QUEUED.value)
        .values(**values)
    )
    return result.rowcount == 1


def last_move(connection: Connection) -> datetime | None:
    """When somebody who waits was last moved to the head."""
    found: datetime | None = connection.execute(
        select(func.max(workloads.c.moved_at)).where(workloads.c.state == State.QUEUED.value)
    ).scalar()
    return found


def drop_notices(connection: Connection, reservation: str) -> None:
    """What runs on an advance reservation no longer ends with it."""
    connection.execute(
        update(workloads)
        .where(
            workloads.c.reservation == reservation,
            workloads.c.notice_reason == RESERVATION_ENDS,
            workloads.c.state.in_([state.value for state in HOLDING]),
        )
        .values(notice_at=None, notice_reason="", notice_detail="")
    )


def noticed(connection: Connection, reason: str) -> frozenset[str]:
    """Ids of what holds something and was told, for this reason, that it will be stopped."""
    rows = connection.execute(
        select(workloads.c.id).where(
            workloads.c.state.in_(
                [state.value for state in HOLDING if state is not State.STOPPING]
            ),
            workloads.c.notice_reason == reason,
        )
    )
    return frozenset(row.id for row in rows)


def set_values(connection: Connection, identifier: str, **values: object) -> None:
    """Set columns without changing the state."""
    connection.execute(update(workloads).where(workloads.c.id == identifier).values(**values))
