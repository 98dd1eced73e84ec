"""A process that measures one session as fast as it can, until it is killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use
from dcloud_spawner.store.database import Database
from hub_services.controller.measures import record


def reading(workload: str, uuids: Sequence[str], begun: float, more_seconds: float = 0) -> Use:
    """Counters that are a function of the time since ``begun`` (seconds since 1970)."""
    now = time.time()
    passed = now - begun + more_seconds
    return Use(
        (
            ContainerUse(
                workload,
                "ref",
                datetime.fromtimestamp(now, UTC),
                cpu_microseconds=int(passed * 700_000),
                memory_bytes=2**30,
                network_received_bytes=int(passed * 1000),
                network_sent_bytes=int(passed * 5000),
            ),
        ),
        tuple(
            AcceleratorUse(uuid, 50, 2**30, 200_000, 60, int(passed * 200_000)) for uuid in uuids
        ),
    )


def measure_all_the_time(
    url: str, workload: str, uuids: Sequence[str], begun: float, turns: Any
) -> None:
    """Never returns; ``turns`` is a shared number that grows with each turn."""
    database = Database(url)
    while True:
        record(database, reading(workload, uuids, begun), 10)
        turns.value += 1  # no lock: whoever is killed with it would keep it
