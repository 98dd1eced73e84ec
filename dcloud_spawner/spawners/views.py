"""What a spawner shows: the form, the waiting page with its live events, the list of servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

from dcloud_spawner.datasets import choose, rights
from dcloud_spawner.datasets.choose import Shelf
from dcloud_spawner.errors import Unavailable, UserError
from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.form.view import (
    SpawnFormView,
    found_datasets,
    live_data,
    mine_data,
    render_spawn_form,
    start_datasets,
)
from dcloud_spawner.form.words import count_words
from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.live.stream import Frames
from dcloud_spawner.options import Choice, validate
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.schedule import GIB, ends_at
from dcloud_spawner.spawners.form_frames import FormFrames
from dcloud_spawner.spawners.notices import SpawnerNotices
from dcloud_spawner.spawners.progress import amounts, mount_view
from dcloud_spawner.spawners.refused import StartRefused
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import PREEMPTED, RESERVATION_ENDS, Workload
from dcloud_spawner.unopened import opens_until


class SpawnerViews(SpawnerNotices):
    """The pages' side of a spawner: a mixin of JupyterHub's Spawner."""

    frames: ClassVar[FormFrames]
    tells_use = False
    """Whether the server in it has said that nobody used it yet; one that says nothing is not
    given back."""
    submitting: ClassVar[dict[str, tuple[Mapping[str, object], str | None]]] = {}
    """What users entered that is being submitted, or was refused there for the field. Not in the
    spawner: the hub makes a new one after a start that failed."""
    _entered: Mapping[str, object] | None = None
    _wrong_field: str = ""

    # -- the form ------------------------------------------------------------------------------

    async def render_options_form(self) -> str:
        """The inner HTML of the start page."""
        if self._entered is None and self.submitting.get(self.user.name, ({}, None))[1] is not None:
            self._entered, field = self.submitting.pop(self.user.name)
            self._wrong_field = field or ""
        view = await self.form_view()
        self._entered, self._wrong_field = None, ""
        return await self.platform.in_engine_thread(render_spawn_form, view)

    async def live_form(self) -> dict[str, object]:
        """What changes on the start page while it is open."""
        view = await self.form_view()
        data = await self.platform.in_engine_thread(live_data, view)
        return {**data, "mine": mine_data(view)}

    async def form_view(self) -> SpawnFormView:
        """Everything the start page shows to this user now."""
        await self.pool.recent()
        last = await self.platform.in_reading_thread(self._last_choice)
        offers, pool = await self.frames.now(self.closed_profiles())
        view = SpawnFormView(
            user=self.user.name,
            offers=offers,
            availability=pool,
            server=self.name,
            last_choice=last,
            entered=self._entered,
            error_field=self._wrong_field,
            named_servers=True,
            active_servers=tuple(
                name for name, spawner in self.user.spawners.items() if spawner.active
            ),
            purse=await self.purse(self.owner()),
            ask_url=self.ask_url,
            datasets_url=f"{self.hub.base_url.removesuffix('hub/')}services/dcloud/datasets",
        )
        return replace(view, shelf=await self._shelf(view))

    async def _shelf(self, view: SpawnFormView) -> Shelf:
        """Datasets of the start page: those that are ticked or that a profile brings are on it."""
        asking, wishes = self.owner(), start_datasets(view)
        brought = [wish for offer in view.offers for wish in offer.profile.datasets]

        def read() -> Shelf:
            with self.platform.database.reading() as connection:
                who = rights.who(
                    connection, asking.name, asking.groups, administrator=asking.administrator
                )
                return choose.shelf(connection, who, wishes, brought)

        return await self.platform.in_reading_thread(read)

    async def find_datasets(self, text: str) -> dict[str, object]:
        """Datasets that this server's owner may choose, for the search of the start page."""
        asking = self.owner()

        def read() -> dict[str, object]:
            with self.platform.database.reading() as connection:
                who = rights.who(
                    connection, asking.name, asking.groups, administrator=asking.administrator
                )
                return found_datasets(choose.search(connection, who, text))

        return await self.platform.in_reading_thread(read)

    def closed_profiles(self) -> frozenset[str]:
        """Profiles that are not for this user: all else of the form is the same for everybody."""
        groups, admin = {group.name for group in self.user.groups}, bool(self.user.admin)
        return frozenset(
            name
            for name, profile in self.platform.profiles.current().items()
            if not profile.allows(groups, admin=admin)
        )

    def live_source(self, *, form: bool = True) -> Callable[[], Awaitable[Frames]]:
        """What an event stream of this user sends: the form, and each server that waits or
        starts. Who may choose what is looked up once a stream."""
        closed, owner = self.closed_profiles(), self.owner()

        async def compose() -> Frames:
            if not form:
                return {"budgets": self.warnings_frame(), **self.server_frames()}
            shared = await self.frames.frame(closed)
            mine = await self.mine_frame(owner)
            lines = self.warnings_frame()
            return {"form": shared, "mine": mine, "budgets": lines, **self.server_frames()}

        return compose

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
        self.submitting[self.user.name] = entered, None
        return choice.as_dict()

    def forget_entered(self) -> None:
        """What was entered is a request now."""
        self.submitting.pop(self.user.name, None)

    def mark_entered(self, field: str) -> None:
        """What was entered was refused where it was submitted, because of a field: the next form
        shows it, to be changed and not entered anew."""
        if self.user.name in self.submitting:
            self.submitting[self.user.name] = self.submitting[self.user.name][0], field

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

    # -- what templates ask for, without waiting -----------------------------------------------

    def holding_view(self) -> dict[str, Any] | None:
        """What this server holds, None when it holds nothing."""
        workload = self._of_pool()
        if workload is None or workload.state not in (State.RUNNING, State.STOPPING):
            return None
        profile = self.platform.profiles.current().get(workload.profile)
        return {
            **amounts(workload),
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
            "warning": _warning(workload),
            "reasons": list(self._notes(workload)),
            "datasets": [mount_view(one) for one in self.pool.state.mounts.get(workload.id, ())],
            **self._costs(workload),
        }

    def _notes(self, workload: Workload) -> Iterator[str]:
        """What the owner of a running server should know."""
        if workload.notice_reason == RESERVATION_ENDS:
            yield "It ends with the reservation that it runs on."
        if self.tells_use and opens_until(self.platform, workload) is not None:
            minutes = count_words(self.platform.settings.unused_minutes, "minute")
            yield f"Nobody has opened it yet. {minutes} after its start it is given back."
        for name in self.user.spawners:
            other = self.pool.state.servers.get((self.user.name, name))
            if other is None or other.id == workload.id:
                continue
            said = f"“{name}”" if name else "the default one"
            if other.id == workload.keeps_place_for:
                waits = other.state is State.QUEUED
                yield (
                    f"It keeps you going while {said} waits for its GPUs."
                    if waits
                    else f"What you waited for is there: {said}. This one still runs."
                )
            elif other.keeps_place_for == workload.id:
                yield f"The server that kept you going meanwhile, {said}, still runs."

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
                "unused_minutes": self.platform.settings.unused_minutes,
            }
            for ended in self.pool.state.past.ends.get(self.user.name, ())
        ]

    @property
    def home_size_bytes(self) -> int | None:
        """Measured size of the user's home, None while nobody has measured it."""
        return self.pool.state.past.home_bytes.get(self.user.name)


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


def _warning(workload: Workload) -> str:
    """What the owner must know now, or work is lost; empty when nothing threatens."""
    if workload.notice_reason != PREEMPTED:
        return ""
    return f"{workload.notice_detail} Save your work."


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
