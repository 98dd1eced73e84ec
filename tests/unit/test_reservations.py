"""Advance reservations: what is refused, who may use one, and what the clock does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import deleted_users, drains, lifecycle, reservations, resizing
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.schedule import schedule
from dcloud_spawner.store import events, workloads
from dcloud_spawner.store import reservations as rows
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation, Reservation, ReservationState
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import RESERVATION_ENDS, Workload
from tests.memory_engine import GIB, MemoryEngine, node
from tests.platforms import ALICE, actions, choice, get, opened, settings_for, start, state, submit

TEACHER = Actor("teacher", "10.0.0.2")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node())) as found:
        yield found


def new(**values: Any) -> NewReservation:
    """A class of an hour that begins in an hour."""
    now = utc_now()
    given: dict[str, Any] = {
        "title": "Class",
        "starts_at": now + timedelta(hours=1),
        "ends_at": now + timedelta(hours=2),
        "gpus": 2,
        "memory_bytes": GIB,
        "cpu_millicores": 1000,
        "users": ("ann",),
        **values,
    }
    return NewReservation(**given)


def now_on(**values: Any) -> NewReservation:
    """One that begins at once."""
    now = utc_now()
    return new(**{"starts_at": now, "ends_at": now + timedelta(hours=1), **values})


def test_memory_that_may_still_be_in_use_then_is_not_reserved(platform: Platform) -> None:
    """The GPUs would be free, but not with so much memory each; counting GPUs does not see it."""
    start(platform, "ann", 1, gib=40, hours=4)
    with pytest.raises(Conflict) as refused:
        reservations.reserve(platform, new(gpus=3, memory_bytes=9 * GIB), TEACHER)
    assert refused.value.code == "not_free_then"
    with platform.database.reading() as connection:
        assert not rows.open_reservations(connection)
    reservations.reserve(platform, new(gpus=3, memory_bytes=8 * GIB), TEACHER)
    with pytest.raises(Conflict):
        reservations.reserve(platform, new(gpus=1, memory_bytes=0), TEACHER)


def test_a_server_does_not_grow_into_what_is_reserved(platform: Platform) -> None:
    mine = start(platform, "ann", 1, gib=8, hours=4)
    reservations.reserve(platform, new(gpus=3, memory_bytes=16 * GIB, users=("bob",)), TEACHER)
    with pytest.raises(Conflict):
        resizing.change_limits(platform, mine.id, 40 * GIB, 1000, TEACHER)
    assert get(platform, mine.id).memory_bytes == 8 * GIB
    assert get(platform, mine.id).resize_until is None
    resizing.change_limits(platform, mine.id, 16 * GIB, 1000, TEACHER)


def test_gpus_that_are_in_use_on_a_reservation_are_not_counted_twice(platform: Platform) -> None:
    reservations.reserve(platform, now_on(gpus=2, users=("ann",)), TEACHER)
    start(platform, "ann", 2, hours=4)
    soon = utc_now() + timedelta(minutes=10)
    reservations.reserve(platform, new(gpus=2, starts_at=soon), TEACHER)


def kept(platform: Platform, found: Reservation) -> Reservation:
    with platform.database.reading() as connection:
        row = rows.find(connection, found.id)
    assert row is not None
    return row


def pass_at(platform: Platform, at: datetime) -> None:
    """A pass at another time."""
    schedule(platform.database, platform.capacity, at)


def of_group(platform: Platform, user: str, group: str, gpus: int = 1) -> Workload:
    wish = choice(gpus)
    return lifecycle.submit(platform, user, "", wish, "image", Actor(user), groups={group})


# ---------------------------------------------------------------------------- made


def test_a_reservation_is_kept_as_it_was_asked_for(platform: Platform) -> None:
    wish = new(title=" Class ", users=("ann", "bob", "ann"), groups=("students",))
    made = reservations.reserve(platform, wish, TEACHER)
    found = kept(platform, made)
    assert found == made
    assert (found.title, found.users, found.groups) == ("Class", ["ann", "bob"], ["students"])
    assert (found.state, found.created_by) == (ReservationState.PLANNED, "teacher")
    assert (found.starts_at, found.ends_at) == (wish.starts_at, wish.ends_at)
    assert actions(platform, made.id) == ["reservation.create"]
    with platform.database.reading() as connection:
        assert list(events.verify(connection)) == []


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("title", {"title": "  "}),
        ("title", {"title": "x" * 101}),
        ("starts_at", {"starts_at": datetime(2030, 1, 1)}),  # noqa: DTZ001
        ("ends_at", {"ends_at": datetime(2030, 1, 1)}),  # noqa: DTZ001
        ("ends_at", {"ends_at": utc_now() - timedelta(days=1)}),
        ("ends_at", {"ends_at": utc_now() + timedelta(days=40)}),
        (
            "starts_at",
            {
                "starts_at": utc_now() + timedelta(days=400),
                "ends_at": utc_now() + timedelta(days=401),
            },
        ),
        ("gpus", {"gpus": 0}),
        ("gpus", {"gpus": -1}),
        ("gpus", {"gpus": 5}),
        ("memory_bytes", {"memory_bytes": -1}),
        ("memory_bytes", {"memory_bytes": 40 * GIB}),
        ("cpu_millicores", {"cpu_millicores": -1}),
        ("gpu_model", {"gpu_model": "H100"}),
        ("users", {"users": ()}),
        ("users", {"users": ("",)}),
        ("groups", {"groups": ("x" * 256,)}),
        ("users", {"users": tuple(f"user{number}" for number in range(1001))}),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(
    platform: Platform, field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidChoice) as caught:
        reservations.reserve(platform, new(**values), TEACHER)
    assert caught.value.field == field
    with platform.database.reading() as connection:
        assert rows.open_reservations(connection) == []


def test_what_runs_until_then_cannot_be_reserved(platform: Platform) -> None:
    start(platform, "eve", 3, hours=24)
    with pytest.raises(Conflict, match="Only 1 such GPUs") as caught:
        reservations.reserve(platform, new(gpus=2), TEACHER)
    assert caught.value.code == "not_free_then"
    tomorrow = utc_now() + timedelta(hours=30)
    later = new(gpus=4, starts_at=tomorrow, ends_at=tomorrow + timedelta(hours=1))
    reservations.reserve(platform, later, TEACHER)


def test_what_is_reserved_cannot_be_reserved_again_but_afterwards(platform: Platform) -> None:
    first = reservations.reserve(platform, new(gpus=3), TEACHER)
    with pytest.raises(Conflict, match="3 are reserved"):
        reservations.reserve(platform, new(gpus=2), TEACHER)
    behind = new(gpus=4, starts_at=first.ends_at, ends_at=first.ends_at + timedelta(hours=1))
    reservations.reserve(platform, behind, TEACHER)
    reservations.cancel_reservation(platform, first.id, TEACHER)
    reservations.reserve(platform, new(gpus=2, ends_at=first.ends_at), TEACHER)


def test_what_is_drained_cannot_be_reserved(platform: Platform) -> None:
    drains.drain_accelerator(platform, "GPU-local-0", "why", TEACHER)
    with pytest.raises(Conflict, match="Only 3"):
        reservations.reserve(platform, new(gpus=4), TEACHER)


# ---------------------------------------------------------------------------- used


def test_its_people_start_on_it_and_others_do_not(platform: Platform) -> None:
    reservations.reserve(platform, now_on(gpus=4), TEACHER)
    other, mine = submit(platform, "eve", 2), submit(platform, "ann", 2, hours=10)
    platform.run_pass()
    assert state(platform, other) is State.QUEUED
    found = get(platform, mine.id)
    assert found.state is State.ADMITTED
    assert found.reservation is not None


def test_what_runs_on_it_is_told_that_it_ends_with_it(platform: Platform) -> None:
    made = reservations.reserve(platform, now_on(), TEACHER)
    mine = submit(platform, "ann", 2, hours=10)
    platform.run_pass()
    found = get(platform, mine.id)
    assert (found.reservation, found.notice_reason) == (made.id, RESERVATION_ENDS)
    assert found.notice_at == made.ends_at
    assert kept(platform, made).first_used_at is not None


def test_somebody_of_its_groups_may_use_it(platform: Platform) -> None:
    made = reservations.reserve(platform, now_on(gpus=4, users=(), groups=("students",)), TEACHER)
    other, mine = of_group(platform, "eve", "staff"), of_group(platform, "dan", "students")
    assert (other.reservation, mine.reservation) == (None, made.id)
    platform.run_pass()
    assert (state(platform, other), state(platform, mine)) == (State.QUEUED, State.ADMITTED)


def test_work_that_would_run_into_it_does_not_take_its_gpus(platform: Platform) -> None:
    reservations.reserve(platform, new(gpus=4), TEACHER)
    long, short = submit(platform, "eve", 1, hours=8), submit(platform, "dan", 1, hours=0.5)
    platform.run_pass()
    assert (state(platform, long), state(platform, short)) == (State.QUEUED, State.ADMITTED)


# ---------------------------------------------------------------------------- the clock


def test_it_begins_and_ends_by_the_clock_with_a_line_each(platform: Platform) -> None:
    made = reservations.reserve(platform, new(), TEACHER)
    pass_at(platform, made.starts_at - timedelta(seconds=1))
    assert kept(platform, made).state is ReservationState.PLANNED
    mine = submit(platform, "ann", 2, hours=0.5)
    pass_at(platform, made.starts_at)
    assert kept(platform, made).state is ReservationState.ACTIVE
    assert state(platform, mine) is State.ADMITTED
    pass_at(platform, made.ends_at)
    assert actions(platform, made.id)[:2] == ["reservation.create", "reservation.active"]
    assert kept(platform, made).state in (ReservationState.ENDED, ReservationState.EXPIRED)


def test_one_that_nobody_uses_expires_and_gives_its_gpus_back(platform: Platform) -> None:
    made = reservations.reserve(platform, now_on(gpus=4), TEACHER)
    waiting = submit(platform, "eve", 1)
    pass_at(platform, made.starts_at + timedelta(minutes=14))
    assert state(platform, waiting) is State.QUEUED
    pass_at(platform, made.starts_at + timedelta(minutes=15))
    assert state(platform, waiting) is State.ADMITTED
    found = kept(platform, made)
    assert (found.state, found.detail) == (
        ReservationState.EXPIRED,
        "Nobody used it within 15 minutes.",
    )
    assert actions(platform, made.id)[-1] == "reservation.expired"


def test_one_that_is_used_does_not_expire(platform: Platform) -> None:
    made = reservations.reserve(platform, now_on(), TEACHER)
    submit(platform, "ann", 1)
    platform.run_pass()
    pass_at(platform, made.starts_at + timedelta(minutes=30))
    assert kept(platform, made).state is ReservationState.ACTIVE
    pass_at(platform, made.ends_at)
    assert kept(platform, made).state is ReservationState.ENDED


def test_whoever_waits_for_one_gets_it_although_nobody_ran_a_pass_when_it_began(
    platform: Platform,
) -> None:
    made = reservations.reserve(platform, new(), TEACHER)
    mine, other = submit(platform, "ann", 1), submit(platform, "bob", 4, hours=3)
    with platform.database.transaction() as connection:
        workloads.change_queued(connection, other.id, moved_at=utc_now())
    late = made.starts_at + timedelta(minutes=40)
    pass_at(platform, late)
    assert kept(platform, made).state is ReservationState.ACTIVE
    assert (state(platform, mine), state(platform, other)) == (State.ADMITTED, State.QUEUED)
    pass_at(platform, late + timedelta(minutes=1))
    assert kept(platform, made).state is ReservationState.ACTIVE


def test_a_platform_that_was_away_all_the_time_says_that_nobody_used_it(
    platform: Platform,
) -> None:
    made = reservations.reserve(platform, new(), TEACHER)
    pass_at(platform, made.ends_at + timedelta(days=1))
    assert kept(platform, made).state is ReservationState.EXPIRED


# ---------------------------------------------------------------------------- given up


def test_giving_one_up_frees_its_gpus_and_what_runs_on_it_goes_on(platform: Platform) -> None:
    made = reservations.reserve(platform, now_on(gpus=4), TEACHER)
    mine, other = submit(platform, "ann", 1), submit(platform, "eve", 1)
    platform.run_pass()
    assert (state(platform, mine), state(platform, other)) == (State.ADMITTED, State.QUEUED)
    given_up = reservations.cancel_reservation(platform, made.id, TEACHER)
    assert given_up.state is ReservationState.CANCELLED
    assert (state(platform, mine), state(platform, other)) == (State.ADMITTED, State.ADMITTED)
    assert actions(platform, made.id)[-1] == "reservation.cancel"


def test_what_runs_on_one_that_is_given_up_ends_as_told_where_another_one_counts_on_it(
    platform: Platform,
) -> None:
    first = reservations.reserve(platform, now_on(gpus=4), TEACHER)
    mine = start(platform, "ann", 3, hours=4)
    told = get(platform, mine.id).notice_at
    assert told == first.ends_at
    soon = first.ends_at + timedelta(minutes=10)
    times = {"starts_at": soon, "ends_at": soon + timedelta(hours=1)}
    second = reservations.reserve(platform, new(gpus=4, users=("bob",), **times), TEACHER)
    reservations.cancel_reservation(platform, first.id, TEACHER)
    assert get(platform, mine.id).notice_at == told
    reservations.cancel_reservation(platform, second.id, TEACHER)
    assert state(platform, mine) is State.RUNNING


def test_what_is_kept_for_a_deleted_user_is_not_kept_for_the_next_one_of_the_name(
    platform: Platform,
) -> None:
    made = reservations.reserve(platform, now_on(gpus=4, users=("ann", "bob")), TEACHER)
    deleted_users.let_go(platform, "ann", TEACHER)
    next_one, bob = submit(platform, "ann", 1), submit(platform, "bob", 1)
    platform.run_pass()
    assert (state(platform, next_one), state(platform, bob)) == (State.QUEUED, State.ADMITTED)
    assert actions(platform, made.id)[-1] == "reservation.leave"


def test_one_that_is_over_or_unknown_cannot_be_given_up(platform: Platform) -> None:
    with pytest.raises(NotFound):
        reservations.cancel_reservation(platform, "unknown", TEACHER)
    made = reservations.reserve(platform, new(), TEACHER)
    reservations.cancel_reservation(platform, made.id, TEACHER)
    with pytest.raises(Conflict, match="cancelled already"):
        reservations.cancel_reservation(platform, made.id, TEACHER)
    assert actions(platform, made.id) == ["reservation.create", "reservation.cancel"]


def test_one_of_too_many_gpus_or_another_model_is_not_for_a_request(platform: Platform) -> None:
    reservations.reserve(platform, new(gpus=2, gpu_model="A100"), TEACHER)
    assert submit(platform, "ann", 3).reservation is None
    assert submit(platform, "ann", 0, server="cpu").reservation is None
    assert submit(platform, "ann", 2, server="two").reservation is not None


def test_a_reservation_whose_line_cannot_be_written_is_not_made(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: object, **values: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(events, "note_all", full_disk)
    with pytest.raises(OSError, match="disk full"):
        reservations.reserve(platform, new(), TEACHER)
    monkeypatch.undo()
    with platform.database.reading() as connection:
        assert rows.open_reservations(connection) == []


def test_a_row_is_for_its_users_and_its_groups() -> None:
    found = Reservation("t", utc_now(), utc_now(), 1, users=("ann",), groups=("students",))
    assert found.is_for("ann") and found.is_for("dan", {"students", "x"})
    assert not found.is_for("dan", {"staff"})
    assert not replace(found, users=(), groups=()).is_for("ann", {"students"})


def test_what_ends_on_a_reservation_gives_back_to_it(platform: Platform) -> None:
    reservations.reserve(platform, now_on(gpus=4), TEACHER)
    first = start(platform, "ann", 4)
    waiting = submit(platform, "eve", 1)
    lifecycle.stop(platform, first.id, "stopped", ALICE)
    assert state(platform, waiting) is State.QUEUED
