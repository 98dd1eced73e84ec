"""Accounts: who pays, projects and who is in them, rates. Each act is one transaction with its line
in the action log; whether somebody may do it is the caller's to decide. All functions block.

Credits are given in ``granting`` and moved in ``transfers``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.granting import LEDGER, checked_text, find_account, find_project, give_due
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import accounts, events, grants, meters, rates
from dcloud_spawner.store.accounts import Account, Budget, Role
from dcloud_spawner.store.entries import MOST_MICROCREDITS
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every

_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

LONGEST_TITLE = 120


# ---------------------------------------------------------------------------- who pays


def payer(
    connection: Connection, settings: Settings, user: str, project: str | None, now: datetime
) -> Account:
    """The account that pays for what a user starts: a project they are in, or their own, which is
    made when it is first needed. Raises NotFound for a project that they cannot see, Conflict for
    one that is closed."""
    if project is None:
        return ensure_personal(connection, settings, user, now)
    found = accounts.project(connection, project)
    if found is None or accounts.role_in(connection, found, user) is None:
        raise NotFound(
            f"account: you are in no project {project[:60]!r}.",
            hint="Leave account out to pay yourself, or ask an owner of the project.",
            field="account",
        )
    if found.closed_at is not None:
        raise Conflict(
            f"The project {found.shown_name} is closed.",
            hint="Choose another account.",
            code="account_closed",
        )
    return found


def ensure_personal(
    connection: Connection, settings: Settings, user: str, now: datetime
) -> Account:
    """A user's own account; a new one gets what the settings give to everybody."""
    found = accounts.personal(connection, user)
    if found is not None:
        return found
    made = accounts.insert(connection, accounts.USER, user, Budget(settings.personal_budget), now)
    events.note(connection, LEDGER, "account.create", made.id, at=now, detail={"user": user})
    if settings.personal_grant_credits:
        grant = grants.insert(
            connection,
            account=made.id,
            microcredits=round(settings.personal_grant_credits * MICRO),
            every=Every(settings.personal_grant_every),
            carry_over=settings.personal_grant_carry_over,
            starts_at=now,
            ends_at=None,
            created_by=LEDGER.name,
            reason="For everybody",
            at=now,
        )
        give_due(connection, grant, now)
    return accounts.get(connection, made.id)


# ---------------------------------------------------------------------------- projects


def create_project(
    platform: Platform,
    name: str,
    owners: Sequence[str],
    actor: Actor,
    *,
    title: str = "",
    budget: Budget = Budget.HARD,
) -> Account:
    """A new project without credits. Raises InvalidChoice for a name that is none, Conflict when
    there is one of that name."""
    if not _PROJECT_NAME.fullmatch(name):
        raise InvalidChoice(
            "name: that is no name of a project.",
            hint="1 to 63 characters of a-z, 0-9 and -, the first not a -.",
            field="name",
        )
    title, now = checked_text(title, "title", LONGEST_TITLE, least=0), utc_now()
    with platform.database.transaction() as connection:
        if accounts.project(connection, name) is not None:
            raise Conflict(f"There is a project {name} already.", hint="Choose another name.")
        made = accounts.insert(connection, accounts.PROJECT, name, budget, now, title)
        for owner in dict.fromkeys(owners):
            accounts.set_member(connection, made.id, owner, Role.OWNER, now)
        detail = {"project": name, "owners": list(owners), "budget": budget.value}
        events.note(connection, actor, "account.create", made.id, at=now, detail=detail)
    return made


def set_member(
    platform: Platform, account: str, user: str, role: Role | None, actor: Actor
) -> None:
    """Make somebody a member or owner of a project; None takes them out. Raises Conflict when
    nobody would own it any more."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find_project(connection, account)
        owners = [
            member.user
            for member in accounts.members(connection, account)
            if member.role is Role.OWNER
        ]
        if owners == [user] and role is not Role.OWNER:
            raise Conflict(
                f"{user} is the only owner of {found.shown_name}.",
                hint="Make somebody else an owner first.",
                code="last_owner",
            )
        if role is None and accounts.role_in(connection, found, user) is None:
            raise NotFound(f"{user} is not in {found.shown_name}.")
        accounts.set_member(connection, account, user, role, now)
        detail = {"user": user, "role": role.value if role else None}
        events.note(connection, actor, "account.member", account, at=now, detail=detail)


def change_account(
    platform: Platform,
    account: str,
    actor: Actor,
    *,
    title: str | None = None,
    budget: Budget | None = None,
    closed: bool | None = None,
) -> Account:
    """Change what is given. A closed project keeps its entries and pays for nothing new."""
    now = utc_now()
    values: dict[str, object] = {}
    if title is not None:
        values["title"] = checked_text(title, "title", LONGEST_TITLE, least=0)
    if budget is not None:
        values["budget"] = budget.value
    if closed is not None:
        values["closed_at"] = now if closed else None
    with platform.database.transaction() as connection:
        find_account(connection, account)
        if closed is not None:
            find_project(connection, account)
        if values:
            accounts.change(connection, account, **values)
            detail = {key: str(value) for key, value in values.items()}
            events.note(connection, actor, "account.change", account, at=now, detail=detail)
        return accounts.get(connection, account)


# ---------------------------------------------------------------------------- rates


def change_rate(
    platform: Platform,
    resource: Resource,
    microcredits: int,
    actor: Actor,
    *,
    gpu_model: str = "",
    tier: str = "",
    valid_from: datetime | None = None,
) -> int:
    """A new rate from a time on, which may not be over: nothing that is charged changes."""
    now = utc_now()
    if not 0 <= microcredits <= MOST_MICROCREDITS // 10**6:
        raise InvalidChoice(
            "microcredits: that is no rate.",
            hint=f"0 to {MOST_MICROCREDITS // 10**6:,} micro-credits.",
            field="microcredits",
        )
    if gpu_model and resource is not Resource.GPU:
        raise InvalidChoice(
            "gpu_model: only GPUs have a model.", hint="Leave it out.", field="gpu_model"
        )
    if tier and tier not in platform.settings.tiers:
        raise InvalidChoice(
            f"tier: there is no {tier[:60]!r}.",
            hint=f"One of {', '.join(platform.settings.tiers)}, or none for all.",
            field="tier",
        )
    with platform.database.transaction() as connection:
        # Nothing that is charged already may change, even when the clock was set back.
        mark = meters.latest_watermark(connection)
        earliest = now if mark is None else max(now, mark)
        if valid_from is not None and valid_from < earliest:
            raise InvalidChoice(
                "valid_from: that is over.",
                hint="A rate never changes the past; leave it out to begin now.",
                field="valid_from",
            )
        begins = valid_from or earliest
        made = rates.add_rate(
            connection,
            resource,
            microcredits,
            begins,
            gpu_model=gpu_model,
            tier=tier,
            created_by=actor.name,
            at=now,
        )
        detail = {
            "resource": resource.value,
            "gpu_model": gpu_model,
            "tier": tier,
            "microcredits": microcredits,
            "valid_from": begins.isoformat(),
        }
        events.note(connection, actor, "rate.create", str(made), at=now, detail=detail)
    return made
