"""Measures as they are kept: written by the controller's turn, read by the pages.

The engine is in memory; the database is real, and so are processes that are killed.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dcloud_spawner import lifecycle
from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import history, measures
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.ledger_schema import usage_hours
from dcloud_spawner.store.measures import Measure, SessionMeasures
from dcloud_spawner.store.measures_schema import measures as rows
from dcloud_spawner.store.schema import workloads as workload_rows
from dcloud_spawner.store.workloads import Workload
from hub_services.controller import measures as controller
from hub_services.controller.measures import Measurer
from tests.faults import measure_worker
from tests.faults.workers import kill
from tests.memory_engine import MemoryEngine
from tests.platforms import ALICE, opened, settings_for, start

S = 1_000_000
GIB = 2**30
KILLS = 24


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        yield platform


BEGAN = datetime(2026, 3, 1, 11, 59, 50, tzinfo=UTC)


def began(platform: Platform, workload: Workload, at: datetime = BEGAN) -> Workload:
    """The engine's start is moved to a round time."""
    with platform.database.transaction() as connection:
        connection.execute(
            update(workload_rows)
            .where(workload_rows.c.id == workload.id)
            .values(engine_started_at=at)
        )
    return workload


def record(database: Database, use: Use) -> int:
    return controller.record(database, use, 10)


def use(workload: Workload, seconds: float, uuids: tuple[str, ...] = ()) -> Use:
    """Half a core, 1 GiB, and on each GPU 80 % and 250 W since the start."""
    return Use(
        (
            ContainerUse(
                workload.id,
                "ref",
                BEGAN + timedelta(seconds=seconds),
                cpu_microseconds=int(seconds * S / 2),
                memory_bytes=GIB,
                network_received_bytes=int(seconds * 1000),
                network_sent_bytes=0,
                disk_bytes=5,
            ),
        ),
        tuple(
            AcceleratorUse(uuid, 80, 10 * GIB, 250_000, 61, int(seconds * 250_000))
            for uuid in uuids
        ),
    )


def gpus(platform: Platform, workload: Workload) -> tuple[str, ...]:
    with platform.database.reading() as connection:
        (found,) = [one for one in measures.subjects(connection) if one.workload == workload.id]
    return tuple(found.held)


def session(platform: Platform, workload: Workload) -> SessionMeasures:
    with platform.database.reading() as connection:
        found = measures.of_session(connection, workload.id)
    assert found is not None
    return found


def pieces(platform: Platform, workload: Workload, seconds: int) -> list[Measure]:
    with platform.database.reading() as connection:
        return measures.series(
            connection, workload.id, BEGAN - timedelta(days=1), BEGAN + timedelta(days=2), seconds
        )


def total(found: list[Measure]) -> Figures:
    return reduce(Figures.__add__, (each.figures for each in found), Figures())


def hours(platform: Platform) -> list[Any]:
    with platform.database.reading() as connection:
        return list(connection.execute(select(usage_hours).order_by(usage_hours.c.hour)))


def test_a_session_is_measured_by_samples_minutes_hours_and_in_all(platform: Platform) -> None:
    workload = began(platform, start(platform, gpus=2))
    held = gpus(platform, workload)
    assert len(held) == 2
    for seconds in range(10, 310, 10):
        assert record(platform.database, use(workload, seconds, held)) == 1
    whole = session(platform, workload)
    assert whole.figures.cpu_millicores == 500
    assert whole.memory_bytes_max == GIB
    assert whole.gpu_utilisation_percent == 80
    assert whole.energy_kwh == pytest.approx(2 * 0.25 * 300 / 3600)
    for length, count in ((10, 30), (60, 5), (3600, 1)):
        found = pieces(platform, workload, length)
        assert len(found) == count and {each.seconds for each in found} == {length}
        assert total(found) == whole.figures
    assert pieces(platform, workload, 60)[0].at == BEGAN + timedelta(seconds=10)
    (hour,) = hours(platform)
    assert (hour.user, hour.gpu_model, hour.hour) == (
        "alice",
        "A100",
        BEGAN + timedelta(seconds=10),
    )
    assert hour.measured_microseconds == 600 * S
    assert hour.busy_microseconds == 480 * S
    assert hour.energy_millijoules == whole.figures.energy_millijoules


def test_the_same_turn_again_adds_nothing(platform: Platform) -> None:
    workload = began(platform, start(platform))
    held = gpus(platform, workload)
    assert record(platform.database, use(workload, 10, held)) == 1
    before = session(platform, workload), pieces(platform, workload, 10), hours(platform)
    assert record(platform.database, use(workload, 10, held)) == 0
    assert (session(platform, workload), pieces(platform, workload, 10), hours(platform)) == before


def test_a_dead_gpu_is_unknown_and_its_session_goes_on_being_measured(platform: Platform) -> None:
    workload = began(platform, start(platform))
    for seconds in (10, 20, 30):
        record(platform.database, use(workload, seconds))
    figures = session(platform, workload).figures
    assert figures.cpu_millicores == 500 and figures.gpus_max == 1
    assert figures.gpu_utilisation_percent is None
    assert figures.gpu_memory_bytes is None
    assert figures.energy_kwh is None
    (point, *_) = pieces(platform, workload, 10)
    assert point.figures.gpu_utilisation_percent_max is None


def test_what_is_not_running_by_the_rows_is_not_measured(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = began(platform, start(platform))
    stranger = ContainerUse("nobody", "ref", BEGAN + timedelta(seconds=10), 5, 5)
    assert record(platform.database, Use((stranger,))) == 0
    lifecycle.stop(platform, workload.id, "stopped", ALICE)
    assert record(platform.database, use(workload, 10)) == 0
    with platform.database.reading() as connection:
        assert measures.of_sessions(connection, [workload.id, "nobody"]) == {}


def test_a_turn_reads_the_engine_and_writes_what_runs(
    platform: Platform, engine: MemoryEngine
) -> None:
    first, second = start(platform, "alice"), start(platform, "bob", gpus=0)
    now = datetime.now(UTC)
    for workload in (first, second):
        engine.container_use[workload.id] = ContainerUse(
            workload.id, "ref", now + timedelta(seconds=1), cpu_microseconds=1000
        )
    engine.accelerator_use = tuple(
        AcceleratorUse(uuid, utilisation_percent=30) for uuid in gpus(platform, first)
    )
    Measurer(platform).turn()
    with platform.database.reading() as connection:
        live = measures.latest(connection, [first.id, second.id], now - timedelta(minutes=1))
    assert live[first.id].figures.gpu_utilisation_percent == pytest.approx(30, rel=1e-3)
    assert live[second.id].figures.gpu_utilisation_percent is None
    assert live[second.id].figures.cpu_microseconds == 1000


def test_a_graph_takes_the_finest_pieces_that_are_kept_and_not_too_many(
    platform: Platform,
) -> None:
    workload = began(platform, start(platform))
    for seconds in (*range(10, 100, 10), *range(600, 7210, 600)):
        record(platform.database, use(workload, seconds))
    measurer = Measurer(platform)

    def resolution(since_hours: float, length_hours: float) -> int:
        since = BEGAN + timedelta(hours=since_hours)
        with platform.database.reading() as connection:
            found = measures.series(
                connection, workload.id, since, since + timedelta(hours=length_hours)
            )
        assert 0 < len(found) <= measures.MOST_POINTS
        assert [each.at for each in found] == sorted({each.at for each in found})
        return found[0].seconds

    assert resolution(0, 1) == 10
    assert resolution(0, 2) == 60
    assert resolution(0, 24) == 3600
    assert resolution(0, 24 * 90) == 5 * 3600
    measurer.forget(BEGAN + timedelta(days=1, hours=1))
    assert resolution(0, 1) == 60
    assert resolution(1.5, 1) == 10
    measurer.forget(BEGAN + timedelta(days=30, hours=1))
    assert resolution(0, 1) == 3600


def test_a_graph_has_the_piece_that_has_just_begun(platform: Platform) -> None:
    workload = began(platform, start(platform))
    record(platform.database, use(workload, 10.2))
    since = BEGAN + timedelta(seconds=10)

    def pieces_until(seconds: float) -> list[datetime]:
        until = since + timedelta(seconds=seconds)
        with platform.database.reading() as connection:
            found = measures.series(connection, workload.id, since, until)
        return [each.at for each in found]

    assert pieces_until(0.3) == [since]
    assert pieces_until(0) == []


def test_what_is_old_goes_by_its_length_and_the_whole_session_stays(platform: Platform) -> None:
    workload = began(platform, start(platform))
    for seconds in (10, 4000, 90_000):
        record(platform.database, use(workload, seconds))
    whole = session(platform, workload)
    measurer = Measurer(platform)

    def left() -> list[int]:
        with platform.database.reading() as connection:
            lengths = connection.scalars(select(rows.c.seconds)).all()
        return [lengths.count(seconds) for seconds in (10, 60, 3600)]

    assert left() == [3, 3, 3]
    measurer.forget(BEGAN + timedelta(days=1, seconds=3000))
    assert left() == [2, 3, 3]
    measurer.forget(BEGAN + timedelta(days=400, seconds=5000))
    assert left() == [0, 0, 1]
    assert session(platform, workload) == whole


def test_simulated_people_leave_no_measures_behind(platform: Platform) -> None:
    workload = began(platform, start(platform))
    record(platform.database, use(workload, 10))
    other = began(platform, start(platform, "bob"))
    record(platform.database, use(other, 10))
    with platform.database.transaction() as connection:
        history.forget_measures(connection, [workload.id])
        assert set(measures.of_sessions(connection, [workload.id, other.id])) == {other.id}
        assert set(connection.scalars(select(rows.c.workload))) == {other.id}


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.measure_worker"])
    return context


def test_kill_9_of_two_who_measure_at_once_neither_loses_nor_doubles(
    platform: Platform, processes: Any
) -> None:
    """The counters go on while nobody measures, so whatever one turn lost the next would find;
    what was counted twice would stay."""
    workload = began(platform, start(platform, gpus=2), datetime.now(UTC))
    held = gpus(platform, workload)
    chooser = random.Random(5)
    begun = time.time()
    turns = processes.RawValue("i", 0)
    for _ in range(KILLS // 2):
        before = turns.value
        pair = [
            processes.Process(
                target=measure_worker.measure_all_the_time,
                args=(platform.settings.store_url, workload.id, held, begun, turns),
            )
            for _ in range(2)
        ]
        for process in pair:
            process.start()
        while turns.value < before + 2:
            time.sleep(0.005)
        time.sleep(chooser.uniform(0, 0.03))
        for process in pair:
            kill(process)
    last = measure_worker.reading(workload.id, held, begun, 10)
    last = replace(last, containers=(replace(last.containers[0], at=datetime.now(UTC)),))
    assert record(platform.database, last) == 1
    whole = session(platform, workload).figures
    assert whole.samples > KILLS
    assert whole.cpu_microseconds == last.containers[0].cpu_microseconds
    assert whole.network_sent_bytes == last.containers[0].network_sent_bytes
    with platform.database.reading() as connection:
        now = datetime.now(UTC)
        for seconds in measures.RESOLUTIONS:
            found = measures.series(connection, workload.id, now - timedelta(hours=2), now, seconds)
            assert total(found) == whole
    found = hours(platform)
    assert sum(hour.energy_millijoules for hour in found) == whole.energy_millijoules
    assert sum(hour.busy_microseconds for hour in found) == whole.gpu_busy_microseconds
