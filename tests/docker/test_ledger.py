"""Charges on the real engine, against what Docker itself says about each container.

The second opinion is Docker's own stream of events, written down beside the deployment. Twenty
sessions of 59 seconds, one after the other on one GPU, take 20 minutes: they run with
``DCLOUD_FULL_LEDGER=1``. Otherwise there are as many of 3 seconds, on all four GPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import drains
from dcloud_spawner.engines.base import LABEL_DEPLOYMENT, LABEL_WORKLOAD
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import accounts, entries, meters, workloads
from dcloud_spawner.store.entries import Entry
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.docker.people import QUICK, People, Person, built_image, quick, until
from tests.live import Deployment

pytestmark = pytest.mark.docker

FULL = os.environ.get("DCLOUD_FULL_LEDGER") == "1"
SESSIONS = 20
LENGTH_SECONDS = 59 if FULL else 3
TICK_SECONDS = 0.5
TICKS_DOWN = 20
ADMIN = Actor("admin")
MICROSECOND = timedelta(microseconds=1)

TIMED = QUICK.replace(
    "        self.send_response(200)\n",
    "        self.send_response(200)\n"
    "        if not ends: ends.append(True) or threading.Timer(LENGTH, os._exit, [0]).start()\n",
).replace("import http.server\n", "import http.server, os, threading\nends = []\n")
"""Ends by itself so long after somebody asked it for the first time."""


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {"meter_seconds": TICK_SECONDS, "reconcile_seconds": 0.5, "schedule_seconds": 1}


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path, base_image: str, tag: str) -> Iterator[Path]:
    """With ``timed``, which ends by itself."""
    program = ["/usr/bin/python3", "-c", TIMED.replace("LENGTH", str(LENGTH_SECONDS))]
    recipe = f"FROM {base_image}\nCMD {json.dumps(program)}\n"
    usual = (quick_profiles / "quick.yaml").read_text().splitlines()
    with built_image(f"dcloud/timed:{tag}", recipe) as image:
        mine = [f"image: {image}" if line.startswith("image:") else line for line in usual]
        (quick_profiles / "timed.yaml").write_text("\n".join(mine))
        yield quick_profiles


@dataclass(frozen=True)
class Ran:
    """What Docker's events say about one container."""

    started: datetime
    died: datetime

    @property
    def seconds(self) -> float:
        return (self.died - self.started).total_seconds()


@dataclass(frozen=True)
class DockersWord:
    """Docker's own events of this deployment, as it tells them."""

    lines: Path

    def of(self, workload: Workload) -> Ran:
        """When the container of a workload started and died."""
        times: dict[str, datetime] = {}
        for line in self.lines.read_text().splitlines():
            said = json.loads(line)
            if said["Actor"]["Attributes"].get(LABEL_WORKLOAD) == workload.id:
                at = datetime.fromtimestamp(said["timeNano"] / 1e9, UTC)
                times.setdefault(said["Action"], at)
        return Ran(times["start"], times["die"])


@pytest.fixture(scope="module")
def docker_says(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockersWord]:
    lines = tmp_path_factory.mktemp("events") / "events"
    command = ["docker", "events", "--format", "{{json .}}"]
    for wanted in (
        f"label={LABEL_DEPLOYMENT}={deployment.settings.deployment}",
        "event=start",
        "event=die",
    ):
        command += ["--filter", wanted]
    with lines.open("wb") as out:
        listener = subprocess.Popen(command, stdout=out, stdin=subprocess.DEVNULL)
        time.sleep(0.5)
        yield DockersWord(lines)
        listener.terminate()
        listener.wait(10)


@pytest.fixture
def gpus(deployment: Deployment) -> Iterator[None]:
    """All of them, or one where it is to be one after the other."""
    platform = deployment.platform
    assert platform is not None
    away = [f"{gpu.uuid}" for gpu in platform.engine.inventory()[0].accelerators][1:]
    for uuid in away if FULL else ():
        drains.drain_accelerator(platform, uuid, "one after the other", ADMIN)
    yield
    for uuid in away if FULL else ():
        drains.undrain_accelerator(platform, uuid, ADMIN)


def charged(person: Person, workload: Workload) -> list[Entry]:
    """The lines of a session."""
    with person.platform.database.reading() as connection:
        return entries.of_workload(connection, workload.id)


def compare(person: Person, workload: Workload, ran: Ran) -> float:
    """A session's charge against Docker's word; returns the GPU-seconds of it."""
    lines = charged(person, workload)
    began, ended = workload.engine_started_at, workload.engine_finished_at
    assert began is not None and ended is not None
    length = (ended - began) // MICROSECOND
    assert sum(line.gpu_microseconds for line in lines) == length
    assert -sum(line.microcredits for line in lines) == length * 1_000_000 // 3_600_000_000
    assert [line.from_at for line in lines] == [began, *(line.until_at for line in lines[:-1])]
    assert abs(length / 1e6 - ran.seconds) <= 1
    return length / 1e6


def verified(deployment: Deployment) -> None:
    assert deployment.platform is not None
    with deployment.platform.database.reading() as connection:
        found = list(verify(connection))
    assert not found, found


@pytest.mark.timeout(1800 if FULL else 150)
@pytest.mark.sqlite_suffices
def test_short_sessions_charge_what_the_engine_says_that_they_ran(
    deployment: Deployment, people: People, docker_says: DockersWord, gpus: None
) -> None:
    asking = people.many(SESSIONS)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda person: person.start(quick(1, profile="timed")), asking))
    patience = SESSIONS * (LENGTH_SECONDS + 15) if FULL else 100
    until(lambda: all(person.past() for person in asking), patience, "the end of all")
    total = 0.0
    for person in asking:
        (workload,) = person.past()
        assert workload.ready_at is not None, "it ended before it was ready"
        seconds = compare(person, workload, docker_says.of(workload))
        assert LENGTH_SECONDS <= seconds <= LENGTH_SECONDS + 5
        total += seconds
        with person.platform.database.reading() as connection:
            account = accounts.personal(connection, person.name)
        assert account is not None and account.balance_microcredits < 0
    print(f"{SESSIONS} sessions of {LENGTH_SECONDS} s: {total:.3f} GPU-seconds")
    verified(deployment)


@pytest.mark.timeout(240)
def test_hub_and_controller_down_over_twenty_ticks_lose_and_add_no_second(
    deployment: Deployment, people: People, docker_says: DockersWord
) -> None:
    ends, goes_on = people.many(2)
    second = goes_on.run(quick(1))
    first = ends.run(quick(1, profile="timed"))
    deployment.kill("controller")
    deployment.kill("hub")
    down_at = datetime.now(UTC)
    time.sleep(max(TICKS_DOWN * TICK_SECONDS, LENGTH_SECONDS + 1))
    up_at = datetime.now(UTC)
    deployment.start("hub")
    deployment.start("controller")
    deployment.wait_for_hub()
    until(lambda: ends.past(), 30, "the end of the first")

    def ticked() -> bool:
        with goes_on.platform.database.reading() as connection:
            meter = meters.find(connection, second.id)
        return meter is not None and meter.watermark_at is not None and meter.watermark_at > up_at

    until(ticked, 30, "a tick of the second")
    goes_on.deployment.stop_server(goes_on.name)
    until(lambda: goes_on.past(), 60, "the end of the second")
    for person, workload in ((ends, first), (goes_on, second)):
        with person.platform.database.reading() as connection:
            row = workloads.get(connection, workload.id)
        assert row.state is State.ENDED
        compare(person, row, docker_says.of(row))
    died = docker_says.of(first).died
    assert down_at < died < up_at, "the first did not end while nobody looked"
    (longest,) = [
        line
        for line in charged(goes_on, second)
        if line.from_at and line.until_at and line.from_at < down_at and line.until_at > up_at
    ]
    assert longest.gpu_microseconds >= TICKS_DOWN * TICK_SECONDS * 1e6
    verified(deployment)
