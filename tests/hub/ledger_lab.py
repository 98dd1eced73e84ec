"""A lab with a project, its people and some use on the ledger, for tests of the API.

Sessions are started as the spawner does it, on an engine in memory; then their beginning is set
back by some hours and charged, so that no test has to wait for money.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
from sqlalchemy import select, update

from dcloud_spawner import accounting, charging, granting
from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, events, meters, workloads
from dcloud_spawner.store import ledger_schema as tables
from dcloud_spawner.store.accounts import Role
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.workloads import Workload
from hub_services.controller.measures import record
from tests import platforms

MICRO = 1_000_000
TEST = Actor("test")

OWNER, MEMBER, OTHER, STRANGER = "olga", "mia", "max", "stan"

LEDGER_TABLES = (
    tables.accounts,
    tables.account_members,
    tables.entries,
    tables.lots,
    tables.grants,
    tables.rates,
    tables.meters,
    tables.spans,
    tables.usage_hours,
    tables.limit_overrides,
    tables.asks,
)


@dataclass(frozen=True)
class Lab:
    """Ids of what there is."""

    project: str
    """``vision``: Olga owns it, Mia and Max are in it. 100 credits were granted."""
    own: str
    """Mia's own account, with 10 credits granted."""
    foreign: str
    """Stan's own account; he is in no project."""
    mias: Workload
    """2 GPUs for 3 hours, paid by the project: 6 credits."""
    maxs: Workload
    """1 GPU for 1 hour, paid by the project: 1 credit."""
    alone: Workload
    """1 GPU for 2 hours, of Mia's own."""


def furnish(platform: Platform) -> Lab:
    """Make the lab; everything in it goes on running."""
    now = utc_now()
    project = accounting.create_project(
        platform, "vision", [OWNER], TEST, title="Vision and language"
    )
    for user in (MEMBER, OTHER):
        accounting.set_member(platform, project.id, user, Role.MEMBER, TEST)
    granting.grant(platform, project.id, 100 * MICRO, TEST, reason="The first grant")
    with platform.database.transaction() as connection:
        for user in (OWNER, MEMBER, OTHER, STRANGER, "admin-a"):
            accounting.ensure_personal(connection, platform.settings, user, now)
        own = accounts.personal(connection, MEMBER)
        foreign = accounts.personal(connection, STRANGER)
    assert own is not None and foreign is not None
    granting.grant(platform, own.id, 10 * MICRO, TEST, reason="Of her own")
    return Lab(
        project.id,
        own.id,
        foreign.id,
        ran(platform, MEMBER, 2, hours_ago=3, account="vision"),
        ran(platform, OTHER, 1, hours_ago=1, account="vision"),
        ran(platform, MEMBER, 1, hours_ago=2, server="second"),
    )


def ran(platform: Platform, user: str, gpus: int, *, hours_ago: float, **more: str) -> Workload:
    """A session that began some hours ago and is charged until now."""
    workload = platforms.start(platform, user, gpus, **more)
    now = utc_now()
    began = now - timedelta(hours=hours_ago)
    with platform.database.transaction() as connection:
        meters.set_values(connection, workload.id, began_at=began, watermark_at=began)
        connection.execute(
            update(tables.spans)
            .where(tables.spans.c.workload == workload.id)
            .values(begins_at=began)
        )
        charging.settle(connection, workload.id, now, now)
    return workload


def measured(platform: Platform, workload: Workload, *, minutes: int) -> None:
    """Readings of the last minutes of a session, its GPUs at three quarters."""
    begin = utc_now() - timedelta(minutes=minutes)
    gpus = sorted(platforms.held(platform, workload))
    with platform.database.transaction() as connection:
        workloads.set_values(connection, workload.id, engine_started_at=begin)
    for number in range(1, minutes * 6 + 1):
        at = begin + timedelta(seconds=10 * number)
        container = ContainerUse(workload.id, "c" * 64, at, 7_000_000 * number, 2**33)
        each = [AcceleratorUse(uuid, 75, 2**35, 300_000, 60) for uuid in gpus]
        record(platform.database, Use((container,), tuple(each)), 10)


def everything(platform: Platform) -> list[object]:
    """All rows of the ledger and the end of the action log."""
    with platform.database.reading() as connection:
        rows: list[object] = [events.head(connection).sequence]
        for table in LEDGER_TABLES:
            rows += [(table.name, *row) for row in connection.execute(select(table))]
    return rows


def log_since(platform: Platform, sequence: int) -> list[str]:
    """Actions that were noted since."""
    with platform.database.reading() as connection:
        return [line.action for line in events.read(connection, after=sequence)]


def log_head(platform: Platform) -> int:
    """The number of the last line of the action log."""
    with platform.database.reading() as connection:
        return events.head(connection).sequence


def balance_of(api: httpx.Client, account: str) -> int:
    """An account's balance as the API says it."""
    answer = api.get(f"/accounts/{account}")
    assert answer.status_code == 200, answer.text
    found = answer.json()["balance"]["microcredits"]
    assert isinstance(found, int)
    return found


def later(**distance: float) -> str:
    """A time from now, as it is sent."""
    moment: datetime = utc_now() + timedelta(**distance)
    return moment.isoformat()
