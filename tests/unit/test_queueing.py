"""When a request is due, and an administrator's hand in the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import lifecycle, queueing
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound, UserError
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events, shares, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.shares import ShareRow
from dcloud_spawner.store.workloads import Workload
from tests.memory_engine import MemoryEngine, node
from tests.platforms import (
    ALICE,
    actions,
    choice,
    get,
    opened,
    place,
    settings_for,
    start,
    state,
    submit,
)

ADMIN = Actor("admin", "10.0.0.1")
DAY = 86400


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = settings_for(
        database_url,
        tmp_path,
        slack_gpus=8,
        tier_groups={"staff": "silver", "board": "gold"},
        group_weights={"staff": 3.0, "board": 2.0},
    )
    with opened(settings, MemoryEngine(node())) as found:
        yield found


def line(platform: Platform) -> list[str]:
    """Users in the order in which they are served."""
    return [found.workload.user for found in read_pool(platform).queue]


def had(platform: Platform, user: str, gpu_seconds: float, weight: float = 1.0) -> None:
    """Let somebody have had GPUs lately."""
    with platform.database.transaction() as connection:
        row = ShareRow(user, weight, gpu_seconds, 0.0, 0.0, utc_now())
        shares.write_all(connection, [row])


def of_groups(platform: Platform, user: str, *groups: str, gpus: int = 1) -> Workload:
    wish = choice(gpus)
    return lifecycle.submit(platform, user, "", wish, "image", Actor(user), groups=groups)


# ---------------------------------------------------------------------------- due


def test_a_request_is_due_later_by_its_size(platform: Platform) -> None:
    found = submit(platform, gpus=2, hours=4)
    assert (found.tier, found.slack_seconds, found.fair_seconds) == ("bronze", 3600, 0)
    assert found.due_at == found.submitted_at + timedelta(hours=1)
    assert get(platform, found.id).due_at == found.due_at


@pytest.mark.parametrize(
    ("groups", "tier", "slack"),
    [
        ((), "bronze", 900),
        (("students",), "bronze", 900),
        (("staff", "students"), "silver", 450),
        (("staff", "board"), "gold", 225),
    ],
)
def test_the_best_tier_of_ones_groups_counts(
    platform: Platform, groups: tuple[str, ...], tier: str, slack: int
) -> None:
    found = of_groups(platform, "ann", *groups)
    assert (found.tier, found.slack_seconds) == (tier, slack)


def test_a_small_request_passes_a_large_one_that_came_a_little_earlier(platform: Platform) -> None:
    start(platform, "full", 4)
    submit(platform, "large", 4, hours=8), submit(platform, "small", 1, hours=1)
    assert line(platform) == ["small", "large"]


def test_whoever_is_alone_owes_nothing(platform: Platform) -> None:
    had(platform, "ann", 100 * DAY)
    assert submit(platform, "ann").fair_seconds == 0


def test_whoever_had_more_than_a_fair_share_is_due_later(platform: Platform) -> None:
    window = 7 * DAY / 0.6931471805599453
    submit(platform, "bob")  # active, so that half the pool is fair
    had(platform, "ann", 0.75 * 4 * window)
    found = submit(platform, "ann")
    assert found.fair_seconds == pytest.approx(DAY / 2, abs=60)
    assert found.due_at == found.submitted_at + timedelta(seconds=900 + found.fair_seconds)


def test_nobody_is_put_back_by_more_than_a_day(platform: Platform) -> None:
    submit(platform, "bob")
    had(platform, "ann", 1e9)
    assert submit(platform, "ann").fair_seconds == DAY


def test_a_weight_makes_the_fair_share_larger(platform: Platform) -> None:
    window = 7 * DAY / 0.6931471805599453
    submit(platform, "bob")
    had(platform, "ann", 0.75 * 4 * window)
    assert of_groups(platform, "ann", "staff").fair_seconds == pytest.approx(0, abs=60)


def test_what_was_just_admitted_counts_with_its_whole_time_until_it_ends(
    platform: Platform,
) -> None:
    submit(platform, "bob", 0)
    running = start(platform, "ann", 4, hours=200)
    again = submit(platform, "ann", 1, server="two")
    assert again.fair_seconds > 0
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    third = submit(platform, "ann", 1, server="three")
    assert third.fair_seconds == 0  # it held next to nothing, and nothing more is to come


def test_what_was_held_is_written_when_it_is_given_back(platform: Platform) -> None:
    running = start(platform, "ann", 2, cores=4, gib=8)
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    with platform.database.reading() as connection:
        row = shares.find(connection, "ann")
    ended = get(platform, running.id)
    assert row is not None and ended.ended_at is not None and ended.admitted_at is not None
    seconds = (ended.ended_at - ended.admitted_at).total_seconds()
    assert row.gpu_seconds == pytest.approx(2 * seconds, rel=1e-4)
    assert row.cpu_core_seconds == pytest.approx(4 * seconds, rel=1e-4)
    assert row.memory_gib_seconds == pytest.approx(8 * seconds, rel=1e-4)


def test_leaving_the_queue_costs_nothing(platform: Platform) -> None:
    start(platform, "full", 4)
    waiting = submit(platform, "ann", 4)
    lifecycle.stop(platform, waiting.id, "cancelled", ALICE)
    with platform.database.reading() as connection:
        row = shares.find(connection, "ann")
    assert row is not None and row.gpu_seconds == 0


# ---------------------------------------------------------------------------- hold


def test_who_is_on_hold_does_not_start_and_others_do(platform: Platform) -> None:
    running = start(platform, "full", 4)
    first, second = submit(platform, "ann", 4), submit(platform, "bob", 4)
    held = queueing.hold(platform, first.id, "  asked by mail ", ADMIN)
    assert (held.held_by, held.held_reason) == ("admin", "asked by mail")
    assert (place(platform, first), place(platform, second)) == (None, 1)
    lifecycle.stop(platform, running.id, "stopped", ALICE)
    assert state(platform, second) is State.ADMITTED
    assert state(platform, first) is State.QUEUED


def test_whoever_is_released_stands_where_they_stood(platform: Platform) -> None:
    start(platform, "full", 4)
    first, _ = submit(platform, "ann", 4), submit(platform, "bob", 4)
    queueing.hold(platform, first.id, "why", ADMIN)
    released = queueing.release_hold(platform, first.id, ADMIN)
    assert (released.held_at, released.held_by, released.held_reason) == (None, "", "")
    assert released.due_at == first.due_at
    assert line(platform) == ["ann", "bob"]
    assert actions(platform, first.id) == ["workload.submit", "workload.hold", "workload.unhold"]


def test_a_release_starts_what_fits_at_once(platform: Platform) -> None:
    waiting = submit(platform, "ann", 4)
    queueing.hold(platform, waiting.id, "why", ADMIN)
    assert queueing.release_hold(platform, waiting.id, ADMIN).state is State.ADMITTED


def test_a_hold_starts_whoever_it_kept_waiting(platform: Platform) -> None:
    start(platform, "full", 3, hours=1)
    head, behind = submit(platform, "ann", 4), submit(platform, "bob", 1, hours=100)
    platform.run_pass()
    assert state(platform, behind) is State.QUEUED
    queueing.hold(platform, head.id, "why", ADMIN)
    assert state(platform, behind) is State.ADMITTED


def test_who_is_on_hold_can_still_leave(platform: Platform) -> None:
    waiting = submit(platform, "ann", 4)
    queueing.hold(platform, waiting.id, "why", ADMIN)
    lifecycle.stop(platform, waiting.id, "cancelled", ALICE)
    assert state(platform, waiting) is State.ENDED


# ---------------------------------------------------------------------------- move


def test_the_last_one_moved_stands_first(platform: Platform) -> None:
    start(platform, "full", 4)
    waiting = [submit(platform, user, 4) for user in ("ann", "bob", "cem", "dan")]
    queueing.move_to_head(platform, waiting[2].id, "a deadline", ADMIN)
    moved = queueing.move_to_head(platform, waiting[3].id, "a closer one", ADMIN)
    assert line(platform) == ["dan", "cem", "ann", "bob"]
    assert (moved.moved_by, moved.moved_reason) == ("admin", "a closer one")
    assert moved.due_at == waiting[3].due_at
    queueing.move_to_head(platform, waiting[2].id, "again", ADMIN)
    assert line(platform) == ["cem", "dan", "ann", "bob"]


def test_a_clock_that_was_set_back_does_not_change_who_was_moved_last(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(platform, "full", 4)
    first, second = submit(platform, "ann", 4), submit(platform, "bob", 4)
    queueing.move_to_head(platform, first.id, "why", ADMIN)
    monkeypatch.setattr(queueing, "utc_now", lambda: utc_now() - timedelta(hours=1))
    queueing.move_to_head(platform, second.id, "why", ADMIN)
    assert line(platform) == ["bob", "ann"]


def test_the_order_is_the_same_for_whoever_opens_the_database_anew(
    platform: Platform, tmp_path: Path
) -> None:
    start(platform, "full", 4)
    waiting = [
        submit(platform, f"user{number}", 1 + number % 4, hours=1 + number) for number in range(8)
    ]
    queueing.move_to_head(platform, waiting[5].id, "why", ADMIN)
    queueing.hold(platform, waiting[2].id, "why", ADMIN)
    before = line(platform)
    platform.run_pass()
    with opened(platform.settings, MemoryEngine(node())) as other:
        other.run_pass()
        assert line(other) == before
    assert line(platform) == before


# ---------------------------------------------------------------------------- bad input


def _acts() -> list[Any]:
    return [
        lambda platform, identifier: queueing.hold(platform, identifier, "why", ADMIN),
        lambda platform, identifier: queueing.release_hold(platform, identifier, ADMIN),
        lambda platform, identifier: queueing.move_to_head(platform, identifier, "why", ADMIN),
    ]


@pytest.mark.parametrize("act", _acts(), ids=["hold", "release", "move"])
def test_what_does_not_wait_is_refused_and_nothing_is_written(
    platform: Platform, act: Callable[[Platform, str], object]
) -> None:
    running = start(platform, "ann", 1)
    with platform.database.reading() as connection:
        head = events.head(connection)
    with pytest.raises(NotFound):
        act(platform, "unknown")
    with pytest.raises(Conflict) as caught:
        act(platform, running.id)
    assert caught.value.code == "not_waiting"
    assert "running" in caught.value.message
    with platform.database.reading() as connection:
        assert events.head(connection) == head


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_reason_that_is_none_is_refused(platform: Platform, reason: str) -> None:
    waiting = submit(platform, "ann", 4)
    for act in (queueing.hold, queueing.move_to_head):
        with pytest.raises(InvalidChoice) as caught:
            act(platform, waiting.id, reason, ADMIN)
        assert caught.value.field == "reason"
    assert actions(platform, waiting.id) == ["workload.submit"]


def test_a_reason_of_any_text_is_kept(platform: Platform) -> None:
    start(platform, "full", 4)
    waiting = submit(platform, "ann", 4)
    reason = "Zoë's <deadline> 😀'; --\x00"
    held = queueing.hold(platform, waiting.id, reason, ADMIN)
    assert held.held_reason == reason.replace("\x00", "\ufffd")
    with platform.database.reading() as connection:
        assert list(events.verify(connection)) == []


def test_twice_on_hold_or_released_is_refused(platform: Platform) -> None:
    waiting = submit(platform, "ann", 4)
    with pytest.raises(Conflict):
        queueing.release_hold(platform, waiting.id, ADMIN)
    queueing.hold(platform, waiting.id, "why", ADMIN)
    with pytest.raises(Conflict, match="admin"):
        queueing.hold(platform, waiting.id, "why", ADMIN)
    with pytest.raises(Conflict, match="on hold"):
        queueing.move_to_head(platform, waiting.id, "why", ADMIN)


def test_a_hold_whose_line_cannot_be_written_does_not_happen(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(platform, "full", 4)
    waiting = submit(platform, "ann", 4)

    def full_disk(*arguments: object, **values: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(events, "note_all", full_disk)
    for act in (queueing.hold, queueing.move_to_head):
        with pytest.raises(OSError, match="disk full"):
            act(platform, waiting.id, "why", ADMIN)
    monkeypatch.undo()
    found = get(platform, waiting.id)
    assert (found.held_at, found.moved_at) == (None, None)


def test_every_refusal_is_one_that_a_user_may_read() -> None:
    assert all(issubclass(error, UserError) for error in (Conflict, InvalidChoice, NotFound))


def test_a_share_of_many_users_is_written_at_once(platform: Platform) -> None:
    rows = [ShareRow(f"user{number}", 1.0, number, 0.0, 0.0, utc_now()) for number in range(50)]
    with platform.database.transaction() as connection:
        shares.write_all(connection, rows[:25])
        shares.write_all(connection, rows)
        shares.write_all(connection, [])
        found = shares.find_all(connection, [row.user for row in rows])
        assert found == {row.user: row for row in rows}
        assert workloads.get_all(connection, []) == []
