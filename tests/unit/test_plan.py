"""The planner: who starts now and who waits. Properties over any small pool, each against a
second opinion that counts names instead of planning, and the cases that once were wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.snapshot import Accelerator, Holding, Node, Request, Snapshot
from tests.planning import plan_of, replay, running_after, starts
from tests.reserving import every_start
from tests.values import (
    AT,
    GIB,
    earliest,
    fits_in,
    gpus,
    holding,
    left_at,
    minutes,
    pools,
    request,
    requests,
    shuffled,
    slots,
    snapshot,
)

EXAMPLES = settings(max_examples=100, deadline=None)
MANY = settings(max_examples=250, deadline=None)
ANY = pools(plain=False)


# ---------------------------------------------------------------------------- properties


@EXAMPLES
@given(ANY)
def test_every_request_either_starts_once_or_waits_once_and_held_ones_neither(
    pool: Snapshot,
) -> None:
    outcome = plan_of(pool)
    kept = [found.id for found in outcome.plan.kept]
    assert sorted(outcome.started + kept) == sorted(each.id for each in pool.queue if not each.held)
    assert kept == [found.id for found in ordered(pool.queue) if found.id in kept]


@EXAMPLES
@given(ANY)
def test_no_accelerator_is_given_to_two(pool: Snapshot) -> None:
    used = Counter(
        uuid for held in running_after(pool, plan_of(pool)) for uuid in held.accelerators
    )
    assert not [uuid for uuid, times in used.items() if times > 1]


@EXAMPLES
@given(ANY)
def test_nothing_unhealthy_or_drained_is_given_away(pool: Snapshot) -> None:
    for begun in plan_of(pool).begun:
        assert not pool.nodes[begun.node].drained
        assert all(pool.accelerators[uuid].offered for uuid in begun.accelerators)


@EXAMPLES
@given(ANY)
def test_a_start_has_exactly_its_gpus_of_one_model_on_each_of_its_nodes(pool: Snapshot) -> None:
    outcome = plan_of(pool)
    wishes = {each.id: each for each in pool.queue}
    for identifier in outcome.started:
        wish = wishes[identifier]
        parts = [begun for begun in outcome.begun if begun.id == identifier]
        assert len(parts) == len({part.node for part in parts}) == wish.parts
        for part in parts:
            found = [pool.accelerators[uuid] for uuid in part.accelerators]
            assert len({each.uuid for each in found}) == wish.gpus // wish.parts
            assert {each.node for each in found} <= {part.node}
            assert {each.model for each in found} <= set(
                [wish.gpu_model] if wish.gpu_model else [each.model for each in found[:1]]
            )
            assert wish.labels <= pool.nodes[part.node].labels
            assert all(bool(each.parent) == (wish.gpu_milli < 1000) for each in found)
            assert all(each.milli >= wish.gpu_milli for each in found)


@EXAMPLES
@given(ANY)
def test_no_node_that_takes_a_start_has_more_in_use_than_it_has(pool: Snapshot) -> None:
    outcome = plan_of(pool)
    for name in {begun.node for begun in outcome.begun}:
        here = [held for held in running_after(pool, outcome) if held.node == name]
        assert sum(held.memory_bytes for held in here) <= pool.nodes[name].memory_bytes
        assert sum(held.cpu_millicores for held in here) <= pool.nodes[name].cpu_millicores


@EXAMPLES
@given(ANY, st.data())
def test_a_plan_depends_on_neither_the_run_nor_the_order_of_reading(
    pool: Snapshot, data: st.DataObject
) -> None:
    told = plan_of(pool).told
    assert plan_of(pool).told == told
    assert plan_of(shuffled(data, pool)).told == told


@EXAMPLES
@given(ANY)
def test_planning_changes_nothing_in_the_picture(pool: Snapshot) -> None:
    before = (dict(pool.nodes), dict(pool.accelerators), pool.holdings, pool.queue)
    keys = [(found.due_at, found.moved_at, found.held) for found in pool.queue]
    plan_of(pool)
    assert (dict(pool.nodes), dict(pool.accelerators), pool.holdings, pool.queue) == before
    assert [(found.due_at, found.moved_at, found.held) for found in pool.queue] == keys


@MANY
@given(ANY)
def test_the_head_is_the_first_that_does_not_fit_and_that_limits_make_room_for(
    pool: Snapshot,
) -> None:
    outcome = plan_of(pool)
    running = list(pool.holdings)
    for wish in ordered(pool.queue):
        begun = [held for held in outcome.begun if held.id == wish.id]
        running += begun
        if begun:
            continue
        assert not fits_in(pool, wish, running)
        at = earliest(pool, wish, running)
        if at is not None:
            assert (outcome.plan.head, outcome.plan.head_at) == (wish, at)
            return
    assert (outcome.plan.head, outcome.plan.head_at) == (None, None)


@MANY
@given(ANY)
def test_those_behind_never_delay_the_head(pool: Snapshot) -> None:
    outcome = plan_of(pool)
    head = outcome.plan.head
    if head is None:
        return
    queue = ordered(pool.queue)
    ahead = tuple(queue[: queue.index(head) + 1])
    alone = starts(replay(replace(pool, queue=ahead)))[head.id]
    assert outcome.plan.head_at == alone
    assert starts(replay(pool))[head.id] == alone


@EXAMPLES
@given(ANY, st.lists(requests(1, plain=False), max_size=4), st.data())
def test_no_promise_is_broken_whoever_comes_later(
    pool: Snapshot, late: list[Request], data: st.DataObject
) -> None:
    """Everybody uses up the limit; those who come sort behind everybody who is there."""
    arrivals = []
    times = sorted(data.draw(st.integers(0, 20)) for _ in late)
    for number, (wish, time) in enumerate(zip(late, times, strict=True)):
        at = AT + minutes(time)
        new = replace(
            wish, id=f"z{number}", sequence=90 + number, due_at=AT + minutes(99), moved_at=None
        )
        arrivals.append((at, new))
    steps = replay(pool, arrivals)
    started = starts(steps)
    for step in steps:
        head, at = step.outcome.plan.head, step.outcome.plan.head_at
        if head is not None and at is not None:
            assert started[head.id] <= at


@EXAMPLES
@given(ANY)
def test_work_that_ends_early_never_makes_the_head_later(pool: Snapshot) -> None:
    outcome = plan_of(pool)
    head, at = outcome.plan.head, outcome.plan.head_at
    if head is None or at is None:
        return
    waiting = tuple(found for found in pool.queue if found.id not in outcome.started)
    running = running_after(pool, outcome)
    # What nobody knew the end of held up others for ever; when it ends, those who sort before the
    # head and could not even be promised a time are the head again.
    endless = {held.id for held in running if held.ends_at == math.inf}
    for early in sorted({held.id for held in running} - endless):
        left = tuple(held for held in running if held.id != early)
        then = plan_of(replace(pool, holdings=left, queue=waiting))
        if head.id not in then.started:
            assert then.plan.head == head and then.plan.head_at is not None
            assert then.plan.head_at <= at


@MANY
@given(ANY)
def test_nobody_is_left_waiting_who_fits_and_would_delay_nobody(pool: Snapshot) -> None:
    outcome = plan_of(pool)
    head, at = outcome.plan.head, outcome.plan.head_at
    running = running_after(pool, outcome)
    for wish in outcome.plan.kept:
        if head is None or at is None or wish is head:
            assert not fits_in(pool, wish, running)
            continue
        for begun in every_way(pool, wish, running):
            then = left_at([*running, *begun], at, pool.at)
            assert not fits_in(pool, head, then)


def every_way(
    pool: Snapshot, wish: Request, running: Sequence[Holding]
) -> Iterator[tuple[Holding, ...]]:
    """Every way to start all parts of a request now, each on a node of its own."""
    part = replace(wish, gpus=wish.gpus // wish.parts, parts=1)
    for chosen in combinations(list(every_start(pool, part, running)), wish.parts):
        if len({begun.node for begun in chosen}) == wish.parts:
            yield chosen


@EXAMPLES
@given(pools(longest_queue=0, plain=False), st.data())
def test_a_request_alone_starts_exactly_when_some_nodes_hold_it(
    pool: Snapshot, data: st.DataObject
) -> None:
    wish = replace(data.draw(requests(1, plain=False)), held=False)
    outcome = plan_of(replace(pool, queue=(wish,)))
    assert bool(outcome.started) == fits_in(pool, wish, pool.holdings)


# ---------------------------------------------------------------------------- cases


def test_a_holding_past_its_limit_keeps_what_it_holds_until_it_is_gone() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("late", ["GPU-n1-0"], ends_in_minutes=-600)],
        [request("q1", 1), request("q2", 1, limit_minutes=1)],
    )
    outcome = plan_of(pool)
    assert not outcome.started
    assert outcome.plan.head_at == AT


def test_a_short_request_fills_the_gap_before_the_head() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60)],
        [request("q1", 4), request("q2", 2, limit_minutes=60), request("q3", 2, limit_minutes=1)],
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q2"]
    assert outcome.plan.head_at == AT + minutes(60)


def test_a_request_that_would_run_past_the_heads_start_waits() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60)],
        [request("q1", 4), request("q2", 2, limit_minutes=61)],
    )
    assert not plan_of(pool).started


def test_a_long_request_may_take_a_free_gpu_that_the_head_can_do_without() -> None:
    """The head will get three of four GPUs; it must not reserve the very one that is free now."""
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-2", "GPU-n1-3"], ends_in_minutes=60)],
        [request("q1", 3), request("q2", 1, limit_minutes=1000)],
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q2"]
    assert outcome.plan.head_at == AT + minutes(60)


def test_everything_that_ends_at_the_heads_start_counts_for_those_behind_it() -> None:
    pool = snapshot(
        [],
        [holding("h1", gib=4, ends_in_minutes=60), holding("h2", gib=4, ends_in_minutes=60)],
        [request("q1", 0, gib=6), request("q2", 0, gib=2, limit_minutes=1000)],
        nodes=[Node("n1", 64_000, 10 * GIB)],
    )
    assert plan_of(pool).started == ["q2"]


def test_a_head_that_fits_on_two_nodes_keeps_only_one_of_them_from_others() -> None:
    pool = snapshot(
        [*gpus("n1", 2), *gpus("n2", 2)],
        [
            holding("h1", ["GPU-n1-0"], ends_in_minutes=60),
            holding("h2", ["GPU-n2-0"], node="n2", ends_in_minutes=60),
        ],
        [
            request("q1", 2),
            request("q2", 1, limit_minutes=999),
            request("q3", 1, limit_minutes=999),
        ],
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q2"]
    assert [waiting.id for waiting in outcome.plan.kept] == ["q1", "q3"]


def test_a_head_whose_gpus_are_sick_holds_nobody_up() -> None:
    sick = [replace(each, offered=False) for each in gpus("n1", 2, "H100")]
    pool = snapshot(
        [*sick, *gpus("n1", 1, first=2)],
        [holding("h1", ["GPU-n1-2"], ends_in_minutes=30)],
        [request("q1", 1, model="H100"), request("q2", 1, model="A100"), request("q3", 0)],
    )
    outcome = plan_of(pool)
    assert outcome.started == ["q3"]
    assert outcome.plan.head is not None
    assert (outcome.plan.head.id, outcome.plan.head_at) == ("q2", AT + minutes(30))


def test_work_without_a_known_end_promises_nothing() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("h1", ["GPU-n1-0"], ends_in_minutes=None)],
        [request("q1", 1), request("q2", 1)],
    )
    assert plan_of(pool).plan.head_at is None


def test_what_was_freed_on_a_drained_node_is_not_planned_with() -> None:
    accelerators = [replace(each, offered=False) for each in gpus("n1", 1)]
    pool = snapshot(
        accelerators,
        [holding("h1", ["GPU-n1-0"], ends_in_minutes=1)],
        [request("q1", 1)],
        nodes=[Node("n1", 64_000, 64 * GIB, drained=True)],
    )
    assert plan_of(pool).plan.head_at is None


def test_an_empty_pool_keeps_everyone_waiting() -> None:
    plan = plan_of(Snapshot(AT, {}, {}, (), (request("q1", 0), request("q2", 1)))).plan
    assert [found.id for found in plan.kept] == ["q1", "q2"]


def test_accelerators_that_share_an_index_are_taken_in_the_order_of_their_names() -> None:
    instances = [Accelerator(f"MIG-{name}", "n1", 0, "A100 1g.10gb") for name in "cab"]
    (begun,) = plan_of(snapshot(instances, queue=[request("q1", 2)])).begun
    assert begun.accelerators == ("MIG-a", "MIG-b")


def test_a_moved_request_is_planned_before_whoever_was_due_before() -> None:
    queue = [request("q1", 1), request("q2", 1), request("q3", 1, moved_at=AT)]
    assert plan_of(snapshot(gpus("n1", 1), queue=queue)).started == ["q3"]


def test_a_held_request_neither_starts_nor_holds_anybody_up() -> None:
    queue = [request("q1", 2, held=True), request("q2", 1)]
    assert plan_of(snapshot(gpus("n1", 2), queue=queue)).started == ["q2"]


def test_parts_of_one_request_never_meet_on_a_node() -> None:
    two = request("q1", 4, parts=2)
    assert not plan_of(snapshot(gpus("n1", 4), queue=[two])).started
    found = plan_of(snapshot([*gpus("n1", 4), *gpus("n2", 2)], queue=[two]))
    assert sorted(begun.node for begun in found.begun) == ["n1", "n2"]


def test_two_models_on_a_node_share_its_memory_and_cores() -> None:
    pool = snapshot(
        [*gpus("n1", 1), *gpus("n1", 1, "H100", first=1)],
        queue=[request("q1", 1, model="A100", gib=5), request("q2", 1, model="H100", gib=5)],
        gib=9,
    )
    assert plan_of(pool).started == ["q1"]
    assert plan_of(replace(pool, nodes={"n1": Node("n1", 64_000, 10 * GIB)})).started == [
        "q1",
        "q2",
    ]


def test_a_slot_is_given_out_whole_however_little_was_asked_for() -> None:
    """A lease is one row for a slot: two that ask for a tenth each need two slots."""
    queue = [request(f"q{number}", 1, gpu_milli=100) for number in range(1, 6)]
    outcome = plan_of(snapshot(slots("n1", 1, 4), queue=queue))
    assert len(outcome.started) == 4
    assert len({uuid for begun in outcome.begun for uuid in begun.accelerators}) == 4


def test_a_share_larger_than_a_slot_does_not_get_two_slots() -> None:
    pool = snapshot(slots("n1", 1, 4), queue=[request("q1", 1, gpu_milli=500)])
    assert not plan_of(pool).started


def test_a_slot_that_is_out_of_order_is_not_counted_as_free() -> None:
    first, *others = slots("n1", 1, 3)
    queue = [request(f"q{number}", 1, gpu_milli=300) for number in range(1, 4)]
    pool = snapshot([replace(first, offered=False), *others], queue=queue)
    assert len(plan_of(pool).started) == 2


def test_a_share_never_begins_a_gpu_that_is_given_out_whole_nor_the_other_way_round() -> None:
    assert not plan_of(snapshot(gpus("n1", 1), queue=[request("q1", 1, gpu_milli=500)])).started
    assert not plan_of(snapshot(slots("n1", 1, 2), queue=[request("q1", 1)])).started
