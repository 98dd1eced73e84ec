"""Nodes and GPUs out of service: what runs goes on, nothing new comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner import drains
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import events, nodes
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests.memory_engine import MemoryEngine, node
from tests.platforms import actions, held, opened, settings_for, start, state, submit

ADMIN = Actor("admin", "10.0.0.1")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node(gpus=2))) as found:
        yield found


def test_a_drained_node_takes_nothing_new_and_what_runs_goes_on(platform: Platform) -> None:
    running = start(platform, "ann", 1)
    row = drains.drain_node(platform, "local", " fans ", ADMIN)
    assert (row.drained, row.drained_by, row.drained_reason) == (True, "admin", "fans")
    assert row.drained_at is not None
    waiting = submit(platform, "bob", 1)
    platform.run_pass()
    assert state(platform, waiting) is State.QUEUED
    assert state(platform, running) is State.RUNNING
    row = drains.undrain_node(platform, "local", ADMIN)
    assert (row.drained, row.drained_by, row.drained_reason, row.drained_at) == (
        False,
        "",
        "",
        None,
    )
    assert state(platform, waiting) is State.ADMITTED
    assert actions(platform, "local") == ["node.drain", "node.undrain"]


def test_a_drained_gpu_is_offered_to_nobody_until_it_is_back(platform: Platform) -> None:
    row = drains.drain_accelerator(platform, "GPU-local-0", "ECC errors", ADMIN)
    assert (row.drained, row.drained_by, row.drained_reason) == (True, "admin", "ECC errors")
    one, two = submit(platform, "ann", 1), submit(platform, "bob", 1)
    platform.run_pass()
    assert held(platform, one) == {"GPU-local-1"}
    assert state(platform, two) is State.QUEUED
    drains.undrain_accelerator(platform, "GPU-local-0", ADMIN)
    assert held(platform, two) == {"GPU-local-0"}
    assert actions(platform, "GPU-local-0")[-2:] == ["accelerator.drain", "accelerator.undrain"]


def test_an_inventory_does_not_bring_back_what_was_drained(platform: Platform) -> None:
    drains.drain_node(platform, "local", "why", ADMIN)
    drains.drain_accelerator(platform, "GPU-local-0", "why", ADMIN)
    platform.refresh_inventory()
    with platform.database.reading() as connection:
        (found,) = nodes.all_nodes(connection)
        gpu = nodes.find_accelerator(connection, "GPU-local-0")
    assert found.drained and gpu is not None and gpu.drained


def test_unknown_drained_twice_and_without_a_reason_is_refused(platform: Platform) -> None:
    with platform.database.reading() as connection:
        head = events.head(connection)
    for reason in ("", " ", "x" * 501):
        with pytest.raises(InvalidChoice):
            drains.drain_node(platform, "local", reason, ADMIN)
        with pytest.raises(InvalidChoice):
            drains.drain_accelerator(platform, "GPU-local-0", reason, ADMIN)
    with pytest.raises(NotFound):
        drains.drain_node(platform, "elsewhere", "why", ADMIN)
    with pytest.raises(NotFound):
        drains.undrain_node(platform, "elsewhere", ADMIN)
    with pytest.raises(NotFound):
        drains.drain_accelerator(platform, "GPU-x", "why", ADMIN)
    with pytest.raises(NotFound):
        drains.undrain_accelerator(platform, "GPU-x", ADMIN)
    with pytest.raises(Conflict):
        drains.undrain_node(platform, "local", ADMIN)
    with pytest.raises(Conflict):
        drains.undrain_accelerator(platform, "GPU-local-0", ADMIN)
    with platform.database.reading() as connection:
        assert events.head(connection) == head
    drains.drain_node(platform, "local", "why", ADMIN)
    with pytest.raises(Conflict, match="by admin"):
        drains.drain_node(platform, "local", "why", ADMIN)
