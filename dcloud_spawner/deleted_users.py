"""A user is deleted: nothing that was theirs may be that of whoever takes the name next.

What they used and paid stays on the ledger, on an account that is nobody's any more.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner import lifecycle, limits, user_homes
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import (
    accounts,
    asks,
    dataset_shares,
    datasets,
    events,
    former_people,
    grants,
    reservations,
    workloads,
)
from dcloud_spawner.store.asks import AskState
from dcloud_spawner.store.events import Actor

LONGEST_NAME = 200
"""Characters of a name beside which there is room to say that it is a former one."""


def let_go(platform: Platform, user: str, actor: Actor) -> None:
    """Keep the home and the account of somebody whom the hub deletes, both closed; nothing that
    was given to them, set for them or asked for by them is the next one's of that name. Blocks."""
    with platform.database.transaction() as connection:
        now = utc_now()
        former = _former_name(connection, user)
        user_homes.orphan_home(connection, user, actor)
        limits.forget(connection, user, actor=actor, at=now)
        _leave_projects(connection, user, actor, now)
        _withdraw_asks(connection, user, former, actor, now)
        _leave_datasets(connection, user, former, actor, now)
        _leave_reservations(connection, user, former, actor, now)
        _leave_sessions(connection, user, former, actor, now)
        _close_account(connection, user, former, actor, now)


def _former_name(connection: Connection, user: str) -> str:
    """One that nobody has, the same for all that they leave."""
    found = accounts.personal(connection, user)
    number = found.id if found is not None else uuid.uuid4().hex
    return f"{user[:LONGEST_NAME]} (deleted, {number[:8]})"


def _leave_projects(connection: Connection, user: str, actor: Actor, now: datetime) -> None:
    """The last owner, too: administrators find another one."""
    for account, _ in accounts.of_user(connection, user):
        if account.kind == accounts.PROJECT:
            accounts.set_member(connection, account.id, user, None, now)
            detail: dict[str, object] = {"user": user, "role": None}
            events.note(connection, actor, "account.member", account.id, at=now, detail=detail)


def _withdraw_asks(
    connection: Connection, user: str, former: str, actor: Actor, now: datetime
) -> None:
    for ask in asks.open_asks(connection, user=user):
        words = "The user was deleted."
        asks.answer(connection, ask.id, AskState.WITHDRAWN, by=actor.name, words=words, at=now)
        events.note(connection, actor, "ask.withdraw", ask.id, at=now, detail={"user": user})
    # What was answered, too, is not for the eyes of the next one.
    asks.rename(connection, user, former)


def _leave_datasets(
    connection: Connection, user: str, owner: str, actor: Actor, now: datetime
) -> None:
    """Theirs stay for those with whom they are shared, and for administrators, under a name that
    nobody has; nothing that was shared with them is shared with the next one."""
    for found in datasets.of_owner(connection, datasets.USER, user):
        text = datasets.search_text(found.name, owner, found.tags, found.description)
        datasets.change(connection, found.id, owner=owner, owner_name=owner, search_text=text)
        detail: dict[str, object] = {"dataset": found.reference, "owner": owner}
        events.note(connection, actor, "dataset.orphan", found.id, at=now, detail=detail)
    for identifier in dataset_shares.remove_with(connection, dataset_shares.USER, user):
        detail = {"with": f"{dataset_shares.USER}:{user}"}
        events.note(connection, actor, "dataset.unshare", identifier, at=now, detail=detail)


def _leave_reservations(
    connection: Connection, user: str, former: str, actor: Actor, now: datetime
) -> None:
    """What was kept for them is kept for nobody of that name; others who may use it still may."""
    for found in reservations.open_reservations(connection):
        if user in found.users:
            users = [former if each == user else each for each in found.users]
            reservations.set_users(connection, found.id, users)
            detail: dict[str, object] = {"user": user, "name": former}
            events.note(connection, actor, "reservation.leave", found.id, at=now, detail=detail)


def _leave_sessions(
    connection: Connection, user: str, former: str, actor: Actor, now: datetime
) -> None:
    """What they ran is not the next one's to see, nor counted as had by them. Whatever the hub did
    not know, or nobody took up again yet, ends too: it would be taken up for the next one. It has
    the former name when it is over (``lifecycle.confirm_gone``)."""
    for workload in workloads.open_of(connection, user):
        lifecycle.write_stop(connection, workload.id, "user deleted", actor, now)
    if former_people.rename(connection, user, former):
        events.note(connection, actor, "user.former", user, at=now, detail={"name": former})


def _close_account(
    connection: Connection, user: str, name: str, actor: Actor, now: datetime
) -> None:
    """Closed, by a name that nobody has, and nothing more is given to it."""
    found = accounts.personal(connection, user)
    if found is None:
        return
    for grant in grants.of_account(connection, found.id):
        if grant.next_at is not None:
            grants.set_values(connection, grant.id, next_at=None, cancelled_at=now)
            events.note(connection, actor, "grant.cancel", grant.id, at=now)
    accounts.change(connection, found.id, name=name, closed_at=now)
    detail: dict[str, object] = {"user": user, "name": name, "closed_at": now.isoformat()}
    events.note(connection, actor, "account.change", found.id, at=now, detail=detail)
