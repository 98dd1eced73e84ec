"""What somebody may have at most: the limits of their roles, and what was set for them alone.

Nothing here decides about a start: ``limit_check`` compares, ``limit_gate`` is asked by a pass.
Every function works in its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from dcloud_spawner.errors import InvalidChoice, NotFound
from dcloud_spawner.gpu_time import MONTH, WEEK, GpuTime, read_gpu_time
from dcloud_spawner.roles import ROLE as ROLE
from dcloud_spawner.roles import TITLES, RoleLimits, most_generous, roles_of
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import datasets, events, homes, people
from dcloud_spawner.store import limits as rows
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.limits import HeldBy, Override
from dcloud_spawner.store.people import Person

GIB = 2**30

LONGEST_REASON = 500
LONGEST_USER = 255

OVERRIDE = "override"

Value = int | float | str | tuple[str, ...] | None
"""Of one limit; None: no limit."""


@dataclass(frozen=True)
class Standing:
    """The limits of one person at one time."""

    user: str
    roles: tuple[str, ...]
    limits: RoleLimits
    overrides: Mapping[str, Override]
    """What was set for them alone, by the name of the limit, ``role`` included."""

    @cached_property
    def free(self) -> bool:
        """Whether nothing limits a start."""
        return all(getattr(self.limits, name) is None for name in TITLES if name != "tier")

    def source(self, name: str) -> str:
        """Where a limit comes from: ``override``, or the role that gives it."""
        if name in self.overrides:
            return OVERRIDE
        return self.roles[0] if len(self.roles) == 1 else " and ".join(self.roles)


@dataclass(frozen=True)
class Limit:
    """One limit of somebody, for a page or the API."""

    name: str
    title: str
    value: Value
    """None: no limit."""
    used: float | None
    """What counts against it now; None where that is not measured, or means nothing."""
    by: tuple[tuple[str, float], ...]
    """Which servers have it: name and amount; the default server has an empty name."""
    source: str
    """``override``, or the names of the roles that give it."""
    ends_at: datetime | None
    """When the override ends."""
    reason: str = ""
    """Why there is an override."""

    @property
    def left(self) -> float | None:
        """How much more there may be; None where there is no limit or nothing is measured."""
        if self.used is None or not isinstance(self.value, int | float):
            return None
        return max(0.0, self.value - self.used)


# ---------------------------------------------------------------------------- who may what


def standing(
    connection: Connection,
    settings: Settings,
    user: str,
    at: datetime,
    *,
    groups: Collection[str] | None = None,
    administrator: bool = False,
) -> Standing:
    """The limits of somebody. Without ``groups`` they are what they were when that person last
    asked for something; of whom nobody knows, none."""
    if groups is None:
        known = people.find(connection, user)
    else:
        known = Person(user, tuple(groups), administrator, at)
    overrides = rows.active_overrides(connection, at, user=user)
    return standing_of(settings, user, known, overrides)


def standing_of(
    settings: Settings, user: str, known: Person | None, overrides: Sequence[Override]
) -> Standing:
    """The limits of somebody of whom everything has been read."""
    mine = {found.limit: found for found in overrides}  # of several the last one
    role = mine.get(ROLE)
    if role is not None and role.value in settings.roles:
        names: tuple[str, ...] = (str(role.value),)
    else:
        groups, admin = (known.groups, known.administrator) if known else ((), False)
        names = roles_of(settings.roles, settings.default_role, groups, administrator=admin)
    limits = settings.roles[names[0]]
    if len(names) > 1:
        limits = most_generous([settings.roles[name] for name in names], settings.tiers)
    changed = {name: _typed(found.value) for name, found in mine.items() if name in TITLES}
    return Standing(user, names, limits.model_copy(update=changed) if changed else limits, mine)


def _typed(value: Any) -> Value:
    return tuple(value) if isinstance(value, list) else value


def limits_of(
    connection: Connection,
    settings: Settings,
    user: str,
    at: datetime,
    *,
    groups: Collection[str] | None = None,
    administrator: bool = False,
) -> Sequence[Limit]:
    """All limits of somebody and what counts against each now, in the order of ``TITLES``."""
    found = standing(connection, settings, user, at, groups=groups, administrator=administrator)
    used = _used(connection, user, rows.held(connection, user), at)
    limits = []
    for name, title in TITLES.items():
        amount, by = used.get(name, (None, ()))
        override = found.overrides.get(name)
        limits.append(
            Limit(
                name,
                title,
                getattr(found.limits, name),
                amount,
                by,
                found.source(name),
                override.ends_at if override else None,
                override.reason if override else "",
            )
        )
    return limits


Used = tuple[float | None, tuple[tuple[str, float], ...]]


def _used(
    connection: Connection, user: str, held: Sequence[HeldBy], at: datetime
) -> Mapping[str, Used]:
    home = homes.of_user(connection, user)
    stored = datasets.stored_by(connection, datasets.USER, user)
    measured = home.size_bytes if home else None
    size = None if measured is None and not stored else ((measured or 0) + stored) / GIB
    waiting = rows.queued_servers(connection, user)
    return {
        "gpus": _sum((row.server_name, row.gpus) for row in held),
        "memory_gib": _sum((row.server_name, row.memory_bytes / GIB) for row in held),
        "cpus": _sum((row.server_name, row.cpu_millicores / 1000) for row in held),
        "storage_gib": (size, ()),
        "queued": _sum((name, 1.0) for name in waiting),
        "gpu_hours_week": _hours(read_gpu_time(connection, user, held, WEEK, at)),
        "gpu_hours_month": _hours(read_gpu_time(connection, user, held, MONTH, at)),
    }


def _sum(by: Any) -> Used:
    found = tuple((name, float(amount)) for name, amount in by if amount)
    return sum(amount for _, amount in found), found


def _hours(time: GpuTime) -> Used:
    return time.used_hours, tuple(time.aside.items())


# ---------------------------------------------------------------------------- for one person


def override(
    connection: Connection,
    settings: Settings,
    user: str,
    name: str,
    value: object,
    *,
    actor: Actor,
    reason: str,
    at: datetime,
    ends_at: datetime | None = None,
) -> None:
    """Set a limit, or the ``role``, of one person; what was set for it before no longer counts.
    Raises InvalidChoice with the field that is wrong."""
    _check_user(user)
    checked = check_value(settings, name, value)
    if len(reason) > LONGEST_REASON:
        hint = f"At most {LONGEST_REASON} characters."
        raise InvalidChoice("reason: too long.", hint=hint, field="reason")
    if ends_at is not None and ends_at <= at:
        raise InvalidChoice("ends_at: this time is over.", hint="Say a later one.", field="ends_at")
    stored = list(checked) if isinstance(checked, tuple) else checked
    rows.add_override(
        connection, user, name, stored, ends_at=ends_at, reason=reason, by=actor.name, at=at
    )
    detail: dict[str, object] = {"limit": name, "value": stored, "reason": reason}
    if ends_at is not None:
        detail["ends_at"] = ends_at.isoformat()
    events.note(connection, actor, "limit.set", user, at=at, detail=detail)


def end_override(
    connection: Connection, user: str, name: str, *, actor: Actor, at: datetime
) -> None:
    """What was set for one limit of somebody no longer counts. Raises NotFound when nothing was."""
    if not rows.end_overrides(connection, user, name, at):
        raise NotFound(f"Nothing is set for {name} of {user}.", field="limit")
    events.note(connection, actor, "limit.remove", user, at=at, detail={"limit": name})


def forget(connection: Connection, user: str, *, actor: Actor, at: datetime) -> None:
    """A user is deleted: what was set for them is not for the next one of that name."""
    people.remove(connection, user)
    for name in sorted({found.limit for found in rows.active_overrides(connection, at, user=user)}):
        end_override(connection, user, name, actor=actor, at=at)


def check_value(settings: Settings, name: str, value: object) -> Any:
    """The value of a limit, or of ``role``, in its type; raises InvalidChoice. None is no limit."""
    if name == ROLE:
        if not isinstance(value, str) or value not in settings.roles:
            hint = f"Roles are {', '.join(settings.roles)}."
            raise InvalidChoice("value: there is no such role.", hint=hint, field="value")
        return value
    if name not in TITLES:
        hint = f"Limits are {', '.join(TITLES)}; and {ROLE}."
        raise InvalidChoice("limit: there is no such limit.", hint=hint, field="limit")
    if name not in ("gpu_models", "tier") and not _is_number(value):
        raise InvalidChoice("value: not a number.", field="value")
    try:
        found = RoleLimits.model_validate({name: value})
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidChoice(f"value: {said}.", field="value") from None
    if name == "tier" and value is not None and value not in settings.tiers:
        hint = f"Tiers are {', '.join(settings.tiers)}."
        raise InvalidChoice("value: there is no such tier.", hint=hint, field="value")
    return getattr(found, name)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _check_user(user: str) -> None:
    if not user.strip() or len(user) > LONGEST_USER or not user.isprintable():
        raise InvalidChoice("user: this is no name.", field="user")


ROLLING: Mapping[str, timedelta] = {"gpu_hours_week": WEEK, "gpu_hours_month": MONTH}
"""Windows of the limits of GPU-hours."""
