"""Nodes and accelerators as last seen. Rows are never deleted: leases refer to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, func, or_, select, update

from dcloud_spawner.engines.base import AcceleratorFacts, Health, NodeFacts
from dcloud_spawner.store.schema import accelerators, nodes

UNKNOWN_REASON = "The driver did not answer, so nobody knows whether it is well."
MISSING_REASON = "The driver no longer lists it."


@dataclass(frozen=True)
class NodeRow:
    """One node: what it has in all, before the platform's reserve."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    drained: bool
    seen_at: datetime
    drained_by: str = ""
    drained_at: datetime | None = None
    drained_reason: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AcceleratorRow:
    """One accelerator with its last known health."""

    uuid: str
    node: str
    index: int
    model: str
    memory_bytes: int
    kind: str
    parent_uuid: str
    health: Health
    health_reason: str
    seen_at: datetime
    drained: bool = False
    drained_by: str = ""
    drained_at: datetime | None = None
    drained_reason: str = ""
    link_domain: str = ""


@dataclass(frozen=True)
class HealthChange:
    """An accelerator whose health is no longer what it was; ``before`` is None for a new one."""

    uuid: str
    node: str
    before: Health | None
    after: Health
    reason: str


def all_nodes(connection: Connection) -> Sequence[NodeRow]:
    """Every node ever seen, by name."""
    return [
        NodeRow(**row._mapping) for row in connection.execute(select(nodes).order_by(nodes.c.name))
    ]


def all_accelerators(connection: Connection) -> Sequence[AcceleratorRow]:
    """Every accelerator ever seen, by node and index."""
    rows = connection.execute(
        select(accelerators).order_by(accelerators.c.node, accelerators.c.index)
    )
    return [_accelerator(row) for row in rows]


class Unit(NamedTuple):
    """An accelerator as a pass needs it."""

    uuid: str
    node: str
    number: int
    """Its index on the node."""
    model: str
    link_domain: str
    well: bool
    """Healthy, and nobody took it out of service."""


def all_units(connection: Connection) -> list[Unit]:
    """Every accelerator ever seen, by node and index, without what a pass does not read."""
    rows = connection.execute(
        select(
            accelerators.c.uuid,
            accelerators.c.node,
            accelerators.c.index,
            accelerators.c.model,
            accelerators.c.link_domain,
            and_(accelerators.c.health == Health.OK.value, accelerators.c.drained.is_(False)).label(
                "well"
            ),
        ).order_by(accelerators.c.node, accelerators.c.index)
    )
    return [Unit._make(row) for row in rows.all()]


def _accelerator(row: Row[Any]) -> AcceleratorRow:
    return AcceleratorRow(**{**row._mapping, "health": Health(row.health)})


def count_accelerators(connection: Connection) -> int:
    """How many were ever seen."""
    return connection.execute(select(func.count()).select_from(accelerators)).scalar_one()


def last_seen(connection: Connection) -> datetime | None:
    """When the newest inventory was written down; None before the first one."""
    found: datetime | None = connection.execute(select(func.max(nodes.c.seen_at))).scalar()
    return found


def find_node(connection: Connection, name: str) -> NodeRow | None:
    """The node of a name."""
    row = connection.execute(select(nodes).where(nodes.c.name == name)).one_or_none()
    return NodeRow(**row._mapping) if row else None


def find_accelerator(connection: Connection, identifier: str) -> AcceleratorRow | None:
    """The accelerator of a UUID."""
    row = connection.execute(
        select(accelerators).where(accelerators.c.uuid == identifier)
    ).one_or_none()
    return _accelerator(row) if row else None


def drain_node(
    connection: Connection, name: str, *, by: str = "", reason: str = "", at: datetime | None
) -> None:
    """Let a node take no new work from a time on; None lets it take work again."""
    connection.execute(update(nodes).where(nodes.c.name == name).values(**_drain(by, reason, at)))


def drain_accelerator(
    connection: Connection, identifier: str, *, by: str = "", reason: str = "", at: datetime | None
) -> None:
    """The same for one accelerator."""
    connection.execute(
        update(accelerators)
        .where(accelerators.c.uuid == identifier)
        .values(**_drain(by, reason, at))
    )


def _drain(by: str, reason: str, at: datetime | None) -> dict[str, object]:
    return {
        "drained": at is not None,
        "drained_by": by,
        "drained_reason": reason,
        "drained_at": at,
    }


def record(connection: Connection, facts: NodeFacts, at: datetime) -> Sequence[HealthChange]:
    """Write what an engine found on one node; returns what changed in health.

    A known accelerator that is missing from the facts becomes LOST. When the driver could not
    be asked at all, every accelerator of the node becomes unhealthy: unknown is not free.
    """
    values = {
        "cpu_millicores": facts.cpu_millicores,
        "memory_bytes": facts.memory_bytes,
        "seen_at": at,
    }
    if connection.execute(select(nodes.c.name).where(nodes.c.name == facts.name)).scalar():
        connection.execute(update(nodes).where(nodes.c.name == facts.name).values(**values))
    else:
        connection.execute(nodes.insert().values(name=facts.name, **values))
    seen = {found.uuid for found in facts.accelerators}
    known = {row.uuid: row for row in _of_node(connection, facts.name, seen)}
    _write(connection, facts.name, facts.accelerators, known, at)
    changes: list[HealthChange] = []
    for found in facts.accelerators:
        before = known.get(found.uuid)
        if before is None or before.health is not found.health:
            changes.append(
                HealthChange(
                    found.uuid,
                    facts.name,
                    before.health if before else None,
                    found.health,
                    found.health_reason,
                )
            )
    for row in known.values():
        if row.node == facts.name and row.uuid not in seen:
            after = Health.LOST if facts.accelerators_known else Health.UNHEALTHY
            reason = MISSING_REASON if facts.accelerators_known else UNKNOWN_REASON
            if row.health is not after:
                connection.execute(
                    update(accelerators)
                    .where(accelerators.c.uuid == row.uuid)
                    .values(health=after.value, health_reason=reason)
                )
                changes.append(HealthChange(row.uuid, facts.name, row.health, after, reason))
    return changes


def _of_node(connection: Connection, node: str, uuids: Collection[str]) -> list[AcceleratorRow]:
    """What is known of a node, and of accelerators that may have been in another one."""
    rows = connection.execute(
        select(accelerators).where(or_(accelerators.c.node == node, accelerators.c.uuid.in_(uuids)))
    )
    return [_accelerator(row) for row in rows]


def _write(
    connection: Connection,
    node: str,
    seen: Iterable[AcceleratorFacts],
    known: Collection[str],
    at: datetime,
) -> None:
    rows: dict[bool, list[dict[str, object]]] = {True: [], False: []}
    for found in seen:
        rows[found.uuid in known].append(
            {
                "uuid_": found.uuid,
                "node": node,
                "index": found.index,
                "model": found.model,
                "memory_bytes": found.memory_bytes,
                "kind": found.kind.value,
                "parent_uuid": found.parent_uuid,
                "health": found.health.value,
                "health_reason": found.health_reason,
                "seen_at": at,
            }
        )
    if rows[True]:
        changed = update(accelerators).where(accelerators.c.uuid == bindparam("uuid_"))
        connection.execute(changed, rows[True])
    if rows[False]:
        connection.execute(
            accelerators.insert(), [{**row, "uuid": row.pop("uuid_")} for row in rows[False]]
        )
