"""Where the storage tells of its requests: MinIO's audit webhook."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import OrderedDict
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from tornado.web import RequestHandler

from dcloud_spawner.datasets.reconciling import note_accesses
from dcloud_spawner.datasets.storage_log import Access, accesses
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.errors import StorageAway, StorageRefused
from dcloud_spawner.storage.webhook import ask_for_events, token_of
from hub_services.web.service import Service

log = logging.getLogger(__name__)

REMEMBERED_REQUESTS = 20_000

ASK_AGAIN_SECONDS = 30.0


async def ask_until_told(platform: Platform) -> None:
    """Have the storage tell us of its requests, however long it is away."""
    while True:
        try:
            access = platform.storage.access
            asked = await platform.in_storage_thread(ask_for_events, platform.settings, access)
            log.info("The storage tells of its requests: %s", asked)
            return
        except ConfigurationError as error:
            log.warning("No storage: %s", error)
            return
        except StorageRefused as error:
            log.warning("The storage does not tell of its requests (docs/datasets.md): %s", error)
            return
        except StorageAway as error:
            log.debug("The storage is away: %s", error.detail)
        await asyncio.sleep(ASK_AGAIN_SECONDS)


class Seen:
    """Ids of requests that were told of: what is delivered twice is noted once."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def new(self, found: list[Access]) -> list[Access]:
        """Those that were not told of before."""
        return [access for access in found if (access.request, access.key) not in self._known]

    def remember(self, found: list[Access]) -> None:
        """They are on the action log."""
        for access in found:
            self._known[access.request, access.key] = None
        while len(self._known) > REMEMBERED_REQUESTS:
            self._known.popitem(last=False)


class StorageEvents(RequestHandler):
    """No person and no cookie here: the storage shows the token that we gave it.

    What is delivered is on the action log before the answer, so that it is delivered again
    when we die in between.
    """

    seen = Seen()

    @property
    def platform(self) -> Platform:
        """The process's parts."""
        service = self.application.settings["service"]
        assert isinstance(service, Service)
        return service.platform

    def check_xsrf_cookie(self) -> None:
        """There is no cookie that anybody could ride on."""

    def prepare(self) -> None:
        """Only the storage may."""
        sent = self.request.headers.get("Authorization", "")
        given = sent.removeprefix("Bearer ").encode()
        token = token_of(self.platform.settings).encode()
        if not token or not hmac.compare_digest(given, token):
            self.set_status(HTTPStatus.FORBIDDEN)
            self.finish()

    def get(self) -> None:
        """The storage looks whether somebody is here."""
        self.finish()

    async def post(self) -> None:
        """Note what is told."""
        try:
            found = list(accesses(self.request.body.decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Sent again it would be no better.
            log.warning("The storage told something that is no entry of its log: %s", error)
            self.finish()
            return
        fresh = self.seen.new(found)
        if fresh:
            try:
                await self.platform.in_database_thread(self._note, fresh)
            except SQLAlchemyError as error:
                log.error("What the storage tells cannot be noted yet: %s", error)
                self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
                self.finish()
                return
            self.seen.remember(fresh)
        self.finish()

    def _note(self, found: list[Access]) -> None:
        access = self.platform.storage.access
        note_accesses(self.platform.database, found, access.bucket, access.access_key)
