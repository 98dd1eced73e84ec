"""One tick of the meter: what runs is charged up to now, storage too, and grants are given.

Only what the engine has just shown to be alive is charged further. An engine that does not
answer changes nothing; the next tick, or the end of the session, makes up for it, for both charge
by the engine's own times.
"""

from __future__ import annotations

import logging
from datetime import datetime

from dcloud_spawner import charging
from dcloud_spawner.engines.base import Phase
from dcloud_spawner.granting import give_due_grants
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage_charges import charge_storage
from dcloud_spawner.store import meters

log = logging.getLogger(__name__)


def meter(platform: Platform) -> None:
    """One tick. Blocks. Raises EngineError when the engine does not answer; what does not need
    it has been done then."""
    give_due_grants(platform)
    charge_storage(platform)
    settle_running(platform)


def settle_running(platform: Platform) -> int:
    """Charge every session that runs up to a moment ago; returns how many. Each is a transaction
    of its own: one that fails keeps no other from its charge."""
    seen_at = utc_now()
    alive = {found.workload_id for found in platform.engine.observe() if found.phase is Phase.ALIVE}
    with platform.database.reading() as connection:
        running = [
            found.workload
            for found in meters.open_meters(connection)
            if found.watermark_at is not None and found.workload in alive
        ]
    settled = 0
    for identifier in running:
        try:
            _settle(platform, identifier, seen_at)
            settled += 1
        except Exception:
            log.exception("Cannot charge %s now; the next tick makes up for it.", identifier)
    return settled


def _settle(platform: Platform, identifier: str, until: datetime) -> None:
    with platform.database.transaction() as connection:
        charging.settle(connection, identifier, until, utc_now())
