"""GPU-hours by the reader's days, as a chart and the table behind it. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from dcloud_spawner.live.availability import model_words
from dcloud_spawner.store.bookkeeping import HourOfUse
from dcloud_spawner.store.usage import Use
from hub_services.web.pages.days import Zone, day_words
from hub_services.web.pages.figures import HOUR_MICROSECONDS, gpu_hours

MODELS_SHOWN = 4
"""Each with a pattern of its own; the rest is together."""


@dataclass(frozen=True)
class Series:
    """One GPU model: its name and its sum over all days."""

    label: str
    total: str


@dataclass(frozen=True)
class DayRow:
    """One day of the table."""

    label: str
    values: tuple[str, ...]
    total: str
    credits: int
    energy_millijoules: int


@dataclass(frozen=True)
class DaysChart:
    """Everything of it."""

    series: tuple[Series, ...]
    rows: tuple[DayRow, ...]
    words: str
    data: str
    """For the script, as JSON."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.series


def sum_of(hours: Sequence[HourOfUse]) -> Use:
    """All of it together."""
    names = Use().__dataclass_fields__
    return Use(**{name: sum(getattr(each.use, name) for each in hours) for name in names})


def days_chart(hours: Sequence[HourOfUse], days: Sequence[date], zone: Zone) -> DaysChart:
    """The chart of these days. An hour that the reader's midnight divides (in zones that are not
    whole hours from UTC) counts to the day in which it begins."""
    used: defaultdict[tuple[date, str], int] = defaultdict(int)
    of_day: defaultdict[date, list[HourOfUse]] = defaultdict(list)
    models: defaultdict[str, int] = defaultdict(int)
    shown = frozenset(days)
    for each in hours:
        day = zone.day(each.hour)
        if day not in shown:
            continue
        of_day[day].append(each)
        if each.gpu_model:
            used[day, each.gpu_model] += each.use.gpu_microseconds
            models[each.gpu_model] += each.use.gpu_microseconds
    names = sorted((name for name in models if models[name]), key=lambda name: -models[name])
    groups: list[tuple[str, tuple[str, ...]]] = [
        (model_words(name), (name,)) for name in names[:MODELS_SHOWN]
    ]
    if len(names) > MODELS_SHOWN:
        groups[-1:] = [("Other models", tuple(names[MODELS_SHOWN - 1 :]))]
    table = [[sum(used[day, name] for name in group) for _, group in groups] for day in days]
    rows = []
    for day, values in zip(days, table, strict=True):
        use = sum_of(of_day[day])
        if any(values) or use.microcredits or use.energy_millijoules:
            texts = tuple(gpu_hours(value) for value in values)
            total = gpu_hours(sum(values))
            label = _label(day, days)
            rows.append(DayRow(label, texts, total, use.microcredits, use.energy_millijoules))
    totals = [sum(column) for column in zip(*table, strict=True)] if groups else []
    return DaysChart(
        series=tuple(
            Series(label, gpu_hours(total))
            for (label, _), total in zip(groups, totals, strict=True)
        ),
        rows=tuple(rows),
        words=_words(days, [sum(values) for values in table]),
        data=_data([label for label, _ in groups], days, table),
    )


def _label(day: date, days: Sequence[date]) -> str:
    year = f" {day.year}" if days[0].year != days[-1].year else ""
    return f"{day_words(day)}{year}"


def _words(days: Sequence[date], totals: Sequence[int]) -> str:
    most = max(range(len(days)), key=lambda number: totals[number])
    return (
        f"GPU-hours by day from {_label(days[0], days)} to {_label(days[-1], days)}. Highest on "
        f"{_label(days[most], days)} with {gpu_hours(totals[most])}, {gpu_hours(sum(totals))} in "
        "all. The table below has every value."
    )


def _data(labels: Sequence[str], days: Sequence[date], table: Sequence[Sequence[int]]) -> str:
    columns = [
        [round(values[number] / HOUR_MICROSECONDS, 3) for values in table]
        for number in range(len(labels))
    ]
    return json.dumps(
        {
            "kind": "bars",
            "unit": "GPU-hours",
            "labels": [day_words(day) for day in days],
            "series": [
                {"label": label, "values": values}
                for label, values in zip(labels, columns, strict=True)
            ],
        }
    )
