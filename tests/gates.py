"""A second opinion of a pass with gates: everybody is asked, one after the other."""

from __future__ import annotations

from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler import picture
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import make_plan
from dcloud_spawner.scheduler.verdicts import Verdicts, gates_of
from dcloud_spawner.store import queue


def starts_of_everybody(platform: Platform) -> list[str]:
    """Whom a plan starts that asks about everybody, blocked before or not."""
    with platform.database.reading() as connection:
        rows = [row._replace(held=False) for row in queue.waiting(connection)]
        pool = picture.read_pool(connection, platform.capacity, utc_now())
        door = Verdicts(gates_of(platform.gates, connection, utc_now()), rows)
        line = ordered(picture.request_of(row) for row in rows)
        names = PoolNames(pool.nodes, pool.accelerators.values())
        plan = make_plan(occupancy_of(pool, names), line, pool.at, pool.reservations, door)
    return [start.request.id for start in plan.starts]
