"""A process that measures one session as fast as it can, until it is killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use
from dcloud_spawner.platform import Platform
from hub_services.controller.measures import record
from tests.memory_engine import MemoryEngine
from tests.platforms import settings_for


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
    url: str, folder: Path, workload: str, uuids: Sequence[str], begun: float
) -> None:
    """Never returns."""
    platform = Platform(settings_for(url, folder), engine=MemoryEngine())
    while True:
        record(platform, reading(workload, uuids, begun))
