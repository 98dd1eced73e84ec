"""What is read of accounts, meters and lots to tell how far credits reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, func, or_, select

from dcloud_spawner.ledger.cost import Span
from dcloud_spawner.store.accounts import Account, Budget, get_all
from dcloud_spawner.store.entries import Part
from dcloud_spawner.store.ledger_schema import (
    account_members,
    accounts,
    grants,
    lots,
    meters,
    spans,
)
from dcloud_spawner.store.schema import (
    HOLDING,
    OPEN,
    State,
    accelerators,
    events,
    leases,
    workloads,
)


@dataclass(frozen=True)
class Admitted:
    """What somebody holds who has just been admitted."""

    workload: str
    gpu_models: Mapping[str, int]
    cpu_millicores: int
    memory_bytes: int
    tier: str
    limit_seconds: int


@dataclass(frozen=True)
class Metered:
    """A session with an open meter."""

    workload: str
    account: str
    user: str
    server_name: str
    state: State
    tier: str
    held_microcredits: int
    charged_microcredits: int
    began_at: datetime | None
    watermark_at: datetime | None
    charge_until: datetime | None
    budget_ends_at: datetime | None

    @property
    def aside_microcredits(self) -> int:
        """What its admission set aside and was not charged yet."""
        return max(0, self.held_microcredits - self.charged_microcredits)


@dataclass(frozen=True)
class Watched:
    """An account with a budget, and what the lots held at first of which something is left."""

    account: Account
    granted_microcredits: int


def spans_of(connection: Connection, identifiers: Collection[str]) -> Mapping[str, list[Span]]:
    """What some sessions held, in the order of time, by session."""
    rows = connection.execute(
        select(spans)
        .where(spans.c.workload.in_(identifiers))
        .order_by(spans.c.begins_at, spans.c.id)
    )
    found: dict[str, list[Span]] = {}
    for row in rows:
        found.setdefault(row.workload, []).append(
            Span(
                row.begins_at,
                row.gpu_models,
                row.cpu_millicores,
                row.memory_bytes,
                row.free_reason,
            )
        )
    return found


def left_of(connection: Connection, identifiers: Collection[str]) -> Mapping[str, list[Part]]:
    """What is left in the lots of some accounts, what expires first first."""
    rows = connection.execute(
        select(lots.c.account, lots.c.left_microcredits, lots.c.expires_at)
        .where(lots.c.account.in_(identifiers), lots.c.left_microcredits > 0)
        .order_by(lots.c.expires_at.is_(None), lots.c.expires_at, lots.c.id)
    )
    found: dict[str, list[Part]] = {}
    for row in rows:
        found.setdefault(row.account, []).append(Part(row.left_microcredits, row.expires_at))
    return found


def coming_to(
    connection: Connection, identifiers: Collection[str], before: datetime
) -> Mapping[str, list[tuple[datetime, int]]]:
    """Grants of some accounts that are due before a time, in their order, by account."""
    rows = connection.execute(
        select(grants.c.account, grants.c.next_at, grants.c.microcredits)
        .where(
            grants.c.account.in_(identifiers),
            grants.c.next_at <= before,
            grants.c.cancelled_at.is_(None),
        )
        .order_by(grants.c.next_at)
    )
    found: dict[str, list[tuple[datetime, int]]] = {}
    for row in rows:
        found.setdefault(row.account, []).append((row.next_at, row.microcredits))
    return found


def gpu_models(connection: Connection) -> Sequence[str]:
    """Every model of the pool."""
    rows = connection.execute(select(accelerators.c.model).distinct())
    return sorted(row.model for row in rows)


def accounts_of_queue(connection: Connection) -> Sequence[Account]:
    """Accounts with a budget, or closed, that are to pay for somebody who waits."""
    waiting = select(workloads.c.account).where(workloads.c.state == State.QUEUED.value)
    query = select(accounts.c.id).where(
        or_(accounts.c.budget != Budget.NONE.value, accounts.c.closed_at.is_not(None)),
        accounts.c.id.in_(waiting),
    )
    found = connection.execute(query).scalars().all()
    return list(get_all(connection, found).values()) if found else []


def admitted(connection: Connection, identifiers: Collection[str]) -> Sequence[Admitted]:
    """What some hold that have a meter."""
    rows = connection.execute(
        select(
            workloads.c.id,
            workloads.c.cpu_millicores,
            workloads.c.memory_bytes,
            workloads.c.tier,
            workloads.c.limit_seconds,
        )
        .join(meters, meters.c.workload == workloads.c.id)
        .where(workloads.c.id.in_(identifiers))
    ).all()
    held = connection.execute(
        select(leases.c.workload, accelerators.c.model)
        .join(accelerators, accelerators.c.uuid == leases.c.accelerator)
        .where(leases.c.workload.in_(identifiers), leases.c.closed_at.is_(None))
    )
    models: dict[str, Counter[str]] = {}
    for row in held:
        models.setdefault(row.workload, Counter())[row.model] += 1
    return [Admitted(row.id, dict(models.get(row.id, {})), *row[1:]) for row in rows]


def watched(connection: Connection, few_percent: int) -> Sequence[Watched]:
    """Accounts with a budget on which something runs, closed ones too, or open ones of which at
    most this part is left."""
    granted = func.coalesce(
        select(func.sum(lots.c.microcredits))
        .where(lots.c.account == accounts.c.id, lots.c.left_microcredits > 0)
        .scalar_subquery(),
        0,
    )
    running = exists().where(meters.c.account == accounts.c.id, meters.c.settled_at.is_(None))
    few = accounts.c.balance_microcredits * 100 <= granted * few_percent
    rows = connection.execute(
        select(accounts.c.id, granted.label("granted")).where(
            accounts.c.budget != Budget.NONE.value,
            or_(running, and_(accounts.c.closed_at.is_(None), few)),
        )
    ).all()
    found = get_all(connection, [row.id for row in rows])
    return [Watched(found[row.id], int(row.granted)) for row in rows]


def metered(connection: Connection, identifiers: Collection[str]) -> Sequence[Metered]:
    """Everything that is charged, or will be, to some accounts."""
    rows = connection.execute(
        select(
            workloads.c.id.label("workload"),
            meters.c.account,
            workloads.c.user,
            workloads.c.server_name,
            workloads.c.state,
            workloads.c.tier,
            meters.c.held_microcredits,
            meters.c.charged_microcredits,
            meters.c.began_at,
            meters.c.watermark_at,
            workloads.c.charge_until,
            workloads.c.budget_ends_at,
        )
        .join(meters, meters.c.workload == workloads.c.id)
        .where(meters.c.account.in_(identifiers), meters.c.settled_at.is_(None))
        .order_by(workloads.c.sequence)
    )
    return [_metered(row) for row in rows]


def _metered(row: Any) -> Metered:
    return Metered(**{**row._mapping, "state": State(row.state)})


def people_of(
    connection: Connection, identifiers: Collection[str]
) -> Mapping[str, Mapping[str, str]]:
    """Who is in some projects, with their role, by account."""
    rows = connection.execute(
        select(account_members.c.account, account_members.c.user, account_members.c.role).where(
            account_members.c.account.in_(identifiers)
        )
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.account, {})[row.user] = row.role
    return found


def users_of(connection: Connection, identifiers: Collection[str]) -> Mapping[str, set[str]]:
    """Who has something open, waiting or running, by the account that pays."""
    rows = connection.execute(
        select(workloads.c.account, workloads.c.user)
        # By state and not by account: an account has a long history.
        .where(
            func.coalesce(workloads.c.account, "").in_(identifiers),
            workloads.c.state.in_([state.value for state in OPEN]),
        )
        .distinct()
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.account, set()).add(row.user)
    return found


def with_end(connection: Connection, but_of: Collection[str]) -> Sequence[str]:
    """Ids of what holds something and has an end by its budget, of other accounts than these."""
    rows = connection.execute(
        select(workloads.c.id).where(
            workloads.c.budget_ends_at.is_not(None),
            workloads.c.state.in_([state.value for state in HOLDING]),
            workloads.c.account.not_in(but_of),
        )
    )
    return [row.id for row in rows]


def last_warning(connection: Connection, account: str) -> str | None:
    """Level of the last warning that was logged of an account; None when it is well."""
    detail = connection.execute(
        select(events.c.detail)
        .where(events.c.target == account, events.c.action.in_(("budget.warning", "budget.well")))
        .order_by(events.c.sequence.desc())
        .limit(1)
    ).scalar()
    found = detail.get("level") if detail else None
    return str(found) if found else None
