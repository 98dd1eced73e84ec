"""Warnings about budgets: whom they concern, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcloud_spawner import accounting, granting
from dcloud_spawner.budgets import Level
from dcloud_spawner.form.budget_lines import budget_line, budget_lines
from dcloud_spawner.form.view import render_part
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.live.warnings import BudgetWarning
from dcloud_spawner.platform import Platform
from dcloud_spawner.spawners.notices import _stop_to_come
from dcloud_spawner.store.accounts import Budget, Role
from dcloud_spawner.store.entries import Kind, NewEntry, post
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.workloads import PREEMPTED, RESERVATION_ENDS, Workload
from tests.memory_engine import MemoryEngine, node
from tests.platforms import opened, settings_for
from tests.platforms import start as run

ADMIN = Actor("admin")
AT = datetime(2026, 11, 21, 14, 35, tzinfo=UTC)
SOON = BudgetWarning(
    "a1", "vision", "Vision lab", Budget.HARD, Level.SOON, 1_999_999, 10_000_000, AT, runs=True
)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node(gpus=4))) as found:
        yield found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {},
            "Vision lab has 1.99 credits left, enough until {at}. Its servers are stopped then; "
            "files in homes stay.",
        ),
        (
            {"budget": Budget.SOFT},
            "Vision lab has 1.99 credits left, enough until {at}. Then its servers go on until "
            "somebody else needs their GPUs.",
        ),
        (
            {"level": Level.FEW},
            "Vision lab has 1.99 of 10.00 credits left, enough until {at} as it is used now.",
        ),
        ({"level": Level.FEW, "ends_at": None}, "Vision lab has 1.99 of 10.00 credits left."),
        (
            {"level": Level.OUT},
            "Vision lab has no credits left. Its servers are being stopped; files in homes stay.",
        ),
        (
            {"level": Level.OUT, "runs": False, "project": ""},
            "Your account has no credits left. It can start nothing that costs credits.",
        ),
        (
            {"level": Level.OUT, "budget": Budget.SOFT},
            "Vision lab has no credits left. Its servers go on until somebody else needs their "
            "GPUs.",
        ),
    ],
)
def test_a_warning_says_whose_credits_what_is_left_and_what_happens_then(
    change: dict[str, object], text: str
) -> None:
    line = budget_line(replace(SOON, **change), "/")  # type: ignore[arg-type]
    assert line.text == text


def test_the_nearest_end_is_said_first_with_a_way_to_ask_for_more() -> None:
    few = replace(SOON, level=Level.FEW, title="<b>", project="b", ends_at=None)
    lines = budget_lines((few, SOON), "/hub/of/a/")
    assert [line.before[:3] for line in lines] == ["Vis", "<b>"]
    html = render_part("budget_lines.html", warned=lines)
    assert html.count("Ask for more") == 2 and "<b>" not in html
    assert 'href="/hub/of/a/services/dcloud/requests?what=credits&amp;account=a1"' in html
    assert f'datetime="{AT.isoformat()}"' in html


def test_a_project_concerns_its_owners_and_who_uses_it_and_nobody_else(platform: Platform) -> None:
    lab = accounting.create_project(platform, "lab", ["ann"], ADMIN, budget=Budget.HARD)
    for user in ("bob", "cyd"):
        accounting.set_member(platform, lab.id, user, Role.MEMBER, ADMIN)
    granting.grant(platform, lab.id, 10 * MICRO, ADMIN, reason="a start")
    run(platform, "bob", 4, account="lab", hours=8)
    assert not read_pool(platform).warnings.by_user
    granting.grant(platform, lab.id, MICRO, ADMIN, reason="more")
    with platform.database.transaction() as connection:
        entry = NewEntry(lab.id, Kind.ADJUSTMENT, -round(9.5 * MICRO), "k", "admin", "used up")
        post(connection, entry, AT)
    warned = read_pool(platform).warnings
    assert set(warned.by_user) == {"ann", "bob"}
    (told,) = warned.by_user["bob"]
    assert (told.level, told.runs) == (Level.SOON, True)
    assert warned.by_account[lab.id] == told


def test_a_stop_to_come_is_told_in_time(platform: Platform) -> None:
    workload = run(platform, "ann", 1, hours=1)
    assert workload.admitted_at is not None

    def told(minutes: float, of: Workload = workload) -> str:
        assert workload.admitted_at is not None
        now = workload.admitted_at + timedelta(hours=1) - timedelta(minutes=minutes)
        notice = _stop_to_come(of, now)
        return notice.text if notice else ""

    assert told(6) == ""
    assert told(4).startswith("This server is stopped at {at}. Its time is over then. Save your")
    end = workload.admitted_at + timedelta(minutes=30)
    preempted = replace(
        workload, notice_at=end, notice_reason=PREEMPTED, notice_detail="Somebody needs it."
    )
    assert "{at}. Somebody needs it. Save" in told(60, preempted)
    reserved = replace(preempted, notice_reason=RESERVATION_ENDS)
    assert told(40, reserved) == ""
    assert "The reservation that it runs on ends." in told(34, reserved)
    assert told(34, replace(workload, budget_ends_at=end)) == "", "its own notice says it"
