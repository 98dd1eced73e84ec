"""The ledger under thousands of random operations, against a second opinion (Done 1 of the ledger).

After each operation every balance and every lot is compared with ``tests/ledger_opinion.py``; at
the end of each history the entries, the sessions and the use by the hour are too, and
``ledger verify`` must find nothing. The scheduler, the store, the meter and the reconciler are
real and so is the database; the clock and the engine are simulated (``tests/ledger_world.py``).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dcloud_spawner import accounting, charging, granting, lifecycle, resizing, transfers, unopened
from dcloud_spawner.budget_funds import available
from dcloud_spawner.engines.base import Health
from dcloud_spawner.errors import Conflict, EngineUnreachable, InvalidChoice
from dcloud_spawner.ledger.rates import Resource
from dcloud_spawner.store import accounts, entries
from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.grants import Every
from dcloud_spawner.store.schema import State
from hub_services.controller.meter import settle_running
from hub_services.controller.reconcile import reconcile
from tests.conftest import ON_POSTGRESQL
from tests.ledger_world import BOSS, GIB, USERS, World, both, set_health, world
from tests.platforms import launch, submit

OPERATIONS = 10_000
OF_EACH_AT_LEAST = 10
STEPS = 200
HISTORIES = 64
OPEN = (State.QUEUED, State.ADMITTED, State.STARTING, State.RUNNING, State.STOPPING)
MOST_OPEN = 4

which = st.integers(0, 10**6)
amounts = st.integers(1, 3_000_000)
short = st.integers(0, 5_000_000)
"""Microseconds."""


NAMES: set[str] = set()
"""Of all operations."""


def operation(
    count: int = 1, **drawn: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Any]:
    """A rule that is counted; as two where it always does two of them."""

    def counted(act: Callable[..., None]) -> Any:
        NAMES.add(act.__name__)

        @functools.wraps(act)
        def acts(self: LedgerMachine, **values: Any) -> None:
            act(self, **values)
            self.world.done[act.__name__] += count

        return rule(**drawn)(acts)

    return counted


class LedgerMachine(RuleBasedStateMachine):
    """Whatever people, programs and machines do, in any order."""

    world: ClassVar[World]

    @initialize()
    def begin(self) -> None:
        self.world.begin()
        self.world.compare()
        self.old_ticks: list[Any] = []
        self.transfers: list[tuple[str, str, int, str]] = []
        self.ask("ann", 1, None, False, True, gib=1.1)
        self.ask("bob", 2, None, True, False, cores=0.7)
        self.world.compare()
        for identifier in self.world.of_state(State.ADMITTED):
            self.becomes_ready(identifier, 1_000_003)

    def teardown(self) -> None:
        if self.world.lab:
            self.world.end()

    @invariant()
    def balances_and_lots_are_right(self) -> None:
        if self.world.lab:
            self.world.compare()

    def one(self, number: int, found: list[Any]) -> Any:
        return found[number % len(found)]

    def has(*states: State) -> Callable[[LedgerMachine], bool]:  # type: ignore[misc]
        return lambda self: bool(self.world.of_state(*states))

    # -- sessions --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.of_state(*OPEN)) < MOST_OPEN)
    @operation(
        user=st.sampled_from(USERS),
        gpus=st.integers(0, 2),
        model=st.sampled_from((None, "A100", "H100")),
        project=st.booleans(),
        staff=st.booleans(),
        gib=st.sampled_from((0.5, 1, 3.7)),
        cores=st.sampled_from((0.5, 1, 3)),
    )
    def somebody_asks(self, **wish: Any) -> None:
        self.ask(**wish)

    def ask(
        self, user: str, gpus: int, model: str | None, project: bool, staff: bool, **more: Any
    ) -> None:
        submit(
            self.world.platform,
            user,
            gpus,
            server=f"s{next(self.world.numbers)}",
            gpu_model=model if gpus else None,
            account="lab" if project else None,
            groups=("staff",) if staff else (),
            **more,
        )
        self.world.learn_accounts()
        self.world.platform.run_pass()

    @precondition(lambda self: len(self.world.of_state(*OPEN)) < MOST_OPEN)
    @operation(
        2, user=st.sampled_from(USERS), gpus=st.integers(0, 2), project=st.booleans(), took=short
    )
    def somebody_starts(self, user: str, gpus: int, project: bool, took: int) -> None:
        self.ask(user, gpus, None, project, False)
        self.world.compare()
        for identifier in self.world.of_state(State.ADMITTED):
            self.becomes_ready(identifier, took)

    @precondition(has(State.ADMITTED))
    @operation(number=which, took=short)
    def a_start_becomes_ready(self, number: int, took: int) -> None:
        self.becomes_ready(self.one(number, self.world.of_state(State.ADMITTED)), took)

    def servers(self) -> list[str]:
        """What runs, and its container too."""
        running = self.world.of_state(State.RUNNING)
        return [key for key in self.world.alive() if key in running]

    def a_server(self, number: int) -> str:
        return self.one(number, self.servers())

    def becomes_ready(self, identifier: str, took: int) -> None:
        facts = launch(self.world.platform, identifier)
        self.world.clock.goes(microseconds=took)
        assert lifecycle.mark_ready(self.world.platform, identifier, facts)
        self.world.became_ready(self.world.workload(identifier))

    @precondition(has(State.ADMITTED))
    @operation(2, number=which, took=short)
    def a_start_fails(self, number: int, took: int) -> None:
        identifier = self.one(number, self.world.of_state(State.ADMITTED))
        launch(self.world.platform, identifier)
        self.world.clock.goes(microseconds=took)
        self.world.stop(identifier)

    @precondition(has(*OPEN))
    @operation(number=which)
    def somebody_stops(self, number: int) -> None:
        self.world.stop(self.one(number, self.world.of_state(*OPEN)))

    @precondition(lambda self: bool(self.servers()))
    @operation(number=which, took=short)
    def a_server_crashes(self, number: int, took: int) -> None:
        self.world.engine.ends_by_itself(self.a_server(number))
        self.world.clock.goes(microseconds=took)

    @precondition(lambda self: bool(self.servers()))
    @operation(number=which)
    def a_container_vanishes(self, number: int) -> None:
        del self.world.engine.containers[self.a_server(number)]

    @precondition(lambda self: bool(self.servers()))
    @operation(number=which, took=short)
    def whoever_stops_it_dies_after_the_removal(self, number: int, took: int) -> None:
        world, identifier = self.world, self.a_server(number)
        lifecycle.begin_stop(world.platform, identifier, "stopped", BOSS)
        world.engine.stop(
            identifier, 0, lambda facts: lifecycle.note_end(world.platform, identifier, facts)
        )
        world.clock.goes(microseconds=took)

    @operation()
    def the_reconciler_looks(self) -> None:
        alive = self.world.alive()
        lost = [key for key in self.world.of_state(State.RUNNING) if key not in alive]
        lost += self.world.of_state(State.STOPPING)
        finished = {key: self.world.finish_time(key) for key in lost}
        reconcile(self.world.platform)
        for key, at in finished.items():
            self.world.over(key, at)

    @precondition(has(State.RUNNING))
    @operation(number=which, minutes=st.sampled_from((1, 16, 40)))
    def nobody_opens_a_server(self, number: int, minutes: int) -> None:
        identifier = self.one(number, self.world.of_state(State.RUNNING))
        self.world.clock.goes(60 * minutes)
        until = self.world.ready_at[identifier] + timedelta(minutes=15)
        finished = self.world.finish_time(identifier)
        if unopened.give_back(self.world.platform, identifier):
            assert until <= self.world.clock.at
            self.world.opinion.sessions[identifier].at_most = until
            self.world.over(identifier, finished)
        else:
            assert until > self.world.clock.at

    @precondition(lambda self: bool(self.servers()))
    @operation(
        number=which, gib=st.sampled_from((0.25, 1, 7.3)), cores=st.sampled_from((250, 4000))
    )
    def a_server_gets_other_limits(self, number: int, gib: float, cores: int) -> None:
        identifier = self.a_server(number)
        session = self.world.opinion.sessions[identifier]
        resizing.change_limits(self.world.platform, identifier, int(gib * GIB), cores, BOSS)
        before, held = session.held[-1], self.world.held(self.world.workload(identifier))
        if (held.millicores, held.memory_bytes) != (before.millicores, before.memory_bytes):
            session.changes(self.world.clock.at, held)

    @operation(
        index=st.integers(0, 3), ill=st.sampled_from((Health.OK, Health.LOST, Health.UNHEALTHY))
    )
    def a_gpu_breaks_or_is_mended(self, index: int, ill: Health) -> None:
        set_health(self.world, f"GPU-{index}", ill)

    # -- the meter -------------------------------------------------------------------------------

    def charge_all(self) -> None:
        for key in self.world.alive():
            self.world.opinion.charge(self.world.opinion.sessions[key], self.world.clock.at)

    @operation(took=short, silent=st.sampled_from((False, False, False, True)))
    def the_meter_ticks(self, took: int, silent: bool) -> None:
        self.world.clock.goes(microseconds=took)
        if silent:
            self.world.engine.fail(EngineUnreachable("no answer"), "observe")
            with pytest.raises(EngineUnreachable):
                settle_running(self.world.platform)
            self.world.engine.mend()
            return
        settle_running(self.world.platform)
        self.old_ticks.append(self.world.clock.at)
        self.charge_all()

    @operation(2, took=short)
    def two_meters_tick_at_once(self, took: int) -> None:
        self.world.clock.goes(microseconds=took)
        both(self.world, lambda: settle_running(self.world.platform))
        self.charge_all()

    @precondition(lambda self: bool(self.old_ticks and self.servers()))
    @operation(number=which, other=which)
    def an_old_tick_is_played_again(self, number: int, other: int) -> None:
        until, key = self.one(number, self.old_ticks), self.a_server(other)
        with self.world.platform.database.transaction() as connection:
            charging.settle(connection, key, until, self.world.clock.at)
        self.world.opinion.charge(self.world.opinion.sessions[key], until)

    @operation(seconds=st.sampled_from((1, 59, 60, 600, 3600, 7201, 86400, 9 * 86400)), more=short)
    def time_goes_by(self, seconds: int, more: int) -> None:
        self.world.clock.goes(seconds, more)

    @operation(seconds=st.sampled_from((-1, -60, -3599, -86400)))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.world.clock.goes(seconds)

    # -- credits ---------------------------------------------------------------------------------

    @operation(
        number=which,
        amount=amounts,
        every=st.sampled_from(Every),
        carries=st.booleans(),
        begins=st.sampled_from((None, 30, 86400)),
        lasts=st.sampled_from((None, 3600, 20 * 86400)),
    )
    def credits_are_granted(
        self,
        number: int,
        amount: int,
        every: Every,
        carries: bool,
        begins: int | None,
        lasts: int | None,
    ) -> None:
        now = self.world.clock.at
        starts_at = now + timedelta(seconds=begins) if begins else None
        made = granting.grant(
            self.world.platform,
            self.one(number, list(self.world.opinion.purses)),
            amount,
            BOSS,
            reason="for a test",
            every=every,
            carry_over=carries,
            starts_at=starts_at,
            ends_at=(starts_at or now) + timedelta(seconds=lasts) if lasts else None,
        )
        self.world.learn_grant(made)

    @precondition(lambda self: any(not found.over for found in self.world.opinion.grants.values()))
    @operation(number=which)
    def a_grant_is_cancelled(self, number: int) -> None:
        open_grants = [key for key, each in self.world.opinion.grants.items() if not each.over]
        identifier = self.one(number, open_grants)
        granting.cancel_grant(self.world.platform, identifier, BOSS)
        self.world.opinion.grants[identifier].over = True

    @operation(twice=st.booleans())
    def what_is_due_is_given_and_what_is_over_expires(self, twice: bool) -> None:
        if twice:
            both(self.world, lambda: granting.give_due_grants(self.world.platform))
        else:
            granting.give_due_grants(self.world.platform)
        self.world.opinion.turn(self.world.clock.at)

    @operation(one=which, other=which, amount=amounts)
    def credits_are_moved(self, one: int, other: int, amount: int) -> None:
        purses = self.world.opinion.purses
        source, target = self.one(one, list(purses)), self.one(other, list(purses))
        key = f"transfer-{self.world.done.total()}"
        wanted = (source, target, amount, key)
        if source == target:
            with pytest.raises(InvalidChoice):
                self.move(*wanted)
        elif purses[source].balance - self.set_aside(source) < amount:
            with pytest.raises(Conflict):
                self.move(*wanted)
        else:
            self.move(*wanted)
            purses[target].put(purses[source].take(amount))
            self.transfers.append(wanted)

    def set_aside(self, account: str) -> int:
        """What its sessions hold for their first hour, and what they used since the last tick;
        nothing where none is open."""
        with self.world.platform.database.reading() as connection:
            found = accounts.get(connection, account)
            left = available(connection, found, self.world.clock.at)
        aside = found.balance_microcredits - left
        assert aside == 0 or self.world.of_state(*OPEN)
        return aside

    def move(self, source: str, target: str, amount: int, key: str) -> None:
        transfers.transfer(
            self.world.platform, source, target, amount, BOSS, reason="for a test", key=key
        )

    @precondition(lambda self: bool(self.transfers))
    @operation(number=which)
    def a_transfer_is_sent_again(self, number: int) -> None:
        self.move(*self.one(number, self.transfers))

    @operation(number=which, other=which, part=st.sampled_from((None, 1, 100_000)))
    def a_charge_is_refunded(self, number: int, other: int, part: int | None) -> None:
        account = self.one(number, list(self.world.opinion.purses))
        with self.world.platform.database.reading() as connection:
            charges = entries.page(connection, account, kinds=(Kind.CHARGE,), limit=20)
        if not charges:
            return
        charge = self.one(other, charges)
        self.refund(charge, part)

    def refund(self, charge: Entry, part: int | None) -> None:
        with suppress(Conflict):  # it was free, or all of it is given back
            made = transfers.refund(
                self.world.platform, charge.id, BOSS, reason="for a test", microcredits=part
            )
            assert part is None or made.microcredits == part
            assert charge.workload and charge.from_at and charge.until_at
            self.world.opinion.refund(
                self.world.opinion.sessions[charge.workload],
                (charge.from_at, charge.until_at),
                -charge.microcredits,
                made.microcredits,
            )
            self.world.opinion.purses[charge.account].put_for_ever(made.microcredits)

    @precondition(lambda self: bool(self.servers()))
    @operation(
        2,
        number=which,
        part=st.sampled_from((None, 1, 100_000)),
        back=st.sampled_from((1, 30, 59, 4000)),
    )
    def what_was_just_refunded_proves_to_be_over(
        self, number: int, part: int | None, back: int
    ) -> None:
        identifier = self.a_server(number)
        self.world.clock.goes(60)
        settle_running(self.world.platform)
        self.charge_all()
        with self.world.platform.database.reading() as connection:
            found = entries.of_workload(connection, identifier)
        charges = [entry for entry in found if entry.kind is Kind.CHARGE]
        if charges:
            self.refund(charges[-1], part)
        self.world.clock.goes(-back)
        self.world.stop(identifier)

    @operation(number=which, amount=amounts, up=st.booleans())
    def a_balance_is_set_right(self, number: int, amount: int, up: bool) -> None:
        account = self.one(number, list(self.world.opinion.purses))
        signed = amount if up else -amount
        transfers.adjust(self.world.platform, account, signed, BOSS, reason="for a test")
        if up:
            self.world.opinion.purses[account].put_for_ever(amount)
        else:
            self.world.opinion.purses[account].take(amount)

    @operation(
        resource=st.sampled_from((Resource.GPU, Resource.CPU_CORE, Resource.MEMORY_GIB)),
        amount=st.integers(0, 2_000_000),
        model=st.sampled_from(("", "A100", "H100")),
        tier=st.sampled_from(("", "gold", "bronze")),
        later=st.sampled_from((None, 0, 61, 4000)),
    )
    def a_rate_changes(
        self, resource: Resource, amount: int, model: str, tier: str, later: int | None
    ) -> None:
        opinion, now = self.world.opinion, self.world.clock.at
        model = model if resource is Resource.GPU else ""
        valid_from = None if later is None else now + timedelta(seconds=later)

        def change() -> None:
            accounting.change_rate(
                self.world.platform,
                resource,
                amount,
                BOSS,
                gpu_model=model,
                tier=tier,
                valid_from=valid_from,
            )

        earliest = opinion.newest_mark(now)
        if valid_from is not None and valid_from < earliest:
            with pytest.raises(InvalidChoice):
                change()
        else:
            change()
            opinion.rates.append((valid_from or earliest, resource.value, model, tier, amount))


@pytest.fixture
def ledger_world(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """On SQLite in memory: the file system may then forget what it likes, as PostgreSQL's is
    told to in tests; all else is as in production."""
    shared = Path("/dev/shm")
    if ON_POSTGRESQL or not shared.is_dir():
        with world(database_url, tmp_path, monkeypatch) as made:
            yield made
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        url = f"sqlite:///{folder}/dcloud.sqlite"
        with world(url, tmp_path, monkeypatch) as made:
            yield made


@pytest.mark.timeout(600)
def test_ten_thousand_operations_leave_every_balance_lot_and_session_right(
    ledger_world: World,
) -> None:
    LedgerMachine.world = ledger_world
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    done = ledger_world.done
    assert done.total() >= OPERATIONS
    assert all(done[name] >= OF_EACH_AT_LEAST for name in NAMES), done
