"""What happens to a workload, each step one transaction with its line in the action log.

    submit -> (a pass admits) -> begin_start -> begin_launch, end_launch -> mark_ready
    begin_stop (from any of these) -> finish_stop: the engine's word, then confirm_gone

Engine calls stand between the transactions, never inside one (invariant 11), so a process
may die between any two lines: every state says what is still held, and whoever comes next
(the resumed hub, the reconciler) goes on from there.
All functions block; on an event loop call them in a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner import accounting, charging
from dcloud_spawner.budget_gate import place_in_line, refuse_unpayable
from dcloud_spawner.datasets import choose, rights
from dcloud_spawner.engines.base import ContainerFacts
from dcloud_spawner.errors import Conflict, EngineError, InvalidChoice
from dcloud_spawner.limit_check import refuse_beyond_limits
from dcloud_spawner.options import Choice
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.queueing import count_use, with_due
from dcloud_spawner.reservations import reservation_for
from dcloud_spawner.scheduler.admission import impossible
from dcloud_spawner.scheduler.schedule import read_hardware
from dcloud_spawner.scheduler.snapshot import Request
from dcloud_spawner.scheduler.verdicts import look_at
from dcloud_spawner.store import events, former_people, homes, leases, people, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.homes import Home
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NOTEBOOK, NewWorkload, Workload

SPAWNER = Actor("spawner")

LONGEST_DETAIL = 4000
"""Characters kept of what an engine or a program said at the end."""


LAUNCH_MARK_CALLS = 2
"""A launch is marked for so long as this many calls to the engine may take; whoever launches
renews the mark before half a call has passed. So when it dies, the mark outlives the one call
that may be under way, and not much more."""


def submit(
    platform: Platform,
    user: str,
    server_name: str,
    choice: Choice,
    image: str,
    actor: Actor,
    *,
    groups: Collection[str] = (),
    administrator: bool = False,
    keeps_place_for: str | None = None,
) -> Workload:
    """Put a valid choice into the queue, or refuse it for ever.

    ``groups`` are the user's, as they are now, and so is ``administrator``: they decide the role
    and its limits, the tier, the weight, and which advance reservation it may draw on.
    ``keeps_place_for`` is the waiting workload beside which this one is to work. When it is due
    is decided here, once.

    Raises InvalidChoice when no node could ever hold it, NotFound or NotAllowed for a project that
    may not pay for this user or cannot pay for this, NotFound for a dataset that they may not
    read, NotAllowed for what the user's limits never allow, Conflict when this server already has
    a workload that has not ended. Nothing is written then.
    """
    now, new = utc_now(), _asked(user, server_name, choice, image, keeps_place_for)
    with platform.database.transaction() as connection:
        _refuse_impossible(connection, platform, new, now)
        refuse_kept_home(homes.of_user(connection, user))
        if workloads.find_open(connection, user, server_name) is not None:
            raise Conflict(
                "This server already runs or waits.", hint="Stop it or leave the queue first."
            )
        people.note(connection, user, groups, administrator, now)
        may_have = refuse_beyond_limits(connection, platform.settings, new, now)
        payer = accounting.payer(connection, platform.settings, user, choice.account, now)
        new = replace(new, account=payer.id)
        new = with_due(connection, platform, new, groups, now, may_have.limits.tier)
        new = replace(new, reservation=reservation_for(connection, new, groups, now))
        refuse_unpayable(connection, payer, new, platform.hold_rule, now)
        chosen: tuple[choose.Chosen, ...] = ()
        if choice.datasets:
            asking = rights.who(connection, user, groups, administrator=administrator)
            chosen = choose.resolve(connection, asking, choice.datasets)
        workload = workloads.insert(connection, new, now)
        mounted = choose.take(connection, workload.id, chosen, now)
        placed = place_in_line(connection, (payer,), platform.hold_rule, now)
        if look_at(connection, platform.gates, workload.id, now) or placed:
            workload = workloads.get(connection, workload.id)
        detail: dict[str, object] = {"user": user, "server": server_name}
        detail["choice"] = choice.as_dict()
        if mounted:
            detail["datasets"] = mounted
        events.note(connection, actor, "workload.submit", workload.id, at=now, detail=detail)
    return workload


def _asked(
    user: str, server_name: str, choice: Choice, image: str, keeps_place_for: str | None
) -> NewWorkload:
    return NewWorkload(
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
        keeps_place_for=keeps_place_for,
    )


def _refuse_impossible(
    connection: Connection, platform: Platform, new: NewWorkload, now: datetime
) -> None:
    """Raise InvalidChoice when no node could ever hold this (invariant 6)."""
    hardware = read_hardware(connection, platform.capacity, now)
    wish = Request(
        "new",
        0,
        new.user,
        new.gpus,
        new.gpu_model,
        new.memory_bytes,
        new.cpu_millicores,
        new.limit_seconds,
        now.timestamp(),
    )
    refused = impossible(wish, hardware.nodes, hardware.accelerators)
    if refused is not None:
        raise InvalidChoice(
            f"{refused.field}: {refused.reason}", hint=refused.hint, field=refused.field
        )


def refuse_kept_home(home: Home | None) -> None:
    """Raise Conflict when a deleted user left this home: their data must not open to whoever
    signs up under that name."""
    if home is not None and home.user_deleted_at is not None:
        raise Conflict(
            "A deleted user of this name left data here.",
            hint=f"An administrator has to hand it over (dcloud homes adopt {home.user}) or "
            f"delete it (dcloud purge-home {home.user}).",
            code="home_of_deleted_user",
        )


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
        events.note(connection, SPAWNER, "workload.start", identifier, at=now)
        return workloads.get(connection, identifier), leases.held_by(connection, identifier)


def begin_launch(platform: Platform, identifier: str) -> bool:
    """Note that a container is about to be made; False when the workload is to stop.

    From now until :func:`end_launch` one may appear at any moment, even when it is not there
    yet, so nobody may take "there is none" for "there will be none". No line in the action log:
    the state does not change. Renew the mark with :func:`renew_launch` while it lasts.
    """
    with platform.database.transaction() as connection:
        return workloads.mark_launch(connection, identifier, _marked_until(platform))


def renew_launch(platform: Platform, identifier: str) -> None:
    """The launch goes on; to be called every half ``engine_timeout_seconds``."""
    with platform.database.transaction() as connection:
        workloads.renew_launch(connection, identifier, _marked_until(platform))


def _marked_until(platform: Platform) -> datetime:
    seconds = LAUNCH_MARK_CALLS * platform.settings.engine_timeout_seconds
    return utc_now() + timedelta(seconds=seconds)


def end_launch(platform: Platform, identifier: str) -> None:
    """The engine has answered: the container is there, or will never be. Not to be called when
    it did not answer, for then it may still be making one."""
    with platform.database.transaction() as connection:
        workloads.set_values(connection, identifier, launch_until=None)


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
            charging.begin(connection, workloads.get(connection, identifier), now)
            events.note(
                connection,
                SPAWNER,
                "workload.ready",
                identifier,
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
    with platform.database.transaction() as connection:
        return write_stop(connection, identifier, reason, actor, utc_now(), detail)


def write_stop(
    connection: Connection,
    identifier: str,
    reason: str,
    actor: Actor,
    now: datetime,
    detail: str = "",
    *,
    more: Mapping[str, object] | None = None,
) -> State:
    """:func:`begin_stop` inside a transaction; ``more`` goes into its line of the action log."""
    common = {
        "end_reason": reason[:32],
        "end_detail": detail[:LONGEST_DETAIL],
        "stopping_at": now,
    }
    if workloads.transition(
        connection, identifier, State.ENDED, come_from=(State.QUEUED,), ended_at=now, **common
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
    told = {"reason": reason, **(more or {})}
    events.note(connection, actor, action, identifier, at=now, detail=told)
    return state


def confirm_gone(platform: Platform, identifier: str, facts: ContainerFacts | None) -> bool:
    """Release everything a STOPPING workload holds. Call it only after the engine confirmed
    that no container of it is left (invariant 2)."""
    now = utc_now()
    with platform.database.transaction() as connection:
        if facts is not None:
            _write_end(connection, identifier, facts)
        if not workloads.transition(
            connection, identifier, State.ENDED, come_from=(State.STOPPING,), ended_at=now
        ):
            return False
        count = leases.close_leases(connection, (identifier,), now)
        former_people.take_over(connection, identifier)
        released = workloads.get(connection, identifier)
        charging.finish(connection, released, now)
        count_use(connection, [released], now, platform.half_life_seconds)
        events.note(
            connection,
            SPAWNER,
            "workload.release",
            identifier,
            at=now,
            detail={"accelerators": count, "oom": released.oom_killed},
        )
    return True


def note_end(platform: Platform, identifier: str, facts: ContainerFacts) -> None:
    """Write down how the container of a STOPPING workload ended, before the engine forgets it:
    charges are made from it, and whoever learned it may die before :func:`confirm_gone`.

    No line in the action log: the state does not change.
    """
    with platform.database.transaction() as connection:
        _write_end(connection, identifier, facts)


def _write_end(connection: Connection, identifier: str, facts: ContainerFacts) -> None:
    """What the engine said first stays: a later word is of what was already gone, or of a
    container that never was ready."""
    known = workloads.get(connection, identifier)
    values: dict[str, object] = {}
    if known.engine_started_at is None and facts.started_at is not None:
        values["engine_started_at"] = facts.started_at
    if known.engine_finished_at is None and facts.finished_at is not None:
        values["engine_finished_at"] = facts.finished_at
        values["exit_code"] = facts.exit_code
        values["oom_killed"] = facts.oom_killed
    if values and known.state is State.STOPPING:
        workloads.set_values(connection, identifier, **values)


def finish_stop(platform: Platform, identifier: str) -> bool:
    """Stop the container of a STOPPING workload, release what it holds and run a pass.

    Raises EngineError when the engine refuses or does not answer, or while another process is
    launching the container: then everything stays held, and whoever launches or the reconciler
    tries again. Safe to call from several processes at once.
    """
    for _ in range(2):  # a launch may end while its container is being stopped
        with platform.database.reading() as connection:
            workload = workloads.get(connection, identifier)
        if workload.state is not State.STOPPING:
            return False
        # Looked at before the engine: a launch that begins later finds STOPPING and gives up.
        settled = workload.launch_until is None or workload.launch_until <= utc_now()
        facts = platform.engine.stop(
            identifier,
            platform.settings.stop_grace_seconds,
            lambda ended: note_end(platform, identifier, ended),
        )
        if settled:
            released = confirm_gone(platform, identifier, facts)
            if released:
                platform.run_pass()
            return released
    raise EngineError("Its container is just being launched; it is ended as soon as it is there.")


def stop(platform: Platform, identifier: str, reason: str, actor: Actor, detail: str = "") -> None:
    """End a workload whatever its state; returns when nothing of it is held any more."""
    state = begin_stop(platform, identifier, reason, actor, detail)
    if state is State.STOPPING:
        finish_stop(platform, identifier)
    elif state is State.ENDED:
        platform.run_pass()


def cancel(
    platform: Platform, identifier: str, reason: str, actor: Actor, detail: str = ""
) -> None:
    """Take a request out of the queue and run a pass. Raises Conflict when it does not wait (any
    more): what has just been admitted is not stopped by whoever saw it waiting."""
    with platform.database.transaction() as connection:
        state = workloads.get(connection, identifier).state
        if state is not State.QUEUED:
            raise Conflict(
                f"It no longer waits: it is {state.value}.",
                hint="A server that runs or starts is stopped on the page Servers.",
                code="not_waiting",
            )
        write_stop(connection, identifier, reason, actor, utc_now(), detail)
    platform.run_pass()
