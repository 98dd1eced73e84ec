"""A platform for tests below the hub, and the steps of a start as the spawner takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from dcloud_spawner import lifecycle, user_homes
from dcloud_spawner.engines.base import ContainerFacts, Engine, Mount
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.options import Choice
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.spec import build_spec
from dcloud_spawner.store import events, leases, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import HOLDING, State
from dcloud_spawner.store.schema import leases as lease_rows
from dcloud_spawner.store.workloads import Workload
from tests.no_limits import NO_HURRY, NO_LIMITS

PROFILES = Path(__file__).parent / "config" / "profiles"
ALICE = Actor("alice", "10.0.0.7")

BESIDES = {
    *(f"workload.{word}" for word in ("hold", "unhold", "move")),
    *(f"workload.{word}" for word in ("notice", "notice_withdrawn", "connected")),
}
"""What is told of a workload without a change of its state."""


def settings_for(database_url: str, folder: Path, **values: Any) -> Settings:
    """Settings of a deployment in a folder of its own."""
    return Settings(
        database_url=database_url,
        state=folder / "state",
        profiles_dir=PROFILES,
        reserve_memory_gib=0,
        cpu_overcommit=1,
        stop_grace_seconds=0,
        **{"roles": NO_LIMITS, **NO_HURRY, **values},
    )


@contextmanager
def opened(settings: Settings, engine: Engine) -> Iterator[Platform]:
    """A platform that knows its hardware."""
    platform = Platform(settings, engine=engine)
    try:
        platform.refresh_inventory()
        yield platform
    finally:
        platform.close()


def choice(gpus: int = 1, *, gib: float = 1, cores: float = 1, **more: Any) -> Choice:
    """A valid choice."""
    values: dict[str, Any] = {"profile": "gpu", "gpu_model": None, "hours": 2, **more}
    return Choice(gpus=gpus, memory_gib=gib, cpus=cores, **values)


BESIDES_OF_A_WISH = ("groups", "administrator", "keeps_place_for")


def submit(platform: Platform, user: str = "alice", gpus: int = 1, **more: Any) -> Workload:
    """A request in the queue, before any pass."""
    server = more.pop("server", "")
    besides = {key: more.pop(key) for key in BESIDES_OF_A_WISH if key in more}
    wish = choice(gpus, **more)
    return lifecycle.submit(platform, user, server, wish, "dcloud/base", Actor(user), **besides)


def launch(platform: Platform, identifier: str, **more: Any) -> ContainerFacts:
    """The engine's part of a start, as the spawner does it."""
    begun = lifecycle.begin_start(platform, identifier)
    assert begun is not None
    workload, accelerators = begun
    spec = build_spec(
        platform.settings,
        workload,
        None,
        accelerators,
        environment={},
        mounts=more.pop("mounts", ()),
        **more,
    )
    assert lifecycle.begin_launch(platform, identifier)
    facts = platform.engine.launch(spec)
    lifecycle.end_launch(platform, identifier)
    return facts


def start(platform: Platform, user: str = "alice", gpus: int = 1, **more: Any) -> Workload:
    """A running server."""
    workload = submit(platform, user, gpus, **more)
    platform.run_pass()
    assert lifecycle.mark_ready(platform, workload.id, launch(platform, workload.id))
    return get(platform, workload.id)


def end_all(platform: Platform) -> None:
    """Nothing runs or waits any more; the last that came goes first."""
    with platform.database.reading() as connection:
        left = workloads.open_workloads(connection)
    for found in reversed(left):
        lifecycle.stop(platform, found.id, "test over", Actor("test"))


def home(platform: Platform, user: str = "alice") -> Mount:
    """The user's home, claimed and made."""
    return platform.engine.ensure_home(user_homes.claim_home(platform, user, Actor("spawner")))


def get(platform: Platform, identifier: str) -> Workload:
    """The workload as it is now."""
    with platform.database.reading() as connection:
        return workloads.get(connection, identifier)


def state(platform: Platform, workload: Workload) -> State:
    """The workload's present state."""
    return get(platform, workload.id).state


def place(platform: Platform, workload: Workload) -> int | None:
    """Its place in the queue; None when it does not wait, or is on hold."""
    found = read_pool(platform).place_of(workload.id)
    return found.place if found else None


def held(platform: Platform, workload: Workload | None = None) -> set[str]:
    """Accelerators that are leased now, to one workload or to any."""
    with platform.database.reading() as connection:
        found = leases.holders(connection)
    return {uuid for uuid, holder in found.items() if workload is None or holder == workload.id}


def actions(platform: Platform, target: str) -> list[str]:
    """What the action log says of one target, in order."""
    with platform.database.reading() as connection:
        return [found.action for found in events.read(connection, target=target)]


def check(connection: Connection) -> None:
    """What must hold in the store at every moment, whatever happened (invariants 1, 2, 8, 10)."""
    assert list(events.verify(connection)) == []
    rows = {found.id: found for found in connection.execute(select(workloads.workloads))}
    open_leases = connection.execute(
        select(lease_rows.c.workload, func.count())
        .where(lease_rows.c.closed_at.is_(None))
        .group_by(lease_rows.c.workload)
    )
    count = {row[0]: row[1] for row in open_leases}
    for identifier, row in rows.items():
        expected = row.gpus if State(row.state) in HOLDING else 0
        assert count.pop(identifier, 0) == expected, f"{identifier} is {row.state}"
        assert (row.node is not None) == (row.admitted_at is not None)
        assert (State(row.state) is State.ENDED) == (row.ended_at is not None)
    assert not count, f"leases of nobody: {count}"
    for identifier, row in rows.items():
        lines = events.read(connection, target=identifier)
        log = [
            found.action
            for found in lines
            if found.action.startswith("workload.") and found.action not in BESIDES
        ]
        assert log == _log_of(row, log), f"{identifier} is {row.state}, the log says {log}"


def _log_of(row: Any, log: list[str]) -> list[str]:
    """The lines that a workload's own columns call for; a start may be begun again."""
    expected = ["workload.submit"]
    if row.admitted_at is not None:
        expected.append("workload.admit")
    expected += ["workload.start"] * max(log.count("workload.start"), row.starting_at is not None)
    if row.ready_at is not None:
        expected.append("workload.ready")
    expected += ["workload.resize"] * log.count("workload.resize")
    if row.stopping_at is not None:
        expected.append("workload.stop" if row.admitted_at else "workload.cancel")
    if row.ended_at is not None and row.admitted_at is not None:
        expected.append("workload.release")
    return expected
