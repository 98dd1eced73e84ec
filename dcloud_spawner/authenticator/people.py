"""Accounts as the administrator's page shows them: pure, values in and values out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.store.logins import Login, LoginStatus


@dataclass(frozen=True)
class SignUp:
    """One sign-up that waits, with what approving it would hand over."""

    name: str
    note: str
    source: str
    signed_up_at: datetime
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """Somebody with an account, or a user whom the hub alone knows."""

    name: str
    admin: bool
    state: str
    """``ok``, ``locked``, ``locked-out`` or ``invited`` (has no password yet)."""
    locked_until: datetime | None
    signed_in_at: datetime | None
    link_expires_at: datetime | None


def sign_ups(
    logins: Sequence[Login],
    hub_users: Mapping[str, bool],
    homes: Collection[str],
    admins: Collection[str],
) -> list[SignUp]:
    """Sign-ups that wait, oldest first. ``hub_users`` says of each whether administrator."""
    waiting = sorted(
        (login for login in logins if login.status is LoginStatus.PENDING),
        key=lambda login: login.signed_up_at,
    )
    return [
        SignUp(
            name=login.name,
            note=login.note,
            source=login.source,
            signed_up_at=login.signed_up_at,
            cautions=_cautions(login.name, hub_users, homes, admins),
        )
        for login in waiting
    ]


def _cautions(
    name: str, hub_users: Mapping[str, bool], homes: Collection[str], admins: Collection[str]
) -> tuple[str, ...]:
    found = []
    if name in admins or hub_users.get(name):
        found.append("This is an administrator's name: approving makes them administrator.")
    elif name in hub_users:
        found.append("The hub knows a user of this name: approving hands that user to them.")
    if name in homes:
        found.append("A home of this name exists: approving opens its files to them.")
    return tuple(found)


def people(
    logins: Sequence[Login], hub_users: Mapping[str, bool], locked_out: Mapping[str, datetime]
) -> list[Person]:
    """Everybody but the sign-ups that wait, by name."""
    by_name = {login.name: login for login in logins}
    names = {login.name for login in logins if login.status is not LoginStatus.PENDING}
    names |= {name for name in hub_users if name not in by_name}
    return [
        _person(name, by_name.get(name), hub_users.get(name, False), locked_out.get(name))
        for name in sorted(names)
    ]


def _person(name: str, login: Login | None, admin: bool, until: datetime | None) -> Person:
    if login is not None and login.status is LoginStatus.LOCKED:
        state = "locked"
    elif until is not None:
        state = "locked-out"
    elif login is None or not login.has_password:
        state = "invited"
    else:
        state = "ok"
    return Person(
        name=name,
        admin=admin,
        state=state,
        locked_until=until,
        signed_in_at=login.signed_in_at if login else None,
        link_expires_at=login.link_expires_at if login else None,
    )
