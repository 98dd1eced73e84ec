"""Step 2 of a pass: gates that refuse a start, whatever they are for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from dcloud_spawner import lifecycle, queueing
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler import verdicts
from dcloud_spawner.scheduler.verdicts import LONGEST_CODE, Block
from dcloud_spawner.store import queue, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.queue import Waiting
from dcloud_spawner.store.schema import State
from tests.gates import starts_of_everybody
from tests.memory_engine import MemoryEngine, node
from tests.platforms import ALICE, check, choice, get, opened, place, settings_for, state, submit
from tests.platforms import start as run

ADMIN = Actor("admin")


class AtMost:
    """So many GPUs at once for each user; what needs none is not concerned."""

    def __init__(self, connection: Connection, most: int) -> None:
        self.most = most
        self.held: Counter[str] = Counter()
        for found in workloads.holding(connection):
            self.held[found.user] += found.gpus

    def blocks(self, row: Waiting) -> Block | None:
        held = self.held[row.user]
        if not row.gpus or held + row.gpus <= self.most:
            return None
        return Block("limit:gpus", f"{held} of {self.most} are used.")

    def let_in(self, row: Waiting) -> None:
        self.held[row.user] += row.gpus


def at_most(platform: Platform, most: int) -> None:
    """Nobody holds more GPUs than so many."""

    def make(connection: Connection, now: datetime) -> AtMost:
        return AtMost(connection, most)

    platform.gates[:] = [make]


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    machines = [node(gpus=4, name=f"n{number}") for number in range(3)]
    with opened(settings_for(database_url, tmp_path), MemoryEngine(*machines)) as found:
        at_most(found, 2)
        yield found


def test_what_a_gate_refuses_waits_blocked_and_starts_when_it_may(platform: Platform) -> None:
    first = run(platform, "ann", 2, server="a")
    second = submit(platform, "ann", 1, server="b")
    assert (second.blocked, second.blocked_reason) == ("limit:gpus", "2 of 2 are used.")
    platform.run_pass()
    assert (state(platform, second), place(platform, second)) == (State.QUEUED, None)
    lifecycle.stop(platform, first.id, "stopped", ALICE)
    found = get(platform, second.id)
    assert (found.state, found.blocked, found.blocked_reason) == (State.ADMITTED, "", "")


def test_of_two_that_fit_only_one_by_one_the_first_starts(platform: Platform) -> None:
    one, two = (submit(platform, "ann", 2, server=name) for name in "ab")
    assert (one.blocked, two.blocked) == ("", "")
    platform.run_pass()
    assert [state(platform, found) for found in (one, two)] == [State.ADMITTED, State.QUEUED]
    assert get(platform, two.id).blocked_reason == "2 of 2 are used."


def test_nobody_waits_behind_a_blocked_request(platform: Platform) -> None:
    run(platform, "ann", 2, server="a")
    submit(platform, "ann", 1, server="b")
    others = [submit(platform, f"user{number}", 1) for number in range(10)]
    platform.run_pass()
    assert {state(platform, found) for found in others} == {State.ADMITTED}


def test_nothing_is_kept_free_for_a_request_that_may_not_start(platform: Platform) -> None:
    at_most(platform, 4)
    run(platform, "ann", 2, server="a", hours=1)
    for number in range(2):
        run(platform, f"full{number}", 4, hours=1)
    big = submit(platform, "ann", 3, server="b", hours=1)  # does not fit either
    small = submit(platform, "bob", 2, hours=24)
    platform.run_pass()
    assert get(platform, big.id).blocked == "limit:gpus"
    assert state(platform, small) is State.ADMITTED


def test_a_thousand_blocked_requests_at_the_front_hide_nobody(platform: Platform) -> None:
    for user in ("ann", "bob"):
        run(platform, user, 2, server="run")
    platform.gates.clear()  # as if they had waited before there was a limit
    for number in range(60):
        submit(platform, ("ann", "bob")[number % 2], 1, server=f"s{number}")
    last = submit(platform, "cyd", 1)
    at_most(platform, 2)
    platform.run_pass()
    assert state(platform, last) is State.ADMITTED
    with platform.database.reading() as connection:
        assert len(queue.blocked(connection)) == 60
        assert queue.candidates(connection, 4, 2**40, 10**6) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_pass_starts_whom_asking_about_everybody_would_start(
    platform: Platform, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more than a gate allows, and work conserving beside it."""
    if seed % 2:  # as with thousands who are blocked: most are not looked at one by one
        monkeypatch.setattr(verdicts, "RENEWED", 1)
        monkeypatch.setattr(verdicts, "MANY", seed)
    chooser = random.Random(seed)
    for turn in range(40):
        user = f"user{chooser.randrange(6)}"
        wish = choice(chooser.choice((0, 1, 1, 2, 3)), hours=chooser.choice((1, 2, 20)))
        most = chooser.choice((2, 3, 3, 4)) if turn % 10 == 0 else None
        if most:
            at_most(platform, most)
        lifecycle.submit(platform, user, f"s{turn}", wish, "image", Actor(user))
        if turn % 5:
            continue
        expected = starts_of_everybody(platform)
        assert [start.request.id for start in platform.run_pass().starts] == expected
        with platform.database.reading() as connection:
            running = workloads.in_states(connection, (State.ADMITTED,))
            check(connection)
        platform.run_pass()
        for found in chooser.sample(running, min(len(running), chooser.randrange(4))):
            lifecycle.begin_stop(platform, found.id, "stopped", ALICE)
            platform.engine.stop(found.id, 0)
            lifecycle.confirm_gone(platform, found.id, None)


def test_a_blocked_request_that_is_moved_or_released_stays_blocked(platform: Platform) -> None:
    run(platform, "ann", 2, server="a")
    second = submit(platform, "ann", 1, server="b")
    queueing.move_to_head(platform, second.id, "why", ADMIN)
    queueing.hold(platform, second.id, "why", ADMIN)
    queueing.release_hold(platform, second.id, ADMIN)
    found = get(platform, second.id)
    assert (found.state, found.blocked) == (State.QUEUED, "limit:gpus")


def test_codes_fit_their_column() -> None:
    assert workloads.workloads.c.blocked.type.length == LONGEST_CODE


def test_a_pass_finds_the_blocked_ones_by_their_index(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.sqlite")
    database.migrate()
    query = (
        "EXPLAIN QUERY PLAN SELECT id FROM workloads WHERE state = :state AND blocked != :nothing "
        "ORDER BY sequence"
    )
    with database.reading() as connection:
        plan = connection.execute(text(query), {"state": "queued", "nothing": ""}).all()
    database.close()
    assert "ix_workloads_blocked" in str(plan)
