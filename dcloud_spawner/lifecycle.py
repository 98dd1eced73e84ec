"""What happens to a workload, each step one transaction with its line in the action log.

    submit -> (a pass admits) -> begin_start -> mark_ready -> begin_stop -> confirm_gone
                     cancel <- while queued

Engine calls stand between the transactions, never inside one (invariant 11), so a process
may die between any two lines: every state says what is still held, and whoever comes next
(the resumed hub, the reconciler) goes on from there.
All functions block; on an event loop call them in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.engines.base import ContainerFacts
from dcloud_spawner.errors import Conflict, EngineError, EngineUnreachable, InvalidChoice
from dcloud_spawner.options import Choice
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.admission import impossible
from dcloud_spawner.scheduler.plan import free_now
from dcloud_spawner.scheduler.schedule import GIB, take_snapshot
from dcloud_spawner.scheduler.snapshot import Request
from dcloud_spawner.spec import home_volume
from dcloud_spawner.store import events, homes, leases, workloads
from dcloud_spawner.store.homes import Home
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NOTEBOOK, NewWorkload, Workload


@dataclass(frozen=True)
class Actor:
    """Who does it and from where, for the action log."""

    name: str
    source: str = ""


def submit(
    platform: Platform, user: str, server_name: str, choice: Choice, image: str, actor: Actor
) -> Workload:
    """Put a valid choice into the queue, or refuse it for ever.

    Raises InvalidChoice when no node could ever hold it, Conflict when this server already
    has a workload that has not ended. Nothing is written then.
    """
    now = utc_now()
    new = NewWorkload(
        kind=NOTEBOOK,
        user=user,
        server_name=server_name,
        profile=choice.profile,
        choice=choice.as_dict(),
        image=image,
        gpus=choice.gpus,
        gpu_model=choice.gpu_model,
        memory_bytes=choice.memory_bytes,
        cpu_millicores=choice.cpu_millicores,
        limit_seconds=choice.limit_seconds,
    )
    with platform.database.transaction() as connection:
        _refuse_impossible(connection, platform, new, now)
        _refuse_kept_home(homes.of_user(connection, user))
        if workloads.find_open(connection, user, server_name) is not None:
            raise Conflict(
                "This server already runs or waits.", hint="Stop it or leave the queue first."
            )
        workload = workloads.insert(connection, new, now)
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action="workload.submit",
            target=workload.id,
            at=now,
            detail={"user": user, "server": server_name, "choice": choice.as_dict()},
        )
    return workload


def _refuse_impossible(
    connection: Connection, platform: Platform, new: NewWorkload, now: datetime
) -> None:
    """Raise InvalidChoice when no node could ever hold this (invariant 6)."""
    snapshot = take_snapshot(connection, platform.capacity, now)
    wish = Request(
        "new",
        0,
        new.user,
        new.gpus,
        new.gpu_model,
        new.memory_bytes,
        new.cpu_millicores,
        new.limit_seconds,
        now,
    )
    refused = impossible(wish, snapshot.nodes, snapshot.accelerators)
    if refused is not None:
        raise InvalidChoice(
            f"{refused.field}: {refused.reason}", hint=refused.hint, field=refused.field
        )


def claim_home(platform: Platform, user: str, actor: Actor) -> str:
    """Name of the user's home volume, noted in the database.

    Raises Conflict when it was left by a deleted user of the same name.
    """
    volume = home_volume(platform.settings.deployment, user)
    now = utc_now()
    with platform.database.reading() as connection:
        known = homes.of_user(connection, user)
    if known is None:
        with platform.database.transaction() as connection:
            known = homes.of_user(connection, user)
            if known is None:
                homes.insert(connection, volume, user, now)
                events.append(
                    connection,
                    actor=actor.name,
                    source=actor.source,
                    action="home.create",
                    target=user,
                    at=now,
                    detail={"volume": volume},
                )
    _refuse_kept_home(known)
    return known.volume if known is not None else volume


def _refuse_kept_home(home: Home | None) -> None:
    """Raise Conflict when a deleted user left this home: their data must not open to whoever
    signs up under that name."""
    if home is not None and home.user_deleted_at is not None:
        raise Conflict(
            "A deleted user of this name left data here.",
            hint=f"An administrator has to hand it over (dcloud homes adopt {home.user}) or "
            f"delete it (dcloud purge-home {home.user}).",
            code="home_of_deleted_user",
        )


def orphan_home(connection: Connection, user: str, actor: Actor) -> None:
    """Keep the home of a user who is being deleted, closed to a new user of that name."""
    now = utc_now()
    if homes.mark_user_deleted(connection, user, now):
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action="home.keep",
            target=user,
            at=now,
        )


def adopt_home(platform: Platform, user: str, actor: Actor) -> bool:
    """Hand the home of a deleted user to the present user of that name."""
    now = utc_now()
    with platform.database.transaction() as connection:
        home = homes.of_user(connection, user)
        if home is None or home.user_deleted_at is None:
            return False
        homes.mark_user_deleted(connection, user, None)
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action="home.adopt",
            target=user,
            at=now,
        )
    return True


def purge_home(platform: Platform, user: str, actor: Actor) -> bool:
    """Delete a home for good. Raises Conflict while a server of the user is open."""
    with platform.database.reading() as connection:
        home = homes.of_user(connection, user)
        mine = [found for found in workloads.open_workloads(connection) if found.user == user]
    if home is None:
        return False
    if mine:
        raise Conflict(f"{user} has a server that runs or waits.", hint="Stop it first.")
    platform.engine.purge_home(home.volume)
    with platform.database.transaction() as connection:
        homes.remove(connection, user)
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action="home.purge",
            target=user,
            at=utc_now(),
            detail={"volume": home.volume},
        )
    return True


def begin_start(platform: Platform, identifier: str) -> tuple[Workload, tuple[str, ...]] | None:
    """Enter STARTING; returns the workload and its accelerators, None when it is to stop."""
    now = utc_now()
    with platform.database.transaction() as connection:
        if not workloads.transition(
            connection,
            identifier,
            State.STARTING,
            come_from=(State.ADMITTED, State.STARTING),
            starting_at=now,
        ):
            return None
        events.append(
            connection, actor="spawner", action="workload.start", target=identifier, at=now
        )
        return workloads.get(connection, identifier), leases.held_by(connection, identifier)


def mark_ready(platform: Platform, identifier: str, facts: ContainerFacts) -> bool:
    """Enter RUNNING: the server inside has answered. False when it is to stop meanwhile."""
    now = utc_now()
    with platform.database.transaction() as connection:
        moved = workloads.transition(
            connection,
            identifier,
            State.RUNNING,
            come_from=(State.STARTING,),
            ready_at=now,
            url=facts.url,
            engine_started_at=facts.started_at,
        )
        if moved:
            events.append(
                connection,
                actor="spawner",
                action="workload.ready",
                target=identifier,
                at=now,
                detail={"container": facts.ref},
            )
    return moved


def begin_stop(
    platform: Platform, identifier: str, reason: str, actor: Actor, detail: str = ""
) -> State:
    """Ask for the end of a workload; returns its state after that.

    A queued one ends at once, for it holds nothing. Any other becomes STOPPING and keeps what
    it holds until :func:`confirm_gone`.
    """
    now = utc_now()
    with platform.database.transaction() as connection:
        common = {"end_reason": reason, "end_detail": detail, "stopping_at": now}
        if workloads.transition(
            connection,
            identifier,
            State.ENDED,
            come_from=(State.QUEUED,),
            ended_at=now,
            place=None,
            **common,
        ):
            state, action = State.ENDED, "workload.cancel"
        elif workloads.transition(
            connection,
            identifier,
            State.STOPPING,
            come_from=(State.ADMITTED, State.STARTING, State.RUNNING),
            **common,
        ):
            state, action = State.STOPPING, "workload.stop"
        else:
            return workloads.get(connection, identifier).state
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action=action,
            target=identifier,
            at=now,
            detail={"reason": reason},
        )
    return state


def confirm_gone(platform: Platform, identifier: str, facts: ContainerFacts | None) -> bool:
    """Release everything a STOPPING workload holds. Call it only after the engine confirmed
    that no container of it is left (invariant 2)."""
    now = utc_now()
    values: dict[str, object] = {}
    if facts is not None:
        values = {
            "engine_finished_at": facts.finished_at,
            "exit_code": facts.exit_code,
            "oom_killed": facts.oom_killed,
        }
        if facts.started_at is not None:
            values["engine_started_at"] = facts.started_at
    with platform.database.transaction() as connection:
        if not workloads.transition(
            connection,
            identifier,
            State.ENDED,
            come_from=(State.STOPPING,),
            ended_at=now,
            **values,
        ):
            return False
        count = leases.close_leases(connection, identifier, now)
        events.append(
            connection,
            actor="spawner",
            action="workload.release",
            target=identifier,
            at=now,
            detail={"accelerators": count, "oom": bool(facts and facts.oom_killed)},
        )
    return True


def finish_stop(platform: Platform, identifier: str) -> bool:
    """Stop the container of a STOPPING workload, release what it holds and run a pass.

    Raises EngineError when the engine refuses or does not answer: then everything stays held,
    and the reconciler tries again. Safe to call from several processes at once.
    """
    with platform.database.reading() as connection:
        if workloads.get(connection, identifier).state is not State.STOPPING:
            return False
    facts = platform.engine.stop(identifier, platform.settings.stop_grace_seconds)
    released = confirm_gone(platform, identifier, facts)
    if released:
        platform.run_pass()
    return released


def stop(platform: Platform, identifier: str, reason: str, actor: Actor, detail: str = "") -> None:
    """End a workload whatever its state; returns when nothing of it is held any more."""
    state = begin_stop(platform, identifier, reason, actor, detail)
    if state is State.STOPPING:
        finish_stop(platform, identifier)
    elif state is State.ENDED:
        platform.run_pass()


def change_limits(
    platform: Platform, identifier: str, memory_bytes: int, cpu_millicores: int, actor: Actor
) -> Workload:
    """Give a running workload other limits without a restart.

    Raises InvalidChoice for less than 1, Conflict when it does not run or its node has not that
    much left, EngineError when the engine refuses (less memory than is in use). The row holds
    the larger of old and new until the engine has done it, so that a crash in between never
    leaves more in use than is written.
    """
    for name, value in (("memory_bytes", memory_bytes), ("cpu_millicores", cpu_millicores)):
        if value < 1:  # engines read 0 as "no limit" or "as it was"
            raise InvalidChoice(f"{name}: {value} is not possible.", hint="At least 1.", field=name)
    workload = _reserve_limits(platform, identifier, memory_bytes, cpu_millicores)
    try:
        platform.engine.update_limits(
            identifier, memory_bytes=memory_bytes, cpu_millicores=cpu_millicores
        )
    except EngineUnreachable:
        raise  # it may have been done
    except EngineError:
        with platform.database.transaction() as connection:
            workloads.set_values(
                connection,
                identifier,
                memory_bytes=workload.memory_bytes,
                cpu_millicores=workload.cpu_millicores,
            )
        raise
    with platform.database.transaction() as connection:
        workloads.set_values(
            connection, identifier, memory_bytes=memory_bytes, cpu_millicores=cpu_millicores
        )
        events.append(
            connection,
            actor=actor.name,
            source=actor.source,
            action="workload.resize",
            target=identifier,
            at=utc_now(),
            detail={
                "memory_bytes": [workload.memory_bytes, memory_bytes],
                "cpu_millicores": [workload.cpu_millicores, cpu_millicores],
            },
        )
        resized = workloads.get(connection, identifier)
    platform.run_pass()
    return resized


def _reserve_limits(
    platform: Platform, identifier: str, memory_bytes: int, cpu_millicores: int
) -> Workload:
    with platform.database.transaction() as connection:
        workload = workloads.get(connection, identifier)
        if workload.state is not State.RUNNING or workload.node is None:
            raise Conflict("Only a running server can be resized.", hint="Start it first.")
        snapshot = take_snapshot(connection, platform.capacity, utc_now())
        node = free_now(snapshot)[workload.node]
        spare_memory = node.memory_bytes + workload.memory_bytes
        spare_cpu = node.cpu_millicores + workload.cpu_millicores
        if memory_bytes > spare_memory or cpu_millicores > spare_cpu:
            raise Conflict(
                f"{workload.node} has not that much left.",
                hint=f"At most {spare_memory / GIB:.1f} GiB and {spare_cpu / 1000:g} cores.",
            )
        workloads.set_values(
            connection,
            identifier,
            memory_bytes=max(memory_bytes, workload.memory_bytes),
            cpu_millicores=max(cpu_millicores, workload.cpu_millicores),
        )
    return workload
