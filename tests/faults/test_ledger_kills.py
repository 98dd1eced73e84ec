"""kill -9 of hubs and controllers in the middle of settling charges: the ledger stays right.

The processes, the signal and the database are real; containers are files (``ledger_worker.py``).
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections import Counter
from datetime import timedelta
from fractions import Fraction
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import accounting, lifecycle
from dcloud_spawner.errors import EngineError
from dcloud_spawner.ledger.rates import Resource
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import entries, workloads
from dcloud_spawner.store.entries import Kind
from dcloud_spawner.store.schema import State
from hub_services.controller.meter import meter
from hub_services.controller.reconcile import reconcile
from tests.faults import ledger_worker
from tests.faults.ledger_worker import TESTER, TimedEngine, open_platform
from tests.patience import patient

pytestmark = pytest.mark.database

KILLS = 104
AT_ONCE = ("hub", "controller", "controller")
MOST_STATEMENTS = {"hub": 120, "controller": 80}
"""A settlement has about 20 of them, a tick or a stop several settlements."""

GPU_HOUR = 10**9
"""Micro-credits: dear, so that the milliseconds of this test cost something."""


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children that fork from a server in which everything is imported: quick to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.ledger_worker"])
    return context


@pytest.mark.timeout(600)
def test_the_ledger_is_right_after_a_hundred_kills_within_settlement(
    processes: Any, database_url: str, tmp_path: Path
) -> None:
    chooser = random.Random(20261121)
    platform = open_platform(database_url, tmp_path)
    platform.refresh_inventory()
    for resource in (Resource.GPU, Resource.CPU_CORE):
        accounting.change_rate(platform, resource, GPU_HOUR, TESTER)
    killed: Counter[str] = Counter()
    running: dict[int, tuple[str, Any]] = {}

    def begin(name: str) -> None:
        seed, statements = chooser.randrange(10**6), chooser.randrange(1, MOST_STATEMENTS[name])
        role = getattr(ledger_worker, name)
        process = processes.Process(target=role, args=(database_url, tmp_path, seed, statements))
        process.start()
        running[process.sentinel] = name, process

    for name in AT_ONCE:
        begin(name)
    while running:
        for sentinel in wait(list(running), 60):
            assert isinstance(sentinel, int)
            name, process = running.pop(sentinel)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            killed[name] += 1
            if killed.total() + len(running) < KILLS:
                begin(name)
    assert killed.total() >= KILLS
    assert min(killed.values()) > KILLS // 10
    settle(platform)
    check(platform)
    platform.close()


def settle(platform: Platform) -> None:
    """Somebody starts everything again, and stops it for good."""
    deadline = time.monotonic() + patient(30)
    while time.monotonic() < deadline:
        meter(platform)
        reconcile(platform)
        with platform.database.reading() as connection:
            left = workloads.open_workloads(connection)
        if not left:
            return
        for workload in left:
            try:
                lifecycle.stop(platform, workload.id, "stopped", TESTER)
            except EngineError:
                time.sleep(0.05)  # the launch of a killed hub may still be under way
    raise AssertionError(f"stuck: {[(found.id, found.state) for found in left]}")


def check(platform: Platform) -> None:
    """Verified, and each session was charged what its container's own files say."""
    engine = platform.engine
    assert isinstance(engine, TimedEngine)
    sessions = 0
    with platform.database.reading() as connection:
        assert list(verify(connection)) == []
        for workload in workloads.in_states(connection, (State.ENDED,)):
            lines = entries.of_workload(connection, workload.id)
            if workload.ready_at is None:
                assert sum(line.microcredits for line in lines) == 0
                continue
            facts = engine.facts(workload.id, "over")
            assert facts is not None and facts.started_at and facts.finished_at
            assert workload.engine_finished_at == facts.finished_at
            length = (facts.finished_at - facts.started_at) // timedelta(microseconds=1)
            cores = Fraction(workload.cpu_millicores, 1000)
            due = Fraction(length) * GPU_HOUR * (workload.gpus + cores) / 3_600_000_000
            charged = sum(line.microcredits for line in lines if line.kind is Kind.CHARGE)
            assert -charged == due.numerator // due.denominator
            assert sum(line.gpu_microseconds for line in lines) == length * workload.gpus
            sessions += 1
    assert sessions > 20, "too little happened between the kills to prove anything"
