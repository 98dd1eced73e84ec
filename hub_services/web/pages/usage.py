"""My usage: what is left and how long it lasts, what runs, GPU-hours by day, and sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from heapq import merge
from urllib.parse import urlencode

from sqlalchemy import Connection

from dcloud_spawner import granting
from dcloud_spawner.budget_funds import AHEAD
from dcloud_spawner.budgets import FAR, LastsUntil, Runway, lasts_until, runway
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.form.words import credits_figure
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.profiles import Profile
from dcloud_spawner.store import bookkeeping, budgets, entries, grants, measures
from dcloud_spawner.store.accounts import Budget
from dcloud_spawner.store.bookkeeping import Cursor
from dcloud_spawner.store.entries import Part
from dcloud_spawner.store.measures import SessionMeasures
from dcloud_spawner.store.usage import Session, Use
from hub_services.web.pages.days import day_words
from hub_services.web.pages.figures import (
    IDLE,
    Ending,
    Figure,
    balance_figure,
    ending,
    gpu_hours,
    kwh,
    mean_use,
    percent,
    session_gpus,
    session_length,
    utc,
    when,
)
from hub_services.web.pages.payers import Payer, chosen
from hub_services.web.pages.usage_days import DaysChart, days_chart, sum_of
from hub_services.web.pages.usage_running import RunningView, running_of
from hub_services.web.pages.views import Call

PERIODS = ("30", "7", "90")
SESSIONS_SHOWN = 25
HOURS_IN_DAY = 24


@dataclass(frozen=True)
class SessionRow:
    """One session of the table."""

    id: str
    profile: str
    server: str
    user: str
    """Empty where it is the viewer's."""
    gpus: str
    pips: int
    started: str
    started_utc: str
    length: str
    cost: str
    energy: str
    use: str
    use_percent: int | None
    idle: bool
    ending: Ending
    running: bool


@dataclass(frozen=True)
class Sessions:
    """A part of the table, and where the others are."""

    rows: tuple[SessionRow, ...]
    count: int
    oldest_first: bool
    newer: str
    """Query of the first part; empty when this is it."""
    older: str
    """Query of the next part; empty when there is none."""
    other_order: str
    """Query for the other order."""


@dataclass(frozen=True)
class Outlook:
    """How far the credits of an account reach."""

    runway: Runway
    used_microcredits: int
    """By everybody in the chosen days."""
    idle_until: LastsUntil | None
    """When nothing is left at the mean of those days; None when that is not in sight."""


@dataclass(frozen=True)
class UsageView:
    """The page."""

    payer: Payer | None
    payers: tuple[Payer, ...]
    days: int
    periods: tuple[tuple[int, str], ...]
    figures: tuple[Figure, ...]
    note: str
    running: RunningView
    chart: DaysChart
    sessions: Sessions
    export: str
    """Query of this account and time."""
    month: str
    """This one, ``2026-11``."""
    foreign: bool
    """Whether an administrator looks at somebody else's."""


def read_usage(call: Call) -> UsageView:
    """Everything of one account and period. Blocks."""
    days = int(call.one_of("days", PERIODS))
    dates = call.zone.last_days(call.now, days)
    since = call.zone.midnight(dates[0])
    with call.platform.database.reading() as connection:
        payer, own = chosen(connection, call)
        running = running_of(connection, call, payer)
        hours = (
            bookkeeping.hours(connection, payer.id, since, call.now, payer.only) if payer else []
        )
        outlook = read_outlook(connection, call, payer, since, days, running) if payer else None
        sessions = read_sessions(connection, call, payer, since, days, running)
    base = {"account": payer.id, "days": str(days)} if payer else {"days": str(days)}
    return UsageView(
        payer=payer,
        payers=tuple(own),
        days=days,
        periods=tuple(
            (int(each), urlencode({**base, "days": each})) for each in sorted(PERIODS, key=int)
        ),
        figures=figures(call, payer, outlook, sum_of(hours), days),
        note=_note(payer, outlook),
        running=running,
        chart=days_chart(hours, dates, call.zone),
        sessions=sessions,
        export=urlencode(base),
        month=f"{call.zone.local(call.now):%Y-%m}",
        foreign=payer is not None and payer.role is None,
    )


def read_outlook(
    connection: Connection,
    call: Call,
    payer: Payer,
    since: datetime,
    days: int,
    running: RunningView,
) -> Outlook:
    """How far the credits reach. Everybody's use of a project counts, also where the viewer sees
    only their own part of it."""
    whole = running_of(connection, call, replace(payer, only="")) if payer.only else running
    lots = entries.open_lots(connection, payer.id)
    parts = [Part(each.left_microcredits, each.expires_at) for each in lots]
    coming = budgets.coming_to(connection, [payer.id], call.now + AHEAD)
    found = runway(
        payer.account.balance_microcredits,
        parts,
        sum(each.microcredits for each in lots),
        whole.unsettled,
        whole.burn,
        call.now,
        coming.get(payer.id, ()),
    )
    everybodys = sum_of(bookkeeping.hours(connection, payer.id, since, call.now))
    return Outlook(
        found,
        everybodys.microcredits,
        lasts_until(
            parts,
            int(whole.unsettled),
            Fraction(everybodys.microcredits, days * HOURS_IN_DAY),
            call.now,
            _to_come(connection, payer, call.now + FAR),
        ),
    )


def _to_come(
    connection: Connection, payer: Payer, before: datetime
) -> Iterator[tuple[datetime, Part]]:
    """What its grants will bring, in the order of the times."""
    given = grants.of_account(connection, payer.id)
    return merge(*(granting.to_come(each, before) for each in given), key=lambda part: part[0])


def figures(
    call: Call, payer: Payer | None, outlook: Outlook | None, use: Use, days: int
) -> tuple[Figure, ...]:
    """The row of figures."""
    found = []
    if payer is not None and outlook is not None:
        ahead = outlook.runway
        granted, left = ahead.granted_microcredits, ahead.left_microcredits
        decimals = 2 if granted % MICRO else 0
        of = f"of {credits_figure(granted, decimals)} credits" if granted else "credits"
        counted = payer.account.budget is Budget.NONE and left <= 0
        found += [
            Figure("Used in all", credits_figure(-left), "credits")
            if counted
            else Figure("Balance", balance_figure(left), of),
            Figure("Burn rate now", credits_figure(ahead.an_hour_microcredits), "an hour"),
            _runs_out(call, payer, outlook, days),
        ]
    return (
        *found,
        Figure(f"GPU time, {days} days", gpu_hours(use.gpu_microseconds), "GPU-hours"),
        Figure("Mean GPU use", percent(mean_use(use))),
        Figure("Energy", kwh(use.energy_millijoules), "kWh"),
    )


def _runs_out(call: Call, payer: Payer, outlook: Outlook, days: int) -> Figure:
    ahead = outlook.runway
    if payer.account.budget is Budget.NONE:
        return Figure("Runs out", "never", "use is only counted")
    if ahead.left_microcredits <= 0:
        return Figure("Runs out", "now", "nothing is left")
    if ahead.ends_at is not None:
        return Figure("Runs out", _soon(call, ahead.ends_at), "at the present rate")
    a_day, until = Fraction(outlook.used_microcredits, days), outlook.idle_until
    mean = f"at the {days}-day mean of {credits_figure(a_day, 1)} a day"
    if until is None:
        return Figure("Runs out", *(("not in years", mean) if a_day else ("–", "nothing is used")))
    if until.expires:
        return Figure("Runs out", _soon(call, until.at), "when the last credits expire")
    return Figure("Runs out", _soon(call, until.at), mean)


def _soon(call: Call, at: datetime) -> str:
    """The time of a day that is near, else the day."""
    if at - call.now < timedelta(days=2):
        return when(at, call.zone, call.now).removeprefix("Today, ")
    day = call.zone.day(at)
    year = f" {day.year}" if day.year != call.zone.day(call.now).year else ""
    return f"{day_words(day)}{year}"


def _note(payer: Payer | None, outlook: Outlook | None) -> str:
    if payer is None or outlook is None or payer.account.budget is Budget.NONE:
        return ""
    if outlook.runway.left_microcredits > 0:
        return ""
    if payer.account.budget is Budget.HARD:
        return "No credits are left, so nothing new starts on this account."
    return "No credits are left: servers go on last in line, until others need the GPUs."


# ---------------------------------------------------------------------------- sessions


def read_sessions(
    connection: Connection,
    call: Call,
    payer: Payer | None,
    since: datetime,
    days: int,
    running: RunningView,
) -> Sessions:
    """The part of the table that the address asks for."""
    costs = {row.id: row.cost for row in running.rows}
    profiles = call.platform.profiles.current()
    oldest = call.one_of("order", ("newest", "oldest")) == "oldest"
    base = {"days": str(days), **({"account": payer.id} if payer else {})}
    here = {**base, **({"order": "oldest"} if oldest else {})}
    other = urlencode(base if oldest else {**base, "order": "oldest"})
    if payer is None:
        return Sessions((), 0, oldest, "", "", other)
    after = cursor_of(call.text("after"))
    found = bookkeeping.sessions(
        connection,
        payer.id,
        since=since,
        until=call.now,
        user=payer.only,
        after=after,
        oldest_first=oldest,
        limit=SESSIONS_SHOWN + 1,
    )
    shown = found[:SESSIONS_SHOWN]
    identifiers = [each.workload.id for each in shown]
    measured = measures.of_sessions(connection, identifiers)
    models = bookkeeping.models_of(connection, identifiers)
    more = len(found) > len(shown)
    return Sessions(
        rows=tuple(
            session_row(
                call,
                each,
                profiles,
                measured.get(each.workload.id),
                models.get(each.workload.id),
                costs,
            )
            for each in shown
        ),
        count=bookkeeping.count_sessions(connection, payer.id, since, call.now, payer.only),
        oldest_first=oldest,
        newer=urlencode(here) if after else "",
        older=urlencode({**here, "after": cursor_text(shown[-1])}) if more else "",
        other_order=other,
    )


def session_row(
    call: Call,
    session: Session,
    profiles: Mapping[str, Profile],
    found: SessionMeasures | None,
    models: Mapping[str, int] | None,
    costs: Mapping[str, str],
) -> SessionRow:
    """One line. ``costs``: of what runs, until now."""
    measured = found.figures if found else None
    workload, meter = session.workload, session.meter
    profile = profiles.get(workload.profile)
    use = measured.gpu_utilisation_percent if measured and workload.gpus else None
    at = meter.began_at or workload.admitted_at
    return SessionRow(
        id=workload.id,
        profile=profile.title if profile else workload.profile,
        server=workload.server_name,
        user="" if call.viewer.owns(workload.user) else workload.user,
        gpus=session_gpus(session, models),
        pips=workload.gpus if workload.gpus <= 8 else 0,
        started=when(at, call.zone, call.now),
        started_utc=utc(at),
        length=session_length(session, call.now),
        cost=costs.get(workload.id) or credits_figure(meter.charged_microcredits),
        energy=kwh(measured.energy_millijoules if measured else None),
        use="none" if not workload.gpus else percent(None if use is None else use / 100),
        use_percent=None if use is None else round(use),
        idle=use is not None and use < 100 * IDLE,
        ending=ending(session, call.viewer.name),
        running=meter.settled_at is None,
    )


def cursor_text(session: Session) -> str:
    """Where the part after this session begins."""
    at = session.workload.admitted_at
    assert at is not None
    microseconds = (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    return f"{microseconds}.{session.workload.sequence}"


def cursor_of(text: str) -> Cursor | None:
    """Read it again."""
    if not text:
        return None
    first, _, second = text.partition(".")
    if not (first.isascii() and first.isdecimal() and second.isascii() and second.isdecimal()):
        raise InvalidChoice("after: as a link of the page has it.", field="after")
    try:
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(first))
        number = int(second)
    except (OverflowError, ValueError):
        raise InvalidChoice("after: as a link of the page has it.", field="after") from None
    if number >= 2**63:
        raise InvalidChoice("after: as a link of the page has it.", field="after")
    return Cursor(at, number)
