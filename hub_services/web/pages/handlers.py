"""The pages: drawn by the server, and again for everybody who looks when something changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dcloud_spawner.errors import NotAllowed, NotFound, UserError
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.live.stream import EventStream, Frames, frame
from hub_services.web.board import Board
from hub_services.web.handler import SAFE, Handler
from hub_services.web.pages.templates import environment
from hub_services.web.service import Service
from hub_services.web.viewer import Viewer
from hub_services.web.wiring import ADMINISTRATION_SCOPE


class Shown(Protocol):
    """What a page shows to one viewer."""

    @property
    def viewer(self) -> Viewer:
        """For whom it is."""


@dataclass(frozen=True)
class LivePage:
    """One page whose middle is drawn anew whenever the board changes."""

    name: str
    title: str
    lede: str
    show: Callable[[Board, Viewer, Service], Shown]
    template: str
    around: str = "live.html"
    administrators: bool = False
    parts: tuple[str, ...] = ()
    """Templates of the parts that change on their own; ``template`` is not used then."""


class PageHandler(Handler):
    """A page for people, who are sent to sign in when nobody knows them."""

    def initialize(self, pages: dict[str, LivePage]) -> None:  # type: ignore[override]
        """All pages by name."""
        super().initialize()
        self.pages = pages

    async def prepare(self) -> None:
        """Sign in first."""
        await super().prepare()
        if self.viewer is None and not self._finished:
            if self.request.method not in SAFE:
                raise NotAllowed("Sign in first.")
            self.redirect(self.get_login_url())

    def page(self, name: str) -> LivePage:
        """The page of that name, if the viewer may see it."""
        found = self.pages.get(name)
        if found is None:
            raise NotFound("There is no such page.")
        assert self.viewer is not None
        if found.administrators and not self.viewer.administrator:
            raise NotAllowed("Only administrators see this page.")
        return found

    async def draw(self, page: LivePage, board: Board) -> dict[str, str]:
        """The middle of a page for this viewer, in its parts; once for all who see the same."""
        assert self.viewer is not None
        drawing = self.service.platform.in_database_thread
        if page.administrators:  # they are few, and their pages show more than the board
            return await drawing(self._draw, page, board)
        key = page.name, board.stake(self.viewer)
        if key not in board.drawn:
            board.drawn[key] = asyncio.create_task(drawing(self._draw, page, board))
        return await asyncio.shield(board.drawn[key])

    def _draw(self, page: LivePage, board: Board) -> dict[str, str]:
        shown = self.shown(page, board)
        parts = page.parts or (page.template,)
        return {part: self.render_template(part, q=shown) for part in parts}

    def shown(self, page: LivePage, board: Board) -> Shown:
        """What a page shows to this viewer."""
        assert self.viewer is not None
        return page.show(board, self.viewer, self.service)

    def render_template(self, template: str, **values: object) -> str:
        """A template with what all of them need."""
        return environment().get_template(template).render({**self._common(), **values})

    def _common(self) -> dict[str, object]:
        service, viewer = self.service, self.viewer
        settings = service.platform.settings
        return {
            "base_url": service.paths.hub,
            "prefix": service.paths.root,
            "service_url": service.paths.service,
            "user": {"name": viewer.name, "admin": viewer.administrator} if viewer else None,
            "parsed_scopes": {ADMINISTRATION_SCOPE} if viewer and viewer.administrator else {},
            "services": (),
            "dc_nav": "queue",
            "dcloud_warnings": service.warnings(viewer.name) if viewer and viewer.person else (),
            "dcloud_balance": service.balance(viewer.name) if viewer and viewer.person else None,
            "logout_url": f"{service.paths.hub}logout",
            "login_url": f"{service.paths.hub}login",
            "dcloud_approvals": settings.authenticator == "dcloud",
            "dcloud_simulated": settings.simulated_gpus,
            "dcloud_isolation_note": service.platform.engine.weaker_isolation,
        }

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A page that says what was wrong and where to go."""
        told: UserError = kwargs["told"]
        self.finish(self.render_template("failed.html", told=told, xsrf=""))


class ShowPage(PageHandler):
    """One page as a whole."""

    async def get(self, name: str) -> None:
        """Draw it as things are now."""
        page = self.page(name)
        board = await self.service.board.fresh()
        assert self.viewer is not None
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(
            self.render_template(
                page.around,
                page=page,
                pages=[
                    other
                    for other in self.pages.values()
                    if self.viewer.administrator or not other.administrators
                ],
                fragment="".join((await self.draw(page, board)).values()),
                q=self.shown(page, board),
                models=tuple(
                    (model, model_words(model))
                    for model in sorted({row.model for row in board.state.accelerators.values()})
                ),
                xsrf=self.xsrf_token.decode(),
            )
        )


class PageEvents(EventStream, PageHandler):
    """The middle of a page, sent again whenever it is another one."""

    async def prepare(self) -> None:
        """A stream cannot follow a redirect to a page."""
        await Handler.prepare(self)
        if self.viewer is None:
            raise NotAllowed("Sign in first.", code="not_signed_in")

    async def get(self, name: str) -> None:
        """Follow the board until the page is closed."""
        page = self.page(name)

        async def compose() -> Frames:
            board = await self.service.board.current()
            drawn = await self.draw(page, board)
            found = {part: frame("page", html) for part, html in drawn.items()}
            if self.viewer is not None and self.viewer.person:
                warned = self.service.warnings(self.viewer.name)
                lines = self.render_template("budget_lines.html", warned=warned)
                found["budgets"] = frame("budgets", lines)
            return found

        await self.follow(compose, self.service.board.changed)


class Front(PageHandler):
    """The service's own address."""

    async def prepare(self) -> None:
        """The hub looks here whether the service is alive; that needs no name."""

    def get(self) -> None:
        """To the queue."""
        self.redirect(f"{self.service.paths.service}queue")


class NoSuchPage(PageHandler):
    """Every other address."""

    def get(self) -> None:
        """404."""
        raise NotFound("There is no such page.")
