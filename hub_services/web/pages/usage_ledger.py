"""The entries of an account, part by part, and its statement of a month to print."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from sqlalchemy import Connection

from dcloud_spawner.errors import InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.form.words import credits_figure
from dcloud_spawner.store import accounts, bookkeeping
from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.usage import Use
from hub_services.web.pages.days import Zone, day_words, month_words
from hub_services.web.pages.figures import (
    Figure,
    balance_figure,
    exact,
    gpu_hours,
    kwh,
    mean_use,
    percent,
    signed,
    utc,
    when,
)
from hub_services.web.pages.payers import Payer, chosen
from hub_services.web.pages.usage_days import DaysChart, days_chart, sum_of
from hub_services.web.pages.usage_session import KINDS, span_words
from hub_services.web.pages.views import Call

ENTRIES_SHOWN = 50
MOVES = tuple(kind for kind in Kind if kind is not Kind.CHARGE)
SHOWN = {"all": (), "moves": MOVES, "charges": (Kind.CHARGE,)}
WORDS = {
    "all": "All",
    "moves": "Grants, transfers and the like",
    "charges": "Charges",
}
MOST_MOVES = 500
"""Of one statement."""
ON_PAPER = datetime(9999, 1, 1, tzinfo=UTC)
"""A paper says which day it was: no day is today, and each has its year."""
_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class EntryRow:
    """One entry."""

    id: int
    at: str
    exact: str
    what: str
    time: str
    """For which it is, of a charge."""
    amount: str
    balance: str
    words: str
    session: str
    """Id of the session; empty where it is of none, or not the viewer's."""
    actor: str


@dataclass(frozen=True)
class LedgerView:
    """The page of entries."""

    payer: Payer | None
    payers: tuple[Payer, ...]
    shown: str
    filters: tuple[tuple[str, str, str], ...]
    """Name, words, query."""
    rows: tuple[EntryRow, ...]
    newer: str
    older: str
    export: str
    month: str


@dataclass(frozen=True)
class StatementView:
    """The statement of a month."""

    payer: Payer
    month: str
    title: str
    begins: str
    ends: str
    over: bool
    """Whether the month is over; else it is a statement until now."""
    opening: str
    closing: str
    sums: tuple[tuple[str, str], ...]
    """What came and went by kind, with the sum of each."""
    moves: tuple[EntryRow, ...]
    more_moves: bool
    chart: DaysChart
    shares: tuple[tuple[str, Use], ...]
    """Of a project, by person."""
    figures: tuple[Figure, ...]
    previous: str
    following: str
    """Queries of the months beside it; empty where there is none yet."""
    made: str
    export: str


def read_ledger_page(call: Call) -> LedgerView:
    """Entries of one account. Members of a project see those of their own sessions. Blocks."""
    shown = call.one_of("show", tuple(SHOWN))
    before = call.whole("before", 0, lowest=1, highest=2**62) or None
    with call.platform.database.reading() as connection:
        payer, own = chosen(connection, call)
        rows = (
            bookkeeping.page(
                connection,
                payer.id,
                kinds=SHOWN[shown],
                user=payer.only,
                before=before,
                limit=ENTRIES_SHOWN + 1,
            )
            if payer
            else []
        )
        part = rows[:ENTRIES_SHOWN]
        names = _others(connection, part)
    base = {"account": payer.id} if payer else {}
    here = {**base, **({"show": shown} if shown != "all" else {})}
    return LedgerView(
        payer=payer,
        payers=tuple(own),
        shown=shown,
        filters=tuple(
            (name, words, urlencode({**base, "show": name})) for name, words in WORDS.items()
        ),
        rows=tuple(entry_row(call, each, names) for each in part),
        newer=urlencode(here) if before else "",
        older=urlencode({**here, "before": part[-1].id}) if len(rows) > len(part) else "",
        export=urlencode(here),
        month=f"{call.zone.local(call.now):%Y-%m}",
    )


def _others(connection: Connection, found: list[Entry]) -> dict[str, str]:
    """Names of the other accounts of transfers."""
    wanted = {each.other_account for each in found if each.other_account}
    return dict(accounts.names_of(connection, wanted)) if wanted else {}


def entry_row(call: Call, entry: Entry, names: dict[str, str]) -> EntryRow:
    """One line. An amount that others gave or got is named by account, not by person."""
    words = [entry.reason] if entry.reason else []
    other = names.get(entry.other_account or "")
    if other:
        words.insert(0, f"{'From' if entry.microcredits > 0 else 'To'} {other}.")
    if entry.refund_of:
        words.insert(0, f"Of entry {entry.refund_of}.")
    return EntryRow(
        id=entry.id,
        at=when(entry.at, call.zone, call.now),
        exact=utc(entry.at),
        what=KINDS[entry.kind.value],
        time=span_words(entry.from_at, entry.until_at, call.zone, call.now)
        if entry.from_at
        else "",
        amount=signed(entry.microcredits),
        balance=balance_figure(entry.balance_after),
        words=" ".join(words),
        session=entry.workload or "",
        actor="" if entry.kind is Kind.CHARGE else entry.actor,
    )


# ---------------------------------------------------------------------------- statement


def read_statement(call: Call) -> StatementView:
    """The statement of a month of the reader's calendar; only for who sees all of the account.
    Blocks."""
    year, month = month_of(call)
    from_at, until_at = call.zone.month(year, month)
    if from_at > call.now:
        raise InvalidChoice("month: it has not begun yet.", hint="Choose another.", field="month")
    until = min(until_at, call.now)
    with call.platform.database.reading() as connection:
        payer, _ = chosen(connection, call)
        if payer is None:
            raise NotFound("You have no account yet.", hint="It is opened with your first server.")
        if payer.only:
            raise NotAllowed(
                "A project's statement is for its owners.",
                hint="Your own part of it is on the page Usage.",
            )
        first = bookkeeping.last_entry_before(connection, payer.id, from_at)
        last = bookkeeping.last_entry_before(connection, payer.id, until_at)
        moves = _moves(connection, payer, first, last)
        names = _others(connection, moves)
        hours = bookkeeping.hours(connection, payer.id, from_at, until)
        shares = (
            bookkeeping.shares(connection, payer.id, from_at, until) if payer.is_project else {}
        )
    opening = first.balance_after if first else 0
    closing = last.balance_after if last else 0
    use = sum_of(hours)
    days = _days(call.zone, from_at, until)
    printed = replace(call, now=ON_PAPER)
    return StatementView(
        payer=payer,
        month=f"{year}-{month:02d}",
        title=month_words(year, month),
        begins=day_of(call.zone, from_at),
        ends=day_of(call.zone, until - timedelta(microseconds=1)),
        over=until_at <= call.now,
        opening=exact(opening),
        closing=exact(closing),
        sums=_sums(moves, closing - opening),
        moves=tuple(entry_row(printed, each, names) for each in moves[:MOST_MOVES]),
        more_moves=len(moves) > MOST_MOVES,
        chart=days_chart(hours, days, call.zone),
        shares=tuple(sorted(shares.items(), key=lambda item: -item[1].microcredits)),
        figures=_statement_figures(use),
        previous=_month_query(payer, year, month, -1) if first else "",
        following=_month_query(payer, year, month, 1) if until_at <= call.now else "",
        made=f"{day_of(call.zone, call.now)}, {call.zone.local(call.now):%H:%M}",
        export=urlencode({"account": payer.id, "month": f"{year}-{month:02d}"}),
    )


def day_of(zone: Zone, moment: datetime) -> str:
    """``1 Nov 2026``."""
    day = zone.day(moment)
    return f"{day_words(day)} {day.year}"


def month_of(call: Call) -> tuple[int, int]:
    """The month that the address names; the present one where it names none."""
    local = call.zone.local(call.now)
    text = call.text("month", f"{local:%Y-%m}")
    found = _MONTH.fullmatch(text)
    if not found:
        raise InvalidChoice("month: written like 2026-11.", field="month")
    return int(found[1]), int(found[2])


def _moves(
    connection: Connection, payer: Payer, first: Entry | None, last: Entry | None
) -> list[Entry]:
    """Everything but charges between two entries, the oldest first."""
    if last is None:
        return []
    found = bookkeeping.each_entry(
        connection, payer.id, kinds=MOVES, above=first.id if first else 0, upto=last.id
    )
    return list(found)[::-1]


def _sums(moves: list[Entry], change: int) -> tuple[tuple[str, str], ...]:
    """By kind; what is left of the change of the balance is charges, exactly."""
    by_kind = {
        kind: sum(each.microcredits for each in moves if each.kind is kind) for kind in MOVES
    }
    words = {
        Kind.GRANT: "Granted",
        Kind.TRANSFER: "Transfers",
        Kind.REFUND: "Given back",
        Kind.ADJUSTMENT: "Set right",
        Kind.EXPIRY: "Expired",
    }
    charged = change - sum(by_kind.values())
    shown = [(words[kind], plus(amount)) for kind, amount in by_kind.items() if amount]
    return (*shown, ("Charges", plus(charged)))


def plus(amount: int) -> str:
    """Exact, so that the statement adds up, with its sign."""
    return f"+{exact(amount)}" if amount > 0 else exact(amount)


def _statement_figures(use: Use) -> tuple[Figure, ...]:
    return (
        Figure("Use", credits_figure(use.microcredits), "credits"),
        Figure("GPU time", gpu_hours(use.gpu_microseconds), "GPU-hours"),
        Figure("Mean GPU use", percent(mean_use(use))),
        Figure("Energy", kwh(use.energy_millijoules), "kWh"),
    )


def _days(zone: Zone, from_at: datetime, until: datetime) -> list[date]:
    first, last = zone.day(from_at), zone.day(until)
    days = [date.fromordinal(n) for n in range(first.toordinal(), last.toordinal() + 1)]
    return [day for day in days if day.month == first.month] or [first]


def _month_query(payer: Payer, year: int, month: int, step: int) -> str:
    number = year * 12 + month - 1 + step
    return urlencode({"account": payer.id, "month": f"{number // 12}-{number % 12 + 1:02d}"})
