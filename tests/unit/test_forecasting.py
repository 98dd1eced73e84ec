"""The forecast on a real database: what each who waits is told, kept for the record, and left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.event import listen

from dcloud_spawner import drains, lifecycle, queueing
from dcloud_spawner.forecasting import Forecaster, ForecastWatch, read_history
from dcloud_spawner.live.outlook import Wish
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import forecasts, listing
from dcloud_spawner.store.schema import workloads as table
from tests.memory_engine import GIB, MemoryEngine
from tests.platforms import ALICE, check, get, opened, settings_for, start, submit

pytestmark = pytest.mark.database


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def waiting(platform: Platform, user: str = "bob", gpus: int = 4) -> str:
    workload = submit(platform, user, gpus)
    platform.run_pass()
    return workload.id


def set_columns(platform: Platform, identifier: str, **values: object) -> None:
    with platform.database.transaction() as connection:
        connection.execute(update(table).where(table.c.id == identifier).values(**values))


def test_who_waits_is_told_a_range_and_the_latest_start(platform: Platform) -> None:
    running = start(platform, "ann", 4, hours=1)
    first, second = waiting(platform, "bob", 2), waiting(platform, "cem", 4)
    before = utc_now()
    assert Forecaster(platform).turn() == 2
    one, two = get(platform, first), get(platform, second)
    assert running.admitted_at is not None
    end = running.admitted_at + timedelta(hours=1)
    assert one.latest_start_at == end
    assert two.latest_start_at == end + timedelta(hours=2)
    for found in (one, two):
        assert found.expected_from is not None
        assert found.expected_to is not None
        assert before - timedelta(minutes=1) <= found.expected_from < found.expected_to
        assert (found.expected_from.second, found.expected_to.second) == (0, 0)


def test_the_first_range_is_kept_for_the_record_and_never_changed(platform: Platform) -> None:
    running = start(platform, "ann", 4, hours=1)
    identifier = waiting(platform)
    forecaster = Forecaster(platform)
    forecaster.turn()
    told = get(platform, identifier)
    assert told.first_expected_at is not None
    assert told.first_forecast_seconds is not None
    assert (told.first_expected_from, told.first_expected_to) == (
        told.expected_from,
        told.expected_to,
    )
    waiting(platform, "cem", 1)  # due earlier, so it changes what is to come
    other = submit(platform, "dan", 4, hours=1)
    queueing.move_to_head(platform, other.id, "a demonstration", ALICE)
    assert forecaster.turn() >= 1
    later = get(platform, identifier)
    assert later.expected_to != told.expected_to
    assert (
        later.first_expected_from,
        later.first_expected_to,
        later.first_expected_at,
        later.first_forecast_seconds,
    ) == (
        told.first_expected_from,
        told.first_expected_to,
        told.first_expected_at,
        told.first_forecast_seconds,
    )
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    with platform.database.reading() as connection:
        record = listing.record(connection)
    assert record.count == 1


def test_a_turn_in_which_nothing_changed_writes_nothing(platform: Platform) -> None:
    start(platform, "ann", 4)
    waiting(platform)
    forecaster = Forecaster(platform)
    assert forecaster.turn() == 1
    written: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if statement.split()[0] in ("UPDATE", "INSERT", "DELETE"):
            written.append(statement)

    listen(platform.database.engine, "before_cursor_execute", note)
    assert forecaster.turn() == 0
    assert Forecaster(platform).turn() == 0
    assert written == []


def test_who_is_put_on_hold_or_loses_the_gpus_is_told_nothing_more(platform: Platform) -> None:
    start(platform, "ann", 3)
    held, hopeless = waiting(platform, "bob", 2), waiting(platform, "cem", 4)
    forecaster = Forecaster(platform)
    assert forecaster.turn() == 2
    queueing.hold(platform, held, "a question", ALICE)
    drains.drain_accelerator(platform, "GPU-local-3", "a fan", ALICE)
    forecaster.turn()
    for identifier in (held, hopeless):
        found = get(platform, identifier)
        assert (found.expected_from, found.expected_to, found.latest_start_at) == (None,) * 3
        assert found.first_expected_from is not None


def test_a_start_is_told_no_time_and_a_late_forecast_writes_none(platform: Platform) -> None:
    running = start(platform, "ann", 4)
    identifier = waiting(platform)
    Forecaster(platform).turn()
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    late = forecasts.Shown(identifier, utc_now(), utc_now(), utc_now(), 5.0)
    with platform.database.transaction() as connection:
        forecasts.show(connection, [late], utc_now())
    found = get(platform, identifier)
    assert found.admitted_at is not None
    assert found.latest_start_at is None
    assert found.first_forecast_seconds != 5.0


def test_the_history_is_what_ended_came_and_was_forecast(platform: Platform) -> None:
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    for number in range(30):
        found = start(platform, f"user{number}", 1, hours=2)
        lifecycle.stop(platform, found.id, "stopped", ALICE)
        set_columns(
            platform,
            found.id,
            submitted_at=now - timedelta(hours=3),
            admitted_at=now - timedelta(hours=2),
            ended_at=now - timedelta(hours=1, minutes=30),
            first_expected_at=now - timedelta(hours=3),
            first_expected_from=now - timedelta(hours=2, minutes=30),
            first_expected_to=now - timedelta(hours=1),
            first_forecast_seconds=1800.0,
        )
    with platform.database.reading() as connection:
        history = read_history(connection, now)
    assert history.times.runtime_seconds(1, 7200) == pytest.approx(1800)
    spread = history.calibration.spread(1800)
    assert (spread.low_seconds, spread.high_seconds) == pytest.approx((3600, 3600), rel=0.01)
    arrivals = history.mix.arrivals(now.timestamp(), history.times, platform.policy, 1)
    assert arrivals is not None
    assert next(arrivals).request.gpus == 1


def test_a_wish_is_answered_from_the_last_reading_and_anew_after_a_change(
    platform: Platform,
) -> None:
    running = start(platform, "ann", 4, hours=1)
    forecaster = Forecaster(platform)
    wish = Wish(2, None, GIB, 1000, 3600)
    found = forecaster.expected(wish)
    assert found is not None
    assert utc_now() - timedelta(minutes=1) <= found.earliest < found.latest
    assert forecaster.expected(Wish(5, None, GIB, 1000, 3600)) is None
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    assert forecaster.expected(wish) == found
    forecaster.turn()
    again = forecaster.expected(wish)
    assert again is not None
    assert again.earliest <= utc_now()


def test_a_platform_without_hardware_or_history_has_a_forecast_of_nothing(
    database_url: str, tmp_path: Path
) -> None:
    engine = MemoryEngine()
    engine.nodes = ()
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        forecaster = Forecaster(platform)
        assert forecaster.turn() == 0
        assert forecaster.expected(Wish(0, None, GIB, 1000, 3600)) is None
        assert forecaster.band().models == {}


async def test_the_hub_forecasts_by_itself_when_something_happened(platform: Platform) -> None:
    pool = PoolWatch(platform)
    ForecastWatch(platform, Forecaster(platform), pool)
    await asyncio.to_thread(start, platform, "ann", 4)
    identifier = await asyncio.to_thread(waiting, platform)
    pool.keep_fresh()
    async with asyncio.timeout(10):
        while True:
            row = next((p.workload for p in pool.state.queue if p.workload.id == identifier), None)
            if row is not None and row.expected_from is not None:
                break
            await pool.changed(1.0)
