"""kill -9 of hubs and controllers at random moments, on a real database (invariant 8).

The processes are real and so is the database; the engine's containers are files
(store_worker.py), so that hundreds of starts and stops take seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import events, leases, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.schema import workloads as workload_rows
from hub_services.controller.reconcile import reconcile
from tests.faults import store_worker
from tests.faults.store_worker import ENGINE_TIMEOUT_SECONDS, open_platform
from tests.faults.workers import begin, kill
from tests.patience import patient
from tests.platforms import ALICE, check

KILLS = 70

LONGEST_SECONDS = patient(100)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children that fork from a server in which everything is imported: quick to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.store_worker"])
    return context


class Watch(threading.Thread):
    """Looks at store and containers all the time, and keeps what was wrong."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        super().__init__(daemon=True)
        self.platform = platform
        self.folder = folder / "containers"
        self.problems: list[str] = []
        self.sequences: dict[str, int] = {}
        self.looks = 0
        self._over = threading.Event()

    def run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.02)  # and one look at the end, at what was done since the last
            try:
                self.look()
            except AssertionError as error:
                self.problems.append(str(error))
            except Exception as error:
                self.problems.append(repr(error))
            self.looks += 1

    def look(self) -> None:
        containers = self.containers()
        with self.platform.database.reading() as connection:
            holders = leases.holders(connection)
            self._check_order(connection)
            if self.looks % 10 == 0:
                check(connection)
        used: dict[str, str] = {}
        for workload, devices in containers.items():
            for device in devices:
                other = used.setdefault(device, workload)
                if other != workload and {other, workload} <= set(self.containers()):
                    self.problems.append(f"{device} is in containers {other} and {workload}")
                if holders.get(device) != workload and workload in self.containers():
                    self.problems.append(f"{device} in {workload}, leased: {holders.get(device)}")

    def containers(self) -> dict[str, list[str]]:
        found = {}
        for path in self.folder.glob("*.json"):
            try:
                found[path.stem] = json.loads(path.read_text())
            except FileNotFoundError:
                continue
        return found

    def _check_order(self, connection: Any) -> None:
        """A place in the queue is a row's sequence: it never changes, and follows the log."""
        rows = connection.execute(select(workload_rows.c.id, workload_rows.c.sequence))
        for identifier, sequence in rows:
            first = self.sequences.setdefault(identifier, sequence)
            if first != sequence:
                self.problems.append(f"{identifier} moved from {first} to {sequence}")
        if len(set(self.sequences.values())) != len(self.sequences):
            self.problems.append("two workloads have the same place")

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def watching(platform: Platform, folder: Path) -> Iterator[Watch]:
    watch = Watch(platform, folder)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()


@pytest.mark.timeout(1200)
def test_whatever_is_killed_and_whenever_the_store_is_right(
    processes: Any, database_url: str, tmp_path: Path
) -> None:
    chooser = random.Random(20261121)
    platform = open_platform(database_url, tmp_path)
    platform.refresh_inventory()
    roles: list[Callable[..., None]] = [store_worker.hub, store_worker.controller]
    running = [begin(processes, role, database_url, tmp_path, chooser) for role in roles]
    with watching(platform, tmp_path) as watch:
        kills, deadline = 0, time.monotonic() + LONGEST_SECONDS
        # On a busy machine little is done between two kills: then there are more of them.
        while kills < KILLS or (
            count(platform, State.ENDED) <= KILLS and time.monotonic() < deadline
        ):
            kills += 1
            time.sleep(chooser.uniform(0.05, 0.6))
            which = chooser.choice((0, 0, 1))
            assert running[which].exitcode is None, "a worker died by itself"
            kill(running[which])
            running[which] = begin(processes, roles[which], database_url, tmp_path, chooser)
        for process in running:
            kill(process)
        ended = count(platform, State.ENDED)
        settle(platform)
    assert watch.problems == []
    assert watch.looks > KILLS
    assert ended > KILLS, "too little happened between the kills to prove anything"
    with platform.database.reading() as connection:
        check(connection)
        assert list(verify(connection)) == []
        assert leases.holders(connection) == {}
        assert workloads.open_workloads(connection) == []
        submitted = [
            found.target
            for found in events.read(connection, limit=10**6)
            if found.action == "workload.submit"
        ]
    assert submitted == sorted(watch.sequences, key=lambda each: watch.sequences[each])
    assert watch.containers() == {}
    platform.close()


def count(platform: Platform, state: State) -> int:
    with platform.database.reading() as connection:
        return len(workloads.in_states(connection, (state,)))


def settle(platform: Platform) -> None:
    """Somebody starts everything again: nothing may be stuck for ever."""
    deadline = time.monotonic() + patient(10 * ENGINE_TIMEOUT_SECONDS)
    while time.monotonic() < deadline:
        reconcile(platform)
        with platform.database.reading() as connection:
            left = workloads.open_workloads(connection)
        if not left:
            return
        for workload in left:
            try:
                lifecycle.stop(platform, workload.id, "stopped", ALICE)
            except EngineError:
                time.sleep(0.1)  # the launch of a killed hub may still be under way
    raise AssertionError(f"stuck: {[(found.id, found.state) for found in left]}")


@pytest.mark.timeout(600)
def test_two_hubs_that_submit_at_once_lose_nothing_and_lease_nothing_twice(
    processes: Any, database_url: str, tmp_path: Path
) -> None:
    platform = open_platform(database_url, tmp_path)
    platform.refresh_inventory()
    each = 25
    hubs = [
        processes.Process(target=store_worker.hub, args=(database_url, tmp_path, seed, each))
        for seed in range(3)
    ]
    with watching(platform, tmp_path) as watch:
        for process in hubs:
            process.start()
        for process in hubs:
            process.join(100)
            assert process.exitcode == 0
    assert watch.problems == []
    with platform.database.reading() as connection:
        check(connection)
        found = workloads.open_workloads(connection)
        assert len(found) == 3 * each
        assert [row.sequence for row in found] == list(range(1, 3 * each + 1))
        assert len(leases.holders(connection)) <= 4
    platform.close()


@pytest.mark.timeout(600)
def test_a_migration_that_is_killed_is_done_by_the_next_start(
    processes: Any, hub_database_url: str
) -> None:
    """The fixture is an empty database; what is in it afterwards is all or nothing."""
    chooser = random.Random(7)
    for _ in range(10):
        process = processes.Process(target=store_worker.migrate, args=(hub_database_url,))
        process.start()
        time.sleep(chooser.uniform(0, 0.25))
        kill(process)
    database = Database(hub_database_url)
    tables = set(inspect(database.engine).get_table_names())
    assert not tables or {"alembic_version", "workloads", "leases", "events"} <= tables
    database.migrate()
    with database.reading() as connection:
        assert list(events.verify(connection)) == []
    database.close()


@pytest.mark.timeout(600)
def test_a_process_that_dies_inside_a_transaction_leaves_no_lock_and_no_row(
    processes: Any, database: Database
) -> None:
    ready = processes.Event()
    url = database.url.render_as_string(hide_password=False)
    process = processes.Process(target=store_worker.hold_a_transaction, args=(url, ready))
    process.start()
    assert ready.wait(20)
    kill(process)
    began = time.monotonic()
    with database.transaction() as connection:
        assert events.head(connection).sequence == 0
    assert time.monotonic() - began < patient(5)
