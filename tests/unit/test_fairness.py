"""Decayed shares: the closed form against a sum, and what is fair."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.scheduler.fairness import (
    Amount,
    dominant_share,
    faded,
    fair_share,
    held,
    window_seconds,
)

DAY = 86400.0
WEEK = 7 * DAY


def test_what_was_had_a_half_life_ago_counts_half() -> None:
    assert faded(Amount(4, 2, 8), WEEK, WEEK) == Amount(2, 1, 4)


@given(
    st.floats(0, 30 * DAY), st.floats(0, 30 * DAY), st.floats(0, 30 * DAY), st.floats(DAY, 30 * DAY)
)
def test_the_closed_form_is_the_sum_of_its_moments(
    since: float, length: float, after: float, half_life: float
) -> None:
    until, at, steps = since + length, since + length + after, 2000
    moments = (since + length * (number + 0.5) / steps for number in range(steps))
    summed = sum(math.exp2(-(at - moment) / half_life) for moment in moments) * length / steps
    found = held(Amount(gpus=2), since, until, at, half_life)
    assert found.gpus == pytest.approx(2 * summed, rel=1e-3, abs=1e-3)


@given(st.floats(0, 10 * DAY), st.floats(0, 10 * DAY), st.floats(0, 10 * DAY))
def test_two_halves_count_as_much_as_the_whole_whenever_they_are_added(
    first: float, second: float, after: float
) -> None:
    """What makes it possible to keep one number a user."""
    middle, end, at = first, first + second, first + second + after
    rate = Amount(1, 2, 3)
    early = held(rate, 0, middle, middle, WEEK)
    early = faded(early, at - middle, WEEK)
    late = faded(held(rate, middle, end, end, WEEK), at - end, WEEK)
    whole = held(rate, 0, end, at, WEEK)
    assert (early + late).memory_gib == pytest.approx(whole.memory_gib, rel=1e-9, abs=1e-6)


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    assert faded(Amount(1, 1, 1), -100, WEEK) == Amount(1, 1, 1)
    assert held(Amount(1, 1, 1), 100, 50, 100, WEEK) == Amount()


def test_the_whole_pool_for_ever_is_a_share_of_one() -> None:
    total = Amount(8, 100, 1000)
    had = held(total, 0, 1000 * DAY, 1000 * DAY, WEEK)
    assert dominant_share(had, total, WEEK) == pytest.approx(1.0)


def test_the_largest_part_of_any_resource_counts() -> None:
    window = window_seconds(WEEK)
    had = Amount(1 * window, 50 * window, 0)
    assert dominant_share(had, Amount(8, 100, 1000), WEEK) == pytest.approx(0.5)


def test_what_the_pool_does_not_have_is_no_share() -> None:
    assert dominant_share(Amount(5, 5, 5), Amount(), WEEK) == 0.0


def test_a_fair_share_is_ones_weight_among_those_of_all() -> None:
    assert fair_share("ann", {"ann": 3.0, "bob": 1.0}) == 0.75
    assert fair_share("ann", {"ann": 2.0}) == 1.0
