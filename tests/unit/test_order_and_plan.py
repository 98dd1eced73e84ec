"""The planner: who starts now, who waits, and until when. Properties over any small pool, each
against a second opinion that counts instead of planning, and the cases that once were wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.placement import place
from dcloud_spawner.scheduler.plan import (
    FORECAST_LIMIT,
    Plan,
    Start,
    Waiting,
    free_now,
    make_plan,
)
from dcloud_spawner.scheduler.snapshot import (
    Accelerator,
    Holding,
    Node,
    Placement,
    Request,
    Snapshot,
)
from tests.values import (
    AT,
    GIB,
    fits,
    gpus,
    holding,
    minutes,
    pools,
    request,
    requests,
    shuffled,
    snapshot,
)

EXAMPLES = settings(max_examples=100, deadline=None)


def plan_of(pool: Snapshot) -> Plan:
    return make_plan(pool, ordered(pool.queue))


def as_holding(start: Start, at: datetime) -> Holding:
    wish = start.request
    return Holding(
        wish.id,
        wish.user,
        start.placement.node,
        start.placement.accelerators,
        wish.memory_bytes,
        wish.cpu_millicores,
        at + timedelta(seconds=wish.limit_seconds),
    )


def running_after(pool: Snapshot, plan: Plan) -> list[Holding]:
    return [*pool.holdings, *(as_holding(start, pool.at) for start in plan.starts)]


def reserved(plan: Plan) -> Waiting | None:
    """The first who waits and whom the limits of the others make room for."""
    return next((waiting for waiting in plan.waiting if waiting.latest_start_at), None)


def replay(pool: Snapshot) -> dict[str, datetime]:
    """When each request starts if everyone uses up the limit exactly and nobody else comes."""
    started: dict[str, datetime] = {}
    while True:
        plan = plan_of(pool)
        started.update({start.request.id: pool.at for start in plan.starts})
        running = running_after(pool, plan)
        queue = tuple(found for found in pool.queue if found.id not in started)
        ends = [max(held.ends_at, pool.at) for held in running if held.ends_at]
        if not queue or not ends:
            return started
        at = min(ends)
        left = tuple(held for held in running if held.ends_at is None or held.ends_at > at)
        pool = replace(pool, at=at, holdings=left, queue=queue)


def first_come_first_served(pool: Snapshot) -> dict[str, datetime]:
    """When each would start with nobody overtaking, but around those who can never start."""
    starts = {start.request.id for start in plan_of(pool).starts}
    queue = [found for found in ordered(pool.queue) if found.id not in starts]
    running = running_after(pool, plan_of(pool))
    endless = [held for held in running if held.ends_at is None]
    queue = [found for found in queue if any(fits(pool, found, endless, n) for n in pool.nodes)]
    started: dict[str, datetime] = {}
    at = pool.at
    while queue:
        free = free_now(replace(pool, holdings=tuple(running)))
        placement = place(free, queue[0])
        if placement is not None:
            started[queue[0].id] = at
            running.append(as_holding(Start(queue.pop(0), placement), at))
            continue
        at = min(max(held.ends_at, at) for held in running if held.ends_at)
        running = [held for held in running if held.ends_at is None or held.ends_at > at]
    return started


# ---------------------------------------------------------------------------- order


@given(queue=st.lists(st.integers(1, 10**9), unique=True, max_size=20), seed=st.randoms())
def test_the_queue_is_in_the_order_of_submission_however_it_was_read(
    queue: list[int], seed: random.Random
) -> None:
    wishes = [request(f"r{number}", sequence=number) for number in queue]
    seed.shuffle(wishes)
    assert [found.sequence for found in ordered(wishes)] == sorted(queue)


# ---------------------------------------------------------------------------- properties


@EXAMPLES
@given(pools())
def test_every_request_either_starts_once_or_waits_once(pool: Snapshot) -> None:
    plan = plan_of(pool)
    found = [start.request.id for start in plan.starts]
    found += [waiting.request.id for waiting in plan.waiting]
    assert sorted(found) == sorted(each.id for each in pool.queue)


@EXAMPLES
@given(pools())
def test_no_accelerator_is_given_to_two(pool: Snapshot) -> None:
    used = Counter(
        uuid for held in running_after(pool, plan_of(pool)) for uuid in held.accelerators
    )
    assert not [uuid for uuid, times in used.items() if times > 1]


@EXAMPLES
@given(pools())
def test_nothing_unhealthy_or_drained_is_given_away(pool: Snapshot) -> None:
    for start in plan_of(pool).starts:
        assert not pool.nodes[start.placement.node].drained
        assert all(pool.accelerators[uuid].offered for uuid in start.placement.accelerators)


@EXAMPLES
@given(pools())
def test_a_start_has_exactly_its_gpus_on_one_node_and_of_one_model(pool: Snapshot) -> None:
    for start in plan_of(pool).starts:
        given_ = [pool.accelerators[uuid] for uuid in start.placement.accelerators]
        assert len(given_) == len({each.uuid for each in given_}) == start.request.gpus
        assert {each.node for each in given_} <= {start.placement.node}
        models = {each.model for each in given_}
        assert len(models) <= 1
        if given_ and start.request.gpu_model:
            assert models == {start.request.gpu_model}


@EXAMPLES
@given(pools())
def test_no_node_that_takes_a_start_has_more_in_use_than_it_has(pool: Snapshot) -> None:
    plan = plan_of(pool)
    for name in {start.placement.node for start in plan.starts}:
        here = [held for held in running_after(pool, plan) if held.node == name]
        assert sum(held.memory_bytes for held in here) <= pool.nodes[name].memory_bytes
        assert sum(held.cpu_millicores for held in here) <= pool.nodes[name].cpu_millicores


@EXAMPLES
@given(pools(), st.data())
def test_a_plan_depends_on_neither_the_run_nor_the_order_of_reading(
    pool: Snapshot, data: st.DataObject
) -> None:
    plan = plan_of(pool)
    assert plan_of(pool) == plan
    assert plan_of(shuffled(data, pool)) == plan


@EXAMPLES
@given(pools())
def test_planning_changes_nothing_in_the_picture(pool: Snapshot) -> None:
    before = (dict(pool.nodes), dict(pool.accelerators), pool.holdings, pool.queue)
    plan_of(pool)
    assert (dict(pool.nodes), dict(pool.accelerators), pool.holdings, pool.queue) == before


@settings(max_examples=300, deadline=None)
@given(pools())
def test_those_behind_never_delay_the_reserved_request(pool: Snapshot) -> None:
    plan = plan_of(pool)
    head = reserved(plan)
    if head is None:
        return
    ahead = tuple(each for each in ordered(pool.queue) if each.sequence <= head.request.sequence)
    alone = replay(replace(pool, queue=ahead))[head.request.id]
    assert replay(pool)[head.request.id] == alone
    assert head.latest_start_at == alone


@EXAMPLES
@given(pools())
def test_nobody_is_left_waiting_who_fits_and_would_delay_nobody_reserved(pool: Snapshot) -> None:
    plan = plan_of(pool)
    head = reserved(plan)
    running = running_after(pool, plan)
    for waiting in plan.waiting:
        wish = waiting.request
        if head is None or wish is head.request:
            assert not any(fits(pool, wish, running, node) for node in pool.nodes)
            continue
        assert head.latest_start_at is not None
        for start in every_start(pool, wish, running):
            beside = [*running, as_holding(start, pool.at)]
            then = [held for held in beside if not ended(held, head.latest_start_at)]
            assert not any(fits(pool, head.request, then, node) for node in pool.nodes)


def ended(held: Holding, at: datetime) -> bool:
    return held.ends_at is not None and held.ends_at <= at


def every_start(pool: Snapshot, wish: Request, running: Sequence[Holding]) -> list[Start]:
    """Every way in which a request could start now, whatever the planner thinks of it."""
    taken = {uuid for held in running for uuid in held.accelerators}
    found = []
    for node in pool.nodes:
        if not fits(pool, wish, running, node):
            continue
        free = [
            each
            for each in pool.accelerators.values()
            if each.node == node and each.offered and each.uuid not in taken
        ]
        for chosen in combinations(free, wish.gpus):
            models = {each.model for each in chosen}
            if len(models) <= 1 and (not chosen or wish.gpu_model in (None, *models)):
                found.append(Start(wish, Placement(node, tuple(each.uuid for each in chosen))))
    return found


@EXAMPLES
@given(pools())
def test_a_latest_start_is_what_first_come_first_served_gives(pool: Snapshot) -> None:
    latest = {
        waiting.request.id: waiting.latest_start_at
        for waiting in plan_of(pool).waiting
        if waiting.latest_start_at
    }
    assert latest == first_come_first_served(pool)


@EXAMPLES
@given(pools())
def test_a_latest_start_is_never_earlier_than_possible(pool: Snapshot) -> None:
    plan = plan_of(pool)
    running = running_after(pool, plan)
    for waiting in plan.waiting:
        at = waiting.latest_start_at
        if at is None:
            continue
        assert at >= pool.at
        then = [held for held in running if not ended(held, at)]
        assert any(fits(pool, waiting.request, then, node) for node in pool.nodes)


@EXAMPLES
@given(pools())
def test_everyone_who_waits_has_a_place_and_a_reason(pool: Snapshot) -> None:
    plan = plan_of(pool)
    assert [waiting.place for waiting in plan.waiting] == list(range(1, len(plan.waiting) + 1))
    sequences = [waiting.request.sequence for waiting in plan.waiting]
    assert sequences == sorted(sequences)
    for waiting in plan.waiting:
        assert waiting.reasons
        assert all(reason.endswith(".") for reason in waiting.reasons)


@EXAMPLES
@given(pools(longest_queue=0), st.data())
def test_a_request_alone_starts_exactly_when_some_node_holds_it(
    pool: Snapshot, data: st.DataObject
) -> None:
    wish = data.draw(requests(1))
    plan = make_plan(pool, [wish])
    assert bool(plan.starts) == any(fits(pool, wish, pool.holdings, node) for node in pool.nodes)


# ---------------------------------------------------------------------------- cases


def test_two_and_two_run_and_the_third_waits_with_a_reason_and_a_time() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [
            holding("h1", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60),
            holding("h2", ["GPU-n1-2", "GPU-n1-3"], ends_in_minutes=30),
        ],
        [request("q1", 2)],
    )
    (waiting,) = plan_of(pool).waiting
    assert waiting.place == 1
    assert waiting.reasons == ("You asked for 2 GPUs and none is free.",)
    assert waiting.latest_start_at == AT + minutes(30)


def test_a_holding_past_its_limit_keeps_what_it_holds_until_it_is_gone() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("late", ["GPU-n1-0"], ends_in_minutes=-600)],
        [request("q1", 1), request("q2", 1, limit_minutes=1)],
    )
    plan = plan_of(pool)
    assert not plan.starts
    assert plan.waiting[0].latest_start_at == AT


def test_a_short_request_fills_the_gap_before_the_head() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60)],
        [request("q1", 4), request("q2", 2, limit_minutes=60), request("q3", 2, limit_minutes=1)],
    )
    plan = plan_of(pool)
    assert [start.request.id for start in plan.starts] == ["q2"]
    assert plan.waiting[0].latest_start_at == AT + minutes(60)


def test_a_request_that_would_run_past_the_heads_start_waits_and_is_told_so() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60)],
        [request("q1", 4), request("q2", 2, limit_minutes=61)],
    )
    plan = plan_of(pool)
    assert not plan.starts
    assert plan.waiting[1].reasons == (
        "1 request is ahead of you, asking for 4 GPUs.",
        "Starting now would delay a request ahead of you.",
    )


def test_a_long_request_may_take_a_free_gpu_that_the_head_can_do_without() -> None:
    """The head will get three of four GPUs; it must not reserve the very one that is free now."""
    pool = snapshot(
        gpus("n1", 4),
        [holding("h1", ["GPU-n1-2", "GPU-n1-3"], ends_in_minutes=60)],
        [request("q1", 3), request("q2", 1, limit_minutes=1000)],
    )
    plan = plan_of(pool)
    assert [start.request.id for start in plan.starts] == ["q2"]
    assert plan.waiting[0].latest_start_at == AT + minutes(60)


def test_everything_that_ends_at_the_heads_start_counts_for_those_behind_it() -> None:
    node = Node("n1", 64_000, 10 * GIB)
    pool = snapshot(
        [],
        [holding("h1", gib=4, ends_in_minutes=60), holding("h2", gib=4, ends_in_minutes=60)],
        [request("q1", 0, gib=6), request("q2", 0, gib=2, limit_minutes=1000)],
        nodes=[node],
    )
    assert [start.request.id for start in plan_of(pool).starts] == ["q2"]


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
    plan = plan_of(pool)
    assert [start.request.id for start in plan.starts] == ["q2"]
    assert [waiting.request.id for waiting in plan.waiting] == ["q1", "q3"]


def test_a_head_whose_gpus_are_sick_holds_nobody_up_and_they_still_get_a_time() -> None:
    sick = [replace(each, offered=False) for each in gpus("n1", 2, "H100")]
    pool = snapshot(
        [*sick, *gpus("n1", 1, first=2)],
        [holding("h1", ["GPU-n1-2"], ends_in_minutes=30)],
        [
            request("q1", 1, model="H100"),
            request("q2", 1, model="A100", limit_minutes=10),
            request("q3", 0),
            request("q4", 1),
        ],
    )
    plan = plan_of(pool)
    assert [start.request.id for start in plan.starts] == ["q3"]
    assert [waiting.latest_start_at for waiting in plan.waiting] == [
        None,
        AT + minutes(30),
        AT + minutes(40),
    ]


def test_work_without_a_known_end_promises_nothing() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("h1", ["GPU-n1-0"], ends_in_minutes=None)],
        [request("q1", 1), request("q2", 1)],
    )
    assert [waiting.latest_start_at for waiting in plan_of(pool).waiting] == [None, None]


def test_places_far_back_get_no_time_that_nobody_could_trust() -> None:
    queue = [request(f"q{number}", 1) for number in range(1, FORECAST_LIMIT + 3)]
    pool = snapshot(gpus("n1", 1), [holding("h1", ["GPU-n1-0"])], queue, gib=1000, cores=1000)
    waiting = plan_of(pool).waiting
    assert all(found.latest_start_at for found in waiting[:FORECAST_LIMIT])
    assert not any(found.latest_start_at for found in waiting[FORECAST_LIMIT:])


def test_what_was_freed_on_a_drained_node_is_not_planned_with() -> None:
    drained = Node("n1", 64_000, 64 * GIB, drained=True)
    accelerators = [replace(each, offered=False) for each in gpus("n1", 1)]
    pool = snapshot(
        accelerators,
        [holding("h1", ["GPU-n1-0"], ends_in_minutes=1)],
        [request("q1", 1)],
        nodes=[drained],
    )
    (waiting,) = plan_of(pool).waiting
    assert waiting.latest_start_at is None
    assert waiting.reasons == ("No node is taking work: all are drained or none is known yet.",)


def test_an_empty_pool_keeps_everyone_waiting() -> None:
    pool = Snapshot(AT, {}, {}, (), (request("q1", 0),))
    (waiting,) = plan_of(pool).waiting
    assert "none is known yet" in waiting.reasons[0]


def test_accelerators_that_share_an_index_are_taken_in_the_order_of_their_names() -> None:
    instances = [Accelerator(f"MIG-{name}", "n1", 0, "A100 1g.10gb") for name in "cab"]
    pool = snapshot(instances, queue=[request("q1", 2)])
    (start,) = plan_of(pool).starts
    assert start.placement.accelerators == ("MIG-a", "MIG-b")
