"""One load test from its first user to its last: prepare, let people live, tidy up, report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from dcloud_spawner.errors import Conflict, Unavailable
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.history import Lease, submitted_since
from dcloud_spawner.store.workloads import Workload
from hub_services.loadtest.bounds import Bounds
from hub_services.loadtest.clean import Broom, Left, Say
from hub_services.loadtest.hub import HubApi, said
from hub_services.loadtest.journal import Doing, Journal
from hub_services.loadtest.names import Run, forget_run, note_run, noted_runs
from hub_services.loadtest.person import Person, Shared
from hub_services.loadtest.rights import service_token
from hub_services.loadtest.script import draw
from hub_services.loadtest.watch import check_containers, check_leases, probe_hub, sample_pool

TIDY_SECONDS = 1800.0
"""For how long the tokens outlive the run, so that there is time to tidy up."""

TOKENS_AT_ONCE = 8


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    users: int
    seconds: float
    seed: int
    actor: Actor


@dataclass
class Outcome:
    """Everything the report is made from."""

    wanted: Wanted
    bounds: Bounds
    run: Run
    began_at: datetime
    journal: Journal
    ended_at: datetime | None = None
    interrupted: bool = False
    rows: Sequence[Workload] = ()
    """The workloads of the run's people, as they were when it closed."""
    leases: Sequence[Lease] = ()
    left: Left = field(default_factory=Left)
    load_before: float = 0.0
    load_after: float = 0.0


async def run_load_test(
    platform: Platform, url: str, wanted: Wanted, bounds: Bounds, say: Say, view: Viewing
) -> Outcome:
    """Run it. What is left when this is interrupted or fails is removed before it returns."""
    journal = Journal()
    hub = HubApi(url, journal)
    began = utc_now()
    with service_token(platform.settings.hub_store_url, wanted.seconds + TIDY_SECONDS) as token:
        run = note_run(platform.settings.state, wanted.users, began)
        outcome = Outcome(wanted, bounds, run, began, journal, load_before=os.getloadavg()[0])
        broom = Broom(platform, hub, token, wanted.actor, say)
        shared = Shared(hub, journal, asyncio.Semaphore(bounds.cpu_places))
        with _ending_on_signals(shared, outcome, say):
            try:
                say(f"making {wanted.users} users")
                tokens = await _make_people(hub, run, token, wanted.seconds + TIDY_SECONDS)
                journal.restart()
                outcome.began_at = utc_now()
                await _live(platform, outcome, shared, tokens, view)
            finally:
                shared.closing.set()
                outcome.ended_at, outcome.load_after = utc_now(), os.getloadavg()[0]
                outcome.rows = await platform.in_database_thread(_rows, platform, outcome)
                outcome.left = await broom.sweep(run.names)
                await hub.close()
                outcome.leases = await platform.in_database_thread(
                    check_leases, platform, outcome.began_at, journal
                )
                await _forget(platform, broom, run, outcome.left)
    return outcome


async def _forget(platform: Platform, broom: Broom, run: Run, left: Left) -> None:
    await platform.in_database_thread(broom.forget, run)
    if not left.sentence():
        forget_run(platform.settings.state, run)


async def clean(platform: Platform, url: str, actor: Actor, say: Say) -> Left:
    """Remove what killed runs left behind."""
    left = Left()
    for run in noted_runs(platform.settings.state):
        say(f"run {run.id}, {run.users} users")
        hub = HubApi(url, Journal())
        with service_token(platform.settings.hub_store_url, TIDY_SECONDS) as token:
            broom = Broom(platform, hub, token, actor, say)
            found = await broom.sweep(run.names)
        await hub.close()
        await _forget(platform, broom, run, found)
        left.servers += found.servers
        left.users += found.users
        left.why = left.why or found.why
        left.homes += found.homes
    return left


class Viewing:
    """What watches a run while it goes on; the command's own shows it on the terminal."""

    async def show(self, outcome: Outcome, shared: Shared) -> None:
        """Called once; returns when the run closes."""


async def _make_people(hub: HubApi, run: Run, token: str, token_seconds: float) -> dict[str, str]:
    """Users with a token each. Raises Unavailable when the hub does not make them."""
    status, text = await hub.make_users(run.names, token)
    if status != HTTPStatus.CREATED:
        raise Unavailable(
            f"The hub makes no users ({status or 'no answer'}).",
            hint=said(text) or "`dcloud doctor` looks at it.",
        )
    places = asyncio.Semaphore(TOKENS_AT_ONCE)

    async def one(name: str) -> tuple[str, str]:
        async with places:
            return name, await hub.token_for(name, token, token_seconds)

    tokens = dict(await asyncio.gather(*(one(name) for name in run.names)))
    if not all(tokens.values()):
        raise Conflict("The hub gives no tokens to users.", hint="Its log says why.")
    return tokens


async def _live(
    platform: Platform,
    outcome: Outcome,
    shared: Shared,
    tokens: dict[str, str],
    view: Viewing,
) -> None:
    wanted, journal = outcome.wanted, outcome.journal
    scripts = draw(
        wanted.seed, wanted.users, wanted.seconds, outcome.bounds.wishes, outcome.bounds.gpus
    )
    people = [
        Person(shared, name, tokens[name], script)
        for name, script in zip(outcome.run.names, scripts, strict=True)
    ]
    for name in outcome.run.names:
        journal.note(name, Doing.THINKING)
    async with asyncio.TaskGroup() as group:
        group.create_task(sample_pool(platform, shared))
        group.create_task(check_containers(platform, shared))
        group.create_task(probe_hub(shared))
        group.create_task(view.show(outcome, shared))
        for person in people:
            group.create_task(person.live())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(shared.closing.wait(), wanted.seconds)
        shared.closing.set()


@contextlib.contextmanager
def _ending_on_signals(shared: Shared, outcome: Outcome, say: Say) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM closes the run, which then tidies up; one while it does so is
    answered, and the next leaves what is left to ``--clean``: this task is cancelled."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    told = False

    def end() -> None:
        nonlocal told
        if not shared.closing.is_set():
            outcome.interrupted = True
            shared.closing.set()
        elif not told:
            told = True
            say("tidying up; once more leaves the rest to `dcloud loadtest --clean`")
        else:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _rows(platform: Platform, outcome: Outcome) -> Sequence[Workload]:
    names = set(outcome.run.names)
    with platform.database.reading() as connection:
        return [w for w in submitted_since(connection, outcome.began_at) if w.user in names]
