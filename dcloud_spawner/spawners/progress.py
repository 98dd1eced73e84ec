"""What a waiting or starting server shows: one event, made from the last reading of the pool.

Nothing here asks the database: a thousand open pages cost one reading a change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from dcloud_spawner.form.datasets import PENDING
from dcloud_spawner.live.pool import Place, PoolState
from dcloud_spawner.live.stream import Frames, frame
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform
from dcloud_spawner.profiles import Profile
from dcloud_spawner.scheduler.admission import waiting_reasons
from dcloud_spawner.scheduler.alternatives import Alternative, Offered, alternatives
from dcloud_spawner.scheduler.reasons import on_hold, without_ask
from dcloud_spawner.scheduler.schedule import GIB, as_request
from dcloud_spawner.store.dataset_choices import Mounted
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.reservations import Reservation
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner as HubSpawner
else:
    # The hub forbids an incomplete subclass of its Spawner, which a mixin would be.
    HubSpawner = object

STARTING_SECONDS = 0.5
"""A start shows steps that leave no row (an image being fetched): it is looked at this often."""

WAITING_SECONDS = 30.0

PROGRESS = {"queue": 5, "held": 20, "image": 30, "data": 40, "container": 50, "ready": 75}
"""Percent at the beginning of each stage. Ready is the longest: the server's own start."""

_DOING = {
    "held": "Everything is held for you; the container starts next.",
    "image": "Fetching the image.",
    "data": "Preparing the datasets.",
    "container": "Starting the container.",
    "ready": "The container runs; waiting for the server in it.",
}


class SpawnerProgress(HubSpawner):
    """The live side of a spawner: a mixin of JupyterHub's Spawner."""

    platform: ClassVar[Platform]
    pool: ClassVar[PoolWatch]
    workload_id: str = ""
    launched_at: datetime | None = None
    """When the engine had started the container of the present start."""
    fetching_image: str = ""
    """What is being fetched now, in words; empty when nothing is."""

    watched: ClassVar[Counter[str]] = Counter()
    """Open waiting pages by workload id."""

    _drawn: tuple[tuple[object, ...], dict[str, Any]] | None = None

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Events for the waiting page, one whenever something changed."""
        last: dict[str, Any] | None = None
        await self.pool.recent()
        with self._watched():
            while True:
                workload = self._of_pool()
                if workload is not None and workload.id == self.workload_id:
                    event = self._event(workload)
                    if event is not last:  # it is made anew only when something changed
                        last = event
                        yield dict(event)
                starting = workload is None or workload.state is not State.QUEUED
                await self.pool.changed(STARTING_SECONDS if starting else WAITING_SECONDS)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While somebody looks at it, what takes time is made ready in the reading's thread."""
        identifier = self.workload_id
        self.watched[identifier] += 1
        try:
            yield
        finally:
            self.watched[identifier] -= 1
            if self.watched[identifier] <= 0:
                del self.watched[identifier]

    @classmethod
    def prepare(cls, state: PoolState) -> None:
        """Find what would start instead of what is looked at. Blocks."""
        for place in state.queue:
            if place.workload.id in cls.watched:
                instead_of(place, cls._profile(place.workload, state), state)

    @classmethod
    def _profiles(cls, state: PoolState) -> Mapping[str, Profile]:
        """All profiles; the files are looked at once a reading."""
        known = state.memo.get("profiles")
        if known is None:
            known = state.memo["profiles"] = cls.platform.profiles.current()
        return cast("Mapping[str, Profile]", known)

    @classmethod
    def _profile(cls, workload: Workload, state: PoolState) -> Profile | None:
        return cls._profiles(state).get(workload.profile)

    def waiting_view(self) -> dict[str, Any] | None:
        """The present event as the server draws it, None when nothing waits or starts."""
        workload = self._of_pool()
        if workload is None or workload.state in (State.RUNNING, State.STOPPING):
            return None
        return self._event(workload)

    def server_frames(self) -> Frames:
        """For the event stream of a user: what each of their servers that wait shows."""
        frames = {}
        for name, spawner in self.user.spawners.items():
            view = spawner.waiting_view()
            state = "waiting" if view else "running" if spawner.ready else "stopped"
            if view or spawner.active:
                frames[f"server:{name}"] = frame(
                    "server", {"server": name, "state": state, **(view or {})}
                )
        return frames

    async def live_changed(self, seconds: float) -> bool:
        """Return when there may be news."""
        return await self.pool.changed(seconds)

    def _of_pool(self) -> Workload | None:
        return self.pool.state.servers.get((self.user.name, self.name))

    # -- the event -----------------------------------------------------------------------------

    def _event(self, workload: Workload) -> dict[str, Any]:
        """Made anew only when something of it changed."""
        state = self.pool.state
        place = state.place_of(workload.id)
        gpus = state.held.get(workload.id, ())
        queue = (place.place, place.gpus_ahead, len(state.queue)) if place else len(state.queue)
        profile = self._profile(workload, state)
        instead = instead_of(place, profile, state) if place else ()
        queued = workload.state is State.QUEUED
        meanwhile = self._meanwhile(workload) if queued else None
        key = (
            workload,
            queue,
            gpus,
            tuple(one.what for one in instead),
            meanwhile,
            queued and cpu_starts_now(workload, profile, state),
            state.record,
            self.launched_at,
            self.fetching_image,
            state.mounts.get(workload.id),
        )
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self._new_event(workload, state, place, gpus))
        return self._drawn[1]

    def _new_event(
        self,
        workload: Workload,
        state: PoolState,
        place: Place | None,
        gpus: Sequence[AcceleratorRow],
    ) -> dict[str, Any]:
        stage = self._stage(workload)
        queued = stage == "queue"
        profile = self._profile(workload, state)
        event: dict[str, Any] = {
            "progress": PROGRESS[stage],
            "message": _message(stage, workload, place, len(state.queue)),
            "stage": stage,
            "stages": self._stage_times(workload),
            "place": place.place if place else None,
            "queue_length": len(state.queue),
            "gpus_ahead": place.gpus_ahead if place else 0,
            "reasons": list(_reasons(workload, place)) if queued else [],
            "held": {"at": _iso(workload.held_at), "reason": workload.held_reason}
            if queued and workload.held_at
            else None,
            "blocked": {"code": workload.blocked, "reason": without_ask(workload.blocked_reason)}
            if queued and workload.blocked and not workload.held_at
            else None,
            "latest_start": None if workload.blocked else _iso(workload.latest_start_at),
            "expected": _range(workload.expected_from, workload.expected_to)
            if queued and not workload.blocked
            else None,
            "first_expected": {
                "said_at": _iso(workload.first_expected_at),
                **(_range(workload.first_expected_from, workload.first_expected_to) or {}),
            }
            if queued and workload.first_expected_at
            else None,
            "alternatives": [
                {"what": one.what, "choice": _changed(workload, one), "gpus": one.request.gpus}
                for one in (instead_of(place, profile, state) if place else ())
            ],
            "request": _request(workload, profile),
            "choice": dict(workload.choice),
            "gpus": [{"uuid": row.uuid, "model": row.model, "index": row.index} for row in gpus],
            "node": workload.node,
            "log": [{"at": _iso(at), "text": text} for at, text in self._log_lines(workload)],
            "workload": workload.id,
        }
        event.update(self._on_cpu(workload, profile, state) if queued else {})
        booked = state.reservations.get(workload.reservation or "")
        if queued and booked is not None:
            event["reservation"] = _reservation(booked)
        if queued and state.record.count and not workload.blocked:
            event["record"] = {"inside": state.record.inside, "of": state.record.count}
        if stage == "image":
            event["image"] = {"message": self.fetching_image}
        if mounts := state.mounts.get(workload.id):
            event["datasets"] = [mount_view(one) for one in mounts]
        return event

    def _on_cpu(
        self, workload: Workload, profile: Profile | None, state: PoolState
    ) -> dict[str, Any]:
        """What its owner works on meanwhile, or whether there could be something."""
        meanwhile = self._meanwhile(workload)
        if meanwhile is not None:
            return {"meanwhile": meanwhile}
        return {"on_cpu": cpu_starts_now(workload, profile, state)}

    def _meanwhile(self, workload: Workload) -> dict[str, str] | None:
        """The server on which its owner works while this one waits."""
        for name in self.user.spawners:
            other = self.pool.state.servers.get((self.user.name, name))
            if other is not None and other.keeps_place_for == workload.id:
                return {"server": name, "state": other.state.value}
        return None

    def _stage(self, workload: Workload) -> str:
        if workload.state is State.QUEUED:
            return "queue"
        if workload.state is State.ADMITTED:
            if self.fetching_image:
                return "image"
            mounts = self.pool.state.mounts.get(workload.id, ())
            return "data" if any(one.state in PENDING for one in mounts) else "held"
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

    def _log_lines(self, workload: Workload) -> list[tuple[datetime, str]]:
        lines = [
            (workload.submitted_at, "joined the queue"),
            (workload.moved_at, _because("moved to the head of the queue", workload.moved_reason)),
            (workload.held_at, _because("put on hold", workload.held_reason)),
            (workload.admitted_at, "admitted"),
            (workload.starting_at, "starting the container"),
            (self.launched_at, "the container runs"),
        ]
        return sorted((at, text) for at, text in lines if at is not None)


def instead_of(place: Place, profile: Profile | None, state: PoolState) -> tuple[Alternative, ...]:
    """What would start at once instead of a request, found once for all that are alike."""
    if profile is None:
        return ()
    request = as_request(place.workload)
    # Only the head keeps anything from starting that would fit.
    given_up = request.id if place.place == 1 else ""
    key = (profile.name, request.shape, request.limit_seconds, given_up)
    found = state.memo.get(key)
    if found is None:
        fits = partial(state.chances.starts_now, instead_of=given_up)
        found = state.memo[key] = alternatives(request, fits, _offered(profile, state))
    return cast("tuple[Alternative, ...]", found)


def cpu_starts_now(workload: Workload, profile: Profile | None, state: PoolState) -> bool:
    """Whether the server that is offered meanwhile would not have to wait, too."""
    if profile is None or not workload.gpus:
        return False
    request = replace(
        as_request(workload),
        id=f"beside {workload.id}",
        gpus=0,
        gpu_model=None,
        memory_bytes=int(min(profile.memory_gib.choices) * GIB),
        cpu_millicores=int(min(profile.cpus.choices) * 1000),
    )
    return state.chances.starts_now(request)


def mount_view(mount: Mounted) -> dict[str, Any]:
    """One dataset as pages and the API show it."""
    return {
        "name": mount.name,
        "dataset": mount.reference,
        "version": mount.version,
        "mode": mount.mode,
        "state": mount.state.value,
        "message": mount.message,
        "done_bytes": mount.done_bytes,
        "total_bytes": mount.total_bytes,
    }


def _offered(profile: Profile, state: PoolState) -> Offered:
    models = sorted({row.model for row in state.accelerators.values()})
    allowed = profile.gpu_models
    return Offered(
        gpus=tuple(profile.gpus.choices),
        models=tuple(model for model in models if not allowed or model in allowed),
        memory_bytes=tuple(int(gib * GIB) for gib in profile.memory_gib.choices),
        cpu_millicores=tuple(int(cpus * 1000) for cpus in profile.cpus.choices),
    )


def _changed(workload: Workload, found: Alternative) -> dict[str, Any]:
    """The choice to post instead."""
    request = found.request
    changed: dict[str, Any] = {
        **workload.choice,
        "gpus": request.gpus,
        "memory_gib": request.memory_bytes / GIB,
        "cpus": request.cpu_millicores / 1000,
        "hours": int(request.limit_seconds // 3600),
    }
    if request.gpu_model != workload.gpu_model:
        changed["gpu_model"] = request.gpu_model
    return changed


def _reasons(workload: Workload, place: Place | None) -> tuple[str, ...]:
    if workload.held_at is not None:
        return (on_hold(workload.held_reason),)
    if workload.blocked:
        return (without_ask(workload.blocked_reason),)
    if place is None:
        return tuple(workload.reasons)
    return waiting_reasons(" ".join(workload.reasons), place.ahead, place.gpus_ahead)


def _request(workload: Workload, profile: Profile | None) -> dict[str, Any]:
    return {
        **amounts(workload),
        "gpus": workload.gpus,
        "gpu_model": workload.gpu_model,
        "hours": workload.limit_seconds // 3600,
        "profile": workload.profile,
        "title": profile.title if profile else workload.profile,
    }


def amounts(workload: Workload) -> dict[str, float]:
    """Memory and cores as pages write them."""
    return {
        "memory_gib": workload.memory_bytes / GIB,
        "cpus": workload.cpu_millicores / 1000,
    }


def _message(stage: str, workload: Workload, place: Place | None, length: int) -> str:
    if stage != "queue":
        return _DOING[stage]
    if workload.held_at is not None:
        return "On hold."
    if workload.blocked:
        return "It may not start yet."
    return f"Place {place.place} of {length} in the queue." if place else "Joining the queue."


def _range(earliest: datetime | None, latest: datetime | None) -> dict[str, str | None] | None:
    if earliest is None or latest is None:
        return None
    return {"from": _iso(earliest), "to": _iso(latest)}


def _reservation(found: Reservation) -> dict[str, Any]:
    return {"title": found.title, "from": _iso(found.starts_at), "to": _iso(found.ends_at)}


def _because(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
