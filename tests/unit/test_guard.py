"""Guards and earliest starts: what the arrays say is what trying everything out says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.earliest import _fits, _times, earliest_by_counting, earliest_turn
from dcloud_spawner.scheduler.guard import Demand, Guard
from dcloud_spawner.scheduler.joint import Kind, RoomOfNode, RoomOfRow, Together
from dcloud_spawner.scheduler.names import PoolNames, free_pool
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.order import DAY_SECONDS, Policy
from dcloud_spawner.scheduler.placement import Placer
from dcloud_spawner.scheduler.pool import Grant, Pool
from dcloud_spawner.scheduler.replay import Job, Replay
from dcloud_spawner.scheduler.snapshot import NEVER, WHOLE, Request, Shape, Snapshot
from tests.values import AT, GIB, earliest, gpus, pools, request, requests, slots, snapshot

EXAMPLES = settings(max_examples=80, deadline=None)


# ---------------------------------------------------------------------------- room


def fit(pool: Pool, wanted: Sequence[tuple[Shape, bool, int]]) -> bool:
    """Whether units fit together, by trying every row for each, one after the other."""
    todo = [(unit, spread, kind) for kind, (unit, spread, n) in enumerate(wanted) for _ in range(n)]
    return _lay(pool, todo, frozenset())


def _lay(
    pool: Pool, todo: Sequence[tuple[Shape, bool, int]], used: frozenset[tuple[int, int]]
) -> bool:
    if not todo:
        return True
    unit, spread, kind = todo[0]
    for row in np.flatnonzero(pool.fits(unit)):
        node = pool.layout.groups[row].node
        if spread and (kind, node) in used:
            continue
        grant = Placer(pool).grant_on(int(row), unit)
        pool.take(grant)
        fits = _lay(pool, todo[1:], used | {(kind, node)})
        pool.give(grant)
        if fits:
            return True
    return False


@st.composite
def demands(draw: st.DrawFn, most: int) -> list[tuple[Shape, bool, int]]:
    """A head's parts, reserved GPUs, or both."""
    found = []
    for number in range(draw(st.integers(1, most))):
        wish = replace(draw(requests(number, plain=False)), parts=1)
        unit = wish.shape._replace(parts=1)
        if draw(st.booleans()):
            unit = unit._replace(gpus=1, milli=WHOLE)
        found.append((unit, draw(st.booleans()), draw(st.sampled_from((1, 1, 2, 3)))))
    return list({(unit, spread): (unit, spread, n) for unit, spread, n in found}.values())


def guard_of(pool: Pool, wanted: Sequence[tuple[Shape, bool, int]]) -> Guard:
    return Guard(AT, pool.copy(), [Demand(Kind(unit, spread), n) for unit, spread, n in wanted])


@EXAMPLES
@given(pools(plain=False), demands(2))
def test_a_guard_leaves_room_exactly_where_trying_everything_does(
    found: Snapshot, wanted: list[tuple[Shape, bool, int]]
) -> None:
    pool = free_pool(found)
    guard = guard_of(pool, wanted)
    assert guard.holds == fit(pool, wanted)
    if not guard.holds:
        return
    for wish in found.queue:
        part = wish.shape._replace(parts=1)
        among = pool.fits(part)
        expected = among.copy()
        for row in np.flatnonzero(among):
            grant = Placer(pool).grant_on(int(row), part)
            pool.take(grant)
            expected[row] = fit(pool, wanted)
            pool.give(grant)
        assert guard.room(part, among).tolist() == expected.tolist()


@EXAMPLES
@given(pools(plain=False), demands(2))
def test_a_guard_that_was_told_of_a_start_is_as_one_that_was_made_after_it(
    found: Snapshot, wanted: list[tuple[Shape, bool, int]]
) -> None:
    pool = free_pool(found)
    guard = guard_of(pool, wanted)
    if not guard.holds:
        return
    for wish in found.queue:
        part = wish.shape._replace(parts=1)
        room = guard.room(part, pool.fits(part))
        for row in np.flatnonzero(room)[:1]:
            grant = Placer(pool).grant_on(int(row), part)
            before = guard.try_out(grant)
            guard.undo(grant, before)
            assert guard.room(part, pool.fits(part)).tolist() == room.tolist()
            guard.take(grant)
            pool.take(grant)
            anew = guard_of(pool, wanted)
            assert anew.holds
            for other in found.queue:
                shape = other.shape._replace(parts=1)
                fits = pool.fits(shape)
                assert guard.room(shape, fits).tolist() == anew.room(shape, fits).tolist()


def test_what_never_fitted_is_given_up_and_the_rest_is_guarded() -> None:
    unit = request("q", 1).shape
    pool = free_pool(snapshot(gpus("n1", 2)))
    guard = guard_of(pool, [(unit, False, 3)])
    assert not guard.holds
    assert not guard.room(unit, pool.fits(unit)).any()
    other = request("q", 0).shape
    assert guard.room(other, pool.fits(other)).all()


def test_a_guard_of_shares_counts_slots() -> None:
    unit = request("q", 1, gpu_milli=100).shape
    pool = free_pool(snapshot(slots("n1", 1, 3)))
    assert guard_of(pool, [(unit, False, 2)]).room(unit, pool.fits(unit)).all()
    assert not guard_of(pool, [(unit, False, 3)]).room(unit, pool.fits(unit)).any()


row_rooms = st.tuples(st.booleans(), st.booleans(), st.integers(0, 4))


@EXAMPLES
@given(
    st.lists(st.tuples(st.lists(row_rooms, max_size=2), st.integers(0, 6)), max_size=3),
    st.lists(
        st.tuples(st.integers(1, 2), st.integers(0, 3), st.booleans()), min_size=2, max_size=2
    ),
    st.lists(st.integers(0, 4), min_size=2, max_size=2),
)
def test_units_of_two_kinds_fit_together_exactly_when_some_way_is_found(
    nodes: list[tuple[list[tuple[bool, bool, int]], int]],
    kinds: list[tuple[int, int, bool]],
    wanted: list[int],
) -> None:
    units = [
        Kind(Shape(count, WHOLE, None, gib, 0, 1, frozenset()), spread)
        for count, gib, spread in kinds
    ]
    rooms = [
        RoomOfNode(tuple(RoomOfRow((one, two), full, (0, 0)) for one, two, full in rows), gib, 0)
        for rows, gib in nodes
    ]
    together = Together(units, wanted)
    assert together.fit(rooms, wanted) == _found(rooms, units, list(wanted), 0)


def _found(rooms: list[RoomOfNode], kinds: Sequence[Kind], left: list[int], at: int) -> bool:
    """By trying every number of units of each kind on each row, in plain Python."""
    if not any(left):
        return True
    if at == len(rooms):
        return False
    for counts in _every(rooms[at], kinds):
        rest = [max(0, before - count) for before, count in zip(left, counts, strict=True)]
        if _found(rooms, kinds, rest, at + 1):
            return True
    return False


def _every(room: RoomOfNode, kinds: Sequence[Kind]) -> Iterator[list[int]]:
    places = [(row, kind) for row in range(len(room.rows)) for kind in range(len(kinds))]
    for numbers in np.ndindex(*[5] * len(places)):
        counts, memory, full = [0] * len(kinds), 0, [0] * len(room.rows)
        for (row, kind), number in zip(places, numbers, strict=True):
            if number and not room.rows[row].allowed[kind]:
                break
            counts[kind] += number
            full[row] += number * kinds[kind].unit.gpus
            memory += number * kinds[kind].unit.memory_bytes
        else:
            over = any(used > row.full for used, row in zip(full, room.rows, strict=True))
            twice = any(kind.spread and n > 1 for kind, n in zip(kinds, counts, strict=True))
            if not over and not twice and memory <= room.memory_bytes:
                yield counts


# ---------------------------------------------------------------------------- the earliest start


@settings(max_examples=200, deadline=None)
@given(pools(plain=False))
def test_the_earliest_start_is_the_same_counted_stepped_through_and_by_names(
    pool: Snapshot,
) -> None:
    names = PoolNames(pool.nodes, pool.accelerators.values())
    occupancy = occupancy_of(pool, names)
    for wish in pool.queue:
        expected = earliest(pool, wish, pool.holdings)
        turn = earliest_turn(occupancy, wish, pool.at)
        assert (turn.at if turn else None) == expected
        assert stepped(occupancy, wish, pool.at) == expected
        if wish.gpu_milli == WHOLE:
            assert earliest_by_counting(occupancy, wish, pool.at) == expected


def stepped(occupancy: Occupancy, wish: Request, now: float) -> float | None:
    """The slow way: the whole pool at every time at which something ends."""
    part = wish.shape._replace(parts=1)
    for at, pool in _times(occupancy, (), now):
        if _fits(pool, part, wish.parts):
            return at
    return None


@EXAMPLES
@given(pools(plain=False))
def test_beginning_and_ending_leaves_an_occupancy_as_it_was(pool: Snapshot) -> None:
    names = PoolNames(pool.nodes, pool.accelerators.values())
    occupancy = occupancy_of(pool, names)
    assert [found.ends_at for found in occupancy.running] == sorted(
        held.ends_at for held in pool.holdings
    )
    for running in list(occupancy.running):
        occupancy.end(running)
    empty = Pool(names.layout)
    assert (occupancy.pool.free == empty.free).all() and (occupancy.pool.cpu == empty.cpu).all()
    assert (occupancy.pool.memory == empty.memory).all()
    assert (occupancy.pool.full == empty.full).all()


# ---------------------------------------------------------------------------- nobody starves


def test_a_stream_of_small_work_delays_large_work_by_no_more_than_the_bound() -> None:
    """End to end: one request for the whole machine, and small ones for ever that fill it."""
    hour, policy = 3600.0, Policy(slack_cap_seconds=DAY_SECONDS, fair_cap_seconds=0)
    names = PoolNames(*_machine(4))
    replay = Replay(Occupancy(Pool(names.layout)), 0.0)
    jobs = [Job(_wish("big", 0, 4, 24 * hour, 0.0, policy), hour)]
    for number in range(1, 600):
        at = 0.0 if number < 9 else number * 0.2 * hour
        jobs.append(Job(_wish(f"s{number}", number, 1, hour, at, policy), hour))
    jobs.sort(key=lambda job: (job.request.submitted_at, job.request.sequence))
    started = replay.play(jobs)
    assert len(started) == 600
    assert started["big"] > 2 * hour
    assert started["big"] <= policy.overtaking_seconds + hour
    late = [job.request for job in jobs if job.request.submitted_at > policy.overtaking_seconds]
    assert min(started[found.id] for found in late) > started["big"]


def _machine(count: int) -> tuple[dict[str, object], list[object]]:
    pool = snapshot(gpus("n1", count), gib=1000, cores=1000)
    return dict(pool.nodes), list(pool.accelerators.values())


def _wish(name: str, sequence: int, count: int, limit: float, at: float, policy: Policy) -> Request:
    due = policy.due_at(at, count, limit)
    return Request(name, sequence, "u", count, None, GIB, 1000, limit, at, due)


def test_work_without_a_known_end_has_no_earliest_start_behind_it() -> None:
    pool = free_pool(snapshot(gpus("n1", 1)))
    occupancy = Occupancy(pool)
    pool.take(Grant(0, (0,), WHOLE, 0, 0))
    assert earliest_turn(occupancy, request("q1", 1), AT) is None
    assert earliest_by_counting(occupancy, request("q1", 1), AT) is None
    assert AT < NEVER
