"""Web handlers of the pages: static files, what is free now as JSON, and the live events."""

from __future__ import annotations

import json
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from dcloud_spawner.form.view import STATIC
from dcloud_spawner.live.stream import EventStream


class StaticFiles(web.StaticFileHandler):
    """Our scripts and styles; the browser asks each time whether its copy is still good."""

    def set_extra_headers(self, path: str) -> None:
        """A module imports others by plain names, so no version in a URL could renew them."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")


class OwnersHandler(BaseHandler):
    """Something of a server's owner as JSON, for a script on the start page."""

    async def get(self, user_name: str) -> None:
        """Answer; 403 without a session, never a redirect to a page."""
        if self.current_user is None:
            raise web.HTTPError(403)
        await self._answer(user_name=user_name)

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _answer(self, user_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404)
        data = await self.found(user.spawner)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(data))

    async def found(self, spawner: Any) -> Any:
        """What is answered with."""
        raise NotImplementedError


class LiveHandler(OwnersHandler):
    """What is free now and which images are ready."""

    async def found(self, spawner: Any) -> Any:
        """``live_data``."""
        return await spawner.live_form()


class DatasetsHandler(OwnersHandler):
    """Datasets that the owner may choose, by the words of ``?q=``: as the start page draws them,
    so that nothing else has to."""

    async def found(self, spawner: Any) -> Any:
        """``{html, shown, total}``."""
        return await spawner.find_datasets(self.get_query_argument("q", ""))


class EventsHandler(EventStream, BaseHandler):
    """Server-sent events of one user: ``form`` is what the start page shows (``live_data``),
    ``server`` one of their servers that waits or starts, ``beat`` a sign of life.
    ``?show=servers`` leaves out the form."""

    async def get(self, user_name: str) -> None:
        """Send until the page is closed; 403 without a session, as :class:`LiveHandler`."""
        if self.current_user is None:
            raise web.HTTPError(403)
        await self._follow(user_name=user_name)

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _follow(self, user_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404)
        spawner = user.spawner
        source = spawner.live_source(form=self.get_query_argument("show", "") != "servers")
        await self.follow(source, spawner.live_changed)


class StartHandler(BaseHandler):
    """From the name in a plain form to the start page of that server; changes nothing."""

    @web.authenticated
    async def get(self) -> None:
        """Redirect to ``spawn/:user/:name``, which checks the name."""
        name = url_escape_path(self.get_argument("name", "").strip())
        user = self.current_user.escaped_name
        self.redirect(url_path_join(self.hub.base_url, "spawn", user, name))


def form_handlers() -> list[tuple[str, type[web.RequestHandler], dict[str, object]]]:
    """Every route of the pages, for ``c.JupyterHub.extra_handlers``.

    The spawner class has to have ``live_form()``, which makes the start page's ``live_data``,
    for the events ``live_source()`` (a function that makes the frames) and ``live_changed()``, and
    for the search ``find_datasets(text)``.
    """
    return [
        (r"/dcloud/static/(.*)", StaticFiles, {"path": str(STATIC)}),
        (r"/dcloud/live/([^/]+)", LiveHandler, {}),
        (r"/dcloud/datasets/([^/]+)", DatasetsHandler, {}),
        (r"/dcloud/events/([^/]+)", EventsHandler, {}),
        (r"/dcloud/start", StartHandler, {}),
    ]
