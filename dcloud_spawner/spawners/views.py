"""What a spawner shows: the form, the waiting page with its live events, the list of servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from dcloud_spawner.errors import Unavailable, UserError
from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.form.view import ImageStatus, Offer, SpawnFormView, live_data, render_spawn_form
from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.live.pool import PoolState, availability
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.options import Choice, validate
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.schedule import GIB, ends_at
from dcloud_spawner.spawners.refused import StartRefused
from dcloud_spawner.store import events, nodes, workloads
from dcloud_spawner.store.events import Event
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner as HubSpawner
else:
    # The hub forbids an incomplete subclass of its Spawner, which a mixin would be.
    HubSpawner = object

PROGRESS_SECONDS = 0.5

PROGRESS = {"queue": 5, "held": 20, "image": 30, "container": 50, "ready": 75}
"""Percent at the beginning of each stage. Ready is the longest: the server's own start."""

_SAID = {
    "workload.submit": "joined the queue",
    "workload.admit": "admitted",
    "workload.start": "starting the container",
    "workload.ready": "the server answers",
    "workload.stop": "stopping",
    "workload.cancel": "left the queue",
    "workload.release": "everything is given back",
    "workload.resize": "limits changed",
}


class SpawnerViews(HubSpawner):
    """The pages' side of a spawner: a mixin of JupyterHub's Spawner."""

    platform: ClassVar[Platform]
    pool: ClassVar[PoolWatch]
    workload_id: str = ""
    launched_at: datetime | None = None
    """When the engine had started the container of the present start."""
    fetching_image: str = ""
    """What is being fetched now, in words; empty when nothing is."""

    _entered: Mapping[str, object] | None = None
    _wrong_field: str = ""

    # -- the form ------------------------------------------------------------------------------

    async def render_options_form(self) -> str:
        """The inner HTML of the start page."""
        view = await self.form_view()
        self._entered, self._wrong_field = None, ""
        return render_spawn_form(view)

    async def live_form(self) -> dict[str, object]:
        """What changes on the start page while it is open."""
        return live_data(await self.form_view())

    async def form_view(self) -> SpawnFormView:
        """Everything the start page shows to this user now."""
        self.pool.keep_fresh()
        state = await self.pool.fresh()
        last = await self.platform.in_database_thread(self._last_choice)
        profiles = self.platform.profiles.current()
        images = await self.platform.in_engine_thread(
            image_statuses, self.platform, sorted({found.image for found in profiles.values()})
        )
        groups = {group.name for group in self.user.groups}
        return SpawnFormView(
            user=self.user.name,
            offers=tuple(
                Offer(
                    profile=profile,
                    image=images[profile.image],
                    blocked=""
                    if profile.allows(groups, admin=bool(self.user.admin))
                    else f"Only for the group {' or '.join(profile.groups)}.",
                )
                for profile in profiles.values()
            ),
            availability=availability(
                state,
                simulated=self.platform.settings.simulated_gpus,
                engine=self.platform.engine.name,
            ),
            server=self.name,
            last_choice=last,
            entered=self._entered,
            error_field=self._wrong_field,
            named_servers=True,
            active_servers=tuple(
                name for name, spawner in self.user.spawners.items() if spawner.active
            ),
        )

    def _last_choice(self) -> Mapping[str, Any] | None:
        with self.platform.database.reading() as connection:
            return workloads.last_choice(connection, self.user.name)

    def choice_of_form(self, form: Mapping[str, list[str]]) -> dict[str, object]:
        """Validate a posted form; raises what the page shows with status 400."""
        entered = choice_from_form(form)
        # The hub draws a refused form by the default server, whichever it was posted for.
        drawn_by = self.user.spawner
        try:
            choice = self.validated(entered)
        except UserError as error:
            drawn_by._entered, drawn_by._wrong_field = entered, error.field
            raise StartRefused(error.text, reason=error.code, status_code=400) from error
        return choice.as_dict()

    def options_from_query(self, query: Mapping[str, list[str]]) -> dict[str, object]:
        """Fill in the form from a link, and start nothing: a link may be followed unawares."""
        self._entered = choice_from_form(query)
        raise StartRefused(
            "A link only fills in this form. Look it through and press Start.",
            reason="link",
            status_code=200,
        )

    def validated(self, options: object) -> Choice:
        """A choice of this server's owner, with the groups they have now."""
        return validate(
            options or None,
            self.platform.profiles.current(),
            groups={group.name for group in self.user.groups},
            admin=bool(self.user.admin),
        )

    # -- waiting and starting ------------------------------------------------------------------

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Events for the waiting page, one whenever something changed."""
        last: dict[str, Any] = {}
        while True:
            event = await self.platform.in_database_thread(self._read_progress)
            if event and event != last:
                last = event
                yield event
            await asyncio.sleep(PROGRESS_SECONDS)

    def _read_progress(self) -> dict[str, Any]:
        if not self.workload_id:
            return {}
        with self.platform.database.reading() as connection:
            workload = workloads.get(connection, self.workload_id)
            length = workloads.count_queued(connection)
            gpus = nodes.held_accelerators(connection, workload.id)
            log = events.read(connection, target=workload.id)
        return self._event(workload, length, gpus, log)

    def _event(
        self,
        workload: Workload,
        queue_length: int,
        gpus: Sequence[AcceleratorRow],
        log: Sequence[Event],
    ) -> dict[str, Any]:
        stage = self._stage(workload)
        waiting = self.pool.state.place_of(workload.id) if stage == "queue" else None
        place = waiting.place if waiting else None
        event: dict[str, Any] = {
            "progress": PROGRESS[stage],
            "message": _message(stage, place, queue_length),
            "stage": stage,
            "stages": self._stage_times(workload),
            "place": place,
            "queue_length": queue_length,
            "reasons": list(workload.reasons),
            "latest_start": _iso(workload.latest_start_at),
            "request": self._request(workload),
            "gpus": [{"uuid": row.uuid, "model": row.model, "index": row.index} for row in gpus],
            "node": workload.node,
            "log": [
                {"at": _iso(line.at), "text": _SAID.get(line.action, line.action)} for line in log
            ],
            "workload": workload.id,
        }
        if stage == "image":
            event["image"] = {"message": self.fetching_image}
        return event

    def _stage(self, workload: Workload) -> str:
        if workload.state is State.QUEUED:
            return "queue"
        if workload.state is State.ADMITTED:
            return "image" if self.fetching_image else "held"
        return "container" if self.launched_at is None else "ready"

    def _stage_times(self, workload: Workload) -> dict[str, dict[str, str | None]]:
        marks = {
            "queue": (workload.submitted_at, workload.admitted_at),
            "held": (workload.admitted_at, workload.starting_at),
            "container": (workload.starting_at, self.launched_at),
            "ready": (self.launched_at, workload.ready_at),
        }
        return {
            stage: {"since": _iso(since), "until": _iso(until)}
            for stage, (since, until) in marks.items()
            if since is not None
        }

    def _request(self, workload: Workload) -> dict[str, Any]:
        profile = self.platform.profiles.current().get(workload.profile)
        return {
            **_amounts(workload),
            "gpus": workload.gpus,
            "gpu_model": workload.gpu_model,
            "hours": workload.limit_seconds // 3600,
            "profile": workload.profile,
            "title": profile.title if profile else workload.profile,
        }

    # -- what templates ask for, without waiting -----------------------------------------------

    def waiting_view(self) -> dict[str, Any] | None:
        """The present progress event as the server draws it, None when nothing waits or starts."""
        workload = self._of_pool()
        if workload is None or workload.state in (State.RUNNING, State.STOPPING):
            return None
        state = self.pool.state
        return self._event(workload, len(state.snapshot.queue), state.held.get(workload.id, ()), ())

    def holding_view(self) -> dict[str, Any] | None:
        """What this server holds, None when it holds nothing."""
        workload = self._of_pool()
        if workload is None or workload.state not in (State.RUNNING, State.STOPPING):
            return None
        profile = self.platform.profiles.current().get(workload.profile)
        return {
            **_amounts(workload),
            "title": profile.title if profile else workload.profile,
            "gpus": [
                {
                    "model": row.model,
                    "index": row.index,
                    "health": row.health.value,
                    "health_reason": row.health_reason,
                }
                for row in self.pool.state.held.get(workload.id, ())
            ],
            "started_at": _iso(workload.ready_at),
            "stops_at": _iso(ends_at(workload, utc_now())),
            "node": workload.node,
        }

    def ended_views(self) -> list[dict[str, Any]]:
        """Servers of this user that ended lately, and not because somebody stopped them."""
        return [
            {
                "server": ended.server_name,
                "at": _iso(ended.ended_at),
                "reason": ended.end_reason,
                "detail": ended.end_detail,
                "memory_gib": ended.memory_bytes / GIB,
                "hours": ended.limit_seconds // 3600,
                "exit_code": ended.exit_code,
            }
            for ended in self.pool.state.ends.get(self.user.name, ())
        ]

    @property
    def home_size_bytes(self) -> int | None:
        """Measured size of the user's home, None while nobody has measured it."""
        return self.pool.state.home_bytes.get(self.user.name)

    def _of_pool(self) -> Workload | None:
        state: PoolState = self.pool.state
        return state.servers.get((self.user.name, self.name))


def image_statuses(platform: Platform, images: Sequence[str]) -> dict[str, ImageStatus]:
    """Whether each image is on the engine, and if not, how far its preparation is. Blocks."""
    found: dict[str, ImageStatus] = {}
    for image in images:
        if platform.engine.has_image(image):
            found[image] = ImageStatus()
        else:
            status = ImageStore(platform.settings).status(image)
            found[image] = (
                ImageStatus(status.state.value, status.progress, status.message)
                if status
                else ImageStatus(message="It is fetched at the first start.")
            )
    return found


def refuse_missing_image(platform: Platform, image: str) -> None:
    """Raise Unavailable while an image of ours is not built; any other is the engine's to fetch."""
    if platform.engine.has_image(image):
        return
    status = ImageStore(platform.settings).status(image)
    if status is None:
        return
    if status.state is ImageState.PREPARING:
        raise Unavailable(
            f"The image {image} is being prepared ({status.progress:.0%}).",
            hint="Try again when it is ready; the start page shows its progress.",
            code="image_preparing",
        )
    raise Unavailable(
        f"The image {image} is not ready. {status.message}".strip(),
        hint="An administrator can build it with: dcloud images",
        code="image_missing",
    )


def _amounts(workload: Workload) -> dict[str, float]:
    return {
        "memory_gib": workload.memory_bytes / GIB,
        "cpus": workload.cpu_millicores / 1000,
    }


def _message(stage: str, place: int | None, queue_length: int) -> str:
    if stage == "queue":
        if place is None:
            return "Joining the queue."
        return f"Place {place} of {max(queue_length, place)} in the queue."
    return {
        "held": "Everything is held for you; the container starts next.",
        "image": "Fetching the image.",
        "container": "Starting the container.",
        "ready": "The container runs; waiting for the server in it.",
    }[stage]


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
