"""One project for those who are in it: what is left, who used how much, what is given to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.form.words import credits_figure, listed
from dcloud_spawner.store import accounts, bookkeeping, grants
from dcloud_spawner.store.accounts import Budget, Member, Role
from dcloud_spawner.store.entries import Entry
from dcloud_spawner.store.grants import Every, Grant
from dcloud_spawner.store.usage import Use
from hub_services.web.pages.figures import (
    Figure,
    gpu_hours,
    kwh,
    mean_use,
    percent,
    utc,
    when,
)
from hub_services.web.pages.payers import EVERYBODY_ELSE, Payer, parts_of, payer_of
from hub_services.web.pages.usage import PERIODS, figures, read_outlook
from hub_services.web.pages.usage_days import sum_of
from hub_services.web.pages.usage_ledger import MOVES, EntryRow, entry_row
from hub_services.web.pages.usage_running import RunningView, running_of
from hub_services.web.pages.views import Call

MOVES_SHOWN = 10
BUDGETS = {
    Budget.NONE: "None: use is only counted.",
    Budget.SOFT: "Soft: with nothing left its servers go on last in line, until others need the "
    "GPUs.",
    Budget.HARD: "Hard: with nothing left its servers are stopped, with their homes safe, and "
    "nothing new starts.",
}


@dataclass(frozen=True)
class ShareRow:
    """One person's part."""

    user: str
    """Empty: everybody else together, whom a member does not see one by one."""
    role: str
    """Empty for somebody who is no longer in it."""
    since: str
    exact: str
    gpu_hours: str
    credits: str
    part: str
    part_percent: int
    use: str
    energy: str
    running: int
    owner: bool
    you: bool


@dataclass(frozen=True)
class GrantRow:
    """One grant."""

    credits: str
    often: str
    from_at: str
    exact: str
    next_at: str
    ends: str
    state: str
    reason: str
    by: str


@dataclass(frozen=True)
class ProjectView:
    """The page."""

    payer: Payer
    title: str
    name: str
    budget: str
    days: int
    periods: tuple[int, ...]
    figures: tuple[Figure, ...]
    owners: str
    """Their names."""
    shares: tuple[ShareRow, ...]
    grants: tuple[GrantRow, ...]
    moves: tuple[EntryRow, ...]
    decides: bool
    """Whether the viewer may change who is in it and pass credits on."""
    closed: bool
    targets: tuple[tuple[str, str], ...]
    """Accounts to which the viewer may give credits, by id."""
    month: str


def read_project(call: Call) -> ProjectView:
    """Everything of one project that the viewer may see. Blocks."""
    days = int(call.one_of("days", PERIODS))
    since = call.zone.midnight(call.zone.last_days(call.now, days)[0])
    with call.platform.database.reading() as connection:
        payer = payer_of(connection, call, accounts.project(connection, call.path[0][:255]))
        whole = replace(payer, only="")
        running = running_of(connection, call, whole)
        outlook = read_outlook(connection, call, whole, since, days, running)
        use = sum_of(bookkeeping.hours(connection, payer.id, since, call.now))
        used = bookkeeping.shares(connection, payer.id, since, call.now)
        members = accounts.members(connection, payer.id)
        given = grants.of_account(connection, payer.id)
        moves = [] if payer.only else _moves(connection, payer)
        names = accounts.names_of(
            connection, {each.other_account for each in moves if each.other_account}
        )
        targets = _targets(connection, call, payer)
    return ProjectView(
        payer=payer,
        title=payer.account.shown_name,
        name=payer.account.name,
        budget=BUDGETS[payer.account.budget],
        days=days,
        periods=tuple(sorted(int(each) for each in PERIODS)),
        figures=figures(call, payer, outlook, use, days),
        owners=listed([each.user for each in members if each.role is Role.OWNER]),
        shares=_shares(call, payer, members, used, running),
        grants=tuple(_grant(each, call) for each in given),
        moves=tuple(entry_row(call, each, dict(names)) for each in moves),
        decides=payer.role is Role.OWNER or call.viewer.administrator,
        closed=payer.account.closed_at is not None,
        targets=targets,
        month=f"{call.zone.local(call.now):%Y-%m}",
    )


def _moves(connection: Connection, payer: Payer) -> list[Entry]:
    return bookkeeping.page(connection, payer.id, kinds=MOVES, limit=MOVES_SHOWN)


def _targets(connection: Connection, call: Call, payer: Payer) -> tuple[tuple[str, str], ...]:
    """Other open accounts of the viewer."""
    if payer.role is not Role.OWNER:
        return ()
    mine = accounts.of_user(connection, call.viewer.name)
    return tuple(
        (found.id, found.shown_name)
        for found, _ in mine
        if found.id != payer.id and found.closed_at is None
    )


def _shares(
    call: Call, payer: Payer, members: list[Member], used: dict[str, Use], running: RunningView
) -> tuple[ShareRow, ...]:
    """Everybody who is in it, and everybody who used something, as far as the viewer may see them;
    who used most first."""
    used = parts_of(payer, used)
    known = {member.user: member for member in members if payer.only in ("", member.user)}
    total = sum(use.microcredits for use in used.values())
    time = sum(use.gpu_microseconds for use in used.values())
    busy: dict[str, int] = {}
    for row in running.rows:
        name = row.user or call.viewer.name
        seen = name if payer.only in ("", name) else EVERYBODY_ELSE
        busy[seen] = busy.get(seen, 0) + 1
    rows = []
    for user in {*known, *used}:
        use, member = used.get(user, Use()), known.get(user)
        part = Fraction(use.microcredits, total) if total else Fraction(0)
        if not total and time:
            part = Fraction(use.gpu_microseconds, time)
        rows.append(
            ShareRow(
                user=user,
                role=member.role.value if member else "",
                since=when(member.added_at, call.zone, call.now) if member else "–",
                exact=utc(member.added_at) if member else "",
                gpu_hours=gpu_hours(use.gpu_microseconds),
                credits=credits_figure(use.microcredits),
                part=percent(float(part)),
                part_percent=round(100 * part),
                use=percent(mean_use(use)),
                energy=kwh(use.energy_millijoules),
                running=busy.get(user, 0),
                owner=member is not None and member.role is Role.OWNER,
                you=call.viewer.owns(user),
            )
        )
    return tuple(sorted(rows, key=lambda row: (not row.user, -row.part_percent, row.user)))


def _grant(grant: Grant, call: Call) -> GrantRow:
    often = {Every.ONCE: "once", Every.WEEK: "every week", Every.MONTH: "every month"}[grant.every]
    if grant.every is not Every.ONCE:
        often += ", carried over" if grant.carry_over else ", not carried over"
    if grant.cancelled_at:
        state = "ended early"
    elif grant.next_at:
        state = "goes on" if grant.given else "to come"
    else:
        state = "given" if grant.every is Every.ONCE else "over"
    return GrantRow(
        credits=credits_figure(grant.microcredits),
        often=often,
        from_at=when(grant.starts_at, call.zone, call.now),
        exact=utc(grant.starts_at),
        next_at=when(grant.next_at, call.zone, call.now) if grant.next_at else "",
        ends=when(grant.ends_at, call.zone, call.now) if grant.ends_at else "never",
        state=state,
        reason=grant.reason,
        by=grant.created_by,
    )
