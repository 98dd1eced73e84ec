"""Rates for administrators: what holds now, what is planned, and what held before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from dcloud_spawner.ledger.rates import DEFAULTS, Rate, RateBook, Resource
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.store import nodes
from dcloud_spawner.store import rates as rate_rows
from hub_services.web.pages.views import Call

PAST_SHOWN = 200

WORDS = {
    Resource.GPU: ("GPU", "an hour of one GPU"),
    Resource.CPU_CORE: ("CPU core", "an hour of one core"),
    Resource.MEMORY_GIB: ("Memory", "an hour of one GiB"),
    Resource.STORAGE_GIB_MONTH: ("Storage", "30 days of one GiB"),
}


@dataclass(frozen=True)
class RateRow:
    """One rate in words."""

    what: str
    unit: str
    model: str
    tier: str
    microcredits: int
    valid_from: datetime | None
    """None: as long as nobody has set one."""
    until: datetime | None
    """When another one of the same takes its place."""
    by: str


@dataclass(frozen=True)
class RatesPage:
    """Everything on it."""

    current: Sequence[RateRow]
    planned: Sequence[RateRow]
    past: Sequence[RateRow]
    hidden: int
    """Rates of the past that are not listed."""
    resources: Sequence[tuple[str, str]]
    models: Sequence[tuple[str, str]]
    tiers: Sequence[tuple[str, str]]


def rates_page(call: Call) -> RatesPage:
    """All rates by what they are for."""
    with call.platform.database.reading() as connection:
        book = rate_rows.read_book(connection)
        known = {row.model for row in nodes.all_accelerators(connection)}
    models = known | {rate.gpu_model for rate in book.rates if rate.gpu_model}
    past = sorted(_past(book, call.now), key=lambda row: row[0], reverse=True)
    return RatesPage(
        current=_current(book, call.now),
        planned=[_row(rate, None) for rate in book.rates if rate.valid_from > call.now],
        past=[row for _, row in past[:PAST_SHOWN]],
        hidden=max(0, len(past) - PAST_SHOWN),
        resources=[(each.value, f"{words}: {unit}") for each, (words, unit) in WORDS.items()],
        models=[("", "every model"), *((each, model_words(each)) for each in sorted(models))],
        tiers=[("", "every tier"), *((each, each) for each in call.platform.settings.tiers)],
    )


_Key = tuple[Resource, str, str]


def _key(rate: Rate) -> _Key:
    return rate.resource, rate.gpu_model, rate.tier


def _series(book: RateBook) -> dict[_Key, list[Rate]]:
    """Rates for the same thing, one after the other."""
    found: dict[_Key, list[Rate]] = {}
    for rate in book.rates:
        found.setdefault(_key(rate), []).append(rate)
    return found


def _current(book: RateBook, now: datetime) -> list[RateRow]:
    rows = []
    series = _series(book)
    for resource in Resource:
        keys = sorted(key for key in series if key[0] is resource)
        default = (resource, "", "")
        if not any(rate.valid_from <= now for rate in series.get(default, ())):
            rows.append(_default(resource, series.get(default, ())))
        for key in keys:
            begun = [rate for rate in series[key] if rate.valid_from <= now]
            coming = [rate.valid_from for rate in series[key] if rate.valid_from > now]
            if begun:
                rows.append(_row(begun[-1], min(coming, default=None)))
    return rows


def _past(book: RateBook, now: datetime) -> list[tuple[datetime, RateRow]]:
    found = []
    for rates in _series(book).values():
        begun = [rate for rate in rates if rate.valid_from <= now]
        for rate, following in pairwise(begun):
            found.append((following.valid_from, _row(rate, following.valid_from)))
    return found


def _default(resource: Resource, coming: Sequence[Rate]) -> RateRow:
    words, unit = WORDS[resource]
    until = min((rate.valid_from for rate in coming), default=None)
    return RateRow(words, unit, "", "", DEFAULTS[resource], None, until, "")


def _row(rate: Rate, until: datetime | None) -> RateRow:
    words, unit = WORDS[rate.resource]
    return RateRow(
        words,
        unit,
        model_words(rate.gpu_model) if rate.gpu_model else "",
        rate.tier,
        rate.microcredits,
        rate.valid_from,
        until,
        rate.created_by,
    )
