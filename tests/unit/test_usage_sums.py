"""Sums of use: from hours, days and months together, they are what the hours alone add up to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from sqlalchemy import delete, select, update

from dcloud_spawner.ledger.cost import Quantity
from dcloud_spawner.store import meters, usage
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.ledger_schema import usage_hours, usage_totals
from dcloud_spawner.store.meters import HourlyUse
from dcloud_spawner.store.usage import By, Group, Scope, Use, Wanted, parts_of

pytestmark = pytest.mark.database

HOUR = timedelta(hours=1)
BEGIN = datetime(2026, 1, 30, 20, tzinfo=UTC)
LENGTHS = {By.HOUR: 13, By.DAY: 10, By.MONTH: 7}
EVERYTHING = Scope(everything=True)


@pytest.fixture
def hours(database: Database) -> list[HourlyUse]:
    """Use over some hundred hours of three months, some of it added twice, moved or taken out."""
    chance = random.Random(5)
    found = [
        HourlyUse(
            chance.choice(("one", "two")),
            chance.choice(("ann", "ben", "cem")),
            chance.choice(("A100", "")),
            BEGIN + HOUR * chance.randrange(40 * 24),
            Quantity(chance.randrange(10**12), chance.randrange(10**10), 7),
            chance.randrange(10**9),
        )
        for _ in range(600)
    ]
    with database.transaction() as connection:
        meters.add_use(connection, found)
        gone = usage_hours.c.hour == found[0].hour
        connection.execute(delete(usage_hours).where(gone))
        moved = update(usage_hours).where(usage_hours.c.hour == found[1].hour)
        connection.execute(moved.values(hour=BEGIN + 1500 * HOUR))
    with database.reading() as connection:
        return [
            HourlyUse(
                row.account,
                row.user,
                row.gpu_model,
                row.hour,
                Quantity(row.gpu_microseconds, row.cpu_microseconds, row.memory_gib_microseconds),
                row.microcredits,
            )
            for row in connection.execute(select(usage_hours))
        ]


def opinion(
    hours: Sequence[HourlyUse], wanted: Wanted, by: Sequence[By]
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The same sums in plain Python."""
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for each in hours:
        if wanted.since is not None and each.hour + HOUR <= wanted.since:
            continue
        if wanted.until is not None and each.hour >= wanted.until:
            continue
        if wanted.user not in ("", each.user) or wanted.gpu_model not in (None, each.gpu_model):
            continue
        stamp = each.hour.isoformat()
        key = tuple(stamp[: LENGTHS[b]] if b in LENGTHS else getattr(each, b.value) for b in by)
        amounts = (each.quantity.gpu_microseconds, each.quantity.cpu_microseconds)
        amounts = (*amounts, each.quantity.memory_gib_microseconds, each.microcredits)
        before = found.get(key, (0, 0, 0, 0))
        found[key] = tuple(a + b for a, b in zip(before, amounts, strict=True))
    return found


def _amounts(use: Use) -> tuple[int, ...]:
    quantities = use.gpu_microseconds, use.cpu_microseconds, use.memory_gib_microseconds
    return (*quantities, use.microcredits)


def _key(group: Group, by: Sequence[By]) -> tuple[str, ...]:
    return tuple(str(group.period if b in LENGTHS else getattr(group, b.value)) for b in by)


TIMES = (
    None,
    BEGIN + 3 * HOUR,
    BEGIN + timedelta(minutes=7),
    datetime(2026, 2, 1, tzinfo=UTC),
    datetime(2026, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 3, 1, tzinfo=UTC),
    datetime(2026, 3, 9, 23, 59, tzinfo=UTC),
)
GROUPS: tuple[tuple[By, ...], ...] = (
    (By.HOUR,),
    (By.DAY,),
    (By.MONTH,),
    (By.USER, By.GPU_MODEL),
    (By.MONTH, By.ACCOUNT),
)


def test_sums_of_any_time_are_what_the_hours_add_up_to(
    database: Database, hours: list[HourlyUse]
) -> None:
    for since, until, by in product(TIMES, TIMES, GROUPS):
        if since is not None and until is not None and until <= since:
            continue
        for wanted in (Wanted(since, until), Wanted(since, until, user="ann", gpu_model="")):
            with database.reading() as connection:
                found = usage.sums(connection, EVERYTHING, wanted, by, limit=5000)
                whole = usage.total(connection, EVERYTHING, wanted)
            told = {_key(group, by): _amounts(group.use) for group in found}
            told = {key: amounts for key, amounts in told.items() if any(amounts)}
            assert told == opinion(hours, wanted, by), (since, until, by)
            assert _amounts(whole)[3] == sum(amounts[3] for amounts in told.values())


def test_the_database_keeps_days_and_months_beside_the_hours(
    database: Database, hours: list[HourlyUse]
) -> None:
    with database.reading() as connection:
        rows = connection.execute(select(usage_totals)).all()
    for length in ("day", "month"):
        mine = [row for row in rows if row.length == length]
        assert sum(row.microcredits for row in mine) == sum(each.microcredits for each in hours)
        assert all(row.at == row.at.replace(hour=0, minute=0) for row in mine)
        assert length == "day" or all(row.at.day == 1 for row in mine)


def test_a_day_or_month_that_somebody_changed_by_hand_is_found(
    database: Database, hours: list[HourlyUse]
) -> None:
    with database.reading() as connection:
        assert usage.totals_apart(connection) == []
    changes = (
        update(usage_totals).values(microcredits=usage_totals.c.microcredits + 1),
        delete(usage_totals),
    )
    for change in changes:
        with database.transaction() as connection:
            for length in ("day", "month"):
                done = change.where(
                    usage_totals.c.length == length,
                    usage_totals.c.user == hours[0].user,
                    usage_totals.c.microcredits > 0,
                )
                connection.execute(done)
            told = usage.totals_apart(connection)
            assert any("the day has" in words for words in told)
            assert any("the month has" in words for words in told)


def test_somebody_sees_in_sums_only_what_is_in_their_scope(
    database: Database, hours: list[HourlyUse]
) -> None:
    scope = Scope(user="ben", accounts=("two",))
    seen = [each for each in hours if each.user == "ben" or each.account == "two"]
    with database.reading() as connection:
        assert usage.total(connection, scope, Wanted()).microcredits == sum(
            each.microcredits for each in seen
        )
        assert usage.total(connection, Scope(), Wanted()) == Use()
        assert usage.sums(connection, Scope(), Wanted(), (By.DAY,)) == []


def test_a_time_is_read_in_the_longest_parts_that_fit() -> None:
    since, until = datetime(2026, 1, 30, 22, 30, tzinfo=UTC), datetime(2026, 3, 2, 1, tzinfo=UTC)
    parts = parts_of(since, until, By.MONTH)
    assert [
        (part.length, f"{part.since:%m-%dT%H}", f"{part.until:%m-%dT%H}") for part in parts
    ] == [
        (By.HOUR, "01-30T22", "01-31T00"),
        (By.DAY, "01-31T00", "02-01T00"),
        (By.MONTH, "02-01T00", "03-01T00"),
        (By.DAY, "03-01T00", "03-02T00"),
        (By.HOUR, "03-02T00", "03-02T01"),
    ]
    assert [part.length for part in parts_of(since, until, By.HOUR)] == [By.HOUR]
    assert [part.length for part in parts_of(None, None, By.DAY)] == [By.DAY]
