"""Other limits for a workload that runs, without a restart.

The engine is called between two transactions, as in ``lifecycle``. All functions block.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner import charging
from dcloud_spawner.budget_gate import set_more_aside
from dcloud_spawner.errors import Conflict, EngineError, EngineUnreachable, InvalidChoice
from dcloud_spawner.limit_check import refuse_growth
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.reservations import all_are_kept
from dcloud_spawner.scheduler.admission import gib_at_most
from dcloud_spawner.scheduler.free import FreeNode, free_now
from dcloud_spawner.scheduler.schedule import take_snapshot
from dcloud_spawner.store import events, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload


def change_limits(
    platform: Platform, identifier: str, memory_bytes: int, cpu_millicores: int, actor: Actor
) -> Workload:
    """Give a running workload other limits without a restart.

    Raises InvalidChoice for less than 1, Conflict when it does not run, is just being resized or
    its node has not that much left, NotAllowed beyond its user's limits or its account's credits,
    EngineError when the engine refuses (less memory than is in use). The row holds the larger of
    old and new until the engine has done it, so that a crash in between never leaves more in use
    than is written. One at a time, for of two at once nobody could say which the engine did last;
    a mark whose process
    died counts for one engine call.
    """
    for name, value in (("memory_bytes", memory_bytes), ("cpu_millicores", cpu_millicores)):
        if value < 1:  # engines read 0 as "no limit" or "as it was"
            raise InvalidChoice(f"{name}: {value} is not possible.", hint="At least 1.", field=name)
    until = utc_now() + timedelta(seconds=platform.settings.engine_timeout_seconds * 1.5)
    old = _reserve_limits(platform, identifier, memory_bytes, cpu_millicores, actor, until)
    try:
        platform.engine.update_limits(
            identifier, memory_bytes=memory_bytes, cpu_millicores=cpu_millicores
        )
    except EngineUnreachable:
        raise  # it may have been done, or be done yet: the mark stays
    except EngineError:
        _end_resize(platform, old, old.memory_bytes, old.cpu_millicores, actor, until, "failed")
        raise
    resized = _end_resize(platform, old, memory_bytes, cpu_millicores, actor, until, "ok")
    platform.run_pass()
    return resized


def _reserve_limits(
    platform: Platform,
    identifier: str,
    memory_bytes: int,
    cpu_millicores: int,
    actor: Actor,
    until: datetime,
) -> Workload:
    now = utc_now()
    with platform.database.transaction() as connection:
        workload = workloads.get(connection, identifier)
        if workload.state is not State.RUNNING or workload.node is None:
            raise Conflict("Only a running server can be resized.", hint="Start it first.")
        if workload.resize_until is not None and workload.resize_until > now:
            raise Conflict(
                "This server is just being resized.", hint="Try again in a moment.", code="resizing"
            )
        memory = max(memory_bytes, workload.memory_bytes)
        cpu = max(cpu_millicores, workload.cpu_millicores)
        grows = (memory, cpu) != (workload.memory_bytes, workload.cpu_millicores)
        kept = grows and all_are_kept(connection, platform.capacity, now)
        if grows:
            refuse_growth(connection, platform.settings, workload, memory, cpu, now)
            snapshot = take_snapshot(connection, platform.capacity, now)
            _refuse_growth(free_now(snapshot).get(workload.node), workload, memory, cpu)
            set_more_aside(connection, workload, memory, cpu, platform.hold_rule, now)
        workloads.set_values(
            connection, workload.id, memory_bytes=memory, cpu_millicores=cpu, resize_until=until
        )
        charging.new_span(connection, workload.id, now)
        if kept and not all_are_kept(connection, platform.capacity, now):
            raise Conflict("A reservation needs that before its end.", hint="Less is possible.")
        _note_resize(connection, workload, memory, cpu, actor, "begun")
    return workload


def _end_resize(
    platform: Platform,
    old: Workload,
    memory_bytes: int,
    cpu_millicores: int,
    actor: Actor,
    until: datetime,
    result: str,
) -> Workload:
    values = {"memory_bytes": memory_bytes, "cpu_millicores": cpu_millicores}
    with platform.database.transaction() as connection:
        if not workloads.end_resize(connection, old.id, until, **values):
            # The engine took longer than it may, and somebody else has begun since: the row
            # holds the largest of all until that one is done.
            result = "late"
        charging.new_span(connection, old.id, utc_now())
        _note_resize(connection, old, memory_bytes, cpu_millicores, actor, result)
        return workloads.get(connection, old.id)


def _refuse_growth(
    node: FreeNode | None, workload: Workload, memory_bytes: int, cpu_millicores: int
) -> None:
    """Raise Conflict when a node has not what a workload would take in addition."""
    if node is None:
        raise Conflict(f"{workload.node} takes no more work now.", hint="Less is possible.")
    most_memory = workload.memory_bytes + max(0, node.memory_bytes)
    most_cpu = workload.cpu_millicores + max(0, node.cpu_millicores)
    if memory_bytes > most_memory or cpu_millicores > most_cpu:
        raise Conflict(
            f"{workload.node} has not that much left.",
            hint=f"At most {gib_at_most(most_memory)} GiB and {most_cpu / 1000:g} cores.",
        )


def _note_resize(
    connection: Connection,
    old: Workload,
    memory_bytes: int,
    cpu_millicores: int,
    actor: Actor,
    result: str,
) -> None:
    detail = {
        "memory_bytes": [old.memory_bytes, memory_bytes],
        "cpu_millicores": [old.cpu_millicores, cpu_millicores],
    }
    at = utc_now()
    events.note(connection, actor, "workload.resize", old.id, at=at, result=result, detail=detail)
