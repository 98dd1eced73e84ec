"""What the administration pages read: rates over time, the lab by day, how accounts stand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dcloud_spawner import accounting, granting, transfers
from dcloud_spawner.budgets import Level
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.ledger.cost import Quantity
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import meters
from dcloud_spawner.store import rates as rate_rows
from dcloud_spawner.store.accounts import Budget
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.ledger_schema import usage_hours
from dcloud_spawner.store.meters import HourlyUse
from hub_services.web.pages.accounts import accounts_page
from hub_services.web.pages.days import zone_of
from hub_services.web.pages.lab import lab_page, lab_use
from hub_services.web.pages.rates import rates_page
from hub_services.web.pages.views import Call
from hub_services.web.viewer import Viewer
from tests import platforms
from tests.memory_engine import MemoryEngine, node
from tests.platforms import opened, settings_for

BOSS = Actor("boss")
HOUR = 3_600_000_000


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine(node())) as found:
        yield found


def call(platform: Platform, zone: str = "UTC", at: datetime | None = None, **values: str) -> Call:
    """An administrator's look at a page."""
    service: Any = SimpleNamespace(
        platform=platform, pool=SimpleNamespace(state=read_pool(platform))
    )
    viewer = Viewer("boss", administrator=True)
    arguments = {name.removesuffix("_"): value for name, value in values.items()}
    return Call(cast(Any, service), viewer, (), arguments, zone_of(zone), at or utc_now())


def use(platform: Platform, hour: datetime, *, user: str = "ann", account: str = "x") -> None:
    """An hour of one A100, of which three quarters were measured and half of that was used."""
    with platform.database.transaction() as connection:
        meters.add_use(
            connection, [HourlyUse(account, user, "NVIDIA A100", hour, Quantity(HOUR), MICRO)]
        )
        connection.execute(
            usage_hours.update().values(
                measured_microseconds=HOUR * 3 // 4, busy_microseconds=HOUR * 3 // 8
            )
        )


# ---------------------------------------------------------------------------- the lab


def test_a_day_of_the_lab_begins_at_the_readers_midnight(platform: Platform) -> None:
    now = datetime(2026, 10, 26, 12, tzinfo=UTC)
    for hour in (21, 22, 23):  # the clocks of Berlin go back on the 25th of October
        use(platform, datetime(2026, 10, 24, hour, tzinfo=UTC))
    use(platform, datetime(2026, 10, 25, 22, tzinfo=UTC))
    use(platform, datetime(2026, 10, 25, 23, tzinfo=UTC))
    found = lab_use(call(platform, "Europe/Berlin", now, days="7"))
    held = {day: row.use.gpu_microseconds // HOUR for day, row in found.by_day}
    assert [held[date(2026, 10, day)] for day in (24, 25, 26)] == [1, 3, 1]
    assert (found.first, found.last, len(found.by_day)) == (
        date(2026, 10, 20),
        date(2026, 10, 26),
        7,
    )
    in_utc = {day: row.use for day, row in lab_use(call(platform, "UTC", now, days="7")).by_day}
    assert in_utc[date(2026, 10, 24)].gpu_microseconds == 3 * HOUR


def test_the_unused_share_is_of_what_was_measured(platform: Platform) -> None:
    now = datetime(2026, 10, 26, 12, tzinfo=UTC)
    use(platform, datetime(2026, 10, 25, 9, tzinfo=UTC))
    page = lab_page(call(platform, "UTC", now))
    assert page.total.unused == 0.5
    (bar,) = [bar for bar in page.bars if bar.used[1]]
    assert [part[1] for part in (bar.used, bar.unused, bar.unknown)] == [60, 60, 40]
    assert [row.name for row in page.users.rows] == ["ann"]
    assert [row.name for row in page.projects.rows] == ["People's own accounts"]


def test_a_day_outside_of_the_period_counts_nowhere(platform: Platform) -> None:
    now = datetime(2026, 10, 26, 12, tzinfo=UTC)
    for day in (9, 10, 12, 13):
        use(platform, datetime(2026, 10, day, 0 if day == 13 else 23, tzinfo=UTC))
    page = lab_page(call(platform, "UTC", now, from_="2026-10-10", to="2026-10-12"))
    assert page.total.use.gpu_microseconds == 2 * HOUR
    assert [row.name for row in page.by_day.rows] == ["12 Oct", "10 Oct"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": "31"},
        {"from_": "2026-13-01"},
        {"from_": "yesterday"},
        {"from_": "2026-02-01", "to": "2026-01-01"},
        {"from_": "2024-01-01", "to": "2026-01-01"},
        {"from_": "0001-01-01"},
        {"to": "9999-12-31"},
    ],
)
def test_a_period_that_makes_no_sense_is_refused(wrong: dict[str, str]) -> None:
    nothing: Any = None
    with pytest.raises(InvalidChoice):
        lab_use(
            Call(
                nothing,
                Viewer("boss", administrator=True),
                (),
                {name.removesuffix("_"): value for name, value in wrong.items()},
            )
        )


# ---------------------------------------------------------------------------- rates


def test_rates_are_shown_now_planned_and_past(platform: Platform) -> None:
    now = utc_now()
    page = rates_page(call(platform))
    assert [(row.what, row.microcredits, row.by) for row in page.current] == [
        ("GPU", MICRO, ""),
        ("CPU core", 0, ""),
        ("Memory", 0, ""),
        ("Storage", 0, ""),
    ]
    with platform.database.transaction() as connection:
        for days, price in ((-20, 2), (-10, 3), (10, 4)):
            rate_rows.add_rate(
                connection,
                Resource.GPU,
                price * MICRO,
                now + timedelta(days=days),
                created_by="boss",
                at=now,
            )
        rate_rows.add_rate(
            connection, Resource.CPU_CORE, 7, now + timedelta(days=5), created_by="boss", at=now
        )
    page = rates_page(call(platform))
    gpu, core = page.current[:2]
    assert (gpu.microcredits, gpu.until) == (3 * MICRO, now + timedelta(days=10))
    assert (core.microcredits, core.valid_from) == (0, None)
    assert core.until == now + timedelta(days=5)
    assert [row.microcredits for row in page.planned] == [7, 4 * MICRO]
    assert [(row.microcredits, row.until) for row in page.past] == [
        (2 * MICRO, now - timedelta(days=10))
    ]


# ---------------------------------------------------------------------------- accounts


def test_what_runs_out_first_is_listed_first(platform: Platform) -> None:
    for name, credits in (("alpha", 100), ("beta", 1), ("gamma", 10)):
        made = accounting.create_project(platform, name, ["ann"], BOSS)
        granting.grant(platform, made.id, credits * MICRO, BOSS, reason="to begin with")
        if name != "alpha":
            platforms.start(platform, "ann", 1, server=name, account=name, hours=1)
    page = accounts_page(call(platform))
    names = [row.account.name for row in page.rows]
    assert names[:3] == ["beta", "gamma", "alpha"] and page.burn == 2 * MICRO
    beta = page.rows[0]
    assert beta.ends_at is not None
    assert abs(beta.ends_at - utc_now() - timedelta(hours=1)) < timedelta(minutes=1)
    assert beta.held == MICRO and page.rows[2].ends_at is None
    assert [row.account.name for row in accounts_page(call(platform, name="GAM")).rows] == ["gamma"]


def test_without_a_budget_nothing_runs_out(platform: Platform) -> None:
    made = accounting.create_project(platform, "free", ["ann"], BOSS, budget=Budget.NONE)
    granting.grant(platform, made.id, 10, BOSS, reason="hardly anything")
    platforms.start(platform, "ann", 1, account="free", hours=1)
    (row,) = [row for row in accounts_page(call(platform)).rows if row.account.name == "free"]
    assert row.an_hour == MICRO and row.ends_at is None and row.level is None


def test_little_and_nothing_left_are_told_apart_also_where_nothing_runs(platform: Platform) -> None:
    levels: dict[str, Level | None] = {"rich": None, "low": Level.FEW, "poor": Level.OUT}
    for name in levels:
        made = accounting.create_project(platform, name, ["ann"], BOSS)
        if name == "poor":
            continue
        granting.grant(platform, made.id, 10 * MICRO, BOSS, reason="to begin with")
        if name == "low":
            transfers.adjust(platform, made.id, -9 * MICRO, BOSS, reason="was too much")
    page = accounts_page(call(platform))
    assert {row.account.name: row.level for row in page.rows} == levels
    assert page.soon == 2
