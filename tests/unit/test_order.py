"""The order of the queue: one key, that never changes while a request waits."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.scheduler.order import DAY_SECONDS, Policy, ordered
from dcloud_spawner.scheduler.snapshot import Request
from tests.values import AT, minutes, request

policies = st.builds(
    Policy,
    slack_cap_seconds=st.integers(0, 10 * int(DAY_SECONDS)),
    slack_gpus=st.floats(0.5, 64),
    slack_bend_seconds=st.integers(0, 10 * int(DAY_SECONDS)),
    slack_doubling_seconds=st.integers(0, int(DAY_SECONDS)),
    fair_cap_seconds=st.integers(0, 10 * int(DAY_SECONDS)),
    tiers=st.dictionaries(
        st.sampled_from(("gold", "silver", "bronze")), st.sampled_from((0, 0.25, 0.5, 1, 2, 4))
    ),
)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, object]:
    """Whatever may be asked for, by whomever."""
    return {
        "gpus": draw(st.integers(0, 64)),
        "limit_seconds": draw(st.floats(60, 400 * 3600)),
        "tier": draw(st.sampled_from(("gold", "silver", "bronze", ""))),
        "share": draw(st.floats(0, 2)),
        "fair": draw(st.floats(0, 1)),
    }


@given(st.lists(st.integers(1, 10**9), unique=True, max_size=20), st.randoms())
def test_equal_due_times_are_in_the_order_of_submission_however_they_were_read(
    sequences: list[int], seed: random.Random
) -> None:
    wishes = [request(f"r{number}", sequence=number) for number in sequences]
    seed.shuffle(wishes)
    assert [found.sequence for found in ordered(wishes)] == sorted(sequences)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from((None, 0, 1, 2)), st.booleans())))
def test_moved_ones_come_first_then_due_ones_and_held_ones_not_at_all(
    found: list[tuple[int, int | None, bool]],
) -> None:
    wishes = [
        request(
            f"r{number}",
            due_at=float(due),
            moved_at=None if moved is None else AT + moved,
            held=held,
        )
        for number, (due, moved, held) in enumerate(found)
    ]
    queue = ordered(wishes)
    assert {each.id for each in queue} == {each.id for each in wishes if not each.held}
    for before, after in pairwise(queue):
        assert _before(before, after) and not _before(after, before)


def _before(one: Request, other: Request) -> bool:
    """Whether one comes first, in words instead of a key."""
    if one.moved_at != other.moved_at:
        if one.moved_at is None or other.moved_at is None:
            return other.moved_at is None
        return one.moved_at > other.moved_at
    if one.due_at != other.due_at:
        return one.due_at < other.due_at
    return one.sequence < other.sequence


def test_a_move_at_any_time_puts_before_whoever_was_not_moved() -> None:
    """Also where a clock counts from zero, as in a trace."""
    queue = [request("r1", due_at=-5.0), request("r2", due_at=9.0, moved_at=0.0)]
    assert [found.id for found in ordered(queue)] == ["r2", "r1"]


@given(policies, sizes(), sizes(), st.floats(0, 10**6))
def test_nothing_submitted_a_fixed_time_later_sorts_before(
    policy: Policy, first: dict[str, object], later: dict[str, object], more: float
) -> None:
    due = policy.due_at(AT, **first)  # type: ignore[arg-type]
    after = AT + policy.overtaking_seconds + more
    late = policy.due_at(after, **later)  # type: ignore[arg-type]
    one, two = request("r1", due_at=due), request("r2", due_at=late)
    assert ordered([two, one]) == [one, two]


@given(policies, sizes())
def test_nothing_is_due_before_it_was_submitted_nor_later_than_the_bound(
    policy: Policy, wish: dict[str, object]
) -> None:
    due = policy.due_at(0, **wish)  # type: ignore[arg-type]
    assert 0 <= due <= policy.overtaking_seconds


@given(sizes(), st.floats(0, 100 * 3600), st.integers(0, 8), st.floats(0, 1))
def test_asking_for_more_or_having_had_more_is_never_due_earlier(
    wish: dict[str, object], more_seconds: float, more_gpus: int, more_share: float
) -> None:
    policy = Policy()
    due = policy.due_at(AT, **wish)  # type: ignore[arg-type]
    for key, more in (("limit_seconds", more_seconds), ("gpus", more_gpus), ("share", more_share)):
        assert policy.due_at(AT, **{**wish, key: wish[key] + more}) >= due  # type: ignore[operator, arg-type]


def test_the_key_is_the_one_that_is_written_down() -> None:
    policy = Policy()
    hour = 3600
    assert policy.due_at(AT, 6, 2 * hour) == AT + 2 * hour
    assert policy.due_at(AT, 3, 2 * hour) == AT + hour
    assert policy.due_at(AT, 6, 2 * hour, "silver") == AT + hour
    assert policy.due_at(AT, 6, 2 * hour, "gold") == AT + hour / 2
    assert policy.due_at(AT, 12, 10 * hour) == AT + 20 * hour
    assert policy.due_at(AT, 48, 20 * hour) == AT + 23 * hour
    assert policy.due_at(AT, 64, 1000 * hour) == AT + 28 * hour
    assert policy.due_at(AT, 0, 2 * hour, share=0.3, fair=0.2) == AT + 12 * hour
    assert policy.due_at(AT, 0, 2 * hour, share=0.9, fair=0.2) == AT + 24 * hour
    assert policy.due_at(AT, 0, 2 * hour, share=0.2, fair=0.2) == AT
    assert policy.overtaking_seconds == 52 * hour


def test_a_request_keeps_its_key_when_its_row_changes_otherwise() -> None:
    wish = request("r1", due_at=AT + minutes(5))
    assert (
        ordered([replace(wish, user="other", tier="gold"), request("r2", due_at=AT)])[1].id == "r1"
    )
