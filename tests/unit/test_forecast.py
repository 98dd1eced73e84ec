"""The forecast as values: when those who wait start at the latest and as expected, the ranges
around it, and what will be free. Properties over any small pool, and cases counted by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.arrivals import MOST, Asked, Mix
from dcloud_spawner.scheduler.band import Band, forecast_band
from dcloud_spawner.scheduler.calibration import OUTSIDE, Calibration, Outcome
from dcloud_spawner.scheduler.forecast import (
    FORECAST_LIMIT,
    Forecast,
    History,
    expected_starts,
    latest_starts,
)
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, occupancy_of
from dcloud_spawner.scheduler.order import Policy, ordered
from dcloud_spawner.scheduler.runtimes import ENOUGH, Ended, RunTimes
from dcloud_spawner.scheduler.snapshot import NEVER, Reservation, Snapshot
from tests.values import AT, GIB, gpus, holding, minutes, pools, request, shuffled, snapshot

EXAMPLES = settings(max_examples=60, deadline=None)
ANY = pools(plain=False)
HOUR = 3600.0


def occupied(pool: Snapshot) -> Occupancy:
    return occupancy_of(pool, PoolNames(pool.nodes, pool.accelerators.values()))


def latest(pool: Snapshot) -> dict[str, float]:
    queue = ordered(pool.queue)
    return latest_starts(occupied(pool), queue, pool.at, pool.reservations)


def lasting(ratio: float, gpus: Sequence[int] = (0, 1, 2, 3, 4)) -> RunTimes:
    """Everything lasted this part of its limit."""
    return RunTimes(Ended(count, 3600, 3600 * ratio) for count in gpus for _ in range(ENOUGH))


def booked(starts: float, ends: float, gpus: int, model: str | None = None) -> Reservation:
    return Reservation(
        "r1", AT + minutes(starts), AT + minutes(ends), gpus, model, 0, 0, frozenset({"teacher"})
    )


# ---------------------------------------------------------------------------- at the latest


def test_the_latest_start_counts_limits_one_after_the_other() -> None:
    pool = snapshot(
        gpus("n1", 4),
        [holding("h", [f"GPU-n1-{index}" for index in range(4)], ends_in_minutes=60)],
        [request("q1", 2, limit_minutes=120), request("q2", 4, limit_minutes=60)],
    )
    assert latest(pool) == {"q1": AT + minutes(60), "q2": AT + minutes(180)}


def test_what_is_past_its_limit_counts_as_ending_now() -> None:
    pool = snapshot(
        gpus("n1", 1), [holding("h", ["GPU-n1-0"], ends_in_minutes=-5)], [request("q1", 1)]
    )
    assert latest(pool) == {"q1": AT}


def test_who_waits_for_an_unknown_end_has_no_time_and_the_others_have() -> None:
    pool = snapshot(
        gpus("n1", 2),
        [
            holding("ever", ["GPU-n1-0"], ends_in_minutes=None),
            holding("hour", ["GPU-n1-1"], ends_in_minutes=60),
        ],
        [request("q1", 2), request("q2", 1)],
    )
    assert latest(pool) == {"q2": AT + minutes(60)}
    assert set(Forecast.of(pool).waiting()) == {"q2"}


def test_who_is_on_hold_has_no_forecast_and_does_not_delay_the_others() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("h", ["GPU-n1-0"], ends_in_minutes=60)],
        [request("q1", 1, held=True), request("q2", 1)],
    )
    assert latest(pool) == {"q2": AT + minutes(60)}
    assert set(Forecast.of(pool).waiting()) == {"q2"}


def test_a_reservation_is_not_started_on_by_others_in_a_forecast() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [holding("h", ["GPU-n1-0"], ends_in_minutes=60)],
        [request("q1", 1, limit_minutes=60)],
    )
    pool = replace(pool, reservations=(booked(90, 150, 1),))
    assert latest(pool) == {"q1": AT + minutes(150)}
    expected = Forecast.of(pool, History(times=lasting(1.0))).waiting()["q1"]
    assert expected.forecast_seconds == pytest.approx(minutes(150))


def test_only_the_first_of_a_long_queue_have_times() -> None:
    queue = [request(f"q{number}", 1) for number in range(1, FORECAST_LIMIT + 50)]
    pool = snapshot(gpus("n1", 4), [], queue, gib=1000, cores=1000)
    assert set(latest(pool)) == {found.id for found in queue[:FORECAST_LIMIT]}


# ---------------------------------------------------------------------------- as expected


@EXAMPLES
@given(ANY)
def test_nothing_is_expected_before_now_and_the_range_is_in_order(pool: Snapshot) -> None:
    forecast = Forecast.of(pool)
    waiting = forecast.waiting()
    assert set(waiting) <= {found.id for found in pool.queue if not found.held}
    for found in waiting.values():
        assert found.forecast_seconds >= 0
        assert pool.at <= found.earliest <= found.middle <= found.latest


@EXAMPLES
@given(ANY)
def test_the_head_is_expected_no_later_than_its_latest_start(pool: Snapshot) -> None:
    """Nobody overtakes the head to its harm: that is what its guard is for."""
    at_last = latest(pool)
    queue = ordered(pool.queue)[:1]
    expected = expected_starts(occupied(pool), queue, pool.at, RunTimes(), pool.reservations)
    for identifier, at in expected.items():
        assert at <= at_last[identifier]


@EXAMPLES
@given(pools(), st.data())
def test_a_forecast_is_the_same_however_the_pool_was_read(
    pool: Snapshot, data: st.DataObject
) -> None:
    history = History(mix=Mix([Asked(1, None, GIB, 1000, HOUR)]))
    assert (
        Forecast.of(pool, history).waiting() == Forecast.of(shuffled(data, pool), history).waiting()
    )


@EXAMPLES
@given(ANY)
def test_a_forecast_leaves_what_it_looked_at_as_it_was(pool: Snapshot) -> None:
    forecast = Forecast.of(pool)
    free, running = forecast.occupancy.pool.free.copy(), list(forecast.occupancy.running)
    forecast.waiting()
    forecast.wish(forecast.new_request(1, None, GIB, 1000, HOUR))
    forecast_band(forecast, seconds=HOUR)
    assert (forecast.occupancy.pool.free == free).all()
    assert forecast.occupancy.running == running


def test_work_is_expected_to_last_as_it_did_lately() -> None:
    pool = snapshot(
        gpus("n1", 1),
        [replace(holding("h", ["GPU-n1-0"], ends_in_minutes=60), started_at=AT)],
        [request("q1", 1, limit_minutes=120), request("q2", 1)],
    )
    found = Forecast.of(pool, History(times=lasting(0.5))).waiting()
    assert found["q1"].forecast_seconds == pytest.approx(minutes(30))
    assert found["q2"].forecast_seconds == pytest.approx(minutes(90))


def test_who_waits_for_something_long_hopes_less_the_longer_it_runs() -> None:
    """Half of all end after a tenth of the limit. What is past that goes on to the other half."""
    times = RunTimes([Ended(1, 3600, 360)] * ENOUGH + [Ended(1, 3600, 3600)] * ENOUGH)
    assert times.runtime_seconds(1, 3600, at=0.4) == 360
    assert times.runtime_seconds(1, 3600, at=0.4, used_seconds=400) == 3600


@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(60, 1e6), st.floats(0, 2e6)), max_size=60),
    st.floats(0, 1),
    st.floats(60, 1e6),
    st.floats(0, 2e6),
)
def test_no_length_is_shorter_than_what_is_used_or_longer_than_the_limit(
    record: list[tuple[int, float, float]], at: float, limit: float, used: float
) -> None:
    times = RunTimes(Ended(*found) for found in record)
    length = times.runtime_seconds(1, limit, at=at, used_seconds=used)
    assert length >= min(used, limit) * (1 - 1e-9)
    assert length <= max(used, limit) * (1 + 1e-9)


def test_others_who_come_delay_who_may_be_overtaken() -> None:
    pool = snapshot(
        gpus("n1", 2),
        [replace(holding("h", ["GPU-n1-0"], ends_in_minutes=60), started_at=AT)],
        [request("q1", 2, limit_minutes=600, due_at=AT + 24 * HOUR)],
    )
    small = Mix([Asked(1, None, GIB, 1000, 600.0)] * 200)
    alone = Forecast.of(pool, History(times=lasting(1.0))).waiting()["q1"]
    among = Forecast.of(pool, History(times=lasting(1.0), mix=small)).waiting()["q1"]
    assert among.forecast_seconds >= alone.forecast_seconds == minutes(60)


def test_who_comes_is_drawn_from_who_came_and_as_often() -> None:
    asked = [Asked(1, None, GIB, 1000, HOUR), Asked(4, "A100", GIB, 1000, 2 * HOUR)]
    drawn = list(Mix(asked, 2 * HOUR).arrivals(AT, RunTimes(), Policy(), 1) or ())
    assert {job.request.gpus for job in drawn} == {1, 4}
    assert drawn[-1].request.submitted_at - AT == pytest.approx(MOST * HOUR, rel=0.15)
    assert all(job.runtime_seconds <= job.request.limit_seconds for job in drawn)
    assert Mix().arrivals(AT, RunTimes(), Policy(), 1) is None


def test_a_wish_is_forecast_as_if_it_were_asked_for_now() -> None:
    pool = snapshot(
        gpus("n1", 1), [replace(holding("h", ["GPU-n1-0"]), started_at=AT)], [request("q1", 1)]
    )
    forecast = Forecast.of(pool, History(times=lasting(1.0)))
    found = forecast.wish(forecast.new_request(1, None, GIB, 1000, HOUR))
    assert found is not None
    assert found.forecast_seconds == pytest.approx(2 * HOUR)
    assert forecast.wish(forecast.new_request(2, None, GIB, 1000, HOUR)) is None
    assert forecast.wish(forecast.new_request(1, "H100", GIB, 1000, HOUR)) is None


def test_an_empty_pool_has_an_empty_forecast() -> None:
    forecast = Forecast.of(Snapshot(AT, {}, {}, (), (request("q1", 1),)))
    assert forecast.waiting() == {}
    assert forecast_band(forecast).models == {}


# ---------------------------------------------------------------------------- ranges


def test_ranges_hold_in_eight_of_ten_when_the_past_is_like_the_present() -> None:
    draw = random.Random(7)
    outcomes: list[Outcome] = []
    inside = 0
    calibration = Calibration()
    for number in range(1500):
        if number % 10 == 0:
            calibration = Calibration(outcomes[-1000:])
        forecast = draw.uniform(600, 20000)
        wait = forecast * draw.lognormvariate(0.3, 0.6)
        spread = calibration.spread(forecast)
        missed = int(wait > spread.high_seconds) - int(wait < spread.low_seconds)
        inside += number >= 500 and missed == 0
        outcomes.append(Outcome(forecast, wait, True, missed))
    assert 0.77 <= inside / 1000 <= 0.83


def test_a_range_follows_what_became_of_forecasts_of_that_length() -> None:
    outcomes = [Outcome(3600, 7200 + number) for number in range(100)]
    outcomes += [Outcome(60 * 3600, 3600) for _ in range(100)]
    spread = Calibration(outcomes).spread(3600)
    assert spread.low_seconds == pytest.approx(7210, rel=0.01)
    assert spread.high_seconds == pytest.approx(7290, rel=0.01)
    assert Calibration().spread(3600).low_seconds < 3600 < Calibration().spread(3600).high_seconds


def test_who_still_waits_makes_ranges_longer_and_never_shorter() -> None:
    done = [Outcome(3600, 1800 + 36 * number) for number in range(100)]
    waiting = [Outcome(3600, 4500, started=False)] * 50
    before, after = Calibration(done).spread(3600), Calibration([*done, *waiting]).spread(3600)
    assert after.high_seconds > before.high_seconds
    assert after.low_seconds >= before.low_seconds


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans(), st.sampled_from((-1, 0, 1))),
        max_size=60,
    ),
    st.floats(0, 1e6),
)
def test_a_range_is_in_order_whatever_the_record(
    record: list[tuple[float, float, bool, int]], forecast: float
) -> None:
    calibration = Calibration([Outcome(*found) for found in record])
    spread = calibration.spread(forecast)
    assert 0 <= spread.low_seconds <= spread.high_seconds < NEVER
    assert 0 < calibration.before < 0.5
    assert 0 < calibration.after < 0.5


def test_ranges_that_missed_are_wider_the_next_time() -> None:
    assert Calibration([Outcome(600, 600, True, 1)] * 20).after < OUTSIDE
    assert Calibration([Outcome(600, 600, True, 0)] * 20).after > OUTSIDE


# ---------------------------------------------------------------------------- the band


def at_minute(band: Band, model: str, minute: float) -> tuple[int, int, int]:
    index = band.times.index(AT + minutes(minute))
    found = band.models[model]
    return (found.low[index], found.median[index], found.high[index])


def test_the_band_shows_what_runs_end_and_a_reservation_begin_and_end() -> None:
    pool = snapshot(
        [*gpus("n1", 4), *gpus("n2", 2, "H100")],
        [replace(holding("h", ["GPU-n1-0", "GPU-n1-1"], ends_in_minutes=60), started_at=AT)],
    )
    pool = replace(pool, reservations=(booked(120, 180, 3, "A100"),))
    band = forecast_band(Forecast.of(pool, History(times=lasting(1.0))))
    assert len(band.times) == 97
    assert band.models["A100"].total == 4
    for minute, free in ((0, 2), (45, 2), (60, 4), (105, 4), (120, 1), (165, 1), (180, 4)):
        assert at_minute(band, "A100", minute) == (free,) * 3, minute
        assert at_minute(band, "H100", minute) == (2,) * 3


def test_what_those_who_wait_will_take_is_not_free() -> None:
    pool = snapshot(gpus("n1", 2), [], [request("q1", 2, limit_minutes=60)])
    band = forecast_band(Forecast.of(pool, History(times=lasting(1.0))))
    assert at_minute(band, "A100", 0) == (0, 0, 0)
    assert at_minute(band, "A100", 60) == (2, 2, 2)


@settings(max_examples=25, deadline=None)
@given(ANY)
def test_a_band_is_in_order_and_never_more_than_there_is(pool: Snapshot) -> None:
    band = forecast_band(Forecast.of(pool), seconds=2 * HOUR)
    for found in band.models.values():
        assert len(found.low) == len(found.median) == len(found.high) == len(band.times)
        for low, median, high in zip(found.low, found.median, found.high, strict=True):
            assert 0 <= low <= median <= high <= found.total
