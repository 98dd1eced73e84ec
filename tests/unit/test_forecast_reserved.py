"""A forecast around many reservations: quick, and the same as without any short cut."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from dcloud_spawner.scheduler import reserved
from dcloud_spawner.scheduler.band import forecast_band
from dcloud_spawner.scheduler.forecast import Forecast
from dcloud_spawner.scheduler.guard import Guard
from dcloud_spawner.scheduler.joint import Mix, Together
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.plan import make_plan
from dcloud_spawner.scheduler.reserved import all_kept, guard_at
from dcloud_spawner.scheduler.snapshot import Reservation, Snapshot
from tests.plain_pass import plainly
from tests.reserving import reservation, reserved_pools
from tests.values import AT, gpus, minutes, request, snapshot

HOUR = 60.0
"""In the minutes that the builders take."""


def told(pool: Snapshot) -> tuple[object, ...]:
    """Everything that a forecast says."""
    forecast = Forecast.of(pool)
    return forecast.latest, forecast.waiting(), forecast_band(forecast, seconds=6 * 3600.0)


@settings(max_examples=60, deadline=None)
@given(reserved_pools(most=4, people=True))
def test_a_forecast_around_reservations_is_the_same_without_short_cuts(pool: Snapshot) -> None:
    with plainly():
        plain = told(pool)
    assert told(pool) == plain


@pytest.mark.parametrize("seed", range(3))
def test_a_forecast_around_many_reservations_is_the_same_without_short_cuts(seed: int) -> None:
    pool = crowded(seed, nodes=3, reservations=8, waiting=24)
    assert len(pool.reservations) == 8
    with plainly():
        plain = told(pool)
    assert told(pool) == plain


def crowded(seed: int, *, nodes: int, reservations: int, waiting: int) -> Snapshot:
    """A pool of 4 GPUs a node with as many reservations, of several kinds and all possible."""
    draw = random.Random(seed)
    found = [each for node in range(nodes) for each in gpus(f"n{node}", 4)]
    queue = [
        request(
            f"w{number}",
            draw.choice((0, 1, 1, 2, 4)),
            gib=draw.choice((1, 8)),
            limit_minutes=draw.choice((1, 2, 4, 8, 24)) * HOUR,
        )
        for number in range(waiting)
    ]
    pool = snapshot(found, queue=queue, gib=64, cores=64)
    kept: list[Reservation] = []
    names = PoolNames(pool.nodes, pool.accelerators.values())
    while len(kept) < reservations:
        begins = draw.choice((-0.5, 0.5, *range(1, 30))) * HOUR
        one = reservation(
            f"r{len(kept)}",
            draw.choice((1, 2, 2, 4, 6)),
            begins,
            begins + draw.choice((1, 2, 4)) * HOUR,
            gib=draw.choice((0, 1, 8, 16)),
            cores=draw.choice((0, 1, 4)),
            users=draw.sample([each.user for each in queue], 3),
        )
        if all_kept(occupancy_of(pool, names), [*kept, one], AT):
            kept.append(one)
    return Snapshot(AT, pool.nodes, pool.accelerators, (), pool.queue, tuple(kept))


def test_a_pass_makes_no_guard_for_what_begins_after_all_that_it_could_start_has_ended() -> None:
    made: list[float] = []

    def counted(occupancy: Occupancy, every: object, at: float, now: float) -> Guard:
        made.append(at)
        return guard_at(occupancy, every, at, now)  # type: ignore[arg-type]

    later = tuple(reservation(f"r{n}", 1, n * HOUR, (n + 1) * HOUR) for n in range(3, 43))
    queue = [request(f"w{number}", limit_minutes=2 * HOUR) for number in range(9)]
    pool = snapshot(gpus("n1", 4), queue=queue)
    names = PoolNames(pool.nodes, pool.accelerators.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reserved, "guard_at", counted)
        plan = make_plan(occupancy_of(pool, names), queue, AT, later)
    assert len(plan.starts) == 4
    assert set(made) <= {AT + minutes(3 * HOUR)}


def test_what_nodes_can_take_is_worked_out_once_for_all_passes_and_forecasts() -> None:
    pool = crowded(1, nodes=3, reservations=8, waiting=24)
    first = told(pool)

    def again(*_: object) -> Iterator[Mix]:
        raise AssertionError("worked out again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Together, "_possible", again)
        assert told(pool) == first
