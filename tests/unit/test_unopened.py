"""Servers that nobody opens, and what runs beside a request that waits: the rules below the hub."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcloud_spawner import lifecycle
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.reservations import cancel_reservation, reserve
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.spawners.meanwhile import choice_beside
from dcloud_spawner.spawners.use import _told
from dcloud_spawner.spawners.views import SpawnerViews, _warning
from dcloud_spawner.store import workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from dcloud_spawner.unopened import give_back, note_connected, opens_until
from tests.memory_engine import MemoryEngine
from tests.platforms import (
    actions,
    check,
    get,
    held,
    opened,
    settings_for,
    start,
    state,
    submit,
)

MINUTES = 15.0


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        assert platform.settings.unused_minutes == MINUTES
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def ready_since(platform: Platform, workload: Workload, **ago: float) -> Workload:
    """The same server, ready for so long."""
    at = utc_now() - timedelta(**ago)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, ready_at=at)
    return get(platform, workload.id)


# ---------------------------------------------------------------------------- given back


def test_a_server_that_nobody_opened_in_time_is_given_back_with_the_end_of_its_charges(
    platform: Platform,
) -> None:
    workload = ready_since(platform, start(platform, gpus=2), minutes=16)
    assert give_back(platform, workload.id)
    ended = get(platform, workload.id)
    assert (ended.state, ended.end_reason) == (State.ENDED, "never opened")
    assert workload.ready_at is not None
    assert ended.charge_until == workload.ready_at + timedelta(minutes=MINUTES)
    assert held(platform) == set()


def test_its_time_has_to_be_over(platform: Platform) -> None:
    workload = ready_since(platform, start(platform), minutes=14, seconds=50)
    assert not give_back(platform, workload.id)
    assert state(platform, workload) is State.RUNNING
    assert get(platform, workload.id).charge_until is None


def test_whoever_comes_in_the_last_moment_keeps_the_server(platform: Platform) -> None:
    workload = ready_since(platform, start(platform), minutes=16)
    at = utc_now()
    assert note_connected(platform, workload.id, "sign-in", at)
    assert not give_back(platform, workload.id)
    assert get(platform, workload.id).connected_at == at
    assert opens_until(platform, get(platform, workload.id)) is None


def test_a_connection_is_written_down_once_and_only_of_what_runs(platform: Platform) -> None:
    workload = start(platform)
    first = utc_now()
    assert note_connected(platform, workload.id, "sign-in", first)
    assert not note_connected(platform, workload.id, "activity", utc_now())
    assert get(platform, workload.id).connected_at == first
    assert actions(platform, workload.id).count("workload.connected") == 1
    waiting = submit(platform, "bob")
    assert not note_connected(platform, waiting.id, "sign-in", first)
    assert opens_until(platform, waiting) is None


def test_a_server_tells_of_its_use_often_enough_and_not_too_often(platform: Platform) -> None:
    seconds = platform.settings.activity_seconds
    assert 60 <= seconds <= 100
    often = platform.settings.model_copy(update={"unused_minutes": 0.05})
    rarely = platform.settings.model_copy(update={"unused_minutes": 600.0})
    assert (often.activity_seconds, rarely.activity_seconds) == (1, 300)


# ---------------------------------------------------------------------------- what a server says


def test_what_a_server_says_of_its_use_is_read_with_or_without_a_time_zone() -> None:
    at = datetime(2026, 11, 21, 14, 3, tzinfo=UTC)
    for text in ("2026-11-21T14:03:00Z", "2026-11-21T14:03:00+00:00", "2026-11-21T14:03:00"):
        body = json.dumps({"servers": {"a": {"last_activity": text}}, "last_activity": text})
        assert _told(body.encode()) == {"a": at}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff", b'{"servers": []}', b'{"servers": {"a": {}}}']
    + [b'{"servers": {"a": {"last_activity": %s}}}' % each for each in (b'"now"', b"1", b"null")],
)
def test_what_is_no_word_of_a_server_is_no_verdict(body: bytes) -> None:
    assert _told(body) == {}


# ---------------------------------------------------------------------------- the owner's page


def notes(platform: Platform, workload: Workload, *, tells_use: bool = False) -> list[str]:
    """What the list of servers says beside one of them."""
    with platform.database.reading() as connection:
        rows = [each for each in workloads.open_workloads(connection) if each.user == workload.user]
    spawner = SimpleNamespace(
        platform=platform,
        tells_use=tells_use,
        pool=SimpleNamespace(
            state=SimpleNamespace(servers={(each.user, each.server_name): each for each in rows})
        ),
        user=SimpleNamespace(
            name=workload.user, spawners={each.server_name: None for each in rows}
        ),
    )
    return list(SpawnerViews._notes(spawner, get(platform, workload.id)))  # type: ignore[arg-type]


def test_the_owner_reads_that_a_server_will_be_stopped_early_and_why(platform: Platform) -> None:
    workload = start(platform)
    assert _warning(workload) == ""
    with platform.database.transaction() as connection:
        values = {"notice_reason": "preempted", "notice_detail": "Gold needs its place."}
        workloads.set_values(connection, workload.id, **values)
    said = _warning(get(platform, workload.id))
    assert said == "Gold needs its place. Save your work."


def test_what_runs_on_a_reservation_ends_with_it_unless_the_reservation_is_given_up(
    platform: Platform,
) -> None:
    at = utc_now() + timedelta(seconds=0.2)
    new = NewReservation("Class", at, at + timedelta(minutes=30), 4, users=["alice"])
    kept = reserve(platform, new, Actor("teacher"))
    time.sleep(0.3)
    workload = start(platform, hours=2)
    assert workload.reservation == kept.id
    assert ends_at(workload, utc_now()) == kept.ends_at
    assert notes(platform, workload) == ["It ends with the reservation that it runs on."]
    cancel_reservation(platform, kept.id, Actor("teacher"))
    workload = get(platform, workload.id)
    assert notes(platform, workload) == []
    assert workload.admitted_at is not None
    assert ends_at(workload, utc_now()) == workload.admitted_at + timedelta(hours=2)


def test_the_owner_reads_that_nobody_opened_it_only_while_that_is_known(platform: Platform) -> None:
    workload = start(platform)
    assert notes(platform, workload) == []
    (said,) = notes(platform, workload, tells_use=True)
    assert said == "Nobody has opened it yet. 15 minutes after its start it is given back."
    note_connected(platform, workload.id, "sign-in", utc_now())
    assert notes(platform, workload, tells_use=True) == []


def test_the_owner_reads_that_the_server_beside_still_runs(platform: Platform) -> None:
    blocker = start(platform, "bob", 4)
    waiting = submit(platform, gpus=2)
    platform.run_pass()
    cpu = start(platform, gpus=0, server="cpu", keeps_place_for=waiting.id)
    assert notes(platform, cpu) == ["It keeps you going while the default one waits for its GPUs."]
    lifecycle.stop(platform, blocker.id, "stopped", Actor("bob"))
    assert state(platform, waiting) is State.ADMITTED
    assert notes(platform, cpu) == [
        "What you waited for is there: the default one. This one still runs."
    ]
    assert notes(platform, waiting) == [
        "The server that kept you going meanwhile, “cpu”, still runs."
    ]


# ---------------------------------------------------------------------------- beside


def test_what_runs_beside_has_the_image_and_the_least_of_the_rest(platform: Platform) -> None:
    start(platform, "bob", 4)
    waiting = submit(platform, gpus=2, hours=5, profile="own", image="dcloud/mine:1")
    profile = platform.profiles.current()["own"]
    beside = choice_beside(waiting, profile)
    assert (beside.profile, beside.image, beside.hours) == ("own", "dcloud/mine:1", 5)
    assert (beside.gpus, beside.gpu_model) == (0, None)
    assert beside.memory_gib == min(profile.memory_gib.choices)
    assert beside.cpus == min(profile.cpus.choices)


def test_what_runs_beside_is_found_and_is_not_what_one_asked_for_last(platform: Platform) -> None:
    start(platform, "bob", 4)
    waiting = submit(platform, gpus=2)
    with platform.database.reading() as connection:
        assert workloads.beside(connection, waiting.id) is None
    cpu = submit(platform, gpus=0, server="cpu", keeps_place_for=waiting.id)
    with platform.database.reading() as connection:
        found = workloads.beside(connection, waiting.id)
        last = workloads.last_choice(connection, "alice")
    assert found is not None and found.id == cpu.id
    assert last is not None and last["gpus"] == 2
    lifecycle.stop(platform, cpu.id, "stopped", Actor("alice"))
    with platform.database.reading() as connection:
        assert workloads.beside(connection, waiting.id) is None
