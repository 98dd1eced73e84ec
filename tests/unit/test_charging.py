"""A session's charges: what is charged, when, and what is not.

The engine is in memory and says the times of containers as told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dcloud_spawner import accounting, charging, granting, lifecycle, resizing, transfers
from dcloud_spawner.engines.base import Health
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, entries, meters, workloads
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every
from dcloud_spawner.store.workloads import Workload
from tests.memory_engine import GIB, MemoryEngine
from tests.platforms import get, held, launch, opened, settings_for, start, submit

pytestmark = pytest.mark.database

BOSS = Actor("boss")
HOUR = timedelta(hours=1)


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, engine: MemoryEngine) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), engine) as platform:
        yield platform
        with platform.database.reading() as connection:
            for account in accounts.all_accounts(connection):
                rows = entries.page(connection, account.id, limit=10_000)
                assert sum(row.microcredits for row in rows) == account.balance_microcredits
                left = sum(
                    lot.left_microcredits for lot in entries.open_lots(connection, account.id)
                )
                assert left == max(0, account.balance_microcredits)


def began_ago(platform: Platform, workload: Workload, ago: timedelta) -> datetime:
    """Let a session's container have been started some time ago."""
    began = utc_now() - ago
    with platform.database.transaction() as connection:
        meter = meters.find(connection, workload.id)
        assert meter is not None and meter.began_at is not None
        meters.set_values(connection, workload.id, began_at=began, watermark_at=began)
        connection.exec_driver_sql("DELETE FROM spans")
        workloads.set_values(connection, workload.id, engine_started_at=began)
        found = workloads.get(connection, workload.id)
        span = charging._span(connection, found, began)
        meters.add_span(connection, workload.id, span)
    return began


def settle(platform: Platform, workload: Workload, until: datetime) -> int:
    with platform.database.transaction() as connection:
        return charging.settle(connection, workload.id, until, utc_now())


def lines(platform: Platform, workload: Workload) -> list[Entry]:
    with platform.database.reading() as connection:
        return entries.of_workload(connection, workload.id)


def account_of(platform: Platform, user: str) -> Account:
    with platform.database.reading() as connection:
        found = accounts.personal(connection, user)
    assert found is not None
    return found


def ended(platform: Platform, engine: MemoryEngine, workload: Workload, at: datetime) -> None:
    """The engine says that it ended at a time, and it is released."""
    lifecycle.begin_stop(platform, workload.id, "stopped", BOSS)
    facts = engine.stop(workload.id, 0)
    assert facts is not None
    lifecycle.confirm_gone(platform, workload.id, replace(facts, finished_at=at))


def test_an_hour_of_two_gpus_costs_two_credits_however_often_it_is_settled(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=2)
    began = began_ago(platform, workload, 2 * HOUR)
    for minute in range(1, 60, 7):
        settle(platform, workload, began + timedelta(minutes=minute, microseconds=minute))
        settle(platform, workload, began + timedelta(minutes=minute - 1))  # a replayed tick
    ended(platform, engine, workload, began + HOUR)
    assert account_of(platform, "alice").balance_microcredits == -2 * MICRO
    rows = lines(platform, workload)
    assert sum(row.gpu_microseconds for row in rows) == 2 * 3_600_000_000
    assert [row.from_at for row in rows[1:]] == [row.until_at for row in rows[:-1]]


def test_a_start_that_was_never_ready_costs_nothing_and_says_so(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = submit(platform)
    platform.run_pass()
    launch(platform, workload.id)
    lifecycle.stop(platform, workload.id, "failed", BOSS)
    (line,) = lines(platform, workload)
    assert (line.microcredits, line.reason) == (0, charging.NEVER_READY)


def test_a_queued_request_that_is_cancelled_leaves_nothing(platform: Platform) -> None:
    workload = submit(platform)
    lifecycle.cancel(platform, workload.id, "cancelled", BOSS)
    assert lines(platform, workload) == []


def test_a_container_that_vanished_is_charged_up_to_when_it_was_seen(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    began = began_ago(platform, workload, 3 * HOUR)
    settle(platform, workload, began + HOUR)
    lifecycle.begin_stop(platform, workload.id, "lost", BOSS)
    lifecycle.confirm_gone(platform, workload.id, None)
    rows = lines(platform, workload)
    assert [row.microcredits for row in rows] == [-MICRO, 0]
    assert "gone without a word" in rows[-1].reason


def test_a_container_that_vanished_before_anybody_opened_it_is_charged_as_far_as_it_was_seen(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    began = began_ago(platform, workload, HOUR)
    settle(platform, workload, began + HOUR / 6)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, charge_until=began + HOUR / 2)
    lifecycle.begin_stop(platform, workload.id, "never opened", BOSS)
    lifecycle.confirm_gone(platform, workload.id, None)
    rows = lines(platform, workload)
    assert [row.microcredits for row in rows] == [-MICRO // 6 + 1, 0]
    assert rows[0].until_at == began + HOUR / 6


def test_a_session_that_ended_before_its_last_tick_gets_the_rest_back(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=4)
    began = began_ago(platform, workload, 3 * HOUR)
    settle(platform, workload, began + 2 * HOUR)
    ended(platform, engine, workload, began + HOUR)  # the clock was set back meanwhile
    rows = lines(platform, workload)
    assert [row.kind for row in rows] == [Kind.CHARGE, Kind.ADJUSTMENT]
    assert account_of(platform, "alice").balance_microcredits == -4 * MICRO
    assert sum(row.gpu_microseconds for row in rows) == 4 * 3_600_000_000


def test_what_nobody_opened_is_charged_no_longer_than_its_time(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform)
    began = began_ago(platform, workload, 2 * HOUR)
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, charge_until=began + HOUR)
    settle(platform, workload, began + 2 * HOUR)
    ended(platform, engine, workload, began + 2 * HOUR)
    assert account_of(platform, "alice").balance_microcredits == -MICRO


def test_time_with_a_faulty_gpu_costs_nothing_and_says_why(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=2)
    began = began_ago(platform, workload, HOUR)
    broken = min(held(platform, workload))
    (only,) = engine.nodes
    gpus = tuple(
        replace(gpu, health=Health.LOST) if gpu.uuid == broken else gpu for gpu in only.accelerators
    )
    engine.nodes = (replace(only, accelerators=gpus),)
    platform.refresh_inventory()
    settle(platform, workload, utc_now())
    ended(platform, engine, workload, utc_now() + HOUR)
    rows = lines(platform, workload)
    assert any(row.microcredits == 0 and "has a fault" in row.reason for row in rows)
    charged = -account_of(platform, "alice").balance_microcredits
    assert 2 * MICRO <= charged < 2.1 * MICRO
    assert began < utc_now() - HOUR


def test_a_driver_that_is_silent_makes_nothing_free(
    platform: Platform, engine: MemoryEngine
) -> None:
    workload = start(platform, gpus=2)
    (only,) = engine.nodes
    engine.nodes = (replace(only, accelerators=(), accelerators_known=False),)
    platform.refresh_inventory()
    with platform.database.reading() as connection:
        assert [span.free_reason for span in meters.spans_of(connection, workload.id)] == [""]


def test_a_resize_is_charged_from_when_it_is_done(platform: Platform, engine: MemoryEngine) -> None:
    accounting.change_rate(platform, Resource.MEMORY_GIB, 100_000, BOSS)
    workload = start(platform, gib=1)
    resizing.change_limits(platform, workload.id, 2 * GIB, 1000, BOSS)
    with platform.database.reading() as connection:
        spans = meters.spans_of(connection, workload.id)
    assert [span.memory_bytes for span in spans] == [GIB, 2 * GIB]
    until = spans[1].begins_at + HOUR
    settle(platform, workload, until)
    first = (spans[1].begins_at - spans[0].begins_at) / HOUR
    expected = first * 1_100_000 + 1_200_000
    assert -account_of(platform, "alice").balance_microcredits == pytest.approx(expected, abs=2)


def test_a_new_rate_changes_nothing_that_is_over(platform: Platform, engine: MemoryEngine) -> None:
    workload = start(platform)
    began = began_ago(platform, workload, HOUR)
    settle(platform, workload, began + HOUR)
    before = account_of(platform, "alice").balance_microcredits
    accounting.change_rate(platform, Resource.GPU, 5 * MICRO, BOSS)
    with pytest.raises(InvalidChoice, match="valid_from"):
        accounting.change_rate(platform, Resource.GPU, 5, BOSS, valid_from=began)
    assert settle(platform, workload, began + HOUR) == 0
    assert account_of(platform, "alice").balance_microcredits == before
    now = utc_now()
    at_five = settle(platform, workload, now + HOUR)
    assert at_five == pytest.approx(5 * MICRO, rel=0.01)


# ---------------------------------------------------------------------------- accounts


def test_a_project_pays_for_its_members_and_for_nobody_else(platform: Platform) -> None:
    made = accounting.create_project(platform, "vision-lab", ["alice"], BOSS)
    accounting.set_member(platform, made.id, "bob", Role.MEMBER, BOSS)
    granting.grant(platform, made.id, 5 * MICRO, BOSS, reason="to begin with")
    assert submit(platform, "bob", account="vision-lab").account == made.id
    with pytest.raises(NotFound, match="vision-lab"):
        submit(platform, "eve", account="vision-lab")
    accounting.change_account(platform, made.id, BOSS, closed=True)
    with pytest.raises(Conflict, match="closed"):
        submit(platform, "alice", account="vision-lab")
    with pytest.raises(Conflict, match="closed"):
        granting.grant(platform, made.id, MICRO, BOSS, reason="for nobody")
    with pytest.raises(Conflict, match="only owner"):
        accounting.set_member(platform, made.id, "alice", None, BOSS)


def test_what_expires_first_is_used_first_and_a_transfer_keeps_its_time(
    platform: Platform,
) -> None:
    one = accounting.create_project(platform, "one", ["alice"], BOSS)
    two = accounting.create_project(platform, "two", ["bob"], BOSS)
    soon = utc_now() + HOUR
    granting.grant(platform, one.id, 5 * MICRO, BOSS, reason="for ever")
    granting.grant(platform, one.id, 3 * MICRO, BOSS, reason="for an hour", ends_at=soon)
    sent = transfers.transfer(platform, one.id, two.id, 4 * MICRO, BOSS, reason="a gift", key="k")
    assert (
        transfers.transfer(platform, one.id, two.id, 4 * MICRO, BOSS, reason="a gift", key="k")
        == sent
    )
    with platform.database.reading() as connection:
        left = {
            lot.expires_at: lot.left_microcredits for lot in entries.open_lots(connection, two.id)
        }
    assert left == {soon: 3 * MICRO, None: MICRO}
    with platform.database.transaction() as connection:
        assert granting.expire_lots(connection, soon) == 1
        assert accounts.get(connection, two.id).balance_microcredits == MICRO
    with pytest.raises(Conflict, match=r"4\.00 credits"):
        transfers.transfer(platform, one.id, two.id, 5 * MICRO, BOSS, reason="too much")


@pytest.mark.parametrize("carries", [False, True])
def test_a_weekly_grant_comes_once_a_week_and_carries_over_or_not(
    platform: Platform, carries: bool
) -> None:
    made = accounting.create_project(platform, "one", ["alice"], BOSS)
    found = granting.grant(
        platform, made.id, 7 * MICRO, BOSS, reason="weekly", every=Every.WEEK, carry_over=carries
    )
    later = utc_now() + timedelta(days=15)
    with platform.database.transaction() as connection:
        for _ in range(2):
            granting.expire_lots(connection, later)
            granting.give_due(connection, granting.grants.get(connection, found.id), later)
            granting.expire_lots(connection, later)
        balance = accounts.get(connection, made.id).balance_microcredits
    assert balance == (21 if carries else 7) * MICRO


def test_a_charge_is_refunded_once_at_most(platform: Platform, engine: MemoryEngine) -> None:
    workload = start(platform)
    began = began_ago(platform, workload, HOUR)
    settle(platform, workload, began + HOUR)
    (line,) = lines(platform, workload)
    transfers.refund(platform, line.id, BOSS, reason="a bad disk", microcredits=400_000)
    transfers.refund(platform, line.id, BOSS, reason="the rest")
    assert account_of(platform, "alice").balance_microcredits == 0
    with pytest.raises(Conflict, match="left to refund"):
        transfers.refund(platform, line.id, BOSS, reason="once more")


def test_new_people_get_what_the_settings_give(
    database_url: str, tmp_path: Path, engine: MemoryEngine
) -> None:
    values = {"personal_grant_credits": 20.0, "personal_budget": "hard"}
    with opened(settings_for(database_url, tmp_path, **values), engine) as platform:
        submit(platform, "carl")
        assert account_of(platform, "carl").balance_microcredits == 20 * MICRO
        get(platform, submit(platform, "carl", server="two").id)
        assert account_of(platform, "carl").balance_microcredits == 20 * MICRO
