"""Where the storage tells of its requests: MinIO's audit webhook."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections import OrderedDict
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from tornado.web import RequestHandler

from dcloud_spawner.datasets.reconciling import note_accesses
from dcloud_spawner.datasets.storage_log import Access, accesses
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage import telling
from dcloud_spawner.storage.access import is_default
from dcloud_spawner.storage.errors import ObjectMissing, StorageAway, StorageRefused
from dcloud_spawner.storage.telling import LOOK_SECONDS, Silence
from dcloud_spawner.storage.webhook import ask_for_events, events_url, token_of
from hub_services.web.service import Service

log = logging.getLogger(__name__)

REMEMBERED_REQUESTS = 20_000

ASK_AGAIN_SECONDS = 30.0

HEARD_SECONDS = 60.0
"""So long the storage may take to tell of a request."""

NOTHING_ARRIVES = "what the storage tells of its requests does not arrive"


class Heard:
    """Wakes whoever waits for the storage to tell something."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def now(self) -> None:
        """Something came."""
        for each in self._waiting:
            each.set()

    async def within(self, seconds: float) -> bool:
        """Whether something comes in this time."""
        came = asyncio.Event()
        self._waiting.add(came)
        try:
            await asyncio.wait_for(came.wait(), seconds)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(came)
        return True


async def keep_told(platform: Platform) -> None:
    """Have the storage tell us of its requests, however long it is away, and look from time to
    time whether that arrives."""
    asked: Silence | bool | None = None
    while True:
        pause = LOOK_SECONDS
        try:
            if asked is None:
                asked = await ask(platform)
            if asked is not False:
                await look(platform, asked if isinstance(asked, Silence) else None)
        except StorageAway as error:
            log.debug("The storage is away: %s", error.detail)
            pause = ASK_AGAIN_SECONDS
        except Exception:
            log.exception("Nobody knows whether the storage tells of its requests.")
        await asyncio.sleep(pause)


async def ask(platform: Platform) -> Silence | bool:
    """Ask the storage; False where there is nothing to ask, and why not where it refuses. Raises
    StorageAway."""
    settings = platform.settings
    if is_default(settings):
        return False
    try:
        can = await platform.in_storage_thread(platform.storage_capabilities.get)
        if not can.sts:
            return False  # nobody but the platform has keys
        access = platform.storage.access
        asked = await platform.in_storage_thread(ask_for_events, settings, access)
    except ConfigurationError as error:
        log.warning("No storage: %s", error)
        return False
    except StorageRefused as error:
        log.warning("The storage does not tell of its requests (docs/datasets.md): %s", error)
        return Silence(
            "the storage does not let the platform ask for its log of requests",
            "an administrator of the storage sets its audit webhook (docs/datasets.md)",
        )
    log.info("The storage tells of its requests: %s", asked)
    if asked:
        return True
    return Silence("nobody said how the storage reaches this platform", "set storage_events_url")


async def look(platform: Platform, refused: Silence | None, seconds: float = HEARD_SECONDS) -> None:
    """Ask the storage for something and note whether it tells of it. What an administrator of the
    storage set there counts as well. Raises StorageAway."""
    waiting = asyncio.create_task(StorageEvents.heard.within(seconds))
    try:
        with contextlib.suppress(StorageRefused, ObjectMissing):
            await platform.in_storage_thread(platform.storage.require_bucket)
        heard = await waiting
    finally:
        waiting.cancel()
    found = None if heard else refused or Silence(NOTHING_ARRIVES, _mend(platform.settings))
    if found is not None:
        log.warning("The log of the storage does not arrive: %s", found.problem)
    telling.note(platform.settings, found, utc_now())


def _mend(settings: Settings) -> str:
    return f"let the storage reach {events_url(settings)}, or set storage_events_url"


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
    heard = Heard()

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
            self.heard.now()
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
