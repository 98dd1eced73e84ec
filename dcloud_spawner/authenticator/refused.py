"""A UserError on its way through the hub, which passes on HTTPErrors only."""

from __future__ import annotations

from tornado import web

from dcloud_spawner.errors import UserError


class Refused(web.HTTPError):
    """Raised by the authenticator; carries what the person may read."""

    def __init__(self, error: UserError) -> None:
        super().__init__(error.status_code, "%s", error.code)
        self.error = error
        self.jupyterhub_message = error.text
