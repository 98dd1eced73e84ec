"""Advance reservations in the planner: they are kept, their people can use them and only they,
and the head is promised no more than can be held beside them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.snapshot import Snapshot
from tests.planning import plan_of, replay, running_after, starts
from tests.reserving import (
    earliest_beside,
    every_start,
    fit_together,
    kept,
    reservation,
    reserved_pools,
    wanted,
)
from tests.values import AT, GIB, fits_in, gpus, holding, left_at, minutes, request, snapshot

EXAMPLES = settings(max_examples=30, deadline=None)
MANY = settings(max_examples=50, deadline=None)


def possible(pool: Snapshot) -> bool:
    """Whether the reservations were possible when they were made: now."""
    return kept(pool, pool.holdings)


# ---------------------------------------------------------------------------- properties


@MANY
@given(reserved_pools(people=True))
def test_no_reservation_is_ever_broken(pool: Snapshot) -> None:
    """At each pass of the replay its unused GPUs are there, whatever was started before."""
    assume(possible(pool))
    for step in replay(pool):
        then = step.pool
        assert fit_together(then, then.holdings, wanted(then.reservations, then.holdings, then.at))
        after = running_after(then, step.outcome)
        assert fit_together(then, after, wanted(then.reservations, after, then.at))


@MANY
@given(reserved_pools(people=True))
def test_a_pass_leaves_every_reservation_possible(pool: Snapshot) -> None:
    assume(possible(pool))
    assert kept(pool, running_after(pool, plan_of(pool)))


@EXAMPLES
@given(reserved_pools(people=True))
def test_only_its_people_start_on_a_reservation_and_end_with_it(pool: Snapshot) -> None:
    found = {each.id: each for each in pool.reservations}
    for step in replay(pool):
        for begun in step.outcome.begun:
            if begun.reservation:
                used = found[begun.reservation]
                assert begun.user in used.users
                assert used.starts_at <= step.pool.at < begun.ends_at <= used.ends_at
                models = {pool.accelerators[uuid].model for uuid in begun.accelerators}
                assert used.gpu_model is None or models == {used.gpu_model}
        for used in found.values():
            holders = running_after(step.pool, step.outcome)
            mine = [len(held.accelerators) for held in holders if held.reservation == used.id]
            assert sum(mine) <= used.gpus


@EXAMPLES
@given(reserved_pools(most=1, people=True))
def test_its_people_can_use_a_reservation_while_it_has_unused_gpus(pool: Snapshot) -> None:
    assume(possible(pool))
    (found,) = pool.reservations
    for step in replay(pool):
        if not found.starts_at <= step.pool.at < found.ends_at:
            continue
        running = running_after(step.pool, step.outcome)
        for wish in step.outcome.plan.kept:
            if (
                wish.user in found.users
                and (wish.gpus, wish.gpu_milli, wish.labels) == (1, 1000, frozenset())
                and wish.gpu_model in (None, found.gpu_model)
                and wish.memory_bytes <= found.memory_bytes
                and wish.cpu_millicores <= found.cpu_millicores
            ):
                assert not wanted([found], running, step.pool.at)


@MANY
@given(reserved_pools())
def test_the_head_is_promised_the_earliest_time_beside_all_reservations(pool: Snapshot) -> None:
    assume(possible(pool))
    outcome = plan_of(pool)
    running = list(pool.holdings)
    for wish in ordered(pool.queue):
        begun = [held for held in outcome.begun if held.id == wish.id]
        running += begun
        if begun:
            continue
        if wish.parts > 1:
            return
        at = earliest_beside(pool, wish, running)
        if at is not None:
            assert (outcome.plan.head, outcome.plan.head_at) == (wish, at)
            return


@MANY
@given(reserved_pools())
def test_the_head_starts_no_later_than_promised_beside_reservations(pool: Snapshot) -> None:
    assume(possible(pool))
    steps = replay(pool)
    started = starts(steps)
    for step in steps:
        head, at = step.outcome.plan.head, step.outcome.plan.head_at
        if head is not None and at is not None and head.parts == 1:
            assert started[head.id] <= at


@MANY
@given(reserved_pools())
def test_nobody_is_left_waiting_who_would_delay_neither_head_nor_reservation(
    pool: Snapshot,
) -> None:
    assume(possible(pool))
    outcome = plan_of(pool)
    head, at = outcome.plan.head, outcome.plan.head_at
    if head is not None and head.parts > 1:
        return
    running = running_after(pool, outcome)
    for wish in outcome.plan.kept:
        if wish.parts > 1:
            continue
        for begun in every_start(pool, wish, running):
            if not kept(pool, [*running, begun]):
                continue
            assert head is not None and at is not None and wish is not head
            later = earliest_beside(pool, head, [*running, begun])
            assert later is None or later > at


@EXAMPLES
@given(reserved_pools(people=True), st.data())
def test_the_order_of_reading_changes_nothing(pool: Snapshot, data: st.DataObject) -> None:
    mixed = replace(
        pool,
        reservations=tuple(data.draw(st.permutations(list(pool.reservations)))),
        holdings=tuple(data.draw(st.permutations(list(pool.holdings)))),
        nodes=dict(reversed(list(pool.nodes.items()))),
        accelerators=dict(reversed(list(pool.accelerators.items()))),
    )
    assert plan_of(mixed).told == plan_of(pool).told


# ---------------------------------------------------------------------------- cases


def test_work_that_would_run_into_a_reservation_waits_and_shorter_work_does_not() -> None:
    pool = replace(
        snapshot(
            gpus("n1", 2),
            queue=[request("q1", 2, limit_minutes=11), request("q2", 2, limit_minutes=10)],
        ),
        reservations=(reservation("r", 2, 10, 20),),
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q2"]
    assert outcome.plan.head_at == AT + minutes(20)


def test_two_reservations_that_may_lie_elsewhere_are_not_broken_together() -> None:
    """Each alone still fits when a backfill takes the last H100; both together do not."""
    pool = replace(
        snapshot(
            [*gpus("n1", 1), *gpus("n1", 1, "H100", first=1)],
            queue=[request("q1", 1, model="A100", limit_minutes=99)],
        ),
        reservations=(reservation("r1", 1, 5, 30), reservation("r2", 1, 10, 30, model="H100")),
    )
    assert not plan_of(pool).started


def test_a_reservation_that_can_no_longer_be_held_in_full_blocks_nothing_else() -> None:
    """One of its GPUs broke: it keeps the other one, and work on other models goes on."""
    sick, well = gpus("n1", 2)
    pool = replace(
        snapshot(
            [replace(sick, offered=False), well, *gpus("n2", 1, "H100")],
            queue=[
                request("q1", 1, model="H100", limit_minutes=99),
                request("q2", 0, limit_minutes=99),
                request("q3", 1, model="A100", limit_minutes=99),
            ],
        ),
        reservations=(reservation("r", 2, 10, 20, model="A100"),),
    )
    assert plan_of(pool).started == ["q1", "q2"]


def test_the_memory_of_reserved_gpus_is_kept_too() -> None:
    pool = replace(
        snapshot(gpus("n1", 1), queue=[request("q1", 0, gib=33, limit_minutes=99)], gib=64),
        reservations=(reservation("r", 1, 10, 20, gib=32),),
    )
    assert not plan_of(pool).started
    assert plan_of(replace(pool, reservations=(reservation("r", 1, 10, 20, gib=31),))).started


def test_somebody_on_a_reservation_gets_no_gpu_of_another_model_counted_as_its_own() -> None:
    wish = request("q1", 1, model="H100", limit_minutes=5)
    pool = replace(
        snapshot([*gpus("n1", 1), *gpus("n1", 1, "H100", first=1)], queue=[wish]),
        reservations=(reservation("r", 1, -1, 20, model="A100", users=[wish.user]),),
    )
    (begun,) = plan_of(pool).begun
    assert (begun.accelerators, begun.reservation) == (("GPU-n1-1",), "")


def test_somebody_on_a_reservation_does_not_take_what_the_next_one_needs() -> None:
    wish = request("q1", 1, limit_minutes=99)
    pool = replace(
        snapshot([*gpus("n1", 1, "H100"), *gpus("n1", 1, first=1)], queue=[wish]),
        reservations=(
            reservation("r1", 1, -1, 20, users=[wish.user]),
            reservation("r2", 1, 10, 20, model="H100"),
        ),
    )
    (begun,) = plan_of(pool).begun
    assert (begun.accelerators, begun.reservation) == (("GPU-n1-1",), "r1")
    assert begun.ends_at == AT + minutes(20)


def test_what_somebody_leaves_unused_of_a_reserved_gpu_is_there_for_the_next() -> None:
    """They asked for less memory than was kept and end early: it must not have gone to others."""
    one = request("q1", 1, gib=1, limit_minutes=5)
    two = request("q2", 0, gib=40, limit_minutes=99)
    pool = replace(
        snapshot(gpus("n1", 1), queue=[one, two], gib=64),
        reservations=(reservation("r", 1, -1, 60, gib=32, users=[one.user]),),
    )
    assert plan_of(pool).started == ["q1"]


def test_its_people_start_at_once_even_where_that_delays_the_head() -> None:
    """The head would need both GPUs of n1 at 5; the only free one was reserved before."""
    wish = request("q2", 1, limit_minutes=30)
    pool = replace(
        snapshot(
            [*gpus("n1", 2), *gpus("n2", 1)],
            [
                holding("h1", ["GPU-n1-1"], ends_in_minutes=5),
                holding("h2", ["GPU-n2-0"], node="n2", ends_in_minutes=5),
            ],
            [request("q1", 2, limit_minutes=30), wish],
        ),
        reservations=(reservation("r", 1, -1, 60, users=[wish.user]),),
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q2"]
    assert outcome.plan.head_at == AT + minutes(30)


def test_whoever_is_late_on_a_gpu_keeps_it_from_a_reservation_that_has_begun() -> None:
    wish = request("q1", 1)
    pool = replace(
        snapshot(gpus("n1", 1), [holding("h", ["GPU-n1-0"], ends_in_minutes=-1)], [wish]),
        reservations=(reservation("r", 1, -1, 60, users=[wish.user]),),
    )
    assert not plan_of(pool).started


def test_the_second_opinion_counts_what_somebody_uses_of_a_reservation() -> None:
    found = reservation("r", 2, 0, 10, gib=2)
    held = replace(holding("h", ["GPU-n1-0"], ends_in_minutes=5), reservation="r")
    assert wanted([found], [held], AT) == [("", 2 * GIB, 1000)]
    assert wanted([found], left_at([held], AT + minutes(5), AT), AT + minutes(5)) != []
    assert wanted([found], [], AT + minutes(10)) == []
    assert fits_in(snapshot(gpus("n1", 2)), request("q1", 1), [held])
