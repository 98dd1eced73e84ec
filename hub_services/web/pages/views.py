"""Pages that are read from the database at each request, by the parameters of their address.

``DataPage`` is one of them: whoever adds a page writes a function from :class:`Call` to what its
template shows (as ``v``), and puts the page into the list in ``pages/data.py``. The template
extends ``data.html``; without that it is a part that a script fetches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from dcloud_spawner.errors import InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import asks
from dcloud_spawner.store.events import Actor
from hub_services.web.pages.days import UTC_ZONE, Zone, zone_of
from hub_services.web.pages.handlers import PageHandler
from hub_services.web.service import Service
from hub_services.web.viewer import Viewer

ZONE_COOKIE = "dcloud-zone"
"""The reader's time zone, as ``zone.js`` sets it."""

LONGEST_NUMBER = 19
LONGEST_ARGUMENT = 512


class Audience(StrEnum):
    """Who may open a page at all; what of it is theirs, ``read`` decides."""

    EVERYBODY = "everybody"
    ADMINISTRATORS = "administrators"


@dataclass(frozen=True)
class Call:
    """One look at a page."""

    service: Service
    viewer: Viewer
    path: tuple[str, ...] = ()
    """What the groups of the page's ``path`` matched."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    zone: Zone = UTC_ZONE
    now: datetime = field(default_factory=utc_now)
    actor: Actor | None = None
    """Who looks and from where, for pages whose being looked at is on the action log."""

    @property
    def platform(self) -> Platform:
        """Its database and settings."""
        return self.service.platform

    def text(self, name: str, default: str = "") -> str:
        """A parameter of the address without blanks around it."""
        return self.arguments.get(name, "").strip() or default

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        """A parameter that has a few values; the first one where it is not given."""
        value = self.text(name, allowed[0])
        if value not in allowed:
            raise InvalidChoice(f"{name}: one of {', '.join(allowed)}.", field=name)
        return value

    def whole(self, name: str, default: int, *, lowest: int = 0, highest: int = 2**62) -> int:
        """A whole number."""
        value = self.text(name)
        if not value:
            return default
        is_number = value.isascii() and value.isdecimal() and len(value) <= LONGEST_NUMBER
        if not (is_number and lowest <= int(value) <= highest):
            raise InvalidChoice(f"{name}: a whole number from {lowest} to {highest}.", field=name)
        return int(value)


@dataclass(frozen=True)
class DataPage:
    """One page, or one part of a page."""

    name: str
    title: str
    read: Callable[[Call], Any]
    """Blocks; runs in a thread for readings. Refuses by a UserError, and with the same one what
    is not the viewer's and what is not there."""
    template: str
    audience: Audience = Audience.EVERYBODY
    path: str = ""
    """A regular expression below the service's address; its name when empty."""
    listed: bool = True
    """Whether it is in the row of links."""

    @property
    def pattern(self) -> str:
        """Of its address."""
        return self.path or self.name

    def is_for(self, viewer: Viewer) -> bool:
        """Whether the viewer may open it."""
        return self.audience is Audience.EVERYBODY or viewer.administrator


class DataHandler(PageHandler):
    """What pages and exports have in common: parameters, zone, and who may."""

    def initialize(self, pages: Mapping[str, DataPage]) -> None:  # type: ignore[override]
        """All pages of this kind by name."""
        super().initialize(pages={})
        self.data_pages = pages

    longest_argument = LONGEST_ARGUMENT

    def call(self, parts: Sequence[str]) -> Call:
        """This request."""
        assert self.viewer is not None
        arguments = {name: self._argument(name) for name in self.request.query_arguments}
        zone = zone_of(arguments.get("tz", ""), self.get_cookie(ZONE_COOKIE) or "")
        path = tuple(unquote(part) for part in parts)
        if any("\x00" in part for part in path):
            raise NotFound("There is no such page.")
        return Call(self.service, self.viewer, path, arguments, zone, actor=self.actor)

    def _argument(self, name: str) -> str:
        sent = self.request.query_arguments[name]
        try:
            value = sent[-1].decode()
        except UnicodeDecodeError:
            value = "\x00"
        if len(value) > self.longest_argument or "\x00" in value:
            raise InvalidChoice(f"{name[:40]}: cannot be read.", field=name[:40])
        return value

    def links(self) -> list[DataPage]:
        """The row of links for this viewer."""
        viewer = self.viewer
        assert viewer is not None
        return [each for each in self.data_pages.values() if each.listed and each.is_for(viewer)]


class ShowData(DataHandler):
    """One page."""

    nav = "usage"
    """Which link of the bar it is under."""

    def initialize(  # type: ignore[override]
        self, pages: Mapping[str, DataPage], name: str
    ) -> None:
        """The page of that name."""
        super().initialize(pages)
        self.name = name

    async def get(self, *parts: str) -> None:
        """Read and draw it, both off the event loop."""
        page = self.data_pages.get(self.name)
        if page is None:
            raise NotFound("There is no such page.")
        assert self.viewer is not None
        if not page.is_for(self.viewer):
            raise NotAllowed("Only administrators see this page.")
        call = self.call(parts)
        xsrf = self.xsrf_token.decode()

        def read_and_draw() -> str:
            return self.render_template(
                page.template,
                v=page.read(call),
                page=page,
                pages=self.links(),
                asked=_asked(call),
                zone=call.zone,
                now=call.now,
                xsrf=xsrf,
                dc_nav=self.nav,
            )

        drawn = await self.thread()(read_and_draw)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(drawn)

    def thread(self) -> Callable[[Callable[[], str]], Awaitable[str]]:
        """Where it is read and drawn."""
        return self.service.platform.in_reading_thread


def _asked(call: Call) -> int:
    """How many requests for more wait for an administrator who looks."""
    if not call.viewer.administrator:
        return 0
    with call.platform.database.reading() as connection:
        return asks.count_open(connection)
