"""Taking nodes and accelerators out of service and back: what runs on them goes on.

Whether somebody may do this is the caller's to decide. Each act is one transaction with its
line in the action log, and a pass after it. All functions block.
"""

from __future__ import annotations

from typing import TypeVar

from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.queueing import checked_reason
from dcloud_spawner.store import events, nodes
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.nodes import AcceleratorRow, NodeRow

Row = TypeVar("Row", NodeRow, AcceleratorRow)


def drain_node(platform: Platform, name: str, reason: str, actor: Actor) -> NodeRow:
    """Let a node take no new work. Raises NotFound, Conflict when it takes none already,
    InvalidChoice for a reason that is none."""
    reason, now = checked_reason(reason), utc_now()
    with platform.database.transaction() as connection:
        row = _refuse_drained(nodes.find_node(connection, name), "node", name)
        nodes.drain_node(connection, name, by=actor.name, reason=reason, at=now)
        detail = {"reason": reason}
        events.note(connection, actor, "node.drain", row.name, at=now, detail=detail)
        found = nodes.find_node(connection, name)
    platform.run_pass()
    assert found is not None
    return found


def undrain_node(platform: Platform, name: str, actor: Actor) -> NodeRow:
    """Let a drained node take work again."""
    with platform.database.transaction() as connection:
        row = _refuse_in_service(nodes.find_node(connection, name), "node", name)
        nodes.drain_node(connection, name, at=None)
        events.note(connection, actor, "node.undrain", row.name, at=utc_now())
        found = nodes.find_node(connection, name)
    platform.run_pass()
    assert found is not None
    return found


def drain_accelerator(platform: Platform, uuid: str, reason: str, actor: Actor) -> AcceleratorRow:
    """Offer one accelerator to nobody new; as :func:`drain_node`."""
    reason, now = checked_reason(reason), utc_now()
    with platform.database.transaction() as connection:
        row = _refuse_drained(nodes.find_accelerator(connection, uuid), "GPU", uuid)
        nodes.drain_accelerator(connection, uuid, by=actor.name, reason=reason, at=now)
        detail = {"node": row.node, "reason": reason}
        events.note(connection, actor, "accelerator.drain", uuid, at=now, detail=detail)
        found = nodes.find_accelerator(connection, uuid)
    platform.run_pass()
    assert found is not None
    return found


def undrain_accelerator(platform: Platform, uuid: str, actor: Actor) -> AcceleratorRow:
    """Offer a drained accelerator again, if its driver finds it well."""
    with platform.database.transaction() as connection:
        row = _refuse_in_service(nodes.find_accelerator(connection, uuid), "GPU", uuid)
        nodes.drain_accelerator(connection, uuid, at=None)
        detail = {"node": row.node}
        events.note(connection, actor, "accelerator.undrain", uuid, at=utc_now(), detail=detail)
        found = nodes.find_accelerator(connection, uuid)
    platform.run_pass()
    assert found is not None
    return found


def _refuse_drained(row: Row | None, kind: str, name: str) -> Row:
    found = _known(row, kind, name)
    if found.drained:
        raise Conflict(f"This {kind} is drained already, by {found.drained_by}.")
    return found


def _refuse_in_service(row: Row | None, kind: str, name: str) -> Row:
    found = _known(row, kind, name)
    if not found.drained:
        raise Conflict(f"This {kind} is not drained.")
    return found


def _known(row: Row | None, kind: str, name: str) -> Row:
    if row is None:
        raise NotFound(f"There is no {kind} {name}.")
    return row
