"""One scheduling pass through the real store, at 10, 100 and 1,000 open workloads.

The peer is an empty write transaction on the same database in the same run: what any change
of state costs there at least. Beside them one pass over very much, without the store: see
``large_pass``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import large_pass
from bench.result import Result, paired
from dcloud_spawner.engines.base import AcceleratorFacts, NodeFacts
from dcloud_spawner.scheduler.schedule import GIB, Capacity, schedule
from dcloud_spawner.store import nodes, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.workloads import NewWorkload

PASSES = 30
GPUS_PER_NODE = 8


def _fill(database: Database, open_workloads: int) -> None:
    """A pool in which a third of the workloads run and the others wait."""
    now = datetime.now(UTC)
    with database.transaction() as connection:
        for number in range(max(1, open_workloads // 3 // GPUS_PER_NODE)):
            nodes.record(
                connection,
                NodeFacts(
                    f"node-{number:03}",
                    256_000,
                    2048 * GIB,
                    tuple(
                        AcceleratorFacts(f"GPU-{number}-{index}", index, "A100", 80 * GIB)
                        for index in range(GPUS_PER_NODE)
                    ),
                ),
                now,
            )
        for number in range(open_workloads):
            workloads.insert(
                connection,
                NewWorkload(
                    kind="notebook",
                    user=f"user-{number}",
                    server_name="",
                    profile="gpu",
                    choice={},
                    image="image",
                    gpus=1 + number % 2,
                    gpu_model=None,
                    memory_bytes=16 * GIB,
                    cpu_millicores=4000,
                    limit_seconds=3600 * (1 + number % 24),
                ),
                now,
            )


def _milliseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def measure() -> dict[str, Result]:
    """Time passes that find the queue as the pass before left it, the common case."""
    results: dict[str, Result] = {}
    capacity = Capacity(reserve_memory_bytes=0, cpu_overcommit=1)
    for size in (10, 100, 1000):
        folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-"))
        database = Database(f"sqlite:///{folder}/store.sqlite")
        database.migrate()
        _fill(database, size)

        def one_pass(database: Database = database) -> object:
            return schedule(database, capacity, datetime.now(UTC))

        def empty(database: Database = database) -> None:
            with database.transaction():
                pass

        one_pass()
        ours, peers = [], []
        for _ in range(PASSES):
            ours.append(_milliseconds(one_pass))
            peers.append(_milliseconds(empty))
        database.close()
        results[f"scheduler_pass_{size}"] = paired(
            ours, peers, "ms", "an empty write transaction on the same SQLite"
        )
    return results | large_pass.measure()
