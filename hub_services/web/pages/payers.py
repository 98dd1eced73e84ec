"""Whose account a page is about, and how much of it the viewer may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sqlalchemy import Connection

from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.store import accounts
from dcloud_spawner.store.accounts import PROJECT, USER, Account, Role
from dcloud_spawner.store.usage import Use
from hub_services.web.pages.views import Call

EVERYBODY_ELSE = ""
"""Nobody has this name."""


@dataclass(frozen=True)
class Payer:
    """An account that the viewer may see."""

    account: Account
    role: Role | None
    """None: an administrator who is not in it."""
    only: str
    """The user whose part of it is all that the viewer may see; empty: everything."""

    @property
    def id(self) -> str:
        """Of the account."""
        return self.account.id

    @property
    def is_project(self) -> bool:
        """Whether it is one of several people."""
        return self.account.kind == PROJECT

    @property
    def label(self) -> str:
        """As it is called in a list of them."""
        name = self.account.shown_name
        if self.account.kind == USER:
            return f"{name} (personal)"
        return f"{name} (closed)" if self.account.closed_at else name


def payers(connection: Connection, call: Call) -> list[Payer]:
    """The viewer's own account, if there is one yet, and their projects."""
    if not call.viewer.person:
        return []
    return [
        _payer(account, role, call)
        for account, role in accounts.of_user(connection, call.viewer.name)
    ]


def payer_of(connection: Connection, call: Call, account: Account | None) -> Payer:
    """One account. Refused with the same words when it is another's and when there is none."""
    role = None
    if account is not None and call.viewer.person:
        role = accounts.role_in(connection, account, call.viewer.name)
    if account is None or (role is None and not call.viewer.administrator):
        raise refused()
    return _payer(account, role, call)


def chosen(connection: Connection, call: Call) -> tuple[Payer | None, list[Payer]]:
    """The account that the address names, else the viewer's first one; and all that they have.
    None where they have none yet."""
    own = payers(connection, call)
    identifier = call.text("account")
    if not identifier:
        return (own[0] if own else None), own
    known = next((each for each in own if each.id == identifier), None)
    if known is None:
        known = payer_of(connection, call, accounts.find(connection, identifier[:64]))
        own = [*own, known]
    return known, own


def parts_of(payer: Payer, used: Mapping[str, Use]) -> dict[str, Use]:
    """Of what each person used, as much as the viewer may see: a member sees their own part, and
    under :data:`EVERYBODY_ELSE` that of all others together, which the balance tells anyway."""
    if not payer.only:
        return dict(used)
    others = [use for user, use in used.items() if user != payer.only]
    rest = {each.name: sum(getattr(use, each.name) for use in others) for each in fields(Use)}
    return {payer.only: used.get(payer.only, Use()), EVERYBODY_ELSE: Use(**rest)}


def refused() -> NotAllowed:
    """For what is another's, and for what is not there."""
    return NotAllowed(
        "This is not yours to see, or there is no such thing.",
        hint="The page Usage lists what is yours.",
    )


def _payer(account: Account, role: Role | None, call: Call) -> Payer:
    full = role is Role.OWNER or call.viewer.administrator
    return Payer(account, role, "" if full else call.viewer.name)
