"""Roles and limits: who is refused, who waits, and what they are told."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from dcloud_spawner import lifecycle, limits, overrides, resizing
from dcloud_spawner.errors import ConfigurationError, InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.gpu_time import WEEK, read_gpu_time
from dcloud_spawner.limits import Limit
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.roles import DEFAULT_ROLES, RoleLimits, most_generous, roles_of
from dcloud_spawner.settings import Settings, load_settings
from dcloud_spawner.store import events, homes, workloads
from dcloud_spawner.store import limits as rows
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.ledger_schema import usage_hours
from dcloud_spawner.store.schema import HOLDING, State
from tests.gates import starts_of_everybody
from tests.memory_engine import GIB, MemoryEngine, node
from tests.platforms import ALICE, check, get, opened, place, settings_for, start, state, submit

ADMIN = Actor("admin")
HOUR = timedelta(hours=1)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    """With the limits that there are by default."""
    yield from _platform(database_url, tmp_path)


def _platform(database_url: str, tmp_path: Path, **roles: Any) -> Iterator[Platform]:
    machines = [node(gpus=4, name=f"n{number}", gib=128) for number in range(3)]
    settings = settings_for(database_url, tmp_path, roles=roles)
    with opened(settings, MemoryEngine(*machines)) as found:
        yield found
        with found.database.reading() as connection:
            check(connection)


def refused(platform: Platform, *arguments: Any, **more: Any) -> NotAllowed:
    with pytest.raises(NotAllowed) as caught:
        submit(platform, *arguments, **more)
    return caught.value


def give(platform: Platform, user: str, name: str, value: object, **more: Any) -> None:
    overrides.set_override(platform, user, name, value, "for a test", ADMIN, **more)


def of(platform: Platform, user: str, **more: Any) -> dict[str, Limit]:
    with platform.database.reading() as connection:
        found = limits.limits_of(connection, platform.settings, user, utc_now(), **more)
    return {each.name: each for each in found}


def used_up(platform: Platform, user: str, hours: float, ago: timedelta) -> datetime:
    """GPU time on the ledger; returns the hour of it."""
    hour = (utc_now() - ago).replace(minute=0, second=0, microsecond=0)
    with platform.database.transaction() as connection:
        connection.execute(
            insert(usage_hours).values(
                account="a",
                user=user,
                gpu_model="A100",
                hour=hour,
                gpu_microseconds=int(hours * 3_600_000_000),
            )
        )
    return hour


# ---------------------------------------------------------------------------- at once


def test_what_a_limit_never_allows_is_refused_and_nothing_is_written(platform: Platform) -> None:
    error = refused(platform, "ann", 3)
    assert (error.code, error.field, error.status_code) == ("limit:gpus", "gpus", 403)
    assert error.message == "gpus: Your limit is 2 GPUs, and you asked for 3."
    assert error.hint == "Choose at most 2, or ask for more: Usage → Ask for more."
    assert refused(platform, "ann", 0, gib=33).code == "limit:memory_gib"
    with platform.database.reading() as connection:
        assert not workloads.open_workloads(connection)
        assert [line.action for line in events.read(connection, target="ann")] == []


def test_what_fits_only_alone_waits_and_says_which_server_is_in_the_way(
    platform: Platform,
) -> None:
    train = start(platform, "ann", 1, server="train")
    start(platform, "ann", 1)
    waiting = submit(platform, "ann", 1, server="more")
    assert waiting.blocked == "limit:gpus"
    assert waiting.blocked_reason == (
        "Your limit is 2 GPUs, and your default server uses 1 and “train” uses 1. It starts when "
        "that is given back. Stop your default server or “train”. Ask for more."
    )
    platform.run_pass()
    assert (state(platform, waiting), place(platform, waiting)) == (State.QUEUED, None)
    lifecycle.begin_stop(platform, train.id, "stopped", ALICE)
    platform.run_pass()  # it holds its GPU until the engine confirms that it is gone
    assert state(platform, waiting) is State.QUEUED
    lifecycle.finish_stop(platform, train.id)
    assert state(platform, waiting) is State.ADMITTED


def test_memory_counts_at_once_too(platform: Platform) -> None:
    start(platform, "ann", 0, gib=20, server="big")
    waiting = submit(platform, "ann", 1, gib=16)
    assert waiting.blocked == "limit:memory_gib"
    assert waiting.blocked_reason.startswith(
        "Your limit is 32 GiB of memory, and “big” uses 20. It starts when that is given back. "
        "12 GiB of memory of it are left: choose less or stop “big”."
    )
    assert submit(platform, "bob", 1, gib=16).blocked == ""


def test_work_without_a_gpu_is_not_in_the_way_of_the_limit_of_gpus(platform: Platform) -> None:
    start(platform, "ann", 2, server="a")
    assert submit(platform, "ann", 0, server="b").blocked == ""


def test_nobody_waits_behind_somebody_at_their_limit(platform: Platform) -> None:
    start(platform, "ann", 2, server="a")
    mine = [submit(platform, "ann", 2, server=f"s{number}") for number in range(20)]
    last = submit(platform, "bob", 1)
    platform.run_pass()
    assert state(platform, last) is State.ADMITTED
    assert {state(platform, found) for found in mine} == {State.QUEUED}


def test_a_running_server_does_not_grow_beyond_a_limit(platform: Platform) -> None:
    start(platform, "ann", 1, gib=16, server="a")
    grown = start(platform, "ann", 0, gib=4, server="b")
    with pytest.raises(NotAllowed) as caught:
        resizing.change_limits(platform, grown.id, 17 * GIB, grown.cpu_millicores, ADMIN)
    assert caught.value.code == "limit:memory_gib"
    assert caught.value.message == "memory_gib: Your limit is 32 GiB of memory, and “a” uses 16."
    resizing.change_limits(platform, grown.id, 16 * GIB, grown.cpu_millicores, ADMIN)
    assert of(platform, "ann")["memory_gib"].used == 32


@pytest.mark.parametrize("seed", range(4))
def test_nobody_ever_holds_more_than_their_limit_and_nothing_idles_beside_it(
    platform: Platform, seed: int
) -> None:
    """Random requests, stops, overrides and passes: the pass starts exactly those whom asking
    everybody one after the other would start, and what is held stays within the limits."""
    chooser = random.Random(seed)
    groups = {"u0": ("premium",), "u1": ("admin",), "u2": (), "u3": (), "u4": ("premium", "x")}
    for turn in range(60):
        user = chooser.choice(sorted(groups))
        wish = {"gpus": chooser.choice((0, 1, 1, 2, 3, 4)), "gib": chooser.choice((1, 8, 20))}
        try:
            submit(platform, user, server=f"s{turn}", groups=groups[user], **wish)
        except NotAllowed as error:
            assert error.code in ("limit:gpus", "limit:memory_gib")
        if turn % 4 == 0:
            expected = starts_of_everybody(platform)
            assert [found.request.id for found in platform.run_pass().starts] == expected
            _within(platform)
        if turn % 9 == 0:
            give(platform, chooser.choice(("u2", "u3")), "gpus", chooser.choice((2, 3, 4)))
            _within(platform)
        _end_some(platform, chooser)


def _end_some(platform: Platform, chooser: random.Random) -> None:
    with platform.database.reading() as connection:
        running = workloads.in_states(connection, (State.ADMITTED,))
        stopping = workloads.in_states(connection, (State.STOPPING,))
    for found in running:
        if chooser.random() < 0.1:
            lifecycle.begin_stop(platform, found.id, "stopped", ALICE)
    for found in stopping:
        if chooser.random() < 0.5:
            lifecycle.confirm_gone(platform, found.id, None)


def _within(platform: Platform) -> None:
    gpus: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    with platform.database.reading() as connection:
        for found in workloads.in_states(connection, HOLDING):
            gpus[found.user] += found.gpus
            memory[found.user] += found.memory_bytes
        most = {row.user: row.value for row in rows.active_overrides(connection, utc_now())}
    known = {"u0": 4, "u1": 99, "u2": 2, "u3": 2, "u4": 4, **most}
    # A limit that was lowered stops nobody: what was let in under a higher one may run on.
    raised = {user: max(known[user], 4) if user in most else known[user] for user in known}
    assert all(gpus[user] <= raised[user] for user in gpus), gpus
    assert all(
        memory[user] <= (32 if user in ("u2", "u3") else 64) * GIB
        for user in memory
        if user != "u1"
    )


def test_passes_of_several_processes_let_nobody_beyond_a_limit(platform: Platform) -> None:
    """Each transaction counts what the one before it has let in."""
    names = [f"s{number}" for number in range(12)]

    def ask(server: str) -> None:
        submit(platform, "ann", 1, server=server)
        platform.run_pass()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, names))
    with platform.database.reading() as connection:
        waiting = workloads.queued(connection)
        running = workloads.holding(connection)
    assert len(running) == 2
    assert {found.blocked for found in waiting} == {"limit:gpus"}


# ---------------------------------------------------------------------------- roles


def test_a_group_gives_its_role_and_administrators_have_no_limits(platform: Platform) -> None:
    assert start(platform, "ann", 4, groups=("premium",)).gpus == 4
    assert start(platform, "root", 4, gib=100, administrator=True).gpus == 4
    assert start(platform, "bob", 4, groups=("admin",)).gpus == 4
    assert refused(platform, "cyd", 4, groups=("others",)).code == "limit:gpus"
    assert of(platform, "ann")["gpus"].source == "premium"
    assert of(platform, "nobody")["gpus"].source == "standard"


def test_of_several_roles_each_limit_is_the_most_generous() -> None:
    first = RoleLimits(gpus=2, memory_gib=64, gpu_models=("A",), hours=4, tier="bronze")
    second = RoleLimits(gpus=4, memory_gib=8, gpu_models=("B",), tier="gold")
    found = most_generous([first, second], {"gold": 0.25, "bronze": 1.0})
    assert found == RoleLimits(gpus=4, memory_gib=64, gpu_models=("A", "B"), tier="gold")


def test_the_default_role_is_for_those_without_another() -> None:
    known = dict(DEFAULT_ROLES)
    assert roles_of(known, "standard", ("x",), administrator=False) == ("standard",)
    assert roles_of(known, "standard", ("premium", "x"), administrator=False) == ("premium",)
    assert roles_of(known, "standard", ("premium",), administrator=True) == ("admin", "premium")


def test_the_defaults_are_those_of_the_documentation() -> None:
    standard = Settings().roles["standard"]
    assert (standard.gpus, standard.memory_gib, standard.storage_gib) == (2, 32, 100)
    premium = Settings().roles["premium"]
    assert (premium.gpus, premium.memory_gib, premium.storage_gib) == (4, 64, 500)
    assert (standard.environments, premium.environments) == (5, 10)
    assert Settings().roles["admin"] == RoleLimits()


def test_settings_add_roles_and_replace_built_in_ones() -> None:
    found = load_settings(roles={"phd": {"gpus": 3}, "standard": {"gpus": 1}}).roles
    assert found["phd"] == RoleLimits(gpus=3)
    assert found["standard"] == RoleLimits(gpus=1)
    assert found["premium"] == DEFAULT_ROLES["premium"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"roles": {"phd": {"tier": "platinum"}}}, "phd has the tier 'platinum'"),
        ({"default_role": "phd"}, "default_role: there is no 'phd'"),
        ({"roles": {"phd": {"gpu": 3}}}, "roles.phd.gpu"),
        ({"roles": {"phd": {"gpus": -1}}}, "greater than or equal to 0"),
    ],
)
def test_wrong_roles_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace(".", r"\.")):
        load_settings(**values)


def test_the_tier_of_a_role_joins_those_of_groups(database_url: str, tmp_path: Path) -> None:
    for platform in _platform(database_url, tmp_path, phd={"tier": "silver"}):
        assert submit(platform, "ann", groups=("phd",)).tier == "silver"
        assert submit(platform, "bob").tier == "bronze"
        give(platform, "bob", "tier", "gold")
        assert submit(platform, "bob", server="b").tier == "gold"


# ---------------------------------------------------------------------------- one person


def test_a_limit_of_one_person_counts_until_its_end(platform: Platform) -> None:
    now = utc_now()
    give(platform, "ann", "gpus", 4, ends_at=now + HOUR)
    assert submit(platform, "ann", 4).blocked == ""
    found = of(platform, "ann")["gpus"]
    assert (found.value, found.source, found.ends_at) == (4, "override", now + HOUR)
    assert found.reason == "for a test"
    with platform.database.reading() as connection:
        later = limits.standing(connection, platform.settings, "ann", now + 2 * HOUR)
    assert later.limits.gpus == 2


def test_a_higher_limit_lets_in_who_waits_for_it(platform: Platform) -> None:
    start(platform, "ann", 2, server="a")
    waiting = submit(platform, "ann", 2, server="b")
    give(platform, "ann", "gpus", 4)
    assert state(platform, waiting) is State.ADMITTED


def test_a_lower_limit_stops_nothing_and_blocks_who_waits(platform: Platform) -> None:
    running = start(platform, "ann", 1, server="a")
    for user, gpus in (("x", 4), ("y", 4), ("z", 3)):
        start(platform, user, gpus, administrator=True)
    waiting = submit(platform, "ann", 1, server="b")
    platform.run_pass()
    assert (waiting.blocked, place(platform, waiting)) == ("", 1)
    give(platform, "ann", "gpus", 0)
    assert state(platform, running) is State.RUNNING
    platform.run_pass()
    found = get(platform, waiting.id)
    assert (found.state, found.blocked) == (State.QUEUED, "limit:gpus")
    assert found.blocked_reason.startswith("Your limit is 0 GPUs, and you asked for 1.")


def test_a_role_of_one_person_overrides_their_groups(platform: Platform) -> None:
    give(platform, "ann", "role", "premium")
    assert start(platform, "ann", 4).gpus == 4
    give(platform, "bob", "role", "standard")
    assert refused(platform, "bob", 4, administrator=True).code == "limit:gpus"
    overrides.remove_override(platform, "ann", "role", ADMIN)
    assert of(platform, "ann")["gpus"].value == 2
    with pytest.raises(NotFound):
        overrides.remove_override(platform, "ann", "role", ADMIN)


def test_only_the_last_override_counts_and_all_are_in_the_log(platform: Platform) -> None:
    give(platform, "ann", "gpus", 8)
    give(platform, "ann", "gpus", None)
    assert of(platform, "ann")["gpus"].value is None
    overrides.remove_override(platform, "ann", "gpus", ADMIN)
    assert of(platform, "ann")["gpus"].value == 2
    with platform.database.reading() as connection:
        lines = events.read(connection, target="ann")
        assert len(rows.overrides_of(connection, "ann")) == 2
    assert [line.action for line in lines] == ["limit.set", "limit.set", "limit.remove"]
    assert lines[0].detail == {"limit": "gpus", "value": 8, "reason": "for a test"}


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("gpus", -1, "value"),
        ("gpus", "2", "value"),
        ("gpus", True, "value"),
        ("gpus", 2.5, "value"),
        ("memory_gib", float("nan"), "value"),
        ("memory_gib", 0, "value"),
        ("gpu_models", [], "value"),
        ("gpu_models", ["A\x00"], "value"),
        ("gpu_models", "A100", "value"),
        ("hours", 0, "value"),
        ("tier", "platinum", "value"),
        ("tier", 3, "value"),
        ("role", "boss", "value"),
        ("role", None, "value"),
        ("gpu", 2, "limit"),
    ],
)
def test_values_that_are_none_are_refused(
    platform: Platform, name: str, value: object, field: str
) -> None:
    with pytest.raises(InvalidChoice) as caught:
        give(platform, "ann", name, value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("user", "more", "field"),
    [
        ("", {}, "user"),
        ("ann\n", {}, "user"),
        ("ann", {"ends_at": datetime(2020, 1, 1, tzinfo=UTC)}, "ends_at"),
    ],
)
def test_overrides_for_nobody_or_in_the_past_are_refused(
    platform: Platform, user: str, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidChoice) as caught:
        give(platform, user, "gpus", 3, **more)
    assert caught.value.field == field


# ---------------------------------------------------------------------------- the other limits


def test_models_hours_and_requests_are_limited(database_url: str, tmp_path: Path) -> None:
    role = {"gpu_models": ["H100"], "hours": 4, "queued": 1}
    for platform in _platform(database_url, tmp_path, standard=role):
        named = refused(platform, "ann", 1, gpu_model="A100")
        assert named.message == "gpu_model: Your GPU models are H100, and you asked for A100."
        anyone = refused(platform, "ann", 1)
        assert anyone.message == "gpu_model: Your GPU models are H100, and you asked for any."
        long = refused(platform, "ann", 0, hours=5)
        assert long.message == "hours: Your limit is 4 hours a session, and you asked for 5."
        submit(platform, "ann", 0, server="a")
        second = refused(platform, "ann", 0, server="b")
        assert second.code == "limit:queued"
        assert second.message == "Your limit is 1 request in the queue, and “a” waits."
        platform.run_pass()
        submit(platform, "ann", 0, server="b")


def test_a_home_that_is_larger_than_the_storage_lets_nothing_start(platform: Platform) -> None:
    now = utc_now()
    with platform.database.transaction() as connection:
        homes.insert(connection, "home-ann", "ann", now)
    assert submit(platform, "ann", server="unmeasured").blocked == ""
    with platform.database.transaction() as connection:
        homes.set_size(connection, "home-ann", 101 * GIB, now)
    error = refused(platform, "ann")
    assert error.code == "limit:storage_gib"
    assert error.message == ("Your limit is 100 GiB of storage, and your home has 101.0 GiB.")
    assert of(platform, "ann")["storage_gib"].used == 101


def test_gpu_hours_that_are_used_up_say_when_they_are_back(
    database_url: str, tmp_path: Path
) -> None:
    for platform in _platform(database_url, tmp_path, standard={"gpu_hours_week": 10}):
        old = used_up(platform, "ann", 3, timedelta(days=6))
        used_up(platform, "ann", 5, timedelta(days=1))
        used_up(platform, "ann", 50, timedelta(days=8))  # no longer counts
        error = refused(platform, "ann", 2, hours=2)
        back = old + HOUR + WEEK
        assert error.code == "limit:gpu_hours_week"
        assert error.message == (
            "hours: Your limit is 10 GPU-hours in 7 days, 8.0 are used, and this asks for 4. "
            f"Enough of it is free again at {back:%Y-%m-%d %H:%M} UTC."
        )
        assert error.hint.startswith("Choose at most 1 hour, or ask")
        assert submit(platform, "ann", 2, hours=1).blocked == ""
        never = refused(platform, "bob", 2, hours=6)
        assert "free again" not in never.message
        assert submit(platform, "ann", 0, hours=100, server="cpu").blocked == ""


def test_gpu_hours_that_running_servers_may_still_use_are_set_aside(
    database_url: str, tmp_path: Path
) -> None:
    for platform in _platform(database_url, tmp_path, standard={"gpu_hours_month": 10}):
        running = start(platform, "ann", 2, hours=4, server="train")
        waiting = submit(platform, "ann", 1, hours=4)
        assert waiting.blocked == "limit:gpu_hours_month"
        assert "“train” may still use 8.0" in waiting.blocked_reason
        lifecycle.stop(platform, running.id, "stopped", ALICE)
        assert state(platform, waiting) is State.ADMITTED


def test_time_that_is_not_settled_yet_counts_as_used(platform: Platform) -> None:
    running = start(platform, "ann", 2, hours=4, server="train")
    with platform.database.reading() as connection:
        held = rows.held(connection, "ann")
        at = get(platform, running.id).admitted_at
        assert at is not None
        found = read_gpu_time(connection, "ann", held, WEEK, at + HOUR)
    assert found.used_hours == pytest.approx(2, abs=0.01)
    assert found.aside["train"] == pytest.approx(6, abs=0.01)


def test_all_limits_are_listed_with_what_is_used_by_which_server(platform: Platform) -> None:
    start(platform, "ann", 1, gib=8, cores=2, server="a")
    submit(platform, "ann", 1, server="b")
    found = of(platform, "ann")
    assert list(found) == list(limits.TITLES)
    assert (found["gpus"].used, found["gpus"].by, found["gpus"].left) == (1, (("a", 1.0),), 1)
    assert found["memory_gib"].by == (("a", 8.0),)
    assert found["cpus"].used == 2 and found["cpus"].value is None and found["cpus"].left is None
    assert found["queued"].by == (("b", 1.0),)
    assert of(platform, "ann", groups=("premium",))["gpus"].value == 4
