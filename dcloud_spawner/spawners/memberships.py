"""Whose groups or rights a request to the hub's API has changed, as they are afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from jupyterhub.apihandlers.base import APIHandler
from sqlalchemy import Connection

from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import people
from dcloud_spawner.store.people import Person

_GROUP = re.compile(r"groups/([^/]+)(/users)?$")
_USER = re.compile(r"users/([^/]+)$")


@dataclass(frozen=True)
class Memberships:
    """What is different now."""

    people: Mapping[str, Person] = field(default_factory=dict)
    gone: str = ""
    """A group that was deleted."""


def memberships(handler: APIHandler, path: str) -> Memberships:
    """Read from the hub whose groups or rights a request has changed."""
    method = str(handler.request.method)
    group, user = _GROUP.match(path), _USER.match(path)
    if group and method == "DELETE" and not group[2]:
        return Memberships(gone=unquote(group[1]))
    if user and method == "PATCH":
        return Memberships(_of_hub(handler, [unquote(user[1])]))
    return Memberships(_of_hub(handler, _named(handler.request.body)) if group else {})


def _named(body: bytes) -> list[str]:
    try:
        given = json.loads(body or b"{}")
    except ValueError:
        return []
    users = given.get("users") if isinstance(given, dict) else None
    return [name for name in users if isinstance(name, str)] if isinstance(users, list) else []


def _of_hub(handler: APIHandler, names: list[str]) -> dict[str, Person]:
    found = {}
    for name in names:
        user = handler.find_user(name)
        if user is not None:
            groups = sorted(group.name for group in user.groups)
            found[user.name] = Person(user.name, groups, bool(user.admin), utc_now())
    return found


def write(connection: Connection, changed: Memberships) -> None:
    """Let it count for those who have asked for something before; the others tell when they do."""
    for person in changed.people.values():
        if people.find(connection, person.user) is not None:
            people.note(
                connection, person.user, person.groups, person.administrator, person.seen_at
            )
    if changed.gone:
        for person in people.everybody(connection):
            if changed.gone in person.groups:
                left = [name for name in person.groups if name != changed.gone]
                people.note(connection, person.user, left, person.administrator, utc_now())
