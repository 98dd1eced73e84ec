"""Limits for administrators: those of the roles, who has others, and one person's in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner import limits
from dcloud_spawner.form.words import listed
from dcloud_spawner.limits import OVERRIDE, Limit
from dcloud_spawner.roles import ROLE, TITLES
from dcloud_spawner.scheduler.reasons import server_words
from dcloud_spawner.store import limits as rows
from dcloud_spawner.store import people
from dcloud_spawner.store.limits import Override
from hub_services.web.pages.limit_words import (
    NUMBERS,
    limit_choices,
    model_choices,
    title,
    value_words,
)
from hub_services.web.pages.views import Call

LISTED = 500


@dataclass(frozen=True)
class RoleRow:
    """One limit in all roles."""

    title: str
    values: Sequence[str]


@dataclass(frozen=True)
class OverrideRow:
    """One limit of one person."""

    override: Override
    title: str
    value: str
    state: str = ""
    """Of one that no longer counts."""


@dataclass(frozen=True)
class LimitRow:
    """One limit of one person, with what counts against it."""

    title: str
    value: str
    used: str
    by: str
    full: bool
    source: str
    ends_at: datetime | None
    override: bool
    name: str


@dataclass(frozen=True)
class PersonLimits:
    """One person in full."""

    user: str
    known: bool
    """Whether they ever asked for something."""
    roles: str
    groups: Sequence[str]
    rows: Sequence[LimitRow]
    history: Sequence[OverrideRow]


@dataclass(frozen=True)
class LimitsPage:
    """Everything on it."""

    roles: Sequence[str]
    default_role: str
    table: Sequence[RoleRow]
    overrides: Sequence[OverrideRow]
    hidden: int
    person: PersonLimits | None
    users: Sequence[str]
    """For the field of a name."""
    limits: Sequence[tuple[str, str]]
    numbers: str
    models: Sequence[tuple[str, str]]
    tiers: Sequence[tuple[str, str]]
    role_choices: Sequence[tuple[str, str]]


def limits_page(call: Call) -> LimitsPage:
    """Everything, and one person where the address names one."""
    settings, user = call.platform.settings, call.text("user")
    with call.platform.database.reading() as connection:
        found = rows.active_overrides(connection, call.now)
        models = rows.gpu_models(connection)
        known = [person.user for person in people.everybody(connection)]
        person = _person(connection, call, user) if user else None
    last = {(each.user, each.limit): each for each in found}
    shown = sorted(last.values(), key=lambda each: (each.user, title(each.limit)))
    return LimitsPage(
        roles=tuple(settings.roles),
        default_role=settings.default_role,
        table=[
            RoleRow(
                words,
                [value_words(name, getattr(role, name)) for role in settings.roles.values()],
            )
            for name, words in TITLES.items()
        ],
        overrides=[_row(each) for each in shown[:LISTED]],
        hidden=max(0, len(shown) - LISTED),
        person=person,
        users=known[:LISTED],
        limits=[*limit_choices(), (ROLE, "Role")],
        numbers=NUMBERS,
        models=model_choices(models),
        tiers=[(each, each) for each in settings.tiers],
        role_choices=[(each, each) for each in settings.roles],
    )


def _row(found: Override, state: str = "") -> OverrideRow:
    return OverrideRow(found, title(found.limit), value_words(found.limit, found.value), state)


def _person(connection: Connection, call: Call, user: str) -> PersonLimits:
    settings, now = call.platform.settings, call.now
    known = people.find(connection, user)
    standing = limits.standing(connection, settings, user, now)
    history = []
    for each in reversed(rows.overrides_of(connection, user)):
        over = each.ends_at is not None and each.ends_at <= now
        state = "replaced or removed" if each.removed_at else "over" if over else ""
        history.append(_row(each, state))
    return PersonLimits(
        user=user,
        known=known is not None,
        roles=listed(standing.roles),
        groups=tuple(known.groups) if known else (),
        rows=[limit_row(each) for each in limits.limits_of(connection, settings, user, now)],
        history=history,
    )


def _amount(used: float) -> str:
    """``2``, ``0.08``; two decimals at most, and what is less than that as such."""
    if 0 < used < 0.005:
        return "< 0.01"
    return f"{used:,.2f}".rstrip("0").rstrip(".")


def limit_row(found: Limit) -> LimitRow:
    """One limit in words."""
    by = listed([f"{_amount(amount)} by {server_words(name)}" for name, amount in found.by])
    own = found.source == OVERRIDE
    return LimitRow(
        title=found.title,
        value=value_words(found.name, found.value),
        used="" if found.used is None else _amount(found.used),
        by=by,
        full=found.left is not None and found.left <= 0,
        source="set for this person" if own else f"role {found.source}",
        ends_at=found.ends_at,
        override=own,
        name=found.name,
    )
