"""Where the ledger could be led astray: closed projects, balances at their bounds, people who are
deleted, credits that expire between two ticks, charges that are given back twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dcloud_spawner import (
    accounting,
    asking,
    charging,
    deleted_users,
    granting,
    lifecycle,
    transfers,
)
from dcloud_spawner.errors import Conflict, EngineUnreachable, NotAllowed
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.limits import limits_of
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.roles import RoleLimits
from dcloud_spawner.store import (
    accounts,
    asks,
    bookkeeping,
    entries,
    grants,
    shares,
    usage,
    workloads,
)
from dcloud_spawner.store.accounts import Account, Budget, Role
from dcloud_spawner.store.asks import NewAsk, What
from dcloud_spawner.store.entries import MOST_MICROCREDITS, Kind, NewEntry, Part
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.usage import By, Scope, Wanted
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.budgets import BudgetKeeper
from hub_services.controller.limits import end_overdue
from hub_services.controller.meter import meter, settle_running
from tests.memory_engine import MemoryEngine, node
from tests.platforms import get, launch, opened, settings_for, state, submit
from tests.platforms import start as run

pytestmark = pytest.mark.database

ADMIN = Actor("admin")
HOUR = timedelta(hours=1)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node(gpus=4))) as found:
        yield found


def project(platform: Platform, budget: Budget, credits: float) -> Account:
    made = accounting.create_project(platform, "lab", ["ann"], ADMIN, budget=budget)
    if credits:
        granting.grant(platform, made.id, round(credits * MICRO), ADMIN, reason="a start")
    return made


def ran(platform: Platform, user: str, gpus: int, so_long: timedelta, **more: object) -> Workload:
    """A server that the engine started so long ago."""
    workload = submit(platform, user, gpus, **more)
    platform.run_pass()
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    facts = replace(launch(platform, workload.id), started_at=utc_now() - so_long)
    engine.containers[workload.id] = facts
    assert lifecycle.mark_ready(platform, workload.id, facts)
    return get(platform, workload.id)


# ---------------------------------------------------------------------------- closed projects


def test_what_runs_on_a_closed_project_ends_with_its_credits(platform: Platform) -> None:
    lab = project(platform, Budget.HARD, 2)
    workload = ran(platform, "ann", 2, HOUR, account="lab", hours=10)
    accounting.change_account(platform, lab.id, ADMIN, closed=True)
    BudgetKeeper(platform).turn()
    assert [found.id for found in end_overdue(platform)] == [workload.id]
    assert get(platform, workload.id).end_reason == "budget"


@pytest.mark.parametrize("budget", list(Budget))
def test_a_closed_project_starts_nobody_who_waited_for_it(
    platform: Platform, budget: Budget
) -> None:
    lab = project(platform, budget, 100)
    other = run(platform, "zoe", 4)
    waits = submit(platform, "ann", 1, account="lab")
    accounting.change_account(platform, lab.id, ADMIN, closed=True)
    lifecycle.stop(platform, other.id, "stopped", ADMIN)
    assert state(platform, waits) is State.QUEUED
    assert get(platform, waits.id).blocked_reason.startswith("lab is closed.")
    accounting.change_account(platform, lab.id, ADMIN, closed=False)
    platform.run_pass()
    assert state(platform, waits) is State.ADMITTED


def test_servers_that_share_an_end_are_stopped_at_the_same_time(platform: Platform) -> None:
    project(platform, Budget.HARD, 3)
    for number in range(3):
        ran(platform, "ann", 1, HOUR, account="lab", hours=10, server=f"s{number}")
    BudgetKeeper(platform).turn()
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    together = threading.Barrier(3, timeout=20)
    engine.before["stop"] = lambda *arguments: together.wait()  # none ends before all are asked to
    assert len(end_overdue(platform)) == 3


# ---------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("sign", [1, -1])
def test_a_balance_at_its_bound_keeps_no_gpu_from_its_release(
    platform: Platform, sign: int
) -> None:
    lab = project(platform, Budget.NONE, 0)
    workload = ran(platform, "ann", 2, HOUR, account="lab", hours=10)
    settle_running(platform)
    with platform.database.reading() as connection:
        balance = accounts.get(connection, lab.id).balance_microcredits
    for amount in (-balance, sign * MOST_MICROCREDITS):
        transfers.adjust(platform, lab.id, amount, ADMIN, reason="as far as it goes")
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    if sign > 0:  # it proves to have ended before what was charged
        facts = engine.containers[workload.id]
        ended = utc_now() - timedelta(minutes=30)
        lifecycle.begin_stop(platform, workload.id, "stopped", ADMIN)
        lifecycle.note_end(platform, workload.id, replace(facts, finished_at=ended))
    lifecycle.stop(platform, workload.id, "stopped", ADMIN)
    lifecycle.finish_stop(platform, workload.id)
    assert state(platform, workload) is State.ENDED
    with platform.database.reading() as connection:
        assert list(verify(connection)) == []


def test_of_a_grant_that_stops_at_the_bound_what_was_given_is_counted(platform: Platform) -> None:
    lab = project(platform, Budget.NONE, 0)
    part = 4 * MOST_MICROCREDITS // 10
    made = granting.grant(
        platform, lab.id, part, ADMIN, reason="each week", every=Every.WEEK, carry_over=True
    )
    begun = utc_now() - timedelta(days=15)
    with platform.database.transaction() as connection:
        grants.set_values(connection, made.id, starts_at=begun, next_at=begun + timedelta(days=7))
    granting.give_due_grants(platform)  # nobody looked for 15 days: two parts, one too much
    with platform.database.reading() as connection:
        found = grants.get(connection, made.id)
        assert (found.given, found.next_at) == (2, None) and found.cancelled_at is not None
        assert accounts.get(connection, lab.id).balance_microcredits == 2 * part
        assert list(verify(connection)) == []


# ---------------------------------------------------------------------------- deleted users


def test_whoever_takes_the_name_of_a_deleted_user_gets_nothing_of_theirs(
    platform: Platform,
) -> None:
    lab = project(platform, Budget.HARD, 100)
    with platform.database.transaction() as connection:
        old = accounting.ensure_personal(connection, platform.settings, "ann", utc_now())
    granting.grant(platform, old.id, 5 * MICRO, ADMIN, reason="each week", every=Every.WEEK)
    asking.ask(
        platform, NewAsk(What.CREDITS, MICRO, "for the thesis", utc_now() + HOUR), Actor("ann")
    )
    workload = run(platform, "ann", 1)
    lifecycle.stop(platform, workload.id, "stopped", ADMIN)
    deleted_users.let_go(platform, "ann", ADMIN)
    deleted_users.let_go(platform, "ann", ADMIN)  # a hub that is asked twice does it twice
    with platform.database.transaction() as connection:
        assert accounts.of_user(connection, "ann") == []
        assert accounts.role_in(connection, accounts.get(connection, lab.id), "ann") is None
        assert asks.open_asks(connection) == []
        kept = accounts.get(connection, old.id)
        assert accounts.role_in(connection, kept, "ann") is None
        assert kept.closed_at is not None and kept.balance_microcredits > 0
        assert not any(grant.next_at for grant in grants.of_account(connection, old.id))
        new = accounting.ensure_personal(connection, platform.settings, "ann", utc_now())
        assert new.id != old.id and new.balance_microcredits == 0
    with platform.database.reading() as connection:
        assert list(verify(connection)) == []


def test_what_a_deleted_user_still_runs_is_charged_to_the_account_they_had(
    platform: Platform,
) -> None:
    workload = ran(platform, "ann", 2, HOUR, hours=10)
    with platform.database.reading() as connection:
        old = accounts.personal(connection, "ann")
    assert old is not None
    deleted_users.let_go(platform, "ann", ADMIN)
    lifecycle.stop(platform, workload.id, "deleted", ADMIN)
    with platform.database.reading() as connection:
        assert accounts.get(connection, old.id).balance_microcredits <= -2 * MICRO
        assert list(verify(connection)) == []


def test_what_the_hub_knew_not_of_a_deleted_user_ends_and_is_taken_up_for_nobody(
    platform: Platform,
) -> None:
    """The hub died and came back: it stops what it knows, and its starts are not posted again."""
    runs = ran(platform, "ann", 1, HOUR, server="runs")
    starts = submit(platform, "ann", 1, server="starts")
    platform.run_pass()
    assert state(platform, starts) is State.ADMITTED
    deleted_users.let_go(platform, "ann", ADMIN)
    assert lifecycle.begin_start(platform, starts.id) is None
    for workload in (runs, starts):
        assert state(platform, workload) is State.STOPPING
        assert lifecycle.finish_stop(platform, workload.id)
    with platform.database.reading() as connection:
        assert workloads.open_of(connection, "ann") == []
        assert list(verify(connection)) == []


def test_whoever_takes_the_name_of_a_deleted_user_sees_nothing_that_they_ran(
    platform: Platform,
) -> None:
    """Ended sessions, one that the engine ends later, a request that waits; paid by themselves
    and by a project, in which the new one of that name is again."""
    lab = project(platform, Budget.NONE, 0)
    for payer in (None, "lab"):
        over = ran(platform, "ann", 1, 3 * HOUR, account=payer, server=f"over-{payer}")
        settle_running(platform)
        lifecycle.stop(platform, over.id, "stopped", ADMIN)
    ends = ran(platform, "ann", 1, HOUR, account="lab", server="ends")
    lifecycle.begin_stop(platform, ends.id, "deleted", ADMIN)
    other = run(platform, "zoe", 3)
    waits = submit(platform, "ann", 4, account="lab", server="waits")
    with platform.database.reading() as connection:
        old = accounts.personal(connection, "ann")
        before = usage.total(connection, Scope(everything=True), Wanted())
    assert old is not None

    deleted_users.let_go(platform, "ann", ADMIN)
    assert state(platform, waits) is State.ENDED
    lifecycle.finish_stop(platform, ends.id)
    lifecycle.stop(platform, other.id, "stopped", ADMIN)
    accounting.set_member(platform, lab.id, "ann", Role.MEMBER, ADMIN)
    with platform.database.transaction() as connection:
        new = accounting.ensure_personal(connection, platform.settings, "ann", utc_now())
    with platform.database.reading() as connection:
        hers = Scope(user="ann", accounts=(new.id,))
        assert usage.sessions(connection, hers, Wanted()) == []
        assert usage.sums(connection, hers, Wanted(), [By.DAY, By.ACCOUNT]) == []
        assert usage.sums(connection, hers, Wanted(), [By.HOUR, By.ACCOUNT]) == []
        for account in (new.id, lab.id):
            assert entries.page(connection, account, user="ann") == []
            assert bookkeeping.sessions(connection, account, user="ann") == []
            assert bookkeeping.page(connection, account, user="ann", limit=9) == []
        assert workloads.last_choice(connection, "ann") is None
        assert shares.find(connection, "ann") is None
        found = limits_of(connection, platform.settings, "ann", utc_now())
        assert not any(each.used for each in found if each.name.startswith("gpu_hours"))
        # Administrators still do, by the one name that their account has, too.
        former = accounts.get(connection, old.id).name
        everybodys = Scope(everything=True)
        theirs = usage.sessions(connection, everybodys, Wanted(user=former))
        assert [each.workload.user for each in theirs] == [former] * 3
        after = usage.total(connection, everybodys, Wanted())
        assert after.gpu_microseconds >= before.gpu_microseconds > 0
        assert list(verify(connection)) == []


# ---------------------------------------------------------------------------- what expires


def expiring(platform: Platform, account: str, credits: float, at: datetime) -> None:
    """Credits that expired at a time that is over by now."""
    with platform.database.transaction() as connection:
        entry = NewEntry(
            account,
            Kind.GRANT,
            round(credits * MICRO),
            f"expiring:{at.isoformat()}",
            "admin",
            parts=(Part(round(credits * MICRO), at),),
        )
        entries.post(connection, entry, utc_now())


@pytest.mark.parametrize("answers", [True, False])
def test_what_was_used_before_credits_expired_is_paid_by_them(
    platform: Platform, answers: bool
) -> None:
    lab = project(platform, Budget.HARD, 10)
    ran(platform, "ann", 1, 4 * HOUR, account="lab", hours=10)
    expiring(platform, lab.id, 2, utc_now() - 3 * HOUR)  # of it 1 was used in time
    expiring(platform, lab.id, 1.5, utc_now() - HOUR)  # and all of this within the next 2 hours
    BudgetKeeper(platform).turn()
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    if answers:
        meter(platform)
    else:
        engine.fail(EngineUnreachable("silent"), "observe")
        with pytest.raises(EngineUnreachable):
            meter(platform)
        engine.mend()
        settle_running(platform)
    with platform.database.reading() as connection:
        left = accounts.get(connection, lab.id).balance_microcredits
        assert list(verify(connection)) == []
    assert left == pytest.approx((8.5 if answers else 6) * MICRO, abs=MICRO / 100)


# ---------------------------------------------------------------------------- given twice


def test_what_was_used_and_not_charged_yet_cannot_be_given_away(platform: Platform) -> None:
    lab = project(platform, Budget.HARD, 10)
    other = accounting.create_project(platform, "other", ["ann"], ADMIN)
    ran(platform, "ann", 1, 6 * HOUR, account="lab", hours=10)  # nobody has looked for 6 hours
    with pytest.raises(Conflict) as refused:
        transfers.transfer(platform, lab.id, other.id, 5 * MICRO, ADMIN, reason="all of it")
    assert refused.value.code == "not_enough_credits"
    transfers.transfer(platform, lab.id, other.id, 3 * MICRO, ADMIN, reason="what is left")


def test_a_charge_that_was_set_right_is_not_refunded_again(platform: Platform) -> None:
    lab = project(platform, Budget.NONE, 10)
    workload = ran(platform, "ann", 1, 2 * HOUR, account="lab", hours=10)
    settle_running(platform)
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    facts = replace(engine.containers[workload.id], finished_at=utc_now() - HOUR)
    lifecycle.begin_stop(platform, workload.id, "stopped", ADMIN)
    lifecycle.note_end(platform, workload.id, facts)
    lifecycle.finish_stop(platform, workload.id)  # the second hour is given back
    with platform.database.reading() as connection:
        (charge,) = [
            entry
            for entry in entries.of_workload(connection, workload.id)
            if entry.kind is Kind.CHARGE
        ]
    assert charge.microcredits == pytest.approx(-2 * MICRO, abs=MICRO / 100)
    with pytest.raises(Conflict):
        transfers.refund(platform, charge.id, ADMIN, reason="all", microcredits=3 * MICRO // 2)
    transfers.refund(platform, charge.id, ADMIN, reason="what is left")
    with platform.database.reading() as connection:
        assert accounts.get(connection, lab.id).balance_microcredits == 10 * MICRO
        assert list(verify(connection)) == []


@pytest.mark.parametrize("refunded", [1, 0.75, 0.25, 0])
def test_what_was_refunded_is_not_given_back_again_when_the_session_proves_to_be_over(
    platform: Platform, refunded: float
) -> None:
    """Two hours are charged, of the second one something is refunded; it had ended before."""
    lab = project(platform, Budget.NONE, 10)
    workload = ran(platform, "ann", 1, 2 * HOUR, account="lab", hours=10)
    assert workload.engine_started_at is not None
    ended = workload.engine_started_at + HOUR
    with platform.database.transaction() as connection:
        for until in (ended, ended + HOUR):
            charging.settle(connection, workload.id, until, utc_now())
        first, second = entries.of_workload(connection, workload.id)
    if refunded:
        amount = round(refunded * MICRO)
        transfers.refund(platform, second.id, ADMIN, reason="it hung", microcredits=amount)
    engine = platform.engine
    assert isinstance(engine, MemoryEngine)
    facts = replace(engine.containers[workload.id], finished_at=ended)
    lifecycle.begin_stop(platform, workload.id, "stopped", ADMIN)
    lifecycle.note_end(platform, workload.id, facts)
    lifecycle.finish_stop(platform, workload.id)
    with pytest.raises(Conflict):  # all of it was given back, in one way or the other
        transfers.refund(platform, second.id, ADMIN, reason="again", microcredits=1)
    with platform.database.reading() as connection:
        assert accounts.get(connection, lab.id).balance_microcredits == 9 * MICRO
        assert list(verify(connection)) == []
    transfers.refund(platform, first.id, ADMIN, reason="the first hour, too")
    with platform.database.reading() as connection:
        assert accounts.get(connection, lab.id).balance_microcredits == 10 * MICRO
        assert list(verify(connection)) == []


# ---------------------------------------------------------------------------- limits


def test_a_server_meanwhile_does_not_take_the_place_of_what_waits(
    database_url: str, tmp_path: Path
) -> None:
    roles = {
        "admin": RoleLimits(),
        "standard": RoleLimits(memory_gib=8),
        "premium": RoleLimits(),
    }
    settings = settings_for(database_url, tmp_path, roles=roles)
    with opened(settings, MemoryEngine(node(gpus=1))) as platform:
        other = run(platform, "zoe", 1)
        waits = submit(platform, "ann", 1, gib=6)
        for gib in (2, 4):
            wish = {"gib": gib, "server": f"cpu{gib}", "keeps_place_for": waits.id}
            if gib == 4:
                with pytest.raises(NotAllowed, match="which waits, could not start") as refused:
                    submit(platform, "ann", 0, **wish)
                assert refused.value.code == "limit:memory_gib"
            else:
                beside = submit(platform, "ann", 0, **wish)
                platform.run_pass()
                assert state(platform, beside) is State.ADMITTED
                lifecycle.stop(platform, beside.id, "stopped", ADMIN)
        lifecycle.stop(platform, other.id, "stopped", ADMIN)
        assert state(platform, waits) is State.ADMITTED
