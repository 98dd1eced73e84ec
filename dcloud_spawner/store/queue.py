"""The queue as a pass reads and writes it: few columns, few rows, few statements.

Requests that ask for the same for as long are one class. What a pass decides about the first of
a class that it cannot start holds for all behind it, for what is free only shrinks within a
pass. So of each class it reads as many as could start at most, and one more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    type_coerce,
    update,
)

from dcloud_spawner.store.ledger_schema import accounts
from dcloud_spawner.store.schema import HOLDING, State, workloads
from dcloud_spawner.store.workloads import RESERVATION_ENDS

_rows = workloads.c


LAST_TIER = "last"
"""Below every tier: of what an account without credits pays for, whose budget is soft."""

LAST_LATER = timedelta(days=36525)
"""So much later is due who waits last in line."""

_LAST_FROM = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


class Waiting(NamedTuple):
    """A workload that waits. Times are seconds since the epoch."""

    id: str
    sequence: int
    user: str
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    due_at: float
    slack_seconds: int
    fair_seconds: int
    tier: str
    moved_at: float | None
    held: bool
    reservation: str | None
    account: str | None = None
    server_name: str = ""

    @property
    def last(self) -> bool:
        """Whether it waits behind everybody, because its account cannot pay for it."""
        return self.due_at >= _LAST_FROM

    @property
    def kind(self) -> tuple[object, ...]:
        """Its class: those who ask for the same for as long."""
        return self[3:8]


class Blocked(NamedTuple):
    """A workload that waits, and what a limit or a budget has against its start."""

    row: Waiting
    code: str
    reason: str


class Held(NamedTuple):
    """A workload that holds something. Times are seconds since the epoch."""

    id: str
    user: str
    node: str
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    tier: str
    reservation: str | None
    stopping: bool
    admitted_at: float
    notice_at: float | None
    budget_ends_at: float | None


class Admission(NamedTuple):
    """Where a workload goes that starts now, and on which advance reservation."""

    workload: str
    node: str
    reservation: str | None = None
    notice_at: datetime | None = None
    """When it ends before its own limit, because the reservation does."""


def _bare(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A time as the driver gives it: making it an aware datetime would cost more than all else."""
    return type_coerce(column, String)


def _epoch(value: str | datetime) -> float:
    if isinstance(value, str):  # SQLite: UTC without saying so
        return datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp()
    return value.timestamp()


_COLUMNS = (
    _rows.id,
    _rows.sequence,
    _rows.user,
    _rows.gpus,
    _rows.gpu_model,
    _rows.memory_bytes,
    _rows.cpu_millicores,
    _rows.limit_seconds,
    _bare(_rows.due_at).label("due_at"),
    _rows.slack_seconds,
    _rows.fair_seconds,
    _rows.tier,
    _bare(_rows.moved_at).label("moved_at"),
    or_(_rows.held_at.is_not(None), _rows.blocked != "").label("held"),
    _rows.reservation,
    _rows.account,
    _rows.server_name,
)

_queued = _rows.state == State.QUEUED.value
_unblocked = and_(_rows.held_at.is_(None), _rows.blocked == "")
_in_line = and_(_queued, _unblocked, _rows.moved_at.is_(None))
"""Who waits at the place of their due time; the condition of the index that this reads by."""

_moved = and_(_queued, _unblocked, _rows.moved_at.is_not(None))


def _waiting(connection: Connection, query: Select[Any]) -> list[Waiting]:
    return [_from_row(row) for row in connection.execute(query).all()]


def _from_row(row: Any) -> Waiting:
    moved_at = None if row[12] is None else _epoch(row[12])
    return Waiting._make(
        (*row[:8], _epoch(row[8]), *row[9:12], moved_at, bool(row[13]), *row[14:17])
    )


def waiting(connection: Connection) -> list[Waiting]:
    """Everybody who waits, on hold or not, in no order."""
    return _waiting(connection, select(*_COLUMNS).where(_queued))


def candidates(
    connection: Connection,
    free_gpus: int,
    free_memory_bytes: int,
    free_millicores: int,
    *,
    spare: int = 0,
) -> list[Waiting]:
    """Whoever could start in a pass that finds so much free in all, at least the first of every
    class, and ``spare`` more of each; in no order. Those on hold or blocked are left out."""
    rank = func.row_number().over(
        partition_by=(
            _rows.gpus,
            _rows.gpu_model,
            _rows.memory_bytes,
            _rows.cpu_millicores,
            _rows.limit_seconds,
        ),
        order_by=(_rows.due_at, _rows.sequence),
    )
    line = (
        select(
            _rows.id,
            _rows.gpus,
            _rows.memory_bytes,
            _rows.cpu_millicores,
            (rank - 1 - spare).label("before"),
        )
        .where(_in_line)
        .subquery()
    )
    # What those before it in its class would take; more than there is, and it cannot start.
    near = select(line.c.id).where(
        line.c.before * line.c.gpus <= max(0, free_gpus),
        line.c.before * line.c.memory_bytes <= max(0, free_memory_bytes),
        line.c.before * line.c.cpu_millicores <= max(0, free_millicores),
    )
    return [
        *_waiting(connection, select(*_COLUMNS).where(_rows.id.in_(near))),
        *_waiting(connection, select(*_COLUMNS).where(_moved)),
    ]


def of_people(
    connection: Connection, users: Collection[str], reservations: Collection[str]
) -> list[Waiting]:
    """Everybody in line who is one of these users or may draw on one of these reservations."""
    return _waiting(
        connection,
        select(*_COLUMNS).where(
            _queued,
            _unblocked,
            or_(_rows.user.in_(users), _rows.reservation.in_(reservations)),
        ),
    )


def find(connection: Connection, identifier: str) -> Waiting:
    """One that waits; it must."""
    (row,) = _waiting(connection, select(*_COLUMNS).where(_queued, _rows.id == identifier))
    return row


def of_users(connection: Connection, users: Collection[str]) -> list[Waiting]:
    """Everybody of these users who waits, neither on hold nor blocked."""
    mine = _rows.user.in_(users)
    return _waiting(connection, select(*_COLUMNS).where(_queued, _unblocked, mine))


def least_of_blocked(connection: Connection) -> list[Waiting]:
    """Of each user who is blocked, by account, GPU model and tier: nobody's request, which asks
    for the least of everything that any of theirs asks for."""
    by = (_rows.user, _rows.account, _rows.gpu_model, _rows.tier)
    asked = (_rows.gpus, _rows.memory_bytes, _rows.cpu_millicores, _rows.limit_seconds)
    query = (
        select(*by, *(func.min(column) for column in asked))
        .where(_queued, _rows.blocked != "")
        .group_by(*by)
    )
    return [
        Waiting(
            id="",
            sequence=0,
            user=user,
            gpus=gpus,
            gpu_model=model,
            memory_bytes=memory,
            cpu_millicores=millicores,
            limit_seconds=seconds,
            due_at=0.0,
            slack_seconds=0,
            fair_seconds=0,
            tier=tier,
            moved_at=None,
            held=False,
            reservation=None,
            account=account,
        )
        for user, account, model, tier, gpus, memory, millicores, seconds in connection.execute(
            query
        ).all()
    ]


def blocked(
    connection: Connection, *, users: Collection[str] | None = None, first: int | None = None
) -> list[Blocked]:
    """Everybody, everybody of some users, or the first ones against whose start something is, in
    the order of submission."""
    mine = () if users is None else (_rows.user.in_(users),)
    query = (
        select(*_COLUMNS, _rows.blocked, _rows.blocked_reason)
        .where(_queued, _rows.blocked != "", *mine)
        .order_by(_rows.sequence)
        .limit(first)
    )
    return [
        Blocked(_from_row(row), row.blocked, row.blocked_reason)
        for row in connection.execute(query).all()
    ]


def block(connection: Connection, changes: Sequence[tuple[str, str, str]]) -> None:
    """Leave some who wait out of the queue: id, code and reason of each. Without a code they are
    in it again. What was said of their start before is no longer true, and no forecast is judged
    by it."""
    if changes:
        connection.execute(
            update(workloads)
            .where(_rows.id == bindparam("workload"), _queued)
            .values(
                blocked=bindparam("code"),
                blocked_reason=bindparam("reason"),
                reasons=[],
                alternatives=[],
                latest_start_at=None,
                expected_from=None,
                expected_to=None,
                first_expected_at=None,
                first_expected_from=None,
                first_expected_to=None,
                first_forecast_seconds=None,
            ),
            [
                {"workload": identifier, "code": code, "reason": reason}
                for identifier, code, reason in changes
            ],
        )


def members(connection: Connection) -> dict[str, set[str]]:
    """Who waits and may draw on an advance reservation, by its id."""
    found: dict[str, set[str]] = {}
    query = select(_rows.reservation, _rows.user).where(_queued, _rows.reservation.is_not(None))
    for reservation, user in connection.execute(query.distinct()).all():
        found.setdefault(reservation, set()).add(user)
    return found


def of_accounts(connection: Connection, identifiers: Collection[str]) -> list[Waiting]:
    """Everybody who waits and for whom one of these accounts pays, blocked or not."""
    mine = _rows.account.in_(identifiers)
    return _waiting(connection, select(*_COLUMNS).where(_queued, mine))


def put_last(connection: Connection, identifier: str, *, last: bool) -> None:
    """Let a request wait behind everybody, or at the place of its due time again."""
    row = connection.execute(
        select(_rows.submitted_at, _rows.slack_seconds, _rows.fair_seconds).where(
            _queued, _rows.id == identifier
        )
    ).one()
    due_at = row.submitted_at + timedelta(seconds=row.slack_seconds + row.fair_seconds)
    connection.execute(
        update(workloads)
        .where(_rows.id == identifier)
        .values(due_at=due_at + LAST_LATER if last else due_at)
    )


_used_up = exists().where(
    accounts.c.id == _rows.account,
    accounts.c.budget == "soft",
    accounts.c.balance_microcredits <= 0,
)


def holding(connection: Connection) -> list[Held]:
    """Everything that holds something, in the order of submission."""
    query = (
        select(
            _rows.id,
            _rows.user,
            _rows.node,
            _rows.memory_bytes,
            _rows.cpu_millicores,
            _rows.limit_seconds,
            case((_used_up, LAST_TIER), else_=_rows.tier).label("tier"),
            _rows.reservation,
            (_rows.state == State.STOPPING.value).label("stopping"),
            _bare(_rows.admitted_at).label("admitted_at"),
            _bare(_rows.notice_at).label("notice_at"),
            _bare(_rows.budget_ends_at).label("budget_ends_at"),
        )
        .where(_rows.state.in_([state.value for state in HOLDING]))
        .order_by(_rows.sequence)
    )
    return [_held(row) for row in connection.execute(query).all()]


def _held(row: Any) -> Held:
    told = [None if at is None else _epoch(at) for at in row[10:12]]
    return Held._make((*row[:8], bool(row[8]), _epoch(row[9]), *told))


def first_in_line(connection: Connection, count: int) -> list[tuple[Waiting, list[str]]]:
    """Whoever was moved to the head and the first of the others, each with its reasons."""
    moved = select(*_COLUMNS, _rows.reasons).where(_moved)
    others = select(*_COLUMNS, _rows.reasons).where(_in_line)
    others = others.order_by(_rows.due_at, _rows.sequence).limit(count)
    return [
        (_from_row(row), list(row.reasons))
        for query in (moved, others)
        for row in connection.execute(query).all()
    ]


def explain(connection: Connection, reasons: Sequence[tuple[str, list[str]]]) -> None:
    """Write why workloads wait: pairs of id and reasons."""
    if reasons:
        connection.execute(
            update(workloads)
            .where(_rows.id == bindparam("workload"))
            .values(reasons=bindparam("new_reasons")),
            [{"workload": identifier, "new_reasons": found} for identifier, found in reasons],
        )


def admit(connection: Connection, admissions: Sequence[Admission], at: datetime) -> None:
    """Let workloads that wait hold their places from now on."""
    result = connection.execute(
        update(workloads)
        .where(_rows.id == bindparam("workload"), _queued)
        .values(
            state=State.ADMITTED.value,
            node=bindparam("on_node"),
            reservation=bindparam("on_reservation"),
            notice_at=bindparam("until"),
            notice_reason=bindparam("because"),
            notice_detail=bindparam("told"),
            admitted_at=at,
            reasons=[],
            alternatives=[],
            latest_start_at=None,
        ),
        [
            {
                "workload": found.workload,
                "on_node": found.node,
                "on_reservation": found.reservation,
                "until": found.notice_at,
                "because": RESERVATION_ENDS if found.notice_at else "",
                "told": "Its advance reservation ends then." if found.notice_at else "",
            }
            for found in admissions
        ],
    )
    assert result.rowcount == len(admissions), "the queue cannot change inside the transaction"
