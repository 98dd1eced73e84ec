"""kill -9 around an administrator's hand in the queue: what was done stays done, as a whole.

Hold, release, move to the head, drain, reserve and give up, by processes that are killed at random
moments, beside one that submits. What the rows say must be what the action log says, and whoever
opens the database anew finds the same order.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import events, nodes
from dcloud_spawner.store.reservations import ReservationState
from dcloud_spawner.store.schema import reservations as reservation_rows
from dcloud_spawner.store.schema import workloads as workload_rows
from tests.faults import store_worker
from tests.faults.store_worker import open_platform
from tests.faults.workers import begin, kill
from tests.patience import patient
from tests.platforms import check, start, submit

KILLS = 25

LONGEST_SECONDS = patient(60)

WANTED = {"hold", "unhold", "move", "drain", "undrain", "create"}
"""Kinds of acts without which little was proven."""


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children that fork from a server in which everything is imported: quick to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.store_worker"])
    return context


def last(lines: dict[str, str], identifier: str, yes: str, no: str) -> bool:
    """Whether the last of two kinds of lines about something was the first kind."""
    return {yes: True, no: False}.get(lines.get(identifier, no), False)


def check_hands(connection: Connection) -> None:
    """The rows against the log."""
    lines: dict[str, dict[str, str]] = {"hold": {}, "move": {}, "drain": {}, "reservation": {}}
    for found in events.read(connection, limit=10**6):
        if found.action in ("workload.hold", "workload.unhold"):
            lines["hold"][found.target] = found.action
        elif found.action == "workload.move":
            lines["move"][found.target] = found.action
        elif found.action.endswith("drain"):
            lines["drain"][found.target] = found.action.rpartition(".")[2]
        elif found.action.startswith("reservation."):
            lines["reservation"][found.target] = found.action.partition(".")[2]
    for row in connection.execute(select(workload_rows)):
        on_hold = last(lines["hold"], row.id, "workload.hold", "workload.unhold")
        assert (row.held_at is not None) == on_hold, f"{row.id} on hold: the log says {on_hold}"
        assert bool(row.held_by) == bool(row.held_reason) == on_hold
        assert (row.moved_at is not None) == (row.id in lines["move"])
    drained = {row.name: row for row in nodes.all_nodes(connection)}
    drained_gpus = {row.uuid: row for row in nodes.all_accelerators(connection)}
    for name, row in {**drained, **drained_gpus}.items():
        said = last(lines["drain"], name, "drain", "undrain")
        assert row.drained == said == (row.drained_at is not None), name
    state_of = {"create": ReservationState.PLANNED, "cancel": ReservationState.CANCELLED}
    known = {row.id: row.state for row in connection.execute(select(reservation_rows))}
    assert known == {
        identifier: state_of.get(word) or ReservationState(word)
        for identifier, word in lines["reservation"].items()
    }


def line(platform: Platform) -> list[str]:
    return [found.workload.id for found in read_pool(platform).queue]


@pytest.mark.timeout(600)
def test_a_hand_in_the_queue_is_whole_or_was_never_there(
    processes: Any, database_url: str, tmp_path: Path
) -> None:
    chooser = random.Random(4)
    platform = open_platform(database_url, tmp_path)
    platform.refresh_inventory()
    roles: list[Callable[..., None]] = [store_worker.administrator, store_worker.administrator]
    roles.append(store_worker.hub)
    running = [begin(processes, role, database_url, tmp_path, chooser) for role in roles]
    dues: dict[str, object] = {}
    deadline = time.monotonic() + LONGEST_SECONDS
    kills = 0
    while kills < KILLS or (not hands(platform) >= WANTED and time.monotonic() < deadline):
        kills += 1
        time.sleep(chooser.uniform(0.1, 0.8))
        which = chooser.randrange(len(roles))
        assert running[which].exitcode is None, "a worker died by itself"
        kill(running[which])
        with platform.database.reading() as connection:
            check_hands(connection)
            for row in connection.execute(select(workload_rows.c.id, workload_rows.c.due_at)):
                assert dues.setdefault(row.id, row.due_at) == row.due_at
        running[which] = begin(processes, roles[which], database_url, tmp_path, chooser)
    for process in running:
        kill(process)
    assert hands(platform) >= WANTED
    with platform.database.reading() as connection:
        check(connection)
        check_hands(connection)
    before = line(platform)
    platform.close()
    again = open_platform(database_url, tmp_path)
    assert line(again) == before
    again.close()


def hands(platform: Platform) -> set[str]:
    """Kinds of acts that the log has."""
    with platform.database.reading() as connection:
        log = events.read(connection, limit=10**6)
    return {found.action.rpartition(".")[2] for found in log if found.actor == "administrator"}


@pytest.mark.timeout(600)
def test_twenty_who_wait_a_drain_and_a_reservation_survive_and_all_start_in_turn(
    processes: Any, database_url: str, tmp_path: Path
) -> None:
    """As `Done when` 5 of the queue, below the hub: the whole picture is in the rows."""
    platform = open_platform(database_url, tmp_path)
    platform.refresh_inventory()
    full = start(platform, "full", 4)
    asked = [submit(platform, f"user{number:02}", 4, hours=1) for number in range(20)]
    process = processes.Process(target=store_worker.hands_on, args=(database_url, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == -9, "it kills itself behind its last act"
    before = line(platform)
    assert len(before) == 19  # one is on hold
    assert before[0] == asked[7].id
    platform.close()
    again = open_platform(database_url, tmp_path)
    assert line(again) == before
    with again.database.reading() as connection:
        check_hands(connection)
        (machine,) = nodes.all_nodes(connection)
    assert machine.drained
    assert len(read_pool(again).reservations) == 1
    store_worker.undrain(again)
    started = store_worker.start_and_stop_all(again, full.id)
    assert started == before
    again.close()
