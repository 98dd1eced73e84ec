"""The whole ledger, row by row, for whoever checks it: as it stands, with nothing looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from dcloud_spawner.ledger.cost import Span
from dcloud_spawner.store import meters as _meters
from dcloud_spawner.store import workloads as _workloads
from dcloud_spawner.store.entries import Entry, Kind, Lot
from dcloud_spawner.store.ledger_schema import (
    accounts,
    entries,
    grants,
    lots,
    meters,
    spans,
    usage_hours,
)
from dcloud_spawner.store.meters import Meter
from dcloud_spawner.store.schema import accelerators, leases, workloads
from dcloud_spawner.store.workloads import Workload

AT_ONCE = 1000
"""Rows that are in memory at a time."""


class EntryRow(NamedTuple):
    """What one entry did to balances."""

    id: int
    account: str
    kind: str
    microcredits: int
    balance_after: int
    key: str
    workload: str | None


@dataclass(frozen=True)
class Session:
    """All that is written about one metered workload."""

    workload: Workload
    meter: Meter
    spans: Sequence[Span]
    entries: Sequence[Entry]
    """Those that name it, in the order of writing."""
    leased: Mapping[str, int]
    """How many accelerators of each model it had leased, over all its life."""


def count(connection: Connection) -> tuple[int, int]:
    """How many entries and how many meters there are."""
    entry_count = connection.execute(select(func.count()).select_from(entries)).scalar_one()
    return entry_count, connection.execute(select(func.count()).select_from(meters)).scalar_one()


def balances(connection: Connection) -> dict[str, tuple[str, int]]:
    """Name and balance of every account, by its id."""
    rows = connection.execute(
        select(accounts.c.id, accounts.c.kind, accounts.c.name, accounts.c.balance_microcredits)
    )
    return {row.id: (f"{row.kind} {row.name}", row.balance_microcredits) for row in rows}


def all_entries(connection: Connection) -> Iterator[EntryRow]:
    """Every entry, in the order of writing."""
    query = select(
        entries.c.id,
        entries.c.account,
        entries.c.kind,
        entries.c.microcredits,
        entries.c.balance_after,
        entries.c.key,
        entries.c.workload,
    ).order_by(entries.c.id)
    for row in connection.execute(query, execution_options={"yield_per": AT_ONCE}):
        yield EntryRow._make(row)


def lots_by_entry(connection: Connection) -> dict[int, list[Lot]]:
    """Every lot, by the entry that it came in with; of one entry what expires first first."""
    found: dict[int, list[Lot]] = {}
    query = select(lots).order_by(lots.c.expires_at.is_(None), lots.c.expires_at, lots.c.id)
    for row in connection.execute(query):
        found.setdefault(row.entry, []).append(Lot(**row._mapping))
    return found


def refunds(connection: Connection) -> list[tuple[int, int, int | None]]:
    """Entries of which something was given back, how much, and their amount; None for an entry
    that does not exist."""
    given, charged = entries.alias(), entries.alias()
    rows = connection.execute(
        select(given.c.refund_of, func.sum(given.c.microcredits), charged.c.microcredits)
        .outerjoin(charged, charged.c.id == given.c.refund_of)
        .where(given.c.refund_of.is_not(None))
        .group_by(given.c.refund_of, charged.c.microcredits)
        .order_by(given.c.refund_of)
    )
    return [(row[0], int(row[1]), row[2]) for row in rows]


def transfers_apart(connection: Connection) -> list[str]:
    """Keys of transfers of which one half is missing, or not the other's opposite."""
    out, back = entries.alias(), entries.alias()
    halves = func.replace(out.c.key, ":out", ":in"), func.replace(out.c.key, ":in", ":out")
    query = (
        select(out.c.key)
        .outerjoin(back, (back.c.key.in_(halves)) & (back.c.id != out.c.id))
        .where(
            out.c.kind == Kind.TRANSFER.value,
            back.c.id.is_(None)
            | (back.c.microcredits != -out.c.microcredits)
            | (back.c.account != out.c.other_account),
        )
        .order_by(out.c.id)
    )
    return list(connection.scalars(query))


def grants_given(connection: Connection) -> list[tuple[str, int, int]]:
    """Id of each grant, how many of its periods were seen to, and how many brought something."""
    entry_count = func.count(lots.c.entry.distinct())
    rows = connection.execute(
        select(grants.c.id, grants.c.given, entry_count)
        .outerjoin(lots, (lots.c.grant == grants.c.id) & (lots.c.account == grants.c.account))
        .group_by(grants.c.id, grants.c.given)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def sessions(connection: Connection) -> Iterator[Session]:
    """Everything that has a meter, a part at a time."""
    after = ""
    while True:
        identifiers = connection.scalars(
            select(meters.c.workload)
            .where(meters.c.workload > after)
            .order_by(meters.c.workload)
            .limit(AT_ONCE // 4)
        ).all()
        if not identifiers:
            return
        after = identifiers[-1]
        yield from _sessions(connection, identifiers)


def _sessions(connection: Connection, identifiers: Sequence[str]) -> Iterator[Session]:
    rows = {found.id: found for found in _workloads.get_all(connection, identifiers)}
    found_meters = _meters.find_all(connection, identifiers)
    found_spans: dict[str, list[Span]] = {}
    ordered = select(spans).where(spans.c.workload.in_(identifiers))
    for row in connection.execute(ordered.order_by(spans.c.begins_at, spans.c.id)):
        span = Span(
            row.begins_at, row.gpu_models, row.cpu_millicores, row.memory_bytes, row.free_reason
        )
        found_spans.setdefault(row.workload, []).append(span)
    written: dict[str, list[Entry]] = {}
    query = select(entries).where(entries.c.workload.in_(identifiers)).order_by(entries.c.id)
    for row in connection.execute(query):
        entry = Entry(**{**row._mapping, "kind": Kind(row.kind)})
        written.setdefault(row.workload, []).append(entry)
    leased: dict[str, dict[str, int]] = {}
    held = connection.execute(
        select(leases.c.workload, accelerators.c.model, func.count())
        .join(accelerators, accelerators.c.uuid == leases.c.accelerator)
        .where(leases.c.workload.in_(identifiers))
        .group_by(leases.c.workload, accelerators.c.model)
    )
    for workload, model, number in held:
        leased.setdefault(workload, {})[model] = number
    for identifier in identifiers:
        yield Session(
            rows[identifier],
            found_meters[identifier],
            found_spans.get(identifier, []),
            written.get(identifier, []),
            leased.get(identifier, {}),
        )


def unmetered(connection: Connection) -> list[str]:
    """Ids of workloads that were ready, have somebody who pays, and no meter."""
    query = (
        select(workloads.c.id)
        .outerjoin(meters, meters.c.workload == workloads.c.id)
        .where(
            workloads.c.account.is_not(None),
            workloads.c.ready_at.is_not(None),
            meters.c.workload.is_(None),
        )
        .order_by(workloads.c.sequence)
    )
    return list(connection.scalars(query))


HourKey = tuple[str, str, str, datetime]
"""Account, user, GPU model, hour."""

HourSums = tuple[int, int, int, int]
"""Microseconds of GPUs, cores and GiB, and micro-credits."""


def use_by_hour(connection: Connection) -> Iterator[tuple[HourKey, HourSums]]:
    """What was charged by the hour, without what was measured."""
    query = select(
        usage_hours.c.account,
        usage_hours.c.user,
        usage_hours.c.gpu_model,
        usage_hours.c.hour,
        usage_hours.c.gpu_microseconds,
        usage_hours.c.cpu_microseconds,
        usage_hours.c.memory_gib_microseconds,
        usage_hours.c.microcredits,
    )
    for row in connection.execute(query, execution_options={"yield_per": AT_ONCE}):
        yield (row[0], row[1], row[2], row[3]), (row[4], row[5], row[6], row[7])
