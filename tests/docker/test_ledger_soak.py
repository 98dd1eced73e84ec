"""The real controller and the real hub die while they settle, a hundred times and more.

Takes minutes, so it is no part of a usual run: ``pytest -m soak tests/docker``. What dies a
hundred times in every run is a worker that settles as the controller does
(tests/faults/test_ledger_kills.py).
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from typing import Any

import pytest

from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import entries, meters
from tests.docker.people import People, Person, quick, until
from tests.live import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.soak]

KILLS = 100
HUB_KILLS = 12


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    """The controller settles nearly all the time."""
    return {"meter_seconds": 0.001, "reconcile_seconds": 0.5, "schedule_seconds": 1}


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Any) -> Any:
    return quick_profiles


def watermark(person: Person) -> datetime | None:
    workload = person.workload()
    assert workload is not None
    with person.platform.database.reading() as connection:
        meter = meters.find(connection, workload.id)
    return meter.watermark_at if meter else None


@pytest.mark.timeout(900)
def test_controller_and_hub_die_while_they_settle_and_every_second_is_right(
    deployment: Deployment, people: People
) -> None:
    draw = random.Random(20261121)
    stays, *go = people.many(1 + HUB_KILLS)
    stays.run(quick(1))
    for kill in range(KILLS):
        before = watermark(stays)
        until(lambda before=before: watermark(stays) != before, 30, "a settlement")
        time.sleep(draw.uniform(0.0, 0.2))
        deployment.restart("controller")
        if kill % (KILLS // HUB_KILLS) == 0 and go:
            person = go.pop()
            person.run(quick(1))
            person.stop()  # it is settled for good by the hub, which dies meanwhile
            time.sleep(draw.uniform(0.0, 0.3))
            deployment.restart("hub")
            deployment.wait_for_hub()
    people.end_everything()
    platform = stays.platform
    with platform.database.reading() as connection:
        assert list(verify(connection)) == []
        (workload,) = stays.past()
        lines = entries.of_workload(connection, workload.id)
    assert workload.engine_started_at and workload.engine_finished_at
    ran = (workload.engine_finished_at - workload.engine_started_at).total_seconds()
    assert sum(line.gpu_microseconds for line in lines) == round(ran * 1e6)
    print(f"{KILLS} kills of the controller, {len(lines)} entries, {ran:.1f} s")
