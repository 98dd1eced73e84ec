"""Hubs and controllers that die of kill -9 in the middle of settling charges.

Simulated: the engine, whose containers are files with their times, and the moment of death: at a
statement that was counted out before, so that over many deaths every place between two statements
of a settlement has its turn. The signal is a real SIGKILL; the store and all else are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event

from dcloud_spawner import lifecycle
from dcloud_spawner.engines.base import (
    LABEL_WORKLOAD,
    BeforeRemoval,
    ContainerFacts,
    ContainerSpec,
    Phase,
)
from dcloud_spawner.errors import Conflict, EngineError, InvalidChoice
from dcloud_spawner.platform import Platform
from dcloud_spawner.spec import build_spec
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.meter import meter
from hub_services.controller.reconcile import reconcile
from tests.memory_engine import MemoryEngine, node
from tests.platforms import choice, settings_for

USERS = 8
ENGINE_TIMEOUT_SECONDS = 0.5
TESTER = Actor("tester")


class TimedEngine(MemoryEngine):
    """Containers are files: who holds what since when, and beside it when it ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(node(gpus=12, gib=512, cores=64))
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        names = [path.stem for path in self.folder.glob("*.json")]
        found = [self.facts(name) for name in names if workload_id in (None, name)]
        return tuple(facts for facts in found if facts is not None)

    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        workload_id = spec.labels[LABEL_WORKLOAD]
        (self.folder / f"{workload_id}.end").unlink(missing_ok=True)
        said = {"gpus": list(spec.accelerators), "started": datetime.now(UTC).isoformat()}
        self._write(workload_id, "json", said)
        facts = self.facts(workload_id)
        assert facts is not None
        return facts

    def end(self, workload_id: str) -> None:
        """It ends now, unless it has ended before."""
        end = self.folder / f"{workload_id}.end"
        draft = self.folder / f"{workload_id}.end.{os.getpid()}"
        draft.write_text(datetime.now(UTC).isoformat())
        with contextlib.suppress(FileExistsError):
            os.link(draft, end)
        draft.unlink()

    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        if self.facts(workload_id) is None:
            return None
        self.end(workload_id)
        facts = self.facts(workload_id)
        if facts is not None and before_removal is not None:
            before_removal(facts)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder / f"{workload_id}.json", self.folder / f"{workload_id}.over")
        return facts

    def facts(self, workload_id: str, kind: str = "json") -> ContainerFacts | None:
        """What is known of one; of kind ``over``: after it was removed."""
        try:
            said = json.loads((self.folder / f"{workload_id}.{kind}").read_text())
        except FileNotFoundError:
            return None
        end = self.folder / f"{workload_id}.end"
        finished = datetime.fromisoformat(end.read_text()) if end.exists() else None
        gpus = tuple(said["gpus"])
        return ContainerFacts(
            ref=workload_id,
            name=f"dcloud-{workload_id}",
            workload_id=workload_id,
            user="",
            kind="notebook",
            accelerators=gpus,
            phase=Phase.ENDED if finished else Phase.ALIVE,
            devices=gpus,
            started_at=datetime.fromisoformat(said["started"]),
            finished_at=finished,
            exit_code=0 if finished else None,
        )

    def _write(self, workload_id: str, kind: str, said: dict[str, Any]) -> None:
        draft = self.folder / f"{workload_id}.draft"
        draft.write_text(json.dumps(said))
        draft.replace(self.folder / f"{workload_id}.{kind}")


def open_platform(url: str, folder: Path) -> Platform:
    """The deployment's platform, as every process opens its own."""
    settings = settings_for(
        url,
        folder,
        engine_timeout_seconds=ENGINE_TIMEOUT_SECONDS,
        personal_grant_credits=5,
        personal_grant_every="week",
    )
    return Platform(settings, engine=TimedEngine(folder / "containers"))


def dies_after(platform: Platform, statements: int) -> None:
    """kill -9 of this process at a statement, a commit counting as one."""
    left = [statements]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(platform.database.engine, "before_cursor_execute", count)
    event.listen(platform.database.engine, "commit", count)


def _open(platform: Platform, *states: State) -> list[Workload]:
    with platform.database.reading() as connection:
        return list(workloads.in_states(connection, states))


def hub(url: str, folder: Path, seed: int, statements: int) -> None:
    """Start what is admitted or was left half started, then stop what runs, and die of it."""
    chooser = random.Random(seed)
    platform = open_platform(url, folder)
    step(platform, chooser)
    dies_after(platform, statements)
    while True:
        running = _open(platform, State.RUNNING)
        for workload in chooser.sample(running, min(2, len(running))):
            if chooser.random() < 0.3:
                _engine(platform).end(workload.id)  # a crash
            with contextlib.suppress(EngineError):
                lifecycle.stop(platform, workload.id, "stopped", TESTER)
        step(platform, chooser)


def step(platform: Platform, chooser: random.Random) -> None:
    """One more request, a pass, and whatever may start starts."""
    user = f"user{chooser.randrange(USERS)}"
    wish = choice(chooser.randint(0, 2), gib=chooser.choice((0.7, 1)))
    with contextlib.suppress(Conflict, InvalidChoice):
        lifecycle.submit(platform, user, f"s{chooser.randrange(3)}", wish, "image", Actor(user))
    platform.run_pass()
    for workload in _open(platform, State.ADMITTED, State.STARTING):
        _start(platform, workload)


def _start(platform: Platform, workload: Workload) -> None:
    begun = lifecycle.begin_start(platform, workload.id)
    if begun is None or not lifecycle.begin_launch(platform, workload.id):
        return
    spec = build_spec(platform.settings, workload, None, begun[1], environment={}, mounts=())
    facts = platform.engine.launch(spec)
    lifecycle.end_launch(platform, workload.id)
    lifecycle.mark_ready(platform, workload.id, facts)


def _engine(platform: Platform) -> TimedEngine:
    assert isinstance(platform.engine, TimedEngine)
    return platform.engine


def controller(url: str, folder: Path, seed: int, statements: int) -> None:
    """Tick, reconcile, tick; then die."""
    platform = open_platform(url, folder)
    dies_after(platform, statements)
    while True:
        meter(platform)
        reconcile(platform)
