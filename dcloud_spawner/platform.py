"""What one process of the platform holds: settings, database, engine, profiles, threads.

The hub, the controller and the command line each make one :class:`Platform`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from dcloud_spawner import charging
from dcloud_spawner.budget_gate import BudgetGate, rule_of, set_aside
from dcloud_spawner.engines.base import Engine
from dcloud_spawner.engines.select import select_engine
from dcloud_spawner.limit_gate import LimitGate
from dcloud_spawner.passes import Passes
from dcloud_spawner.profiles import ProfileBook
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.plan import Plan
from dcloud_spawner.scheduler.preempt import Preemption
from dcloud_spawner.scheduler.schedule import GIB, Capacity, schedule
from dcloud_spawner.scheduler.verdicts import GateMaker
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import is_default
from dcloud_spawner.storage.capabilities import CapabilityBook
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import events, leases, nodes
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.queue import LAST_TIER

P = ParamSpec("P")
T = TypeVar("T")

INVENTORY = Actor("inventory")

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The present time, aware UTC."""
    return datetime.now(UTC)


class Platform:
    """One process's view of a deployment."""

    def __init__(self, settings: Settings, *, engine: Engine | None = None) -> None:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self.database = Database(settings.store_url)
        self.database.migrate()
        self.profiles = ProfileBook(settings.profiles_dir)
        self.engine = engine or select_engine(settings)
        self.capacity = Capacity(
            reserve_memory_bytes=int(settings.reserve_memory_gib * GIB),
            cpu_overcommit=settings.cpu_overcommit,
        )
        self.policy = Policy(
            slack_cap_seconds=settings.slack_cap_hours * 3600,
            slack_gpus=settings.slack_gpus,
            slack_bend_seconds=settings.slack_bend_hours * 3600,
            slack_doubling_seconds=settings.slack_doubling_hours * 3600,
            fair_cap_seconds=settings.fair_cap_hours * 3600,
            tiers=settings.tiers,
        )
        self.preemption = Preemption(
            preemptible=frozenset((*settings.preemptible_tiers, LAST_TIER)),
            factors={**settings.tiers, LAST_TIER: math.inf},
            notice_seconds=settings.preemption_notice_seconds,
        )
        self.hold_rule = rule_of(settings)
        self.gates: list[GateMaker] = [self._limit_gate, self._budget_gate]
        """What a start has to pass besides fitting: limits of people, budgets."""
        self.half_life_seconds = settings.share_half_life_days * 86400
        """After so long, what somebody had of the pool counts half."""
        self.on_admitted: list[Callable[[Sequence[str]], None]] = []
        """Called after a pass of this process, from its thread, with the admitted ids."""
        self._passes = Passes(self._one_pass)
        self._database_threads = ThreadPoolExecutor(4, "database")
        self._reading_threads = ThreadPoolExecutor(2, "reading")
        self.engine_threads = ThreadPoolExecutor(settings.engine_workers, "engine")
        """Threads for calls to the engine: many, so that one slow call blocks no other."""
        self._storage_threads = ThreadPoolExecutor(16, "storage")
        self._sending_threads = ThreadPoolExecutor(16, "sending")

    async def in_database_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that uses the database without blocking the event loop."""
        return await _in(self._database_threads, function, *args, **kwargs)

    async def in_reading_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that only reads the database: no writer that waits for its turn keeps
        the pages from their figures."""
        return await _in(self._reading_threads, function, *args, **kwargs)

    async def in_engine_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that talks to the engine without blocking the event loop."""
        return await _in(self.engine_threads, function, *args, **kwargs)

    async def in_storage_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that talks to the object storage without blocking the event loop; a
        storage that is away blocks nothing else."""
        return await _in(self._storage_threads, function, *args, **kwargs)

    async def in_sending_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that waits for the storage as long as somebody reads what it sends:
        downloads and looks into files, who shall keep nobody from uploading."""
        return await _in(self._sending_threads, function, *args, **kwargs)

    @cached_property
    def storage(self) -> ObjectStore:
        """The object storage; raises ConfigurationError when its keys cannot be read."""
        return ObjectStore.of(self.settings)

    @cached_property
    def storage_capabilities(self) -> CapabilityBook:
        """What the object storage can besides; ask it in a storage thread."""
        return CapabilityBook(self.storage, default=is_default(self.settings))

    def run_pass(self) -> Plan:
        """A scheduling pass that begins now, or as soon as the one that runs is over; threads that
        ask meanwhile share it. Blocks."""
        return self._passes.ask().result()

    async def pass_soon(self) -> Plan:
        """The same for the event loop: who waits for it takes no thread."""
        return await asyncio.wrap_future(self._passes.ask())

    def _one_pass(self) -> Plan:
        return schedule(
            self.database,
            self.capacity,
            utc_now(),
            self._notify,
            unused_after=timedelta(minutes=self.settings.reservation_unused_minutes),
            preemption=self.preemption,
            gates=self.gates,
            set_aside=self._set_aside,
        )

    def _limit_gate(self, connection: Connection, now: datetime) -> LimitGate:
        return LimitGate(connection, now, self.settings)

    def _budget_gate(self, connection: Connection, now: datetime) -> BudgetGate:
        return BudgetGate(connection, now, self.hold_rule)

    def _set_aside(self, connection: Connection, admitted: Sequence[str], now: datetime) -> None:
        set_aside(connection, admitted, self.hold_rule, now)

    def _notify(self, admitted: Sequence[str]) -> None:
        if admitted:
            for listener in self.on_admitted:
                listener(admitted)

    def refresh_inventory(self) -> Sequence[nodes.HealthChange]:
        """Ask the engine what there is and write it down. Blocks; a failing engine changes
        nothing, for then nothing is known."""
        found = self.engine.inventory()
        now = utc_now()
        changes: list[nodes.HealthChange] = []
        with self.database.transaction() as connection:
            # After a clock was set back too, the nodes of the newest inventory are the newest.
            last = nodes.last_seen(connection)
            now = now if last is None else max(now, last + timedelta(microseconds=1))
            for node in found:
                changes.extend(nodes.record(connection, node, now))
            held = leases.holders(connection) if changes else {}
            for change in changes:
                if change.uuid in held:
                    # Not at the time of the inventory, which may be ahead of the clock.
                    charging.new_span(connection, held[change.uuid], utc_now())
                events.note(
                    connection,
                    INVENTORY,
                    f"accelerator.{change.after.value}",
                    change.uuid,
                    at=now,
                    detail={
                        "node": change.node,
                        "before": change.before.value if change.before else None,
                        "reason": change.reason,
                    },
                )
        return changes

    def close(self) -> None:
        """Let go of threads and connections."""
        self._passes.close()
        self._database_threads.shutdown(wait=False, cancel_futures=True)
        self._reading_threads.shutdown(wait=False, cancel_futures=True)
        self.engine_threads.shutdown(wait=False, cancel_futures=True)
        self._storage_threads.shutdown(wait=False, cancel_futures=True)
        self._sending_threads.shutdown(wait=False, cancel_futures=True)
        self.database.close()


async def _in(
    pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    def call() -> T:
        return function(*args, **kwargs)

    return await asyncio.get_running_loop().run_in_executor(pool, call)
