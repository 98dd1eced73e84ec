"""A lab with a past, for the tests of the usage pages: sessions that ran weeks ago.

They are started by the real way of a start on the engine in memory, their times are moved into
the past, and everything on the ledger is written by the ledger's own code at those times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import delete

from dcloud_spawner import accounting, charging, granting, lifecycle
from dcloud_spawner.engines.base import ContainerFacts
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.measuring.step import Reading
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import measures, meters, workloads
from dcloud_spawner.store.accounts import Account, Budget, Role
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every
from dcloud_spawner.store.ledger_schema import spans
from dcloud_spawner.store.measures import Addition, Subject
from dcloud_spawner.store.workloads import Workload
from tests import platforms

BOSS = Actor("admin-a")
HOUR = timedelta(hours=1)
GIB = 2**30


@dataclass(frozen=True)
class Past:
    """One session as the story tells it."""

    user: str
    gpus: int
    ago: timedelta
    length: timedelta
    busy: int = 80
    """Per cent."""
    server: str = ""
    project: str | None = None
    reason: str = "stopped"
    model: str | None = None


def begun(platform: Platform, told: Past) -> Workload:
    """A session that runs and began some time ago, with measures and charges until now, or until
    its end."""
    wish: dict[str, object] = {"server": told.server, "hours": 24, "account": told.project}
    if told.model:
        wish["gpu_model"] = told.model
    found = platforms.start(platform, told.user, told.gpus, **wish)
    began = utc_now() - told.ago
    until = min(began + told.length, utc_now())
    with platform.database.transaction() as connection:
        times = {"submitted_at": began, "admitted_at": began - timedelta(seconds=20)}
        workloads.set_values(connection, found.id, engine_started_at=began, ready_at=began, **times)
        meters.set_values(connection, found.id, began_at=began, watermark_at=began)
        connection.execute(delete(spans).where(spans.c.workload == found.id))
        moved = workloads.get(connection, found.id)
        meters.add_span(connection, found.id, charging._span(connection, moved, began))
        _measured(connection, moved, began, until, told.busy)
        at = began
        while at < until:
            at = min(until, at + timedelta(minutes=20))
            charging.settle(connection, found.id, at, at)
    return platforms.get(platform, found.id)


def past(platform: Platform, told: Past) -> Workload:
    """A session that is over."""
    found = begun(platform, told)
    assert found.engine_started_at is not None
    over = found.engine_started_at + told.length
    lifecycle.begin_stop(platform, found.id, told.reason, Actor(told.user))
    facts = platform.engine.stop(found.id, 0)
    assert isinstance(facts, ContainerFacts)
    lifecycle.confirm_gone(
        platform, found.id, replace(facts, started_at=found.engine_started_at, finished_at=over)
    )
    with platform.database.transaction() as connection:
        workloads.set_values(connection, found.id, stopping_at=over, ended_at=over)
    return platforms.get(platform, found.id)


def _measured(
    connection: object, found: Workload, began: datetime, until: datetime, busy: int
) -> None:
    """As the sampler would have written it, but fewer; of what runs, all of the last minutes."""
    held = {f"GPU-{number}": found.gpu_model or "A100" for number in range(found.gpus)}
    meter = meters.find(connection, found.id)  # type: ignore[arg-type]
    assert meter is not None
    subject = Subject(found.id, began, meter.account, found.user, held)
    at, runs = began, utc_now() - until < timedelta(minutes=1)
    while at < until:
        dense = until - timedelta(minutes=12) if runs else until
        seconds = 10 if at >= dense else min(900, max(10, int((dense - at).total_seconds())))
        at = min(until, at + timedelta(seconds=seconds))
        load = max(0, min(100, busy + (at.minute * 7 + at.second) % 23 - 11))
        each = _figures(seconds, load)
        total = Figures(
            samples=1,
            measured_microseconds=seconds * 1_000_000,
            cpu_microseconds=seconds * 1_000_000 * load // 100,
            memory_samples=1,
            memory_bytes_sum=(load + 4) * GIB // 100,
            memory_bytes_max=(load + 4) * GIB // 100,
            network_received_bytes=load * 40_000 * seconds,
            network_sent_bytes=load * 9_000 * seconds,
            disk_bytes_max=2 * GIB + load * GIB // 50,
            gpus_max=found.gpus,
            gpu_memory_samples=int(found.gpus > 0),
            gpu_memory_bytes_sum=found.gpus * (load // 2 + 5) * GIB if found.gpus else 0,
        )
        by_model: dict[str, Figures] = {}
        for model in held.values():
            by_model[model] = by_model.get(model, Figures()) + each
            total = total + each
        measures.add(connection, [Addition(subject, total, by_model, Reading(at))])  # type: ignore[arg-type]


def _figures(seconds: int, load: int) -> Figures:
    watts = 90 + 3 * load
    return Figures(
        gpu_measured_microseconds=seconds * 1_000_000,
        gpu_busy_microseconds=seconds * 10_000 * load,
        gpu_utilisation_percent_max=load,
        gpu_power_milliwatts_max=watts * 1000,
        gpu_temperature_celsius_max=38 + load // 3,
        energy_millijoules=watts * seconds * 1000,
        energy_microseconds=seconds * 1_000_000,
    )


def project(
    platform: Platform, name: str, owners: tuple[str, ...], members: tuple[str, ...], credits: int
) -> Account:
    """A project with credits for a month."""
    found = accounting.create_project(platform, name, owners, BOSS, budget=Budget.HARD)
    for user in members:
        accounting.set_member(platform, found.id, user, Role.MEMBER, BOSS)
    give(platform, found.id, credits)
    return found


def give(platform: Platform, account: str, credits: int, every: Every = Every.ONCE) -> None:
    """Grant credits now."""
    granting.grant(platform, account, credits * MICRO, BOSS, every=every, reason="for the tests")
