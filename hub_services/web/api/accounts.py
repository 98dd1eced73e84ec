"""Accounts: who has what, who is in a project, and moving credits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from dcloud_spawner import accounting, transfers
from dcloud_spawner.errors import NotAllowed, NotFound
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import accounts
from dcloud_spawner.store.accounts import Account, Budget, Member, Role
from hub_services.web.api.access import (
    Seen,
    have_own_account,
    manage_account,
    read,
    see_account,
)
from hub_services.web.api.idempotency import key_of
from hub_services.web.api.ledger import entry_view
from hub_services.web.api.ledger_models import (
    AccountDetailView,
    AccountsPage,
    AccountsView,
    AccountView,
    AdjustBody,
    ChangeAccountBody,
    EntryView,
    MemberBody,
    MemberView,
    NewProjectBody,
    TransferBody,
)
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number
from hub_services.web.api.wire_types import amount, is_name
from hub_services.web.known_names import refuse_unknown
from hub_services.web.viewer import Viewer

_NO_TARGET = NotFound(
    "You cannot see the account that is to get the credits.",
    hint="You can give to accounts that you are in, and to people who are in a project with you.",
    field="to_account",
)


# ---------------------------------------------------------------------------- reading


async def list_accounts(call: Call[AccountsPage, Nothing]) -> AccountsView:
    """One's own account and the projects that one is in; administrators see all."""
    query, viewer = call.query, call.viewer
    await have_own_account(call)
    first = cursor_number(query.cursor) if query.cursor else 0

    def reading(connection: Connection) -> AccountsView:
        mine = accounts.of_user(connection, viewer.name) if viewer.person else []
        roles = {account.id: role for account, role in mine}
        found = [account for account, _ in mine]
        if viewer.administrator and not query.mine:
            found = accounts.all_accounts(connection)
        wanted = [account for account in found if _is_wanted(account, query)]
        shown = wanted[first : first + query.limit]
        seen = [Seen(each, roles.get(each.id), viewer.administrator) for each in shown]
        last = first + len(shown)
        return AccountsView(
            items=tuple(AccountView(**each) for each in _values(connection, seen)),
            next_cursor=str(last) if last < len(wanted) else None,
        )

    return await read(call, reading)


async def get_account(call: Call[Nothing, Nothing]) -> AccountDetailView:
    """One account. Of a project a member sees the balance, its owners and themselves."""

    def reading(connection: Connection) -> AccountDetailView:
        return _detail(connection, call.viewer, call.path["id"])

    return await read(call, reading)


def _is_wanted(account: Account, query: AccountsPage) -> bool:
    if query.kind and account.kind != query.kind:
        return False
    sought = query.name.casefold()
    return sought in account.name.casefold() or sought in account.title.casefold()


def _values(connection: Connection, found: list[Seen]) -> list[dict[str, Any]]:
    """Fields of ``AccountView`` of each."""
    held = accounts.held_microcredits(connection, [each.account.id for each in found])
    values = []
    for each in found:
        account = each.account
        aside = held.get(account.id, 0)
        values.append(
            {
                "id": account.id,
                "kind": account.kind,
                "name": account.name,
                "title": account.title,
                "balance": amount(account.balance_microcredits),
                "available": amount(account.balance_microcredits - aside),
                "held": amount(aside),
                "budget": account.budget.value,
                "role": each.role.value if each.role else None,
                "created_at": account.created_at,
                "closed_at": account.closed_at,
            }
        )
    return values


def _detail(connection: Connection, viewer: Viewer, identifier: str) -> AccountDetailView:
    seen = see_account(connection, viewer, identifier)
    members = accounts.members(connection, identifier)
    shown = [
        member
        for member in members
        if seen.full or member.role is Role.OWNER or viewer.owns(member.user)
    ]
    return AccountDetailView(
        **_values(connection, [seen])[0], members=tuple(_member_view(each) for each in shown)
    )


def _member_view(member: Member) -> MemberView:
    return MemberView(user=member.user, role=member.role.value, added_at=member.added_at)


# ---------------------------------------------------------------------------- projects


async def create_project(call: Call[Nothing, NewProjectBody]) -> AccountDetailView:
    """Make a project without credits. Owners whom nobody knows are refused, with the names that
    may have been meant."""
    body = call.body
    await refuse_unknown(call.service, "user", body.owners, field="owners", ahead=body.ahead)
    made = await _act(
        call,
        accounting.create_project,
        body.name,
        body.owners,
        call.actor,
        title=body.title,
        budget=Budget(body.budget),
    )
    return await read(call, lambda connection: _detail(connection, call.viewer, made.id))


async def change_account(call: Call[Nothing, ChangeAccountBody]) -> AccountDetailView:
    """Change the title, as an owner; or the budget, or whether it is closed, as an
    administrator."""
    body, identifier = call.body, call.path["id"]
    seen = await read(call, lambda connection: manage_account(connection, call.viewer, identifier))
    for field in ("budget", "closed"):
        if getattr(body, field) is not None and not call.viewer.administrator:
            raise NotAllowed("Only administrators may change this.", field=field)
    if body.title is not None and seen.account.kind != accounts.PROJECT:
        raise NotAllowed("A person's own account is called as they are.", field="title")
    budget = Budget(body.budget) if body.budget is not None else None
    await _act(
        call,
        accounting.change_account,
        identifier,
        call.actor,
        title=body.title,
        budget=budget,
        closed=body.closed,
    )
    return await read(call, lambda connection: _detail(connection, call.viewer, identifier))


async def set_member(call: Call[Nothing, MemberBody]) -> AccountDetailView:
    """Make somebody a member or an owner of a project, as one of its owners. A name that nobody has
    is refused, with those that may have been meant."""
    identifier, user = call.path["id"], _user_name(call.path["user"])

    def is_in(connection: Connection) -> bool:
        seen = manage_account(connection, call.viewer, identifier)
        return (
            seen.account.kind == accounts.USER
            or accounts.role_in(connection, seen.account, user) is not None
        )

    if not await read(call, is_in):
        await refuse_unknown(
            call.service,
            "user",
            [user],
            field="user",
            ahead=call.body.ahead,
            suggest=call.viewer.administrator,  # an owner is not told who else is in the lab
        )
    return await _set_member(call, Role(call.body.role))


async def remove_member(call: Call[Nothing, Nothing]) -> AccountDetailView:
    """Take somebody out of a project, as one of its owners. What they used stays on it."""
    return await _set_member(call, None)


async def _set_member(call: Call[Nothing, Any], role: Role | None) -> AccountDetailView:
    identifier, user = call.path["id"], _user_name(call.path["user"])
    await read(call, lambda connection: manage_account(connection, call.viewer, identifier))
    await _act(call, accounting.set_member, identifier, user, role, call.actor)
    left = role is None and call.viewer.owns(user) and not call.viewer.administrator
    viewer = Viewer(call.viewer.name, administrator=True) if left else call.viewer
    return await read(call, lambda connection: _detail(connection, viewer, identifier))


def _user_name(text: str) -> str:
    if not is_name(text):
        raise NotFound("There is nobody of that name.", field="user")
    return text


# ---------------------------------------------------------------------------- moving credits


async def transfer(call: Call[Nothing, TransferBody]) -> EntryView:
    """Give credits of an account that one owns to another; answers the line of the giver. Nothing
    that is set aside for sessions can be given."""
    body, source = call.body, call.path["id"]

    def find(connection: Connection) -> str | None:
        seen = see_account(connection, call.viewer, source)
        if seen.role is not Role.OWNER:
            raise NotAllowed("Only owners of an account may give its credits away.")
        return _target(connection, call.viewer, body)

    target = await read(call, find)
    if target is None:
        target = await _account_of(call, body.to_user)
    sent, _ = await _act(
        call,
        transfers.transfer,
        source,
        target,
        body.microcredits,
        call.actor,
        reason=body.reason,
        key=key_of(call, "transfer"),
    )
    return entry_view(sent)


async def adjust(call: Call[Nothing, AdjustBody]) -> EntryView:
    """Set a balance right, with a reason that its people see."""
    made = await _act(
        call,
        transfers.adjust,
        call.path["id"],
        call.body.microcredits,
        call.actor,
        reason=call.body.reason,
        key=key_of(call, "adjust"),
    )
    return entry_view(made)


def _target(connection: Connection, viewer: Viewer, body: TransferBody) -> str | None:
    """Id of the account that is to get something; None for that of a person who may get it and
    has none yet. What the caller could not know of is not there."""
    if body.to_user:
        if not _are_together(connection, viewer, body.to_user):
            raise _NO_TARGET
        own = accounts.personal(connection, body.to_user)
        return own.id if own else None
    if body.to_project:
        found = accounts.project(connection, body.to_project)
    else:
        found = accounts.find(connection, body.to_account)
    if found is None:
        raise _NO_TARGET
    if found.kind == accounts.USER:
        known = _are_together(connection, viewer, found.name)
    else:
        known = viewer.administrator or accounts.role_in(connection, found, viewer.name) is not None
    if not known:
        raise _NO_TARGET
    return found.id


def _are_together(connection: Connection, viewer: Viewer, user: str) -> bool:
    """Whether the caller may know of somebody: one's self, or in a project of theirs."""
    if viewer.may_see(user):
        return True
    shared = (account.id for account, _ in accounts.of_user(connection, viewer.name))
    theirs = {account.id for account, _ in accounts.of_user(connection, user)}
    return any(identifier in theirs for identifier in shared)


async def _account_of(call: Call[Any, Any], user: str) -> str:
    platform = call.service.platform

    def make() -> str:
        with platform.database.transaction() as connection:
            return accounting.ensure_personal(connection, platform.settings, user, utc_now()).id

    return await platform.in_database_thread(make)


async def _act(call: Call[Any, Any], act: Any, *arguments: object, **named: object) -> Any:
    """Run one act of the domain in a thread."""
    platform = call.service.platform
    return await platform.in_database_thread(act, platform, *arguments, **named)
