"""Whether something may be had under somebody's limits: what is in the way, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.gpu_time import HOUR_SECONDS, read_gpu_time
from dcloud_spawner.limits import GIB, ROLLING, Standing, standing
from dcloud_spawner.roles import RoleLimits
from dcloud_spawner.scheduler.free import Asks
from dcloud_spawner.scheduler.reasons import CORES, GPUS, MEMORY, Unit, own_limit, server_words
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import datasets, homes, workloads
from dcloud_spawner.store import limits as rows
from dcloud_spawner.store.limits import HeldBy, Part
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NewWorkload, Workload

ASK = "or ask for more: Usage → Ask for more."


class Asked(Asks, Protocol):
    """What a request asks for, whatever kind of row it is, and for how long."""

    @property
    def limit_seconds(self) -> int: ...


@dataclass(frozen=True)
class Against:
    """What a limit has against something."""

    limit: str
    field: str
    """Of the choice."""
    words: str
    do: str
    """What helps, but for asking for more; without a full stop."""

    @property
    def hint(self) -> str:
        """What to do, as a refusal says it."""
        return f"{self.do}, {ASK}"

    @property
    def code(self) -> str:
        """For programs."""
        return f"limit:{self.limit}"


_COUNTED = (
    ("gpus", "gpus", GPUS),
    ("memory_gib", "memory_gib", MEMORY),
    ("cpus", "cpus", CORES),
)


_UNITS = {counted[0]: counted for counted in _COUNTED}


def amount(row: Asked | HeldBy | Part, limit: str) -> float:
    """What a request or a server has of what a limit counts."""
    if limit == "gpus":
        return row.gpus
    return row.memory_bytes / GIB if limit == "memory_gib" else row.cpu_millicores / 1000


def never(limits: RoleLimits, asked: Asked, models: Collection[str]) -> Against | None:
    """What is against a request even when nothing else of its user runs. ``models`` are the GPU
    models of the pool."""
    for name, field, unit in _COUNTED:
        most, wanted = getattr(limits, name), amount(asked, name)
        if most is not None and wanted > most:
            do = f"Choose at most {most:g}" if most > 0 else "Choose none"
            return Against(name, field, own_limit(most, {}, wanted, unit), do)
    if limits.hours is not None and asked.limit_seconds > limits.hours * HOUR_SECONDS:
        hours = asked.limit_seconds / HOUR_SECONDS
        words = f"Your limit is {_hours(limits.hours)} a session, and you asked for {hours:g}."
        return Against("hours", "hours", words, f"Choose at most {limits.hours}")
    return _model(limits, asked, models)


def _hours(count: int) -> str:
    return f"{count} {'hour' if count == 1 else 'hours'}"


def _model(limits: RoleLimits, asked: Asked, models: Collection[str]) -> Against | None:
    mine = limits.gpu_models
    if mine is None or not asked.gpus:
        return None
    names = ", ".join(mine)
    if asked.gpu_model is not None and asked.gpu_model not in mine:
        words = f"Your GPU models are {names}, and you asked for {asked.gpu_model}."
    elif asked.gpu_model is None and not set(models) <= set(mine):
        words = f"Your GPU models are {names}, and you asked for any."
    else:
        return None
    return Against("gpu_models", "gpu_model", words, f"Choose one of {names}")


def beside(limits: RoleLimits, asked: Asked, held: Sequence[HeldBy | Part]) -> Against | None:
    """What is against a request beside what its user holds."""
    for name, field, unit in _COUNTED:
        most, wanted = getattr(limits, name), amount(asked, name)
        if most is None or not wanted:
            continue
        used: dict[str, float] = {}
        for row in held:
            used[row.server_name] = used.get(row.server_name, 0.0) + amount(row, name)
        words = own_limit(most, used, wanted, unit)
        if words:
            return Against(name, field, words, _stop_words(most, used, unit))
    return None


def _stop_words(most: float, used: dict[str, float], unit: Unit) -> str:
    left = max(0.0, most - sum(used.values()))
    servers = " or ".join(server_words(name) for name, held in sorted(used.items()) if held)
    if not servers:
        return "Choose less"
    if left <= 0:
        return f"Stop {servers}"
    are = f"{unit.one} of it is" if left == 1 else f"{unit.many} of it are"
    return f"{left:g} {are} left: choose less or stop {servers}"


def gpu_hours(
    connection: Connection,
    found: Standing,
    asked: Asked,
    held: Sequence[HeldBy],
    now: datetime,
    *,
    running: bool,
) -> Against | None:
    """What is against a request because of GPU-hours that roll along. A start needs all that it
    may use until its own limit; ``running``: beside what servers that run may still use."""
    for name, window in ROLLING.items():
        most = getattr(found.limits, name)
        if most is None or not asked.gpus:
            continue
        need = asked.gpus * asked.limit_seconds / HOUR_SECONDS
        time = read_gpu_time(connection, found.user, held, window, now)
        aside = time.aside_hours if running else 0.0
        left = most - time.used_hours - aside
        if need <= left + 1e-9:
            continue
        days = f"{window.days} days"
        words = f"Your limit is {most:g} GPU-hours in {days}, {time.used_hours:.1f} are used"
        if running and time.aside:
            names = " and ".join(server_words(name) for name in sorted(time.aside))
            words += f", {names} may still use {aside:.1f}"
        words += f", and this asks for {need:g}."
        back = time.back_at(need - left + aside) if need <= most else None
        if back is not None:
            words += f" Enough of it is free again at {back:%Y-%m-%d %H:%M} UTC."
        whole = int(left // asked.gpus)
        do = f"Choose at most {_hours(whole)}" if whole >= 1 else "Wait"
        return Against(name, "hours", words, do)
    return None


# ---------------------------------------------------------------------------- refusals


def refuse_beyond_limits(
    connection: Connection, settings: Settings, new: NewWorkload, now: datetime
) -> Standing:
    """Raise NotAllowed for what somebody's limits never allow, or not before time has passed.
    What only has to wait until another server of theirs ends is not refused."""
    found = standing(connection, settings, new.user, now)
    if found.free:
        return found
    limits = found.limits
    models = rows.gpu_models(connection) if limits.gpu_models is not None else ()
    against = never(limits, new, models) or _too_many(connection, found)
    against = against or _storage(connection, found) or _place_lost(connection, limits, new)
    if against is None and (limits.gpu_hours_week, limits.gpu_hours_month) != (None, None):
        held = rows.held(connection, new.user)
        against = gpu_hours(connection, found, new, held, now, running=False)
    if against is not None:
        raise _refusal(against)
    return found


def _refusal(against: Against) -> NotAllowed:
    return NotAllowed(
        f"{against.field}: {against.words}" if against.field else against.words,
        hint=against.hint,
        field=against.field,
        code=against.code,
    )


def _too_many(connection: Connection, found: Standing) -> Against | None:
    most = found.limits.queued
    if most is None:
        return None
    waiting = rows.queued_servers(connection, found.user)
    if len(waiting) < most:
        return None
    names = " and ".join(server_words(name) for name in waiting)
    so_far = f", and {names} {'wait' if len(waiting) > 1 else 'waits'}" if waiting else ""
    noun = "request" if most == 1 else "requests"
    words = f"Your limit is {most} {noun} in the queue{so_far}."
    return Against("queued", "", words, "Leave the queue with one")


def _storage(connection: Connection, found: Standing) -> Against | None:
    most = found.limits.storage_gib
    if most is None:
        return None
    home = homes.of_user(connection, found.user)
    at_home = home.size_bytes or 0 if home else 0
    stored = datasets.stored_by(connection, datasets.USER, found.user)
    if at_home + stored <= most * GIB:
        return None
    words = f"Your limit is {most:g} GiB of storage, and your home has {at_home / GIB:.1f} GiB"
    if not stored:
        return Against("storage_gib", "", f"{words}.", "Ask an administrator to clear it with you")
    words += f", your datasets {stored / GIB:.1f} GiB."
    return Against("storage_gib", "", words, "Delete old versions or drafts of datasets")


def _place_lost(connection: Connection, limits: RoleLimits, new: NewWorkload) -> Against | None:
    """What is against a server beside a request that waits: with it that one could not start any
    more, and would lose the place that it is to keep."""
    if new.keeps_place_for is None:
        return None
    waits = workloads.get(connection, new.keeps_place_for)
    if waits.state is not State.QUEUED:
        return None
    held = rows.held(connection, new.user)
    mine = Part(new.user, new.server_name, new.gpus, new.memory_bytes, new.cpu_millicores)
    against = beside(limits, waits, [*held, mine])
    if against is None or beside(limits, waits, held) is not None:
        return None
    most, (_, _, unit) = getattr(limits, against.limit), _UNITS[against.limit]
    words = f"Your limit is {most:g} {unit.one if most == 1 else unit.many}: beside this server "
    words += f"{server_words(waits.server_name)}, which waits, could not start."
    return replace(against, words=words, do="Wait without it, or ask for less there")


def refuse_growth(
    connection: Connection,
    settings: Settings,
    workload: Workload,
    memory_bytes: int,
    cpu_millicores: int,
    now: datetime,
) -> None:
    """Raise NotAllowed when a running server would take more than its user's limits allow."""
    found = standing(connection, settings, workload.user, now)
    if found.free:
        return
    others = [row for row in rows.held(connection, workload.user) if row.id != workload.id]
    grown = _Grown(
        memory_bytes if memory_bytes > workload.memory_bytes else 0,
        cpu_millicores if cpu_millicores > workload.cpu_millicores else 0,
    )
    against = never(found.limits, grown, ()) or beside(found.limits, grown, others)
    if against is not None:
        words = against.words.removesuffix(" It starts when that is given back.")
        raise _refusal(replace(against, words=words))


@dataclass(frozen=True)
class _Grown:
    """What a server is to have; 0 of what it has already."""

    memory_bytes: int
    cpu_millicores: int
    gpus: int = 0
    gpu_model: str | None = None
    limit_seconds: int = 0
