"""One tick of the meter: what runs is charged up to now, storage too, and grants are given.

Only what the engine has just shown to be alive is charged further. An engine that does not
answer changes nothing; the next tick, or the end of the session, makes up for it, for both charge
by the engine's own times.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime

from dcloud_spawner import charging
from dcloud_spawner.engines.base import Phase
from dcloud_spawner.errors import EngineError
from dcloud_spawner.granting import expire_lots, give_due_grants
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage_charges import charge_storage
from dcloud_spawner.store import entries, meters

log = logging.getLogger(__name__)


def meter(platform: Platform) -> None:
    """One tick. Blocks. Raises EngineError when the engine does not answer; what does not need
    it has been done then."""
    expire(platform)
    give_due_grants(platform)
    charge_storage(platform)
    settle_running(platform)


def expire(platform: Platform) -> None:
    """Take back what has expired, each after what runs was charged up to that moment: what was
    used in time is paid by it, however long nobody has looked. What cannot be charged because the
    engine does not answer is paid by what is left later."""
    now = utc_now()
    with platform.database.reading() as connection:
        lots = entries.expired_lots(connection, now)
    for at in sorted({lot.expires_at for lot in lots if lot.expires_at is not None}):
        payers = {lot.account for lot in lots if lot.expires_at == at}
        try:
            settle_running(platform, until=at, payers=payers)
        except EngineError as error:
            log.warning("What expires now is taken without a last charge: %s", error)
        with platform.database.transaction() as connection:
            expire_lots(connection, utc_now(), by=at)


def settle_running(
    platform: Platform, *, until: datetime | None = None, payers: Collection[str] | None = None
) -> int:
    """Charge every session that runs up to a moment ago, or to an earlier time; of these accounts
    alone where they are named. Returns how many. Each is a transaction of its own: one that fails
    keeps no other from its charge."""
    seen_at = utc_now()
    until = seen_at if until is None else min(until, seen_at)
    alive = {found.workload_id for found in platform.engine.observe() if found.phase is Phase.ALIVE}
    with platform.database.reading() as connection:
        running = [
            found.workload
            for found in meters.open_meters(connection)
            if found.watermark_at is not None
            and found.workload in alive
            and (payers is None or found.account in payers)
        ]
    settled = 0
    for identifier in running:
        try:
            _settle(platform, identifier, until)
            settled += 1
        except Exception:
            log.exception("Cannot charge %s now; the next tick makes up for it.", identifier)
    return settled


def _settle(platform: Platform, identifier: str, until: datetime) -> None:
    with platform.database.transaction() as connection:
        charging.settle(connection, identifier, until, utc_now())
