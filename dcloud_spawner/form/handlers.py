"""Web handlers of the pages: static files, and what is free now as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from dcloud_spawner.form.view import STATIC, SpawnFormView, live_data

LiveView = Callable[[Any], Awaitable[SpawnFormView]]
"""Makes the start page's view for a user (the hub's own user object)."""


class StaticFiles(web.StaticFileHandler):
    """Our scripts and styles; the browser asks each time whether its copy is still good."""

    def set_extra_headers(self, path: str) -> None:
        """A module imports others by plain names, so no version in a URL could renew them."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")


class LiveHandler(BaseHandler):  # type: ignore[misc]  # the hub has no types
    """What is free now and which images are ready, for the start page of who asks."""

    def initialize(self, view: LiveView) -> None:
        """Take the function that makes the view."""
        self._view = view

    async def get(self) -> None:
        """Answer with ``live_data``; 403 without a session, never a redirect to a page."""
        if self.current_user is None:
            raise web.HTTPError(403)
        data = live_data(await self._view(self.current_user))
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(data))


class StartHandler(BaseHandler):  # type: ignore[misc]  # the hub has no types
    """From the name in a plain form to the start page of that server; changes nothing."""

    @web.authenticated
    async def get(self) -> None:
        """Redirect to ``spawn/:user/:name``, which checks the name."""
        name = url_escape_path(self.get_argument("name", "").strip())
        user = self.current_user.escaped_name
        self.redirect(url_path_join(self.hub.base_url, "spawn", user, name))


def static_handlers() -> list[tuple[str, type[web.RequestHandler], dict[str, object]]]:
    """Routes of the static files, for ``c.JupyterHub.extra_handlers``."""
    return [(r"/dcloud/static/(.*)", StaticFiles, {"path": str(STATIC)})]


def live_handlers(
    view: LiveView,
) -> list[tuple[str, type[web.RequestHandler], dict[str, object]]]:
    """Routes of the start page's live figures and of a new server's name, for the same."""
    return [
        (r"/dcloud/live", LiveHandler, {"view": view}),
        (r"/dcloud/start", StartHandler, {}),
    ]
