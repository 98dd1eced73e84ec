"""Preemption: who is stopped for the head of the queue. Properties over small pools, and what a
pass writes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner import lifecycle
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.preempt import Preemption, choose_victims
from dcloud_spawner.scheduler.snapshot import (
    Accelerator,
    Holding,
    Node,
    Request,
    Reservation,
    Snapshot,
)
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.limits import end_overdue
from tests.memory_engine import MemoryEngine
from tests.platforms import actions, check, get, opened, settings_for, start, state, submit

FACTORS = {"gold": 0.25, "silver": 0.5, "bronze": 1.0}
RULE = Preemption(frozenset({"bronze", "silver"}), FACTORS, notice_seconds=120)
AT = 1_800_000_000.0
GIB = 2**30
EXAMPLES = settings(max_examples=200, deadline=None)


def request(name: str, count: int, *, tier: str, sequence: int = 0, due_at: float = AT) -> Request:
    """A request for an hour of some GPUs."""
    asked = (name, sequence, f"user-{name}", count, None, GIB, 1000, 3600.0, AT, due_at, tier)
    return Request(*asked)


def gpus(node: str, count: int, *, first: int = 0) -> list[Accelerator]:
    """Consecutive GPUs of a node."""
    numbers = range(first, first + count)
    return [Accelerator(f"GPU-{node}-{number}", node, number, "A100") for number in numbers]


def holding(
    name: str, accelerators: Sequence[str], *, node: str, ends_in_minutes: float
) -> Holding:
    """What runs and may go on so long."""
    ends_at = AT + 60 * ends_in_minutes
    return Holding(name, f"user-{name}", node, tuple(accelerators), GIB, 1000, ends_at)


def machine(
    nodes: int, held: list[Holding], queue: list[Request], reserved: tuple[Reservation, ...] = ()
) -> Snapshot:
    """Nodes of four GPUs, with plenty of everything else."""
    names = [f"n{number + 1}" for number in range(nodes)]
    return Snapshot(
        AT,
        {name: Node(name, 64_000, 256 * GIB) for name in names},
        {found.uuid: found for name in names for found in gpus(name, 4)},
        tuple(held),
        tuple(queue),
        reserved,
    )


def planned(pool: Snapshot) -> tuple[Occupancy, Plan]:
    """The pool after a pass."""
    occupancy = occupancy_of(pool, PoolNames(pool.nodes, pool.accelerators.values()))
    return occupancy, make_plan(occupancy, ordered(pool.queue), pool.at, pool.reservations)


def victims(
    pool: Snapshot, rule: Preemption = RULE, noticed: frozenset[str] = frozenset()
) -> set[str]:
    occupancy, plan = planned(pool)
    before = sorted(running.id for running in occupancy.running)
    if not plan.kept:
        return set()
    chosen = choose_victims(rule, occupancy, plan.kept[0], AT, pool.reservations, noticed)
    assert sorted(running.id for running in occupancy.running) == before
    return set(chosen)


def without(pool: Snapshot, gone: set[str]) -> Snapshot:
    return replace(pool, holdings=tuple(each for each in pool.holdings if each.id not in gone))


def soon(pool: Snapshot) -> set[str]:
    """What ends before a notice would."""
    return {each.id for each in pool.holdings if each.ends_at <= AT + RULE.notice_seconds}


def worker(
    name: str, node: str, first: int, count: int, tier: str = "bronze", **more: object
) -> Holding:
    uuids = [found.uuid for found in gpus(node, count, first=first)]
    return replace(holding(name, uuids, node=node, ends_in_minutes=600), tier=tier, **more)


@st.composite
def busy_pools(draw: st.DrawFn) -> Snapshot:
    nodes = draw(st.integers(1, 3))
    held: list[Holding] = []
    for number in range(nodes):
        first = 0
        while first < 4:
            count = draw(st.integers(1, 4 - first))
            tier = draw(st.sampled_from(["gold", "silver", "bronze", ""]))
            if tier:
                ends = draw(st.sampled_from([0, 1, 30, 600]))
                uuids = [found.uuid for found in gpus(f"n{number + 1}", count, first=first)]
                begun = AT - draw(st.integers(0, 5))
                one = holding(f"h{len(held)}", uuids, node=f"n{number + 1}", ends_in_minutes=ends)
                held.append(replace(one, tier=tier, started_at=begun))
            first += count
    asked = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(list(FACTORS))), max_size=4))
    queue = [request(f"q{n}", count, tier=tier) for n, (count, tier) in enumerate(asked)]
    return settled(machine(nodes, held, queue))


def settled(pool: Snapshot) -> Snapshot:
    """The pool a moment after a pass: who starts holds something, the others wait."""
    names = PoolNames(pool.nodes, pool.accelerators.values())
    plan = make_plan(occupancy_of(pool, names), ordered(pool.queue), AT, pool.reservations)
    begun = []
    for one in plan.starts:
        wish, where = one.request, names.placement(one.grants[0])
        held = holding(wish.id, where.accelerators, node=where.node, ends_in_minutes=60)
        begun.append(replace(held, tier=wish.tier, started_at=AT))
    return replace(pool, holdings=(*pool.holdings, *begun), queue=plan.kept)


# ---------------------------------------------------------------------------- properties


@EXAMPLES
@given(busy_pools())
def test_nothing_is_stopped_when_no_tier_is_preemptible(pool: Snapshot) -> None:
    assert victims(pool, Preemption(frozenset(), FACTORS)) == set()


@EXAMPLES
@given(busy_pools())
def test_only_lower_preemptible_tiers_are_stopped_and_only_if_the_head_then_starts(
    pool: Snapshot,
) -> None:
    chosen = victims(pool)
    if not chosen:
        return
    head = pool.queue[0]
    for each in pool.holdings:
        if each.id in chosen:
            assert each.tier in RULE.preemptible
            assert FACTORS[each.tier] > FACTORS[head.tier]
    assert not chosen & soon(pool)
    _, after = planned(without(pool, chosen | soon(pool)))
    assert head.id in {each.request.id for each in after.starts}


@EXAMPLES
@given(busy_pools())
def test_never_more_is_stopped_than_needed(pool: Snapshot) -> None:
    chosen = victims(pool)
    head = replace(pool, queue=pool.queue[:1])
    for spared in chosen:
        _, plan = planned(without(head, (chosen - {spared}) | soon(pool)))
        assert not plan.starts, f"{spared} need not end"


@EXAMPLES
@given(busy_pools())
def test_whoever_was_told_stays_the_one_so_that_nobody_else_is_told_too(pool: Snapshot) -> None:
    chosen = victims(pool)
    assert victims(pool, noticed=frozenset(chosen)) == chosen


@EXAMPLES
@given(busy_pools())
def test_what_was_stopped_and_asks_again_stops_nobody_in_turn(pool: Snapshot) -> None:
    """No livelock: rounds of stopping, starting and asking again come to an end."""
    for sequence in range(1000, 1020):
        chosen = victims(pool)
        if not chosen:
            return
        head = pool.queue[0]
        again = tuple(
            request(each.id, len(each.accelerators), sequence=sequence, tier=each.tier, due_at=1e12)
            for each in pool.holdings
            if each.id in chosen
        )
        pool = without(pool, chosen | soon(pool))
        pool = settled(replace(pool, queue=(*pool.queue, *again)))
        assert head.id in {each.id for each in pool.holdings}
    raise AssertionError("it goes on for ever")


# ---------------------------------------------------------------------------- cases


def test_the_lowest_tier_goes_first_then_the_fewest_gpus_then_the_youngest() -> None:
    held = [
        worker("silver", "n1", 0, 1, "silver"),
        worker("big", "n1", 1, 2),
        worker("small", "n1", 3, 1),
        worker("old", "n2", 0, 2, started_at=AT - 100),
        worker("young", "n2", 2, 2, started_at=AT - 10),
    ]
    assert victims(machine(2, held, [request("q0", 1, tier="gold")])) == {"small"}
    assert victims(machine(2, held, [request("q0", 2, tier="gold")])) in ({"big"}, {"young"})
    assert victims(machine(2, held[3:], [request("q0", 2, tier="gold")])) == set()  # n1 is free
    assert victims(machine(1, held[:1], [request("q0", 4, tier="bronze")])) == set()


def test_a_reservation_is_neither_stopped_nor_overrun() -> None:
    held = [worker("class", "n1", 0, 4, reservation="r")]
    assert victims(machine(1, held, [request("q0", 1, tier="gold")])) == set()
    kept = Reservation("r", AT - 60, AT + 3600, 2, None, GIB, 1000, frozenset({"pupil"}))
    held = [worker("low", "n1", 0, 1), worker("lower", "n1", 1, 1)]
    pool = machine(1, held, [request("q0", 2, tier="gold")], (kept,))
    assert victims(pool) == {"low", "lower"}  # what looks free belongs to the class


# ---------------------------------------------------------------------------- a pass


@pytest.fixture
def rules(database_url: str, tmp_path: Path) -> Settings:
    return settings_for(
        database_url,
        tmp_path,
        tier_groups={"profs": "gold"},
        preemptible_tiers=("bronze",),
        preemption_notice_seconds=60,
    )


@pytest.fixture
def platform(rules: Settings) -> Iterator[Platform]:
    with opened(rules, MemoryEngine()) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def told(platform: Platform, *asked: Workload) -> list[bool]:
    return [get(platform, each.id).notice_at is not None for each in asked]


def test_a_pass_gives_notice_and_the_limit_loop_stops_it_then_and_the_head_starts(
    platform: Platform,
) -> None:
    first, second = start(platform, "ann", 2), start(platform, "bob", 2)
    gold = submit(platform, "prof", 1, groups=("profs",))
    platform.run_pass()
    platform.run_pass()  # once is enough
    assert told(platform, first, second) == [False, True]  # the youngest of the two
    row = get(platform, second.id)
    assert row.notice_at is not None and row.notice_reason == "preempted"
    assert timedelta(seconds=50) < row.notice_at - utc_now() <= timedelta(seconds=60)
    assert actions(platform, second.id).count("workload.notice") == 1
    assert list(end_overdue(platform)) == []  # not yet
    with platform.database.transaction() as connection:
        workloads.set_values(connection, second.id, notice_at=utc_now())
    assert [found.id for found in end_overdue(platform)] == [second.id]
    assert get(platform, second.id).end_reason == "preempted"
    assert state(platform, gold) is State.ADMITTED
    again = submit(platform, "bob", 2)
    platform.run_pass()
    assert state(platform, again) is State.QUEUED
    assert told(platform, first, gold) == [False, False]


def test_a_notice_is_withdrawn_when_it_is_no_longer_needed(platform: Platform) -> None:
    low = start(platform, "ann", 4)
    gold = submit(platform, "prof", 1, groups=("profs",))
    platform.run_pass()
    assert told(platform, low) == [True]
    lifecycle.stop(platform, gold.id, "cancelled", Actor("prof"))
    assert told(platform, low) == [False]
    assert actions(platform, low.id)[-1] == "workload.notice_withdrawn"


def test_a_notice_that_is_withdrawn_while_others_are_being_stopped_stops_nobody(
    rules: Settings,
) -> None:
    engine = MemoryEngine()
    with opened(rules, engine) as platform:
        one, two = start(platform, "ann", 2), start(platform, "bob", 2)
        gold = submit(platform, "prof", 4, groups=("profs",))
        platform.run_pass()
        assert told(platform, one, two) == [True, True]
        with platform.database.transaction() as connection:
            for each in (one, two):
                workloads.set_values(connection, each.id, notice_at=utc_now())

        def leave(*_: object) -> None:
            engine.before.clear()
            lifecycle.stop(platform, gold.id, "cancelled", Actor("prof"))

        engine.before["stop"] = leave  # the first one takes a while, and the queue moves
        assert [found.id for found in end_overdue(platform)] == [one.id]
        assert state(platform, two) is State.RUNNING
        assert told(platform, two) == [False]


def test_off_by_default(database_url: str, tmp_path: Path) -> None:
    rules = settings_for(database_url, tmp_path, tier_groups={"profs": "gold"})
    with opened(rules, MemoryEngine()) as platform:
        low = start(platform, "ann", 4)
        submit(platform, "prof", 1, groups=("profs",))
        platform.run_pass()
        assert told(platform, low) == [False]
