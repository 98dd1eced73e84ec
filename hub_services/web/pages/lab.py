"""Use of the whole lab, for administrators: by user, project, GPU model and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from urllib.parse import urlencode

from sqlalchemy import Connection

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.store import accounts, usage
from dcloud_spawner.store.accounts import PROJECT
from dcloud_spawner.store.usage import By, Group, Scope, Use, Wanted
from hub_services.web.pages.days import day_words
from hub_services.web.pages.figures import gpu_hours, mean_use
from hub_services.web.pages.views import Call

PERIODS = ("30", "7", "90")
MOST_DAYS = 366
ROWS = 50
EVERYTHING = Scope(everything=True)
ALL = 1_000_000
"""Groups of one answer: more than there are users, projects, models or hours."""


@dataclass(frozen=True)
class UseRow:
    """What one user, project, model or day had."""

    name: str
    use: Use
    link: str = ""

    @property
    def unused(self) -> float | None:
        """Part of the measured GPU time in which nothing computed, 0 to 1."""
        used = mean_use(self.use)
        return None if used is None else 1 - used


@dataclass(frozen=True)
class UseTable:
    """Rows of one kind, the largest first; days in their order."""

    rows: Sequence[UseRow]
    hidden: int


@dataclass(frozen=True)
class DayBar:
    """One day of the chart: heights of 160 from below, in the order in which they are stacked."""

    x: float
    width: float
    used: tuple[float, float]
    unused: tuple[float, float]
    unknown: tuple[float, float]


@dataclass(frozen=True)
class LabPage:
    """Everything on it."""

    days: int
    """Of the period that is chosen; 0: by its ends."""
    since: date
    until: date
    """The last day."""
    total: UseRow
    users: UseTable
    projects: UseTable
    models: UseTable
    by_day: UseTable
    bars: Sequence[DayBar]
    labels: Sequence[str]
    """At the left of the chart, from the top."""
    ends: tuple[str, str]
    """The first and the last day of the chart."""
    words: str
    """The chart in a sentence."""
    export: str
    """Query of this period."""


@dataclass(frozen=True)
class LabUse:
    """All rows of a period."""

    days: int
    first: date
    last: date
    users: Sequence[UseRow]
    projects: Sequence[UseRow]
    models: Sequence[UseRow]
    by_day: Sequence[tuple[date, UseRow]]


def lab_use(call: Call) -> LabUse:
    """Read the period that the address names. Blocks."""
    days, first, last = _period(call)
    dates = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    since, until = call.zone.midnight(first), call.zone.midnight(last + timedelta(days=1))
    wanted = Wanted(since=since, until=min(until, call.now + timedelta(hours=1)))
    with call.platform.database.reading() as connection:
        users = _sums(connection, wanted, By.USER)
        payers = _sums(connection, wanted, By.ACCOUNT)
        models = _sums(connection, wanted, By.GPU_MODEL)
        hours = _sums(connection, wanted, By.HOUR)
        known = accounts.get_all(connection, [each.account or "" for each in payers])
    projects = []
    own: list[Use] = []
    for each in payers:
        account = known.get(each.account or "")
        if account is not None and account.kind == PROJECT:
            projects.append(UseRow(account.shown_name, each.use, f"accounts/{account.id}"))
        else:
            own.append(each.use)
    if own:
        projects.append(UseRow("People's own accounts", _sum(own), "accounts?kind=user"))
    return LabUse(
        days=days,
        first=first,
        last=last,
        users=_sorted(
            UseRow(each.user or "", each.use, f"limits?{urlencode({'user': each.user or ''})}")
            for each in users
        ),
        projects=_sorted(projects),
        models=_sorted(UseRow(_model(each.gpu_model or ""), each.use) for each in models),
        by_day=_days(call, hours, dates),
    )


def lab_page(call: Call) -> LabPage:
    """Use of all in a period. Blocks."""
    found = lab_use(call)
    of_day = [row for _, row in found.by_day]
    return LabPage(
        days=found.days,
        since=found.first,
        until=found.last,
        total=UseRow("All", _sum(row.use for row in found.users)),
        users=_table(found.users),
        projects=_table(found.projects),
        models=_table(found.models),
        by_day=UseTable([row for row in reversed(of_day) if _any(row.use)], 0),
        bars=_bars(of_day),
        labels=_labels(of_day),
        ends=(of_day[0].name, of_day[-1].name),
        words=_words(of_day),
        export=urlencode({"from": found.first.isoformat(), "to": found.last.isoformat()}),
    )


def _period(call: Call) -> tuple[int, date, date]:
    today = call.zone.day(call.now)
    if not call.text("from") and not call.text("to"):
        days = int(call.one_of("days", PERIODS))
        return days, today - timedelta(days=days - 1), today
    last = _date(call, "to", today)
    first = _date(call, "from", last - timedelta(days=29))
    if first > last:
        raise InvalidChoice("from: it is after the end.", hint="Swap the two.", field="from")
    if (last - first).days >= MOST_DAYS:
        hint = f"At most {MOST_DAYS} days at once."
        raise InvalidChoice("from: the period is too long.", hint=hint, field="from")
    return 0, first, last


def _date(call: Call, name: str, default: date) -> date:
    text = call.text(name)
    if not text:
        return default
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = date.min
    if not 2000 <= found.year < 2200:
        raise InvalidChoice(f"{name}: a day such as 2026-11-21.", field=name)
    return found


def _sums(connection: Connection, wanted: Wanted, by: By) -> list[Group]:
    return usage.sums(connection, EVERYTHING, wanted, [by], limit=ALL)


def _sum(uses: Iterable[Use]) -> Use:
    totals = dict.fromkeys((each.name for each in fields(Use)), 0)
    for use in uses:
        for name in totals:
            totals[name] += getattr(use, name)
    return Use(**totals)


def _any(use: Use) -> bool:
    return any(getattr(use, each.name) for each in fields(Use))


def _model(name: str) -> str:
    return model_words(name) if name else "Without a GPU"


def _sorted(rows: Iterable[UseRow]) -> list[UseRow]:
    """Who held most first."""
    return sorted(
        rows, key=lambda row: (-row.use.gpu_microseconds, -row.use.microcredits, row.name)
    )


def _table(rows: Sequence[UseRow]) -> UseTable:
    return UseTable(rows[:ROWS], max(0, len(rows) - ROWS))


def _days(call: Call, hours: Sequence[Group], dates: Sequence[date]) -> list[tuple[date, UseRow]]:
    """One row for each day of the reader."""
    found: defaultdict[date, list[Use]] = defaultdict(list)
    for each in hours:
        hour = datetime.fromisoformat(f"{each.period}:00:00+00:00")
        found[call.zone.day(hour)].append(each.use)
    years = dates[0].year != dates[-1].year
    return [
        (
            day,
            UseRow(f"{day_words(day)} {day.year}" if years else day_words(day), _sum(found[day])),
        )
        for day in dates
    ]


# ---------------------------------------------------------------------------- the chart

HEIGHT = 160.0


def _top(rows: Sequence[UseRow]) -> int:
    return max((row.use.gpu_microseconds for row in rows), default=0)


def _bars(rows: Sequence[UseRow]) -> list[DayBar]:
    """Held GPU time of each day: what was used, what was not, and what was not measured."""
    top = _top(rows)
    if not top:
        return []
    width = 960 / len(rows)
    bars = []
    for number, row in enumerate(rows):
        use = row.use
        measured = min(use.measured_microseconds, use.gpu_microseconds)
        used = min(use.busy_microseconds, measured)
        base, parts = 0.0, []
        for part in (used, measured - used, use.gpu_microseconds - measured):
            height = HEIGHT * part / top
            parts.append((round(HEIGHT - base - height, 2), round(height, 2)))
            base += height
        bars.append(DayBar(round(number * width + width * 0.15, 2), round(width * 0.7, 2), *parts))
    return bars


def _labels(rows: Sequence[UseRow]) -> list[str]:
    top = _top(rows)
    return [gpu_hours(top), gpu_hours(top // 2), "0"] if top else []


def _words(rows: Sequence[UseRow]) -> str:
    most = max(rows, key=lambda row: row.use.gpu_microseconds)
    total = sum(row.use.gpu_microseconds for row in rows)
    return (
        f"GPU-hours held by day from {rows[0].name} to {rows[-1].name}, and the part of them that "
        f"was used. Most on {most.name} with {gpu_hours(most.use.gpu_microseconds)}, "
        f"{gpu_hours(total)} in all. The table below has every value."
    )
