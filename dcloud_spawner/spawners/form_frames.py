"""What open start pages show, made once a change for everybody who may choose the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from dcloud_spawner.form.view import ImageStatus, Offer, SpawnFormView, live_data
from dcloud_spawner.images import ImageStore
from dcloud_spawner.live.availability import Availability
from dcloud_spawner.live.outlook import Expected, no_forecast
from dcloud_spawner.live.pool import PoolState, availability
from dcloud_spawner.live.stream import frame
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform

IMAGES_SECONDS = 2.0
"""How old the word of the engine about its images may be."""

Offers = tuple[Offer, ...]


class FormFrames:
    """One for each hub process; use it on the event loop."""

    def __init__(self, platform: Platform, pool: PoolWatch) -> None:
        self._platform = platform
        self._pool = pool
        self.expected: Expected = no_forecast
        """The forecast, where there is one; it is asked in a thread."""
        self._images: Mapping[str, ImageStatus] = {}
        self._images_at = 0.0
        self._asking = asyncio.Lock()
        self._state: PoolState | None = None
        self._frames: dict[frozenset[str], asyncio.Task[bytes]] = {}

    async def now(self, closed: frozenset[str]) -> tuple[Offers, Availability]:
        """The offers to somebody for whom these profiles are closed, and what is free."""
        images = await self._image_statuses()
        return self._offers(closed, images), self._availability(self._pool.state)

    async def frame(self, closed: frozenset[str]) -> bytes:
        """The event of the form; the same bytes while nothing has changed."""
        state = self._pool.state
        if self._state is not state:
            self._state, self._frames = state, {}
        task = self._frames.get(closed)
        if task is None:
            task = self._frames[closed] = asyncio.ensure_future(self._new_frame(closed, state))
        return await asyncio.shield(task)

    async def _new_frame(self, closed: frozenset[str], state: PoolState) -> bytes:
        offers = self._offers(closed, await self._image_statuses())

        def make() -> bytes:
            view = SpawnFormView(user="", offers=offers, availability=self._availability(state))
            data = live_data(view)
            del data["at"]  # else every reading would be news
            return frame("form", data)

        return await self._platform.in_engine_thread(make)

    def _availability(self, state: PoolState) -> Availability:
        return availability(
            state,
            simulated=self._platform.settings.simulated_gpus,
            engine=self._platform.engine.name,
            expected=self.expected,
        )

    def _offers(self, closed: frozenset[str], images: Mapping[str, ImageStatus]) -> Offers:
        return tuple(
            Offer(
                profile=profile,
                image=images.get(profile.image, ImageStatus()),
                blocked=f"Only for the group {' or '.join(profile.groups)}."
                if profile.name in closed
                else "",
            )
            for profile in self._platform.profiles.current().values()
        )

    async def _image_statuses(self) -> Mapping[str, ImageStatus]:
        loop = asyncio.get_running_loop()
        async with self._asking:
            names = sorted({found.image for found in self._platform.profiles.current().values()})
            known = all(name in self._images for name in names)
            if not known or loop.time() - self._images_at >= IMAGES_SECONDS:
                self._images = await self._platform.in_engine_thread(
                    image_statuses, self._platform, names
                )
                self._images_at = loop.time()
        return self._images


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
