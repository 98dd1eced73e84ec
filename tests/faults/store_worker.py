"""Processes that work on one store and are killed at any moment: a hub's part and a controller's.

Simulated: the engine, whose containers are files, so that they outlive whoever made them, as real
containers do. Everything else is what the hub and the controller run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dcloud_spawner import drains, lifecycle, queueing, reservations
from dcloud_spawner.engines.base import (
    LABEL_WORKLOAD,
    BeforeRemoval,
    ContainerFacts,
    ContainerSpec,
    Phase,
)
from dcloud_spawner.errors import Conflict, EngineError, InvalidChoice, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.spec import build_spec
from dcloud_spawner.store import events, workloads
from dcloud_spawner.store import reservations as reservation_rows
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.reconcile import reconcile
from tests.memory_engine import MemoryEngine
from tests.platforms import choice, settings_for

USERS = 6
ADMIN = Actor("administrator")
ENGINE_TIMEOUT_SECONDS = 3.0
"""Longer than any step here takes; a launch of a killed process counts for twice this time."""


class FileEngine(MemoryEngine):
    """Containers are files, and take a moment to come and to go."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        found = []
        for path in self.folder.glob("*.json"):
            if workload_id in (None, path.stem):
                with contextlib.suppress(FileNotFoundError):
                    found.append(_facts(path.stem, json.loads(path.read_text())))
        return tuple(found)

    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        workload_id = spec.labels[LABEL_WORKLOAD]
        time.sleep(random.uniform(0, 0.02))
        draft = self.folder / f"{workload_id}.draft"
        draft.write_text(json.dumps(spec.accelerators))
        draft.replace(self.folder / f"{workload_id}.json")
        return _facts(workload_id, spec.accelerators)

    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        time.sleep(random.uniform(0, 0.02))
        (self.folder / f"{workload_id}.json").unlink(missing_ok=True)
        return None


def _facts(workload_id: str, devices: Iterable[str]) -> ContainerFacts:
    gpus = tuple(devices)
    return ContainerFacts(
        ref=workload_id,
        name=f"dcloud-{workload_id}",
        workload_id=workload_id,
        user="",
        kind="notebook",
        accelerators=gpus,
        phase=Phase.ALIVE,
        devices=gpus,
        started_at=datetime.now(UTC),
    )


def open_platform(url: str, folder: Path) -> Platform:
    """The deployment's platform, as every process opens its own."""
    settings: Settings = settings_for(url, folder, engine_timeout_seconds=ENGINE_TIMEOUT_SECONDS)
    return Platform(settings, engine=FileEngine(folder / "containers"))


def _open(platform: Platform, *states: State) -> list[Workload]:
    with platform.database.reading() as connection:
        return list(workloads.in_states(connection, states))


def hub(url: str, folder: Path, seed: int, submit_only: int = 0) -> None:
    """What hubs do: submit, run a pass, launch what is admitted or was left half started, stop."""
    chooser = random.Random(seed)
    platform = open_platform(url, folder)
    done = 0
    while not submit_only or done < submit_only:
        done += 1
        user = f"user{chooser.randrange(USERS)}" if not submit_only else f"user{seed}-{done}"
        wish = choice(chooser.randint(0, 4), gib=chooser.choice((1, 8, 30)))
        with contextlib.suppress(Conflict, InvalidChoice):
            lifecycle.submit(platform, user, "", wish, "image", Actor(user))
        platform.run_pass()
        if submit_only:
            continue
        for workload in _open(platform, State.ADMITTED, State.STARTING):
            _start(platform, workload)
        for workload in _open(platform, State.QUEUED, State.RUNNING):
            if chooser.random() < 0.3:
                _stop(platform, workload, "stopped")


def _start(platform: Platform, workload: Workload) -> None:
    begun = lifecycle.begin_start(platform, workload.id)
    if begun is None or not lifecycle.begin_launch(platform, workload.id):
        return
    _, accelerators = begun
    spec = build_spec(platform.settings, workload, None, accelerators, environment={}, mounts=())
    facts = platform.engine.launch(spec)
    lifecycle.end_launch(platform, workload.id)
    if not lifecycle.mark_ready(platform, workload.id, facts):
        _stop(platform, workload, "cancelled")


def _stop(platform: Platform, workload: Workload, reason: str) -> None:
    with contextlib.suppress(EngineError):  # somebody is launching it: later
        lifecycle.stop(platform, workload.id, reason, Actor("tester"))


def controller(url: str, folder: Path, seed: int) -> None:
    """What controllers and administrators do: reconcile, pass, stop whatever it is."""
    chooser = random.Random(seed)
    platform = open_platform(url, folder)
    while True:
        reconcile(platform)
        platform.run_pass()
        for workload in _open(platform, State.ADMITTED, State.STARTING, State.RUNNING):
            if chooser.random() < 0.1:
                _stop(platform, workload, "by an administrator")


def migrate(url: str) -> None:
    """Bring a database to the newest schema, as every program does when it starts."""
    database = Database(url)
    database.migrate()
    database.close()


def hold_a_transaction(url: str, ready: Any) -> None:
    """Write a row, and never get to the commit."""
    database = Database(url)
    with database.transaction() as connection:
        events.note(connection, Actor("x"), "x", "x", at=datetime.now(UTC))
        ready.set()
        time.sleep(600)


def administrator(url: str, folder: Path, seed: int) -> None:
    """What administrators do to the queue, without a pause and at random."""
    chooser = random.Random(seed)
    platform = open_platform(url, folder)
    while True:
        with contextlib.suppress(UserError):
            chooser.choice(HANDS)(platform, chooser)


def _some_waiting(platform: Platform, chooser: random.Random) -> str:
    waiting = _open(platform, State.QUEUED)
    return chooser.choice(waiting).id if waiting else "nobody"


def _hold(platform: Platform, chooser: random.Random) -> None:
    queueing.hold(platform, _some_waiting(platform, chooser), "a fault test", ADMIN)


def _unhold(platform: Platform, chooser: random.Random) -> None:
    queueing.release_hold(platform, _some_waiting(platform, chooser), ADMIN)


def _move(platform: Platform, chooser: random.Random) -> None:
    queueing.move_to_head(platform, _some_waiting(platform, chooser), "a fault test", ADMIN)


def _drain(platform: Platform, chooser: random.Random) -> None:
    if chooser.random() < 0.3:
        drains.drain_node(platform, "local", "a fault test", ADMIN)
    else:
        gpu = f"GPU-local-{chooser.randrange(4)}"
        drains.drain_accelerator(platform, gpu, "a fault test", ADMIN)


def _undrain(platform: Platform, chooser: random.Random) -> None:
    with contextlib.suppress(Conflict):
        drains.undrain_node(platform, "local", ADMIN)
    drains.undrain_accelerator(platform, f"GPU-local-{chooser.randrange(4)}", ADMIN)


def _reserve(platform: Platform, chooser: random.Random) -> None:
    begins = utc_now() + timedelta(days=chooser.randrange(20), hours=chooser.randrange(24))
    users = (f"user{chooser.randrange(USERS)}",)
    wish = NewReservation(
        "class", begins, begins + timedelta(hours=1), chooser.randint(1, 4), users=users
    )
    reservations.reserve(platform, wish, ADMIN)


def _give_up(platform: Platform, chooser: random.Random) -> None:
    with platform.database.reading() as connection:
        known = reservation_rows.open_reservations(connection)
    if known:
        reservations.cancel_reservation(platform, chooser.choice(known).id, ADMIN)


HANDS = (_hold, _unhold, _move, _drain, _undrain, _reserve, _give_up)


def hands_on(url: str, folder: Path) -> None:
    """Every kind of act once, and then kill -9."""
    platform = open_platform(url, folder)
    waiting = _open(platform, State.QUEUED)
    queueing.hold(platform, waiting[3].id, "a fault test", ADMIN)
    queueing.move_to_head(platform, waiting[7].id, "a fault test", ADMIN)
    drains.drain_node(platform, "local", "a fault test", ADMIN)
    begins = utc_now() + timedelta(days=1)
    wish = NewReservation("class", begins, begins + timedelta(hours=1), 1, users=("ann",))
    with contextlib.suppress(Conflict):  # of a node that is drained nothing is sure
        reservations.reserve(platform, wish, ADMIN)
    drains.undrain_node(platform, "local", ADMIN)
    reservations.reserve(platform, wish, ADMIN)
    drains.drain_node(platform, "local", "a fault test", ADMIN)
    os.kill(os.getpid(), signal.SIGKILL)


def undrain(platform: Platform) -> None:
    """The machine takes work again."""
    drains.undrain_node(platform, "local", ADMIN)


def start_and_stop_all(platform: Platform, first: str) -> list[str]:
    """Give back what runs, one after the other, until nobody starts any more; who started."""
    started: list[str] = []
    running = [first]
    while running:
        lifecycle.stop(platform, running[0], "stopped", Actor("tester"))
        running = [found.id for found in _open(platform, State.ADMITTED)]
        started += running
    return started
