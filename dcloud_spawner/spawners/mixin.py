"""What every spawner of the platform does around its engine: submit, wait, lease, start, release.

The engine-specific part of a spawner class is one method, :meth:`PlatformSpawner.launch`.
The workload's row in the store is the truth; this object may vanish with the hub at any time,
and a new one picks the row up again (:meth:`_submit` finds it, with its place and leases).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from tornado.httpclient import AsyncHTTPClient

from dcloud_spawner import deleted_users, lifecycle, user_homes
from dcloud_spawner.engines.base import ContainerFacts, ContainerSpec, Phase
from dcloud_spawner.errors import Conflict, EngineError, EngineUnreachable, LaunchFailed, UserError
from dcloud_spawner.forecasting import Forecaster, ForecastWatch
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.options import image_of
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.spawners.actor import current_actor
from dcloud_spawner.spawners.answers import answers
from dcloud_spawner.spawners.data import mounts_of, until_mounted
from dcloud_spawner.spawners.form_frames import FormFrames
from dcloud_spawner.spawners.instance import announce_hub
from dcloud_spawner.spawners.refused import StartRefused
from dcloud_spawner.spawners.row import SpawnerRow
from dcloud_spawner.spawners.views import refuse_missing_image
from dcloud_spawner.spawners.watch import AdmissionWatch
from dcloud_spawner.spec import build_spec
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from dcloud_spawner.throttle import Throttle

FOREVER_SECONDS = 10 * 365 * 24 * 3600
"""``start_timeout`` of the hub covers the queue too; the launch has a limit of its own."""

READY_POLL_SECONDS = 0.05

RESUME = "resume"
"""The only field of what the controller posts: the id of the workload to take up."""

RESUMABLE = (State.QUEUED, State.ADMITTED, State.STARTING)

RETRY_SECONDS = 1.0
"""Between two tries to launch while the engine does not answer."""

T = TypeVar("T")


class PlatformSpawner(SpawnerRow):
    """Mixin of every spawner class; ``platform`` is set once by the hub's configuration."""

    watch: ClassVar[AdmissionWatch]
    forecast: ClassVar[ForecastWatch]
    launches: ClassVar[asyncio.Semaphore]
    starts: ClassVar[Throttle]
    living: ClassVar[WeakSet[PlatformSpawner]]

    @classmethod
    def plug_in(cls, platform: Platform) -> None:
        """Give all spawners of this process their platform."""
        cls.platform = platform
        cls.pool = PoolWatch(platform)
        cls.frames = FormFrames(platform, cls.pool)
        forecaster = Forecaster(platform)
        cls.frames.expected = forecaster.expected
        cls.forecast = ForecastWatch(platform, forecaster, cls.pool)
        cls.watch = AdmissionWatch(platform)
        cls.launches = asyncio.Semaphore(platform.settings.concurrent_launches)
        cls.starts = Throttle(platform.settings.starts_per_minute, "starts")
        cls.living = WeakSet()
        cls.pool.listeners.append(cls._notice_ends)
        cls.pool.prepare.append(cls.prepare)
        announce_hub(platform.settings)

    @classmethod
    def _notice_ends(cls, state: PoolState) -> None:
        """Tell the hub of servers that somebody else ended (limit, reconciler, command line)."""
        for spawner in list(cls.living):
            if spawner.user.spawners.get(spawner.name) is not spawner:
                continue  # of an earlier start; it would see the next one's server as its own
            workload = state.servers.get((spawner.user.name, spawner.name))
            if spawner.ready and (workload is None or workload.state is not State.RUNNING):
                # poll() looks again itself, so a reading that is a moment old does no harm.
                asyncio.ensure_future(spawner.poll_and_notify())  # noqa: RUF006

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.living.add(self)
        self.start_timeout = FOREVER_SECONDS
        self.http_timeout = int(self.platform.settings.launch_timeout_seconds)
        self.options_form = type(self).render_options_form
        self.options_from_form = self.choice_of_form
        self.apply_user_options = lambda spawner, options: None
        self.ended_by: Actor | None = None
        """Who asked for the end of the present start: it is told in another request's context."""
        self._noticing = asyncio.Lock()
        self._step: asyncio.Future[Any] | None = None
        self._cleanup: asyncio.Task[None] | None = None

    # -- the engine's part -------------------------------------------------------------------

    async def launch(self, spec: ContainerSpec) -> str:
        """Start the container of a spec and return its address, ``http://IP:PORT``."""
        raise NotImplementedError

    async def fetch_image(self, image: str) -> None:
        """Bring the image to where it runs; may take minutes and counts against no limit."""

    def command_of(self, workload: Workload) -> tuple[str, ...]:
        """The command inside the container; empty means the image's own."""
        return ()

    # -- start ---------------------------------------------------------------------------------

    async def start(self) -> str:
        """Submit, wait for admission however long it takes, launch, and return the address."""
        actor = current_actor(self.handler, default=self.user.name)
        if self._cleanup is not None:
            await asyncio.shield(self._cleanup)
        self._cleanup, self.launched_at, self.ended_by = None, None, None
        self.pool.keep_fresh()
        try:
            workload = await self._in_full(self._submit(actor))
            self.workload_id = workload.id
            self.forget_entered()
            await self._wait(workload)
            return await self._start_admitted(workload.image)
        except asyncio.CancelledError:
            # The hub cancels us when somebody leaves the queue or stops a pending start. It
            # waits only a second, and stopping a container may take longer.
            self._cleanup = asyncio.ensure_future(self._leave())
            raise
        except UserError as error:
            await self._give_up("refused", error.message)
            await self._forget_bad_options()
            self.mark_entered(error.field)
            raise StartRefused(
                error.text, reason=error.code, status_code=error.status_code
            ) from error
        except Exception as error:
            await self._give_up("failed", str(error))
            if isinstance(error, EngineError):
                raise StartRefused(
                    f"The server could not be started. {error}",
                    reason="engine",
                    status_code=500 if isinstance(error, LaunchFailed) else 503,
                ) from error
            raise

    async def _submit(self, actor: Actor) -> Workload:
        """A new workload, or the one that this server already has and a dead hub left behind."""
        try:
            if set(self.user_options) == {RESUME}:
                return await self._resumed(self.user_options[RESUME])
            beside = self.beside
            choice = beside.choice if beside else self.validated(self.user_options)
            image = image_of(choice, self.platform.profiles.current()[choice.profile])
            existing = await self._open_workload()
            if existing and existing.state in RESUMABLE and existing.choice == choice.as_dict():
                return existing
            self.starts.count(self.user.name)
            if existing is not None:
                await self._end_previous(existing, actor)
            await self.platform.in_engine_thread(refuse_missing_image, self.platform, image)
            return await self.platform.in_database_thread(
                lifecycle.submit,
                self.platform,
                self.user.name,
                self.name,
                choice,
                image,
                actor,
                groups={group.name for group in self.user.groups},
                administrator=bool(self.user.admin),
                keeps_place_for=beside.waiting if beside else None,
            )
        finally:
            self.beside = None

    async def _resumed(self, identifier: object) -> Workload:
        """The very workload that the controller asks to take up. It may have been cancelled in
        the meantime, and must not come to life again as a new one."""
        existing = await self._open_workload()
        if existing is None or existing.id != identifier or existing.state not in RESUMABLE:
            raise Conflict("There is nothing to take up.", code="nothing_to_resume")
        self.log.info("Taking up %s of %s again", existing.id, existing.server)
        self.user_options = self.orm_spawner.user_options = dict(existing.choice)
        return existing

    async def _end_previous(self, existing: Workload, actor: Actor) -> None:
        try:
            await self.platform.in_engine_thread(
                lifecycle.stop, self.platform, existing.id, "replaced", actor
            )
        except EngineError as error:
            raise Conflict(
                "The previous server of this name is still being stopped.",
                hint="Its GPUs are free once the engine confirms it; try again in a minute.",
                code="still_stopping",
            ) from error

    async def _wait(self, workload: Workload) -> None:
        await self.platform.pass_soon()
        state = await self.watch.until_not_queued(workload.id)
        if state not in (State.ADMITTED, State.STARTING):
            raise Conflict("This request was cancelled.", code="cancelled")

    async def _start_admitted(self, image: str) -> str:
        # Before it takes a place among the launches: an image may be fetched for minutes.
        await self._fetch_when_engine_answers(image)
        await until_mounted(self.platform, self.workload_id)
        async with self.launches:
            begun = await self._in_full(
                self.platform.in_database_thread(
                    lifecycle.begin_start, self.platform, self.workload_id
                )
            )
            if begun is None:
                raise Conflict("This start was cancelled.", code="cancelled")
            workload, accelerators = begun
            limit_seconds = self.platform.settings.launch_timeout_seconds
            try:
                async with asyncio.timeout(limit_seconds):
                    url = await self._launch_when_engine_answers(workload, accelerators)
                    facts = replace(await self._until_ready(workload, url), url=url)
            except TimeoutError as error:
                raise LaunchFailed(
                    f"It did not answer within {limit_seconds:g} seconds."
                ) from error
        if not await self._in_full(
            self.platform.in_database_thread(
                lifecycle.mark_ready, self.platform, workload.id, facts
            )
        ):
            raise Conflict("This start was cancelled.", code="cancelled")
        return url

    async def _in_full(self, step: Awaitable[T]) -> T:
        """A step that a cancelled start must not lose sight of: it goes on in its thread, and
        whoever cleans up waits for it first."""
        self._step = asyncio.ensure_future(step)
        return await asyncio.shield(self._step)

    async def _fetch_when_engine_answers(self, image: str) -> None:
        while True:
            try:
                return await self.fetch_image(image)
            except EngineUnreachable as error:
                self.log.warning("Trying again to look for %s: %s", image, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _launch_when_engine_answers(
        self, workload: Workload, accelerators: tuple[str, ...]
    ) -> str:
        """Launch; an engine that is away for a while costs nobody the GPUs they waited for."""
        while True:
            try:
                spec = await self._build_spec(workload, accelerators)
                url = await self._in_full(self._launch_marked(spec, workload.id))
            except EngineUnreachable as error:
                self.log.warning("Trying again to launch %s: %s", workload.server, error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.launched_at = utc_now()
            return url

    async def _launch_marked(self, spec: ContainerSpec, identifier: str) -> str:
        """Launch with a mark in the row, so that nobody who stops this server meanwhile takes
        a container that is not there yet for one that is gone."""
        if not await self.platform.in_database_thread(
            lifecycle.begin_launch, self.platform, identifier
        ):
            raise Conflict("This start was cancelled.", code="cancelled")
        renewing = asyncio.create_task(self._renew_mark(identifier))
        try:
            url = await self.launch(spec)
        except EngineUnreachable:
            raise  # the engine may still be making it: the mark stays
        except EngineError:
            await self.platform.in_database_thread(lifecycle.end_launch, self.platform, identifier)
            raise
        finally:
            renewing.cancel()
        await self.platform.in_database_thread(lifecycle.end_launch, self.platform, identifier)
        return url

    async def _renew_mark(self, identifier: str) -> None:
        while True:
            await asyncio.sleep(self.platform.settings.engine_timeout_seconds / 2)
            try:
                await self.platform.in_database_thread(
                    lifecycle.renew_launch, self.platform, identifier
                )
            except Exception as error:
                self.log.warning("Cannot renew the mark of %s: %s", self._log_name, error)

    async def _build_spec(self, workload: Workload, accelerators: tuple[str, ...]) -> ContainerSpec:
        volume = await self.platform.in_database_thread(
            user_homes.claim_home, self.platform, self.user.name, Actor("spawner")
        )
        home = await self.platform.in_engine_thread(self.platform.engine.ensure_home, volume)
        return build_spec(
            self.platform.settings,
            workload,
            self.platform.profiles.current().get(workload.profile),
            accelerators,
            environment=self.get_env(),
            mounts=(home, *mounts_of(self.platform, workload)),
            command=self.command_of(workload),
            port=self.port,
        )

    async def _until_ready(self, workload: Workload, url: str) -> ContainerFacts:
        """Wait until the server inside answers, or raise when its container ended first."""
        client = AsyncHTTPClient()
        address = f"{url}{self.server.base_url}api"
        loop = asyncio.get_running_loop()
        next_look = loop.time() + 1
        answered = False
        while True:
            answered = answered or await answers(client, address)
            if answered or loop.time() >= next_look:
                next_look = loop.time() + 1
                with contextlib.suppress(EngineUnreachable):
                    facts = await self._alive(workload.id)
                    if answered:
                        return facts
            await asyncio.sleep(READY_POLL_SECONDS)

    async def _alive(self, identifier: str) -> ContainerFacts:
        for facts in await self.platform.in_engine_thread(self.platform.engine.observe, identifier):
            if facts.phase is Phase.ALIVE:
                return facts
        log = await self.platform.in_engine_thread(self.platform.engine.logs, identifier, 5)
        raise LaunchFailed(f"Its container ended before it was ready. Last lines: {log.strip()}")

    # -- stop ----------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Give up a cancelled start, however long the database is away: the controller would
        take up again what still stands in it as wanted."""
        while True:
            try:
                return await self._give_up("cancelled", "")
            except Exception as error:
                self.log.error("Cannot give up %s yet: %s", self._log_name, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _give_up(self, reason: str, detail: str) -> None:
        """End the workload of a start that failed or was cancelled. An engine that fails now
        leaves it STOPPING, holding its GPUs; the reconciler goes on."""
        if self._step is not None:
            await asyncio.wait([self._step])
        workload = await self._workload() if reason == "cancelled" or self.workload_id else None
        if workload is None:
            return
        actor = self.ended_by or Actor("spawner")
        try:
            await self.platform.in_engine_thread(
                lifecycle.stop, self.platform, workload.id, reason, actor, detail[:2000]
            )
        except EngineError as error:
            self.log.error("Cannot stop %s yet: %s", self.workload_id, error)

    async def stop(self, now: bool = False) -> None:
        """Stop the container and release its leases once the engine confirms that it is gone."""
        if self._cleanup is not None:
            await asyncio.shield(self._cleanup)
            return
        workload = await self._workload()
        if workload is not None:
            actor = current_actor(None, default="hub")
            await self.platform.in_engine_thread(
                lifecycle.stop, self.platform, workload.id, "stopped", actor
            )

    async def poll(self) -> int | str | None:
        """None while the server runs. Never raises: an engine or database that does not answer
        is no reason to give up a server (the hub would stop it)."""
        self.pool.keep_fresh()
        if self._cleanup is not None and not self._cleanup.done():
            return None
        try:
            workload = await self._workload()
            if workload is None or workload.state is not State.RUNNING:
                return 0
            found = await self.platform.in_engine_thread(self.platform.engine.observe, workload.id)
        except Exception as error:
            self.log.warning("Cannot ask after %s: %s", self._log_name, error)
            return None
        if any(facts.phase is Phase.ALIVE for facts in found):
            return None
        facts = found[0] if found else None
        reason = "out of memory" if facts and facts.oom_killed else "exited"
        code = facts.exit_code if facts else None
        try:
            await self.platform.in_engine_thread(
                lifecycle.stop, self.platform, workload.id, reason, Actor("spawner"), ""
            )
        except EngineError as error:
            self.log.error("Cannot clean up %s yet: %s", workload.id, error)
        return f"{reason}, exit code {code}"

    @property
    def _superseded(self) -> bool:
        """Whether the hub is stopping this server already, or has a newer one of its name."""
        return self.pending == "stop" or self.user.spawners.get(self.name) is not self

    def add_poll_callback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call back when the server has ended. The hub's callback finds the server by its name:
        coming late, it would stop the next server of that name, in the middle of its start."""

        def unless_superseded() -> Any:
            return None if self._superseded else callback(*args, **kwargs)

        super().add_poll_callback(unless_superseded)

    async def poll_and_notify(self) -> int | str | None:
        """One at a time, so that whoever asks second finds the work of the first one done."""
        async with self._noticing:
            if self._superseded:
                return await self.poll()
            status: int | str | None = await super().poll_and_notify()
            return status

    async def get_url(self) -> str:
        """The address from the store: right even when the hub died before it saved its own."""
        workload = await self._workload()
        address = workload.url if workload is not None else ""
        return f"{address}{self.server.base_url}" if address else await super().get_url()

    async def delete_forever(self) -> None:
        """The user is deleted: keep what they leave, closed to a new user of the same name."""
        if self.name != "":
            return

        def keep() -> None:
            deleted_users.let_go(self.platform, self.user.name, current_actor(None, "hub"))

        await self.platform.in_database_thread(keep)
