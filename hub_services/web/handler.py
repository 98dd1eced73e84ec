"""What every request has: who asks, from where, headers that keep browsers safe, errors."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from jupyterhub.services.auth import HubOAuthenticated
from sqlalchemy.exc import SQLAlchemyError
from tornado.web import HTTPError, RequestHandler

from dcloud_spawner.authenticator.source import source_address
from dcloud_spawner.errors import (
    ConfigurationError,
    EngineError,
    NotAllowed,
    Unavailable,
    UserError,
)
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.store.events import Actor
from hub_services.web.service import Service
from hub_services.web.viewer import Viewer, may_enter, viewer_of

log = logging.getLogger(__name__)

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Handler(HubOAuthenticated, RequestHandler):
    """Knows its viewer before its method runs; whoever the hub does not know has none."""

    viewer: Viewer | None = None

    def initialize(self) -> None:
        """Called by tornado for each request."""
        self.hub_auth = self.service.auth

    @property
    def service(self) -> Service:
        """The process's parts."""
        found = self.application.settings["service"]
        assert isinstance(found, Service)
        return found

    def set_default_headers(self) -> None:
        """Also on errors."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)
        settings = self.service.platform.settings
        places = (settings.storage_public_url, settings.storage_gate_url)
        storage = " ".join(place.rstrip("/") for place in places if place)
        if storage:
            # Pages send parts of uploads there.
            policy = HEADERS["Content-Security-Policy"]
            allowed = policy.replace("connect-src 'self'", f"connect-src 'self' {storage}")
            self.set_header("Content-Security-Policy", allowed)

    async def prepare(self) -> None:
        """Ask the hub who it is, without blocking the loop; refuse forged requests."""
        self._hub_auth_user_cache = None  # else tornado would ask again, and block
        changes = self.request.method not in SAFE
        if changes:
            # Somebody who was an administrator a moment ago is none now.
            self.hub_auth.cache.clear()
        try:
            model = await self.hub_auth.get_user(self, sync=False)
        except HTTPError as error:
            raise Unavailable(
                "The hub does not answer, so nobody knows who you are.",
                hint="Try again in a moment.",
                code="hub_unavailable",
            ) from error
        if model is None:
            return
        viewer = viewer_of(model)
        if not may_enter(model.get("scopes") or ()) and not self.admits_server(viewer):
            raise NotAllowed(
                "This token is not for this service.",
                hint="Make one with the scope access:services!service=dcloud.",
            )
        self._hub_auth_user_cache = model
        self.viewer = viewer
        if changes:
            self.check_xsrf_cookie()

    def admits_server(self, viewer: Viewer) -> bool:
        """Whether this is for a server's own token; pages are not."""
        return False

    def check_xsrf_cookie(self) -> None:
        """Own pages may read without a token: a browser says truthfully that it is them."""
        site = self.request.headers.get("Sec-Fetch-Site", "same-origin")
        if self.request.method in SAFE and site == "same-origin":
            return
        super().check_xsrf_cookie()

    @property
    def actor(self) -> Actor:
        """Who does it and from where, for the action log."""
        assert self.viewer is not None
        address = source_address(self.request, self.service.proxies)
        return Actor(self.viewer.name, address)

    def refusal(self, status: int, error: BaseException | None) -> UserError:
        """Any failure in words that a person may read; anything unforeseen only in the log."""
        if isinstance(error, UserError):
            return error
        if isinstance(error, SQLAlchemyError):
            return Unavailable(
                "The platform's database does not answer.",
                hint="Try again in a moment; what you see may be old.",
                code="database_unavailable",
            )
        if isinstance(error, EngineError):
            return Unavailable(str(error), hint="The platform goes on trying.", code="engine")
        if isinstance(error, (ConfigurationError, StorageRefused)):
            return Unavailable(
                "A part of the platform is not set up as it should be.",
                hint="Tell an administrator: `dcloud doctor` says what is wrong.",
                code="not_set_up",
            )
        return _refusal_of_status(status, error)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """What a person was told needs no trace."""
        if not isinstance(value, UserError):
            super().log_exception(typ, value, tb)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """With the status of what a person is told."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        told = self.refusal(status_code, error)
        super().send_error(told.status_code, told=told, **kwargs)


def _refusal_of_status(status: int, error: BaseException | None) -> UserError:
    said = (error.log_message or "") if isinstance(error, HTTPError) else ""
    words = {
        403: ("not_allowed", "The request was refused.", "Load the page again and try once more."),
        404: ("not_found", "There is nothing here.", "The list of what there is: openapi.json."),
        405: ("method_not_allowed", "This address does not take that method.", "See openapi.json."),
        413: ("too_large", "The request is too large.", "At most 64 KiB."),
    }
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        told = UserError(
            "Something went wrong here.",
            hint="The platform's log says what; tell an administrator.",
            code="internal",
        )
    else:
        code, message, hint = words.get(status, ("bad_request", "The request is wrong.", ""))
        shown = said if status == HTTPStatus.FORBIDDEN and "xsrf" in said.lower() else ""
        told = UserError(f"{message} {shown}".strip(), hint=hint, code=code)
    told.status_code = status
    return told
