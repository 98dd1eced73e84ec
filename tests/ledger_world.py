"""A deployment whose clock a test sets, beside the second opinion (``ledger_opinion``) on it.

The platform, its database, the scheduler, the meter and the reconciler are the product's.
Simulated are the clock and the engine (``memory_engine``), which tells times by the same clock.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, func, select

from dcloud_spawner import accounting, lifecycle
from dcloud_spawner.engines.base import AcceleratorFacts, Health, NodeFacts, Phase
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import accounts, grants, leases, nodes, workloads
from dcloud_spawner.store import ledger_schema as tables
from dcloud_spawner.store.accounts import Budget, Role
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State, metadata
from dcloud_spawner.store.workloads import Workload
from tests import memory_engine
from tests.ledger_opinion import NEVER, Grant, Held, Opinion, Purse, Session
from tests.memory_engine import GIB, MemoryEngine
from tests.platforms import opened, settings_for

BOSS = Actor("boss")
USERS = ("ann", "bob")
BEGINNING = datetime(2026, 1, 30, 22, 59, 58, 123457, UTC)
"""Near the end of an hour, a day and a month: much changes soon."""

MODELS = ("A100", "A100", "H100", "H100")


BALANCES = select(tables.accounts.c.id, tables.accounts.c.balance_microcredits)
LOTS = select(
    tables.lots.c.account, tables.lots.c.expires_at, tables.lots.c.left_microcredits
).where(tables.lots.c.left_microcredits > 0)
STATES = (
    select(workloads.workloads.c.id, workloads.workloads.c.state)
    .where(workloads.workloads.c.state != State.ENDED.value)
    .order_by(workloads.workloads.c.sequence)
)


class Clock:
    """The time that everything here goes by."""

    def __init__(self) -> None:
        self.at = BEGINNING

    def goes(self, seconds: float = 0, microseconds: int = 0) -> None:
        self.at += timedelta(seconds=seconds, microseconds=microseconds)


def machine(health: dict[str, Health]) -> NodeFacts:
    """Four GPUs of two models."""
    found = [
        AcceleratorFacts(f"GPU-{index}", index, model, 80 * GIB)
        for index, model in enumerate(MODELS)
    ]
    return NodeFacts(
        "local",
        64_000,
        256 * GIB,
        tuple(replace(gpu, health=health.get(gpu.uuid, Health.OK)) for gpu in found),
    )


class World:
    """The platform and the opinion on it. What acts on both is called as the product calls it."""

    def __init__(self, platform: Platform, engine: MemoryEngine, clock: Clock) -> None:
        self.platform = platform
        self.engine = engine
        self.clock = clock
        self.numbers = itertools.count()
        self.done: Counter[str] = Counter()
        """Operations by name."""
        self.threads = ThreadPoolExecutor(2)
        self.opinion = Opinion()
        self.states: dict[str, State] = {}
        self.health: dict[str, Health] = {}
        self.ready_at: dict[str, datetime] = {}
        self.lab = ""
        """The project's account."""

    # -- beginning and end -----------------------------------------------------------------------

    def begin(self) -> None:
        """An empty deployment again."""
        self.opinion, self.states, self.health, self.ready_at = Opinion(), {}, {}, {}
        self.clock.at = BEGINNING
        self.engine.containers.clear()
        self.engine.nodes = (machine({}),)
        with self.platform.database.transaction() as connection:
            # First what others are kept beside by the database itself.
            for table in (tables.usage_hours, *reversed(metadata.sorted_tables)):
                connection.execute(delete(table))
        self.platform.refresh_inventory()
        lab = accounting.create_project(
            self.platform, "lab", ["ann"], BOSS, title="The lab", budget=Budget.NONE
        )
        accounting.set_member(self.platform, lab.id, "bob", Role.MEMBER, BOSS)
        self.lab = lab.id
        self.opinion.purses[lab.id] = Purse()

    def end(self) -> None:
        """Everything is stopped; then the whole ledger is looked at."""
        for identifier in list(self.states):
            self.stop(identifier)
        self.compare()
        with self.platform.database.reading() as connection:
            self._compare_entries(connection)
            self._compare_sessions(connection)
            found = list(verify(connection))
            assert not found, found

    # -- what is -------------------------------------------------------------------------------

    def of_state(self, *wanted: State) -> list[str]:
        """Ids of workloads, in the order in which they came."""
        return [key for key, state in self.states.items() if state in wanted]

    def alive(self) -> list[str]:
        """Ids of sessions whose container runs."""
        return [
            key
            for key, session in self.opinion.sessions.items()
            if not session.over
            and key in self.engine.containers
            and self.engine.containers[key].phase is Phase.ALIVE
        ]

    def held(self, workload: Workload) -> Held:
        """What a workload holds now, by its leases and the health of its GPUs."""
        with self.platform.database.reading() as connection:
            gpus = leases.held_by(connection, workload.id)
        models = Counter(MODELS[int(uuid[-1])] for uuid in gpus)
        faulty = any(self.health.get(uuid, Health.OK) is not Health.OK for uuid in gpus)
        return Held(
            self.clock.at, dict(models), workload.cpu_millicores, workload.memory_bytes, faulty
        )

    def workload(self, identifier: str) -> Workload:
        with self.platform.database.reading() as connection:
            return workloads.get(connection, identifier)

    # -- acts that many rules need -----------------------------------------------------------------

    def stop(self, identifier: str) -> None:
        """Somebody stops it; nothing of it is left afterwards."""
        finished = self.finish_time(identifier)
        lifecycle.stop(self.platform, identifier, "stopped", BOSS)
        self.over(identifier, finished)

    def finish_time(self, identifier: str) -> datetime | None:
        """When the engine would say that a container ended that is stopped now."""
        facts = self.engine.containers.get(identifier)
        if facts is None:
            return self.workload(identifier).engine_finished_at
        return facts.finished_at or self.clock.at

    def over(self, identifier: str, finished: datetime | None) -> None:
        """The opinion learns of an end."""
        session = self.opinion.sessions.get(identifier)
        if session is not None:
            self.opinion.end(session, finished)

    def became_ready(self, workload: Workload) -> None:
        """The opinion learns of a session."""
        facts = self.engine.containers[workload.id]
        assert facts.started_at is not None and workload.account is not None
        held = self.held(workload)
        held.since = facts.started_at
        self.opinion.sessions[workload.id] = Session(
            workload.account,
            workload.user,
            workload.tier,
            facts.started_at,
            [held],
            facts.started_at,
        )
        self.ready_at[workload.id] = self.clock.at

    def learn_accounts(self) -> None:
        """Accounts that were just made, with what everybody is given."""
        with self.platform.database.reading() as connection:
            for account in accounts.all_accounts(connection):
                if account.id in self.opinion.purses:
                    continue
                self.opinion.purses[account.id] = Purse()
                for found in grants.of_account(connection, account.id):
                    self.learn_grant(found)

    def learn_grant(self, found: grants.Grant) -> None:
        """A grant was made just now, and its first part may be due."""
        made = Grant(
            found.account,
            found.microcredits,
            found.every.value,
            found.carry_over,
            found.starts_at,
            found.ends_at,
        )
        self.opinion.grants[found.id] = made
        self.opinion.give(made, self.clock.at)

    # -- comparing -------------------------------------------------------------------------------

    def compare(self) -> None:
        """Balances and lots are as the second opinion has them; who waits and runs is read anew."""
        with self.platform.database.reading() as connection:
            balances = dict(connection.execute(BALANCES).all())
            left: dict[str, list[tuple[datetime, int]]] = {key: [] for key in balances}
            for account, expires, amount in connection.execute(LOTS).all():
                left[account].append((expires or NEVER, amount))
            rows = connection.execute(STATES).all()
            self.states = {row.id: State(row.state) for row in rows}
        purses = self.opinion.purses
        expected = {key: purse.balance for key, purse in purses.items()}
        assert balances == expected, (balances, expected)
        for key, purse in purses.items():
            assert sorted(left[key]) == purse.left()
            assert sum(amount for _, amount in left[key]) == max(0, purse.balance)

    def _compare_entries(self, connection: Connection) -> None:
        """The chain of balances, and nothing negative but by rule."""
        after: dict[str, int] = {}
        rows = connection.execute(select(tables.entries).order_by(tables.entries.c.id)).all()
        assert [row.id for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            balance = after.get(row.account, 0) + row.microcredits
            assert row.balance_after == balance
            after[row.account] = balance
            if row.kind == "charge":
                assert row.microcredits <= 0 and row.gpu_microseconds >= 0
                assert row.cpu_microseconds >= 0 and row.memory_gib_microseconds >= 0
            elif row.kind in ("grant", "refund"):
                assert row.microcredits > 0
            elif row.microcredits < 0 and row.kind != "adjustment":
                assert balance >= 0  # neither a transfer nor an expiry makes a debt
        total = sum(purse.balance for purse in self.opinion.purses.values())
        assert sum(row.microcredits for row in rows) == total

    def _compare_sessions(self, connection: Connection) -> None:
        """Each session was charged what it cost, each microsecond once."""
        rows = connection.execute(
            select(tables.entries)
            .where(tables.entries.c.workload.is_not(None), tables.entries.c.kind != "refund")
            .order_by(tables.entries.c.id)
        ).all()
        charged = gpu = 0
        for key, session in self.opinion.sessions.items():
            mine = [row for row in rows if row.workload == key]
            times = sorted(
                (row.from_at, row.until_at)
                for row in mine
                if row.kind == "charge" and row.from_at < row.until_at
            )
            for (_, until), (begins, _) in itertools.pairwise(times):
                assert until == begins  # without a gap, and no second twice
            due = self.opinion.due(session, session.mark)
            assert -sum(row.microcredits for row in mine) == due + session.not_given
            held = self.opinion.gpu_microseconds(session)
            assert sum(row.gpu_microseconds for row in mine) == held
            charged, gpu = charged + due, gpu + held
        never_ready = [row for row in rows if row.workload not in self.opinion.sessions]
        assert all(row.microcredits == 0 for row in never_ready)
        hours = tables.usage_hours.c
        sums = connection.execute(
            select(func.sum(hours.microcredits), func.sum(hours.gpu_microseconds))
        ).one()
        assert tuple(int(value or 0) for value in sums) == (charged, gpu)


@contextmanager
def world(database_url: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose clock stands still until a test moves it."""
    clock = Clock()

    class Told(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return clock.at

    patch.setattr("dcloud_spawner.platform.datetime", Told)
    patch.setattr(memory_engine, "datetime", Told)
    settings = settings_for(
        database_url,
        folder,
        tier_groups={"staff": "gold"},
        personal_grant_credits=1.5,
        personal_grant_every="month",
    )
    engine = MemoryEngine(machine({}))
    with opened(settings, engine) as platform:
        made = World(platform, engine, clock)
        try:
            yield made
        finally:
            made.threads.shutdown()


def both(world: World, act: Callable[[], object]) -> None:
    """Two at once, on connections of their own."""
    for done in [world.threads.submit(act) for _ in range(2)]:
        done.result(30)


def set_health(world: World, uuid: str, health: Health) -> None:
    """A GPU breaks, or is mended, and the inventory sees it."""
    world.health[uuid] = health
    world.engine.nodes = (machine(world.health),)
    with world.platform.database.reading() as connection:
        holder = leases.holders(connection).get(uuid)
        before = nodes.find_accelerator(connection, uuid)
    world.platform.refresh_inventory()
    session = world.opinion.sessions.get(holder or "")
    if session is None or session.over or (before and before.health is health):
        return
    held = world.held(world.workload(holder or ""))
    if held.faulty != session.held[-1].faulty:
        session.changes(world.clock.at, held)
