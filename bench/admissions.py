"""Admissions a second, and one pass over a very long queue, through the real store.

``admissions_per_second_sqlite`` and ``_postgresql``: 15,000 requests wait for 1,000 nodes of 8
GPUs. A pass admits what fits; then, in waves, the 500 that were admitted first are given back and
a pass runs, until all were admitted. The clock runs from the first pass to the last and counts
everything: reading, planning, the leases, states and hash-chained log rows of every admission,
and for every release its two transitions, the closed leases, the usage of its user and its two log
rows. A pass is one transaction, as in the hub, and so is a wave of releases; what is left out is
what no database does, the launch and the end of the containers. PostgreSQL is a server on the same
machine with its default durability, SQLite has ``synchronous=FULL``.

``pass_store_100000_queued_*``: 100,000 requests wait for 10,000 GPUs on 1,250 nodes; the median
of passes that find no GPU free, and of passes that find those free that a hundred workloads gave
back just before.

``admissions_per_cpu_second_sqlite`` is the same run by the processor time of this process: on a
machine that does other things too, the clock says little.

The peer of each is the goal it was built for.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from bench.result import Result
from dcloud_spawner.engines.base import AcceleratorFacts, NodeFacts
from dcloud_spawner.queueing import count_use
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.schedule import GIB, Capacity, schedule
from dcloud_spawner.store import events, leases, nodes, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor, Line
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.schema import workloads as rows
from tests.services import Missing, postgresql

GPUS_PER_NODE = 8
WAVE = 500
PASSES = 7
CAPACITY = Capacity(reserve_memory_bytes=0, cpu_overcommit=1)
HALF_LIFE_SECONDS = 7 * 86400.0
BENCH = Actor("bench")


def measure() -> dict[str, Result]:
    """All figures of this module."""
    results = {}
    with _sqlite() as database:
        wall, busy = _admissions(database, goal=500)
        results["admissions_per_second_sqlite"] = wall
        results["admissions_per_cpu_second_sqlite"] = busy
    try:
        with postgresql(durable=True) as server:
            database = Database(server.create("bench"))
            database.migrate()
            results["admissions_per_second_postgresql"], _ = _admissions(database, goal=300)
            database.close()
    except Missing as error:
        print(f"No figure of PostgreSQL: {error}")
    with _sqlite() as database:
        results.update(_long_queue(database))
    return results


@contextmanager
def _sqlite() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="dcloud-bench-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'store.sqlite'}")
        database.migrate()
        yield database
        database.close()


def _fill(database: Database, node_count: int, queued: int) -> None:
    """A pool of nodes with 8 GPUs, and a queue of many shapes."""
    draw, policy = random.Random(1), Policy()
    now = datetime.now(UTC) - timedelta(days=1)
    with database.transaction() as connection:
        for number in range(node_count):
            gpus = tuple(
                AcceleratorFacts(f"GPU-{number:05}-{index}", index, "A100", 80 * GIB)
                for index in range(GPUS_PER_NODE)
            )
            nodes.record(connection, NodeFacts(f"node-{number:05}", 256_000, 2048 * GIB, gpus), now)
        asked = []
        for number in range(queued):
            gpus_asked = draw.choice((1, 1, 1, 1, 1, 1, 2, 2, 4, 4))
            hours = draw.choice((1, 2, 4, 8, 12, 24, 48))
            slack = round(policy.slack_seconds(gpus_asked, hours * 3600, "bronze"))
            at = now + timedelta(seconds=number)
            asked.append(
                {
                    "id": uuid.UUID(int=draw.getrandbits(128)).hex,
                    "sequence": number + 1,
                    "kind": "notebook",
                    "user": f"user-{number % 3000}",
                    "server_name": f"server-{number // 3000}",
                    "profile": "gpu",
                    "choice": {"profile": "gpu", "gpus": gpus_asked, "hours": hours},
                    "image": "image",
                    "gpus": gpus_asked,
                    "gpu_model": draw.choice((None, None, "A100")),
                    "memory_bytes": draw.choice((16, 32, 64)) * GIB * gpus_asked,
                    "cpu_millicores": draw.choice((4000, 8000)) * gpus_asked,
                    "limit_seconds": hours * 3600,
                    "state": State.QUEUED.value,
                    "reasons": [],
                    "submitted_at": at,
                    "slack_seconds": slack,
                    "due_at": at + timedelta(seconds=slack),
                }
            )
        connection.execute(rows.insert(), asked)


def _admissions(database: Database, goal: float) -> tuple[Result, Result]:
    """By the clock, and by the processor time of this process."""
    count = 15_000
    _fill(database, 1000, count)
    admitted = 0
    running: list[str] = []
    began, busy = time.perf_counter(), time.process_time()
    while admitted < count:
        plan = schedule(database, CAPACITY, datetime.now(UTC))
        started = [start.request.id for start in plan.starts]
        admitted += len(started)
        running += started
        _give_back(database, running[:WAVE])
        del running[:WAVE]
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return (
        Result(round(count / seconds, 1), "admissions/s", "the goal", goal, count),
        Result(round(count / busy, 1), "admissions/s", "the goal by the clock", goal, count),
    )


def _give_back(database: Database, identifiers: list[str]) -> None:
    """The writes of a stop and of its confirmation, as ``lifecycle`` makes them, for a wave."""
    now = datetime.now(UTC)
    with database.transaction() as connection:
        workloads.transition_all(
            connection,
            identifiers,
            State.STOPPING,
            come_from=(State.ADMITTED,),
            stopping_at=now,
            end_reason="stopped",
        )
        workloads.transition_all(
            connection, identifiers, State.ENDED, come_from=(State.STOPPING,), ended_at=now
        )
        leases.close_leases(connection, identifiers, now)
        released = workloads.get_all(connection, identifiers)
        count_use(connection, released, now, HALF_LIFE_SECONDS)
        lines = [
            line
            for found in released
            for line in (
                Line(BENCH, "workload.stop", found.id, detail={"reason": "stopped"}),
                Line(BENCH, "workload.release", found.id, detail={"accelerators": found.gpus}),
            )
        ]
        events.note_all(connection, lines, at=now)


def _long_queue(database: Database) -> dict[str, Result]:
    _fill(database, 1250, 100_000)
    schedule(database, CAPACITY, datetime.now(UTC))
    full, some = [], []
    for _ in range(PASSES):
        full.append(_seconds(database))
        with database.reading() as connection:
            held = connection.scalars(
                select(rows.c.id).where(rows.c.state == State.ADMITTED.value).limit(100)
            ).all()
        _give_back(database, list(held))
        some.append(_seconds(database))
    peer = "the goal"
    return {
        "pass_store_100000_queued_full": Result(
            round(statistics.median(full), 4), "s", peer, 1.0, len(full)
        ),
        "pass_store_100000_queued_100_ended": Result(
            round(statistics.median(some), 4), "s", peer, 1.0, len(some)
        ),
    }


def _seconds(database: Database) -> float:
    began = time.perf_counter()
    schedule(database, CAPACITY, datetime.now(UTC))
    return time.perf_counter() - began
