"""So many within a minute, for each one alone."""

from __future__ import annotations

import pytest

from dcloud_spawner.errors import TooManyAttempts
from dcloud_spawner.throttle import Throttle


def test_one_too_many_is_told_when_the_next_one_counts() -> None:
    throttle = Throttle(2, "starts")
    throttle.count("ann")
    throttle.count("ann")
    with pytest.raises(TooManyAttempts) as caught:
        throttle.count("ann")
    error = caught.value
    assert (error.status_code, error.code) == (429, "too_often")
    assert error.message == "More than 2 starts within a minute."
    assert 1 <= error.retry_after_seconds <= 60
    assert f"{error.retry_after_seconds} second" in error.hint


def test_everybody_is_counted_alone() -> None:
    throttle = Throttle(1, "calls")
    throttle.count("ann")
    throttle.count("bob")
    with pytest.raises(TooManyAttempts):
        throttle.count("bob")
