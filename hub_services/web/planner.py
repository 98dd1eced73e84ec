"""What-if replays of administrators: one at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import Platform, utc_now
from hub_services.planning import worker
from hub_services.planning.history import read_hardware_now, read_history
from hub_services.planning.question import Question, worlds
from hub_services.planning.whatif import Comparison, History, World

log = logging.getLogger(__name__)

KEPT = 20
"""Answers that can still be looked at."""
MOST_WAITING = 3
LONGEST_SECONDS = 900.0
LONGEST_LINE_BYTES = 4 * 2**20
_ROOT = Path(__file__).resolve().parents[2]


class Stage(StrEnum):
    """How far a replay is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass
class Replay:
    """One question and, once it is there, its answer."""

    id: str
    question: Question
    stage: Stage = Stage.WAITING
    progress: float = 0.0
    """From 0 to 1."""
    answer: Comparison | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.stage in (Stage.DONE, Stage.FAILED)


class Planner:
    """The replays of one web process; a restart forgets them."""

    def __init__(self) -> None:
        self._replays: dict[str, Replay] = {}
        self._one = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, platform: Platform, question: Question) -> Replay:
        """Begin a replay. Raises InvalidChoice for a wrong question, Conflict when there is too
        little history or too many wait already."""
        if sum(not each.finished for each in self._replays.values()) > MOST_WAITING:
            raise Conflict(
                "Enough replays wait already.", hint="Try again in a minute.", code="busy"
            )
        history, today, changed, said = await platform.in_database_thread(
            _prepare, platform, question
        )
        replay = Replay(secrets.token_hex(8), question, notes=(*said, *history.notes))
        self._replays[replay.id] = replay
        for old in [each for each in self._replays.values() if each.finished][:-KEPT]:
            del self._replays[old.id]
        task = asyncio.create_task(self._run(replay, history, today, changed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return replay

    def find(self, identifier: str) -> Replay:
        """A replay; raises NotFound."""
        found = self._replays.get(identifier)
        if found is None:
            raise NotFound(
                "There is no such replay any more.", hint="Ask again; it takes a moment."
            )
        return found

    async def settled(self) -> None:
        """Return when nothing is replayed any more."""
        await asyncio.gather(*self._tasks)

    async def _run(self, replay: Replay, history: History, today: World, changed: World) -> None:
        async with self._one:
            replay.stage = Stage.RUNNING
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await _play(replay, worker.encode(history, today, changed))
            except TimeoutError:
                replay.problem = f"It took longer than {LONGEST_SECONDS / 60:.0f} minutes."
            except OSError as error:
                log.error("A replay could not be started: %s", error)
            if replay.answer is not None:
                replay.stage, replay.progress = Stage.DONE, 1.0
            else:
                replay.stage = Stage.FAILED
                replay.problem = replay.problem or "It ended without an answer; the log says why."


def _prepare(
    platform: Platform, question: Question
) -> tuple[History, World, World, tuple[str, ...]]:
    now = utc_now()
    today, changed, said = worlds(question, read_hardware_now(platform, now), platform.policy)
    return read_history(platform, question.days, now), today, changed, said


async def _play(replay: Replay, question: bytes) -> None:
    """Run the process to its end; it is killed when this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hub_services.planning.worker",
        cwd=_ROOT,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(_ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE_BYTES,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.close()
        async for line in process.stdout:
            said = worker.read_line(line.decode())
            if isinstance(said, Comparison):
                replay.answer = said
            elif said is not None:
                replay.progress = said
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
