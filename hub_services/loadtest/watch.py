"""Looking at the platform itself while people use it: its rows, its containers, its pulse.

Every look also tries to catch the platform at its first promise, that no GPU is in two hands:
by the open leases, by the containers that the engine really runs, and afterwards by the whole
list of leases.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy.exc import SQLAlchemyError

from dcloud_spawner.engines.base import ContainerFacts, Health, Phase
from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import leases, nodes, workloads
from dcloud_spawner.store.history import Lease, leases_since, submitted_since
from dcloud_spawner.store.schema import State
from hub_services.loadtest.journal import Journal, PoolSample
from hub_services.loadtest.person import Shared

SAMPLE_SECONDS = 1.0
CONTAINERS_SECONDS = 5.0
PROBE_SECONDS = 0.5
CLOCK_TOLERANCE = timedelta(seconds=5)

Times = tuple[datetime | None, datetime | None]
"""When a container started and finished, by the engine's clock."""


async def sample_pool(platform: Platform, shared: Shared) -> None:
    """Note queue and GPUs every second until the run closes."""
    while True:
        with contextlib.suppress(SQLAlchemyError):  # a gap in the curve, not the end of the run
            shared.journal.pool.append(
                await platform.in_database_thread(_sample, platform, shared.journal.now())
            )
        if not await shared.pause(SAMPLE_SECONDS):
            return


def _sample(platform: Platform, at: float) -> PoolSample:
    with platform.database.reading() as connection:
        states = Counter(each.state for each in workloads.open_workloads(connection))
        used = len(leases.holders(connection))
        gpus = sum(each.health is Health.OK for each in nodes.all_accelerators(connection))
    return PoolSample(
        at,
        queued=states[State.QUEUED],
        starting=states[State.ADMITTED] + states[State.STARTING],
        running=states[State.RUNNING],
        stopping=states[State.STOPPING],
        gpus_used=used,
        gpus=gpus,
    )


async def check_containers(platform: Platform, shared: Shared) -> None:
    """Ask the engine every few seconds which GPUs it really passed to whom."""
    while await shared.pause(CONTAINERS_SECONDS):
        try:
            found = await platform.in_engine_thread(platform.engine.observe)
        except EngineError:
            continue
        shared.journal.container_checks += 1
        shared.journal.used_twice.extend(in_two_containers(found))


def in_two_containers(found: Iterable[ContainerFacts]) -> list[str]:
    """A sentence for each GPU that more than one living container has."""
    alive = [each for each in found if each.phase is Phase.ALIVE]
    hands = Counter(uuid for each in alive for uuid in set(each.devices) | set(each.accelerators))
    return [
        f"{uuid} is in {count} containers at once." for uuid, count in hands.items() if count > 1
    ]


async def probe_hub(shared: Shared) -> None:
    """Take the hub's pulse: its smallest answer, twice a second, whatever else it does."""
    while True:
        await shared.hub.call("probe", "GET", "/hub/api")
        if not await shared.pause(PROBE_SECONDS):
            return


def check_leases(platform: Platform, since: datetime, journal: Journal) -> Sequence[Lease]:
    """Go through all leases of the run afterwards; returns them."""
    with platform.database.reading() as connection:
        found = leases_since(connection, since)
        times = {
            each.id: (each.engine_started_at, each.engine_finished_at)
            for each in submitted_since(connection, since)
        }
    journal.used_twice.extend(overlapping(found, times))
    return found


def overlapping(found: Sequence[Lease], times: Mapping[str, Times]) -> list[str]:
    """A sentence for each lease that began before the one before it had ended.

    ``found`` is in order of accelerator and lease, ``times`` the engine's own times of the
    containers by workload. Where the engine says nothing, the rows' times must do: each is
    taken just before its transaction, so two that took turns may seem to overlap by a moment.
    """
    said = []
    for before, after in pairwise(found):
        if before.accelerator != after.accelerator:
            continue
        ended, began = before.closed_at, after.opened_at + CLOCK_TOLERANCE
        finished = times.get(before.workload, (None, None))[1]
        started = times.get(after.workload, (None, None))[0]
        if finished is not None and started is not None:
            ended, began = finished, started
        if ended is None or began < ended:
            said.append(
                f"{after.accelerator} went to {after.workload} while {before.workload} held it."
            )
    return said
