"""Advance reservations: made and given up by people, begun and ended by the clock in a pass.

Whether somebody may do this is the caller's to decide. Each act is one transaction with its
line in the action log, and a pass after it. All functions block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.engines.base import Health
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.reserved import all_kept
from dcloud_spawner.scheduler.schedule import Capacity, ends_at, take_snapshot
from dcloud_spawner.store import events, leases, nodes, reservations, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.reservations import NewReservation, Reservation, ReservationState
from dcloud_spawner.store.workloads import NewWorkload

LONGEST = timedelta(days=31)
"""A reservation takes from everybody else, so it ends."""

FURTHEST = timedelta(days=366)
"""Nobody knows what the pool is like later."""

LONGEST_TITLE = 100

MOST_PEOPLE = 1000
"""Users and groups of one reservation."""


def reserve(platform: Platform, new: NewReservation, actor: Actor) -> Reservation:
    """Keep GPUs for some people from a time to a time.

    Raises InvalidChoice for what makes no sense or could never be, with its field, and
    Conflict when so many are not sure to be free then.
    """
    now = utc_now()
    new = replace(
        new,
        title=new.title.strip(),
        users=_names("users", new.users),
        groups=_names("groups", new.groups),
    )
    _check(new, now)
    with platform.database.transaction() as connection:
        _refuse_impossible(connection, platform.capacity, new)
        _refuse_taken(connection, new, now)
        made = reservations.insert(connection, new, actor.name, now)
        _refuse_apart(connection, platform.capacity, made, now)
        detail: dict[str, object] = {
            "title": new.title,
            "starts_at": new.starts_at.isoformat(),
            "ends_at": new.ends_at.isoformat(),
            "gpus": new.gpus,
            "gpu_model": new.gpu_model,
            "users": list(new.users),
            "groups": list(new.groups),
        }
        events.note(connection, actor, "reservation.create", made.id, at=now, detail=detail)
    platform.run_pass()
    return made


def cancel_reservation(platform: Platform, identifier: str, actor: Actor) -> Reservation:
    """Give a reservation up; what runs on it goes on until its own limit, unless another
    reservation counts on its end. Raises NotFound, Conflict when it is over."""
    with platform.database.transaction() as connection:
        found = reservations.find(connection, identifier)
        if found is None:
            raise NotFound("There is no such reservation.")
        to = ReservationState.CANCELLED
        if not reservations.change(connection, identifier, to, f"Given up by {actor.name}."):
            raise Conflict(f"This reservation is {found.state.value} already.")
        now = utc_now()
        _let_go(connection, platform.capacity, identifier, now)
        detail = {"title": found.title}
        events.note(connection, actor, "reservation.cancel", identifier, at=now, detail=detail)
    platform.run_pass()
    return replace(found, state=to)


def _let_go(connection: Connection, capacity: Capacity, identifier: str, now: datetime) -> None:
    """What runs on a reservation that was given up no longer ends with it; but where others were
    promised what it then gives back, it ends as it was told."""
    kept_before = all_are_kept(connection, capacity, now)
    with connection.begin_nested() as dropping:
        workloads.drop_notices(connection, identifier)
        if kept_before and not all_are_kept(connection, capacity, now):
            dropping.rollback()


def all_are_kept(connection: Connection, capacity: Capacity, now: datetime) -> bool:
    """Whether every reservation can be kept beside what runs, if everybody uses up the limit."""
    found = take_snapshot(connection, capacity, now, everybody=False)
    names = PoolNames(found.nodes, found.accelerators.values())
    return all_kept(occupancy_of(found, names), found.reservations, found.at)


def reservation_for(
    connection: Connection, new: NewWorkload, groups: Collection[str], now: datetime
) -> str | None:
    """The first reservation that a new request may draw on. A pass uses it once it has begun,
    and starts the request anywhere else before, if there is room."""
    for found in reservations.open_reservations(connection):
        model_fits = None in (found.gpu_model, new.gpu_model) or found.gpu_model == new.gpu_model
        if (
            found.ends_at > now
            and found.is_for(new.user, groups)
            and 0 < new.gpus <= found.gpus
            and model_fits
        ):
            return found.id
    return None


# ---------------------------------------------------------------------------- what is refused


def _names(field: str, names: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in names))
    if any(not name or len(name) > 255 for name in found):
        raise InvalidChoice(f"{field}: a name is empty or too long.", field=field)
    if len(found) > MOST_PEOPLE:
        raise InvalidChoice(f"{field}: at most {MOST_PEOPLE} names.", field=field)
    return found


def _check(new: NewReservation, now: datetime) -> None:
    """Raise InvalidChoice for what no pool could make right."""
    if not new.title or len(new.title) > LONGEST_TITLE:
        hint = f"Between 1 and {LONGEST_TITLE} characters."
        raise InvalidChoice("The title is empty or too long.", hint=hint, field="title")
    for field, at in (("starts_at", new.starts_at), ("ends_at", new.ends_at)):
        if at.tzinfo is None:
            raise InvalidChoice(f"{field} has no time zone.", hint="Say which.", field=field)
    if new.ends_at <= new.starts_at or new.ends_at <= now:
        hint = "The end comes after the beginning and after now."
        raise InvalidChoice("It would be over before it begins.", hint=hint, field="ends_at")
    if new.ends_at - new.starts_at > LONGEST:
        hint = f"At most {LONGEST.days} days."
        raise InvalidChoice("It would last too long.", hint=hint, field="ends_at")
    if new.starts_at - now > FURTHEST:
        hint = f"At most {FURTHEST.days} days from now."
        raise InvalidChoice("It would begin too late.", hint=hint, field="starts_at")
    for field, value, least in (
        ("gpus", new.gpus, 1),
        ("memory_bytes", new.memory_bytes, 0),
        ("cpu_millicores", new.cpu_millicores, 0),
    ):
        if value < least:
            raise InvalidChoice(f"{field}: {value} is not possible.", field=field)
    if not new.users and not new.groups:
        hint = "Name users, groups or both."
        raise InvalidChoice("It is for nobody.", hint=hint, field="users")


def _refuse_impossible(connection: Connection, capacity: Capacity, new: NewReservation) -> None:
    """Raise InvalidChoice when the whole pool does not have so much."""
    found = nodes.all_accelerators(connection)
    models = sorted({row.model for row in found})
    if new.gpu_model is not None and new.gpu_model not in models:
        raise InvalidChoice(
            f"There is no GPU of the model {new.gpu_model!r} here.",
            hint=f"Models here: {', '.join(models)}." if models else "This pool has no GPUs.",
            field="gpu_model",
        )
    count = Counter(row.node for row in found if new.gpu_model in (None, row.model))
    most = bare = 0
    for node in nodes.all_nodes(connection):
        memory = max(0, node.memory_bytes - capacity.reserve_memory_bytes)
        cpu = int(node.cpu_millicores * capacity.cpu_overcommit)
        by_memory = memory // new.memory_bytes if new.memory_bytes else count[node.name]
        by_cpu = cpu // new.cpu_millicores if new.cpu_millicores else count[node.name]
        most += min(count[node.name], by_memory, by_cpu)
        bare += count[node.name]
    if new.gpus > bare:
        raise InvalidChoice(
            f"There are {bare} such GPUs.", hint=f"Ask for up to {bare}.", field="gpus"
        )
    if new.gpus > most:
        raise InvalidChoice(
            f"With so much memory and so many cores for each there are {most} GPUs.",
            hint="Ask for less memory or fewer cores.",
            field="memory_bytes",
        )


def _refuse_taken(connection: Connection, new: NewReservation, now: datetime) -> None:
    """Raise Conflict when so many GPUs are not sure to be free: what runs now may run until its
    limit, and other reservations have theirs."""
    newest = max((row.seen_at for row in nodes.all_nodes(connection)), default=now)
    away = {row.name for row in nodes.all_nodes(connection) if row.drained or row.seen_at < newest}
    wanted = {
        row.uuid
        for row in nodes.all_accelerators(connection)
        if new.gpu_model in (None, row.model) and _in_service(row, away)
    }
    others = [
        found
        for found in reservations.open_reservations(connection)
        if found.starts_at < new.ends_at
        and found.ends_at > new.starts_at
        and (None in (new.gpu_model, found.gpu_model) or new.gpu_model == found.gpu_model)
    ]
    counted = {found.id for found in others}
    # Whoever runs on one of those is counted with it.
    ends = {
        found.id: ends_at(found, now)
        for found in workloads.holding(connection)
        if found.reservation not in counted
    }
    kept = sum(
        uuid in wanted and holder in ends and ((end := ends[holder]) is None or end > new.starts_at)
        for uuid, holder in leases.holders(connection).items()
    )
    reserved = max(
        (
            sum(each.gpus for each in others if each.starts_at <= at < each.ends_at)
            for at in (new.starts_at, *(found.starts_at for found in others))
            if new.starts_at <= at < new.ends_at
        ),
        default=0,
    )
    sure = max(0, len(wanted) - kept - reserved)
    if new.gpus > sure:
        raise Conflict(
            f"Only {sure} such GPUs are sure to be free then: {kept} may still be in use and "
            f"{reserved} are reserved.",
            hint="Choose fewer, or a later time.",
            code="not_free_then",
        )


def _refuse_apart(
    connection: Connection, capacity: Capacity, made: Reservation, now: datetime
) -> None:
    """Raise Conflict when the GPUs are free then, but not with this memory and these cores, or
    not beside what is reserved already: by the guards of the pass itself."""
    found = take_snapshot(connection, capacity, now, everybody=False)
    names = PoolNames(found.nodes, found.accelerators.values())
    occupancy = occupancy_of(found, names)
    before = [other for other in found.reservations if other.id != made.id]
    if not all_kept(occupancy, before, found.at):
        return  # something broke since they were made: no reason to refuse this one
    if not all_kept(occupancy, found.reservations, found.at):
        raise Conflict(
            "These GPUs, with this memory and these cores, are not sure to be free then beside "
            "what runs and what is reserved.",
            hint="Choose fewer or less of each, or a later time.",
            code="not_free_then",
        )


def _in_service(row: AcceleratorRow, away: Collection[str]) -> bool:
    return row.health is Health.OK and not row.drained and row.node not in away
