"""Accounts for administrators: all of them, and one with everything that can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.errors import NotFound
from dcloud_spawner.store import accounts, bookkeeping, entries, grants
from dcloud_spawner.store.accounts import PROJECT, USER, Account, Budget, Member, Role
from dcloud_spawner.store.entries import Entry, Kind, Lot
from dcloud_spawner.store.grants import Grant
from hub_services.web.pages.standing import Standing, standings
from hub_services.web.pages.views import Call

PAGE_ROWS = 100
ENTRIES = 50

BUDGETS = {
    Budget.NONE: ("None", "Use is only counted."),
    Budget.SOFT: ("Soft", "At zero its servers go on, last in line, until others need the GPUs."),
    Budget.HARD: ("Hard", "At zero its servers are stopped, and no new one starts."),
}
EVERY = {"once": "once", "week": "every week", "month": "every month"}
KINDS = ("moves", "charge", "all")
"""What of the entries is listed; moves are all but charges."""


@dataclass(frozen=True)
class AccountsPage:
    """All accounts, one part of the list."""

    rows: Sequence[Standing]
    members: dict[str, int]
    number: int
    """How many there are by the filter."""
    first: int
    kind: str
    name: str
    closed: bool
    people: int
    projects: int
    burn: float
    """Micro-credits an hour of all."""
    soon: int
    """Accounts of which little is left."""
    page: int

    @property
    def last(self) -> int:
        """Number of the last row."""
        return self.first + len(self.rows)


@dataclass(frozen=True)
class GrantRow:
    """One grant in words."""

    grant: Grant
    often: str
    state: str


@dataclass(frozen=True)
class EntryRow:
    """One entry."""

    entry: Entry
    other: str
    """Name of the other account of a transfer."""
    refundable: bool


@dataclass(frozen=True)
class AccountPage:
    """One account."""

    standing: Standing
    members: Sequence[Member]
    grants: Sequence[GrantRow]
    lots: Sequence[Lot]
    entries: Sequence[EntryRow]
    kind: str
    older: int | None
    newer: bool
    owned: bool
    """Whether the viewer may give its credits away."""
    targets: Sequence[tuple[str, str]]
    """To which accounts, by id and name."""
    budgets: Sequence[tuple[str, str]]

    @property
    def account(self) -> Account:
        """The account."""
        return self.standing.account


def accounts_page(call: Call) -> AccountsPage:
    """Projects and people; those that run out first come first."""
    kind, name = call.one_of("kind", ("", PROJECT, USER)), call.text("name")
    closed, number = call.one_of("closed", ("", "yes")) == "yes", call.whole("page", 1, lowest=1)
    running = call.service.pool.state.ledger
    with call.platform.database.reading() as connection:
        known = accounts.all_accounts(connection)
        wanted = [
            found
            for found in known
            if (not kind or found.kind == kind)
            and name.lower() in f"{found.name} {found.title}".lower()
            and (found.closed_at is not None) == closed
        ]
        all_standings = sorted(standings(connection, wanted, running, call.now), key=_order)
        first = (number - 1) * PAGE_ROWS
        shown = all_standings[first : first + PAGE_ROWS]
        members = accounts.member_counts(connection)
    return AccountsPage(
        rows=shown,
        members=members,
        number=len(wanted),
        first=first,
        kind=kind,
        name=name,
        closed=closed,
        people=sum(found.kind == USER for found in known),
        projects=sum(found.kind == PROJECT and found.closed_at is None for found in known),
        burn=float(sum(running.burn.values())),
        soon=sum(each.level is not None for each in all_standings),
        page=number,
    )


def _order(found: Standing) -> tuple[bool, float, bool, str]:
    """What runs out first, then projects, then people."""
    ends = found.ends_at.timestamp() if found.ends_at else 0.0
    return found.ends_at is None, ends, found.account.kind == USER, found.account.name


def account_page(call: Call) -> AccountPage:
    """One account. Raises NotFound."""
    kind = call.one_of("entries", KINDS)
    before = call.whole("before", 0) or None
    with call.platform.database.reading() as connection:
        found = accounts.find(connection, call.path[0])
        if found is None:
            raise NotFound("There is no such account.", hint="It may have another address.")
        standing = standings(connection, [found], call.service.pool.state.ledger, call.now)[0]
        rows = _entries(connection, found.id, kind, before)
        role = accounts.role_in(connection, found, call.viewer.name)
        owned = call.viewer.person and role is Role.OWNER
        targets = [
            (each.id, each.shown_name)
            for each in (accounts.all_accounts(connection) if owned else ())
            if each.id != found.id and each.closed_at is None
        ]
        return AccountPage(
            standing=standing,
            members=accounts.members(connection, found.id),
            grants=[_grant(each, call.now) for each in grants.of_account(connection, found.id)],
            lots=[lot for lot in entries.open_lots(connection, found.id) if lot.expires_at],
            entries=_rows(connection, rows[:ENTRIES]),
            kind=kind,
            older=rows[ENTRIES - 1].id if len(rows) > ENTRIES else None,
            newer=before is not None,
            owned=owned,
            targets=targets,
            budgets=[(each.value, ": ".join(words)) for each, words in BUDGETS.items()],
        )


def _entries(
    connection: Connection, account: str, kind: str, before: int | None
) -> Sequence[Entry]:
    kinds: Sequence[Kind] = ()
    if kind == "moves":
        kinds = [each for each in Kind if each is not Kind.CHARGE]
    elif kind == "charge":
        kinds = [Kind.CHARGE]
    return bookkeeping.page(connection, account, kinds=kinds, before=before, limit=ENTRIES + 1)


def _rows(connection: Connection, found: Sequence[Entry]) -> list[EntryRow]:
    others = {each.other_account for each in found if each.other_account}
    names = accounts.names_of(connection, others)
    return [
        EntryRow(
            each,
            names.get(each.other_account or "", ""),
            each.kind is Kind.CHARGE and each.microcredits < 0,
        )
        for each in found
    ]


def _grant(found: Grant, now: datetime) -> GrantRow:
    if found.cancelled_at is not None:
        state = "ended early"
    elif found.next_at is None:
        state = "given"
    elif found.starts_at > now and not found.given:
        state = "planned"
    else:
        state = "going on"
    return GrantRow(found, EVERY[found.every.value], state)
