"""Own spaces: counted while somebody may write there, and rid of what was never completed."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from dcloud_spawner.datasets import own_spaces
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.access import is_default
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.store import homes, storage_credentials

log = logging.getLogger(__name__)

UNFINISHED = timedelta(days=1)
"""So long an upload into an own space may take."""

PAUSES = 20
"""A space is counted again after so many times what counting took: a large one costs no more of
the storage than a small one."""


class Spaces:
    """The spaces of those whose keys are alive."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._due: dict[str, float] = {}

    def turn(self) -> None:
        """Count those that are due, and keep their quotas. Blocks; raises StorageAway."""
        if is_default(self._platform.settings):
            return
        with self._platform.database.reading() as connection:
            holders = storage_credentials.holders(connection, utc_now())
        self._due = {user: self._due.get(user, 0.0) for user in holders}
        for user in holders:
            began = time.monotonic()
            if began < self._due[user]:
                continue
            try:
                own_spaces.measure(self._platform, user)
            except StorageRefused as error:
                log.warning("The own space of %s cannot be counted: %s", user, error)
            ended = time.monotonic()
            self._due[user] = ended + PAUSES * (ended - began)


def abort_unfinished(platform: Platform) -> int:
    """Give up, in all own spaces, what was begun long ago and never completed; returns how many
    uploads. Blocks; raises StorageAway."""
    if is_default(platform.settings):
        return 0
    with platform.database.reading() as connection:
        volumes = [home.volume for home in homes.all_homes(connection)]
    gone = 0
    for volume in volumes:
        try:
            gone += own_spaces.abort_unfinished(platform, volume, utc_now() - UNFINISHED)
        except StorageRefused as error:
            log.warning("The own space of %s cannot be swept: %s", volume, error)
    if gone:
        log.info("%d uploads into own spaces were never completed and are gone.", gone)
    return gone
