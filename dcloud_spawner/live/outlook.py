"""When a wish would start. The pages ask this of whoever forecasts, and of nothing else."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import Standing
from dcloud_spawner.scheduler.snapshot import Request, Shape, Snapshot


@dataclass(frozen=True, slots=True)
class Wish:
    """A choice that nobody has made yet."""

    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class Range:
    """In which something is expected to start, aware UTC."""

    earliest: datetime
    latest: datetime


class Chances:
    """What would start at once, by the policy itself; made when somebody asks, in any thread."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._standing: dict[str, Standing] = {}
        self._known: dict[tuple[str, Shape, float], bool] = {}
        self._lock = threading.Lock()

    def starts_now(self, wish: Wish | Request, instead_of: str = "") -> bool:
        """Whether this would start now if it were asked for, delaying nobody who waits but the
        one of this id, which would be given up for it."""
        request = as_new_request(wish) if isinstance(wish, Wish) else wish
        key = (instead_of, request.shape, request.limit_seconds)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._stand(instead_of).would_start(request)
            return self._known[key]

    def _stand(self, without: str) -> Standing:
        if without not in self._standing:
            found = self._snapshot
            names = PoolNames(found.nodes, found.accelerators.values())
            queue = [one for one in ordered(found.queue) if one.id != without]
            self._standing[without] = Standing(
                occupancy_of(found, names), queue, found.at, found.reservations
            )
        return self._standing[without]


def as_new_request(wish: Wish) -> Request:
    """A wish as the policies see it, behind all the others."""
    return Request(
        "wish",
        sys.maxsize,
        "",
        wish.gpus,
        wish.gpu_model,
        wish.memory_bytes,
        wish.cpu_millicores,
        wish.limit_seconds,
        math.inf,
        math.inf,
    )


Expected = Callable[[Wish], Range | None]
"""The forecast for a wish, None while it cannot say."""


def no_forecast(wish: Wish) -> Range | None:
    """Before there is a history to go by."""
    return None
