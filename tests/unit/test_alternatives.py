"""What would start at once instead of what waits, and further reasons why it waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.scheduler.alternatives import MOST, Offered, alternatives
from dcloud_spawner.scheduler.reasons import on_hold, own_limit
from dcloud_spawner.scheduler.snapshot import Request
from tests.values import GIB, request

A100, A5000 = "NVIDIA A100-SXM4-80GB", "NVIDIA RTX A5000"


def found(
    wish: Request, fits: Callable[[Request], bool], offered: Offered | None = None
) -> list[str]:
    return [one.text for one in alternatives(wish, fits, offered)]


def test_fewer_gpus_the_nearest_first_and_one_alone() -> None:
    wish = request("q1", 4, model=A100)
    assert found(wish, lambda one: one.gpus <= 3) == [
        "3 GPUs of this model now",
        "1 GPU of this model now",
    ]
    assert found(wish, lambda one: one.gpus == 1) == ["1 GPU of this model now"]


def test_only_what_the_profile_offers_is_proposed() -> None:
    wish = request("q1", 4, model=A100, gib=64)
    offered = Offered(gpus=(0, 2, 4), memory_bytes=(16 * GIB, 64 * GIB))
    assert found(wish, lambda one: one.gpus < 4, offered)[0] == "2 GPUs of this model now"
    assert found(wish, lambda one: one.memory_bytes < 64 * GIB, offered) == ["48 GiB less RAM now"]


def test_another_model_is_named_as_people_say_it() -> None:
    wish = request("q1", 2, model=A100)
    offered = Offered(models=(A100, A5000))
    assert found(wish, lambda one: one.gpu_model == A5000, offered) == ["2 × RTX A5000 now"]


def test_where_any_model_will_do_the_count_is_not_of_this_model() -> None:
    assert found(request("q1", 2), lambda one: one.gpus == 1) == ["1 GPU now"]


def test_less_memory_or_fewer_cores_are_said_as_the_difference() -> None:
    wish = request("q1", 1, gib=16, cores=4)
    assert found(wish, lambda one: one.memory_bytes <= 8 * GIB) == ["8 GiB less RAM now"]
    assert found(wish, lambda one: one.cpu_millicores <= 1000) == ["3 cores less now"]


def test_shorter_work_may_go_before_the_turn_of_whoever_is_ahead() -> None:
    wish = request("q1", 1, limit_minutes=8 * 60)
    assert found(wish, lambda one: one.limit_seconds <= 2 * 3600) == ["for 2 hours now"]


def test_nothing_is_proposed_where_nothing_fits() -> None:
    wish = request("q1", 4, model=A100, gib=64, cores=8, limit_minutes=600)
    assert found(wish, lambda one: False, Offered(models=(A100, A5000))) == []


@given(
    gpus=st.integers(0, 8),
    gib=st.integers(1, 64),
    cores=st.integers(1, 16),
    hours=st.integers(1, 48),
    free=st.tuples(st.integers(0, 8), st.integers(0, 64), st.integers(0, 16), st.integers(0, 48)),
)
def test_whatever_is_proposed_fits_and_asks_for_less(
    gpus: int, gib: int, cores: int, hours: int, free: tuple[int, int, int, int]
) -> None:
    wish = request("q1", gpus, model=A100, gib=gib, cores=cores, limit_minutes=60 * hours)

    def fits(one: Request) -> bool:
        return (
            one.gpus <= free[0]
            and one.memory_bytes <= free[1] * GIB
            and one.cpu_millicores <= free[2] * 1000
            and one.limit_seconds <= free[3] * 3600
        )

    proposed = alternatives(wish, fits)
    assert len(proposed) <= MOST
    assert len({one.what for one in proposed}) == len(proposed)
    for one in proposed:
        assert fits(one.request)
        assert one.request.gpus <= gpus
        assert (one.request.gpus > 0) == (gpus > 0)
        assert one.request.shape != wish.shape or one.request.limit_seconds < wish.limit_seconds


@pytest.mark.parametrize(
    ("limit", "used", "asked", "sentence"),
    [
        (4, {"": 2}, 2, ""),
        (2, {}, 3, "Your limit is 2 GPUs, and you asked for 3."),
        (
            2,
            {"train": 2},
            1,
            "Your limit is 2 GPUs, and “train” uses 2. It starts when that is given back.",
        ),
        (
            1,
            {"": 1, "b": 0},
            1,
            "Your limit is 1 GPU, and your default server uses 1. "
            "It starts when that is given back.",
        ),
    ],
)
def test_the_own_limit_names_the_server_that_uses_it(
    limit: int, used: dict[str, int], asked: int, sentence: str
) -> None:
    assert own_limit(limit, used, asked) == sentence


def test_a_hold_says_why_and_that_nothing_is_lost() -> None:
    assert on_hold("maintenance at noon.") == (
        "An administrator holds this request back: maintenance at noon. "
        "It keeps its time in the queue."
    )
    assert on_hold("").startswith("An administrator holds this request back.")
