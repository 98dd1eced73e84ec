"""Every address of the service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jupyterhub._data import DATA_FILES_PATH
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado.web import Application, RequestHandler, StaticFileHandler

from dcloud_spawner.form.handlers import StaticFiles
from dcloud_spawner.form.view import STATIC
from hub_services.web.api.handler import ApiHandler, NoSuchPath
from hub_services.web.api.openapi import document
from hub_services.web.api.operations import OPERATIONS
from hub_services.web.handler import Handler
from hub_services.web.pages.all import PAGES
from hub_services.web.pages.data import DATA_PAGES
from hub_services.web.pages.datasets_handlers import dataset_routes
from hub_services.web.pages.export import ShowExport
from hub_services.web.pages.handlers import Front, NoSuchPage, PageEvents, ShowPage
from hub_services.web.pages.plan import ShowAnswer
from hub_services.web.pages.views import ShowData
from hub_services.web.service import Service
from hub_services.web.storage_events import StorageEvents

OWN_STATIC = Path(__file__).parent / "static"

Route = tuple[str, type[RequestHandler], dict[str, Any]]


class Callback(HubOAuthCallbackHandler):
    """The end of a sign-in at the hub."""

    def initialize(self) -> None:
        """Called by tornado for each request."""
        self.hub_auth = self.application.settings["service"].auth

    async def prepare(self) -> None:
        """Known before ``get`` asks, which would block the loop."""
        self._hub_auth_user_cache = await self.hub_auth.get_user(self, sync=False)


class Document(Handler):
    """The OpenAPI document; it is no secret, but it is for those who are here."""

    def get(self) -> None:
        """As JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(document(OPERATIONS, f"{self.service.paths.service}api/v1")))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As the API does."""
        ApiHandler.write_error(self, status_code, **kwargs)


class HubFiles(StaticFileHandler):
    """JupyterHub's own style sheet and theme script: there even while the hub restarts."""

    def set_extra_headers(self, path: str) -> None:
        """As ours."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")


def api_routes(root: str) -> list[Route]:
    """One route for each path of the API; ``root`` ends with a slash."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation
    routes: list[Route] = [
        (f"{root}openapi.json", Document, {}),
        *(
            (f"{root}{pattern(path)}", ApiHandler, {"operations": operations})
            for path, operations in paths.items()
        ),
        (f"{root}.*", NoSuchPath, {}),
    ]
    return routes


def pattern(path: str) -> str:
    """The regular expression of a path with names in braces."""
    return re.sub(r"\{\w+\}", "([^/]+)", path)


def data_routes(root: str) -> list[Route]:
    """One route for each page that is read from the database, and the export of their tables."""
    return [
        (f"{root}usage/export", ShowExport, {"pages": DATA_PAGES}),
        *(
            (f"{root}{page.pattern}", ShowData, {"pages": DATA_PAGES, "name": name})
            for name, page in DATA_PAGES.items()
        ),
    ]


def make_application(service: Service) -> Application:
    """The application; its routes begin with the service's own prefix."""
    root = re.escape(service.paths.service)
    assets = service.platform.settings.assets_dir.absolute()
    routes: list[Any] = [
        (f"{root}oauth_callback", Callback),
        *api_routes(f"{root}api/v1/"),
        (f"{root}storage/events", StorageEvents),
        (f"{root}static/hub/(.*)", HubFiles, {"path": str(Path(DATA_FILES_PATH) / "static")}),
        (f"{root}static/lib/(.*)", StaticFiles, {"path": str(assets)}),
        (f"{root}static/web/(.*)", StaticFiles, {"path": str(OWN_STATIC)}),
        (f"{root}static/(.*)", StaticFiles, {"path": str(STATIC)}),
        (f"{root}events/([a-z]+)", PageEvents, {"pages": PAGES}),
        (f"{root}plan/([0-9a-f]{{1,64}})", ShowAnswer, {"pages": PAGES}),
        (f"{root}({'|'.join(PAGES)})", ShowPage, {"pages": PAGES}),
        *data_routes(root),
        *dataset_routes(root),
        (f"{root}?", Front, {"pages": PAGES}),
        (".*", NoSuchPage, {"pages": PAGES}),
    ]
    return Application(
        routes,
        service=service,
        cookie_secret=service.cookie_secret,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        autoescape=None,
    )
