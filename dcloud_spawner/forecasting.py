"""The forecast at work: reads the pool and the past, plays them forward, and writes what each
who waits is told.

It belongs to no pass and no start: a forecast that is late or lost only leaves the one before.
Any process may make one; what is written depends on the database alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.live.outlook import Range, Wish
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.arrivals import Asked, Mix
from dcloud_spawner.scheduler.band import Band, forecast_band
from dcloud_spawner.scheduler.calibration import Calibration, Outcome
from dcloud_spawner.scheduler.forecast import Expectation, Forecast, History
from dcloud_spawner.scheduler.runtimes import Ended, RunTimes
from dcloud_spawner.scheduler.schedule import take_snapshot
from dcloud_spawner.store import forecasts
from dcloud_spawner.store.forecasts import Arrival, Kept, Shown

LENGTHS = 5000
"""So many ends are the record of how long work lasts. Few of them are of long work, and what runs
now is compared with those that ran at least as long: with 1000 the forecast is clearly worse."""

RECORD = 1000
"""So many arrivals and outcomes of forecasts are the recent past."""

RECENT = timedelta(days=1)
LATELY = timedelta(hours=3)
"""Who came in these times comes again."""

AT_LEAST = timedelta(hours=1)
"""A shorter time says nothing about how many come."""

HISTORY_SECONDS = 60.0
"""How old the reading of the past may be; of the pool, for wishes and the band, as much."""

WISHES_SECONDS = 0.25
"""So long may wishes take for each reading of the pool; the others keep their last answer."""

MOST_WISHES = 1000

MINUTE = 60

DAMPING = 0.1
"""A range that would move by less than this part of its width stays as it is."""

log = logging.getLogger(__name__)


class Forecaster:
    """One for each process that forecasts. Its methods block and may be called in any thread."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._history: History | None = None
        self._history_at = 0.0
        self._forecast: Forecast | None = None
        self._forecast_at = 0.0
        self._wishes: dict[Wish, Range | None] = {}
        self._former_wishes: dict[Wish, Range | None] = {}
        self._wishes_took = 0.0
        self._band: Band | None = None
        self._lock = threading.Lock()

    def turn(self) -> int:
        """Forecast for all who wait and write what has changed; returns how many rows."""
        with self._lock:
            forecast = self._look()
        expected = forecast.waiting()
        at = datetime.fromtimestamp(forecast.now, UTC)
        ids = [request.id for request in forecast.queue]
        with self._platform.database.reading() as connection:
            before = forecasts.shown(connection, ids)
        changed = changes(before, ids, expected, forecast.latest, at)
        if changed:
            with self._platform.database.transaction() as connection:
                forecasts.show(connection, changed, at)
        return len(changed)

    def expected(self, wish: Wish) -> Range | None:
        """When a wish would start if it were asked for now; None when nobody can say."""
        with self._lock:
            forecast = self._recent()
            if wish not in self._wishes:
                if wish in self._former_wishes and self._wishes_took > WISHES_SECONDS:
                    return self._former_wishes[wish]
                began = time.monotonic()
                self._wishes[wish] = _wish(forecast, wish)
                self._wishes_took += time.monotonic() - began
            return self._wishes[wish]

    def band(self, *, fresh: bool = False) -> Band:
        """Free GPUs by model over the next day; ``fresh``: from the pool as it is now."""
        with self._lock:
            forecast = self._look() if fresh else self._recent()
            if self._band is None:
                self._band = forecast_band(forecast)
            return self._band

    def _recent(self) -> Forecast:
        if self._forecast is None or time.monotonic() - self._forecast_at > HISTORY_SECONDS:
            return self._look()
        return self._forecast

    def _look(self) -> Forecast:
        now, clock = utc_now(), time.monotonic()
        platform = self._platform
        with platform.database.reading() as connection:
            if self._history is None or clock - self._history_at > HISTORY_SECONDS:
                self._history, self._history_at = read_history(connection, now), clock
            snapshot = take_snapshot(connection, platform.capacity, now)
        self._forecast = Forecast.of(snapshot, self._history, platform.policy)
        self._forecast_at, self._band = clock, None
        self._former_wishes.update(self._wishes)
        if len(self._former_wishes) > MOST_WISHES:
            self._former_wishes = dict(self._wishes)
        self._wishes, self._wishes_took = {}, 0.0
        return self._forecast


def _wish(forecast: Forecast, wish: Wish) -> Range | None:
    request = forecast.new_request(
        wish.gpus, wish.gpu_model, wish.memory_bytes, wish.cpu_millicores, wish.limit_seconds
    )
    found = forecast.wish(request)
    return as_range(found) if found else None


def read_history(connection: Connection, now: datetime) -> History:
    """The recent past."""
    arrivals = forecasts.arrivals_since(connection, now - RECENT, RECORD)
    known_since = now - RECENT
    if len(arrivals) == RECORD or not forecasts.anything_before(connection, known_since):
        # In a deployment younger than that, or a busy one, the oldest of them tells the span.
        known_since = min((found.at for found in arrivals), default=now)
    return History(
        RunTimes(
            Ended(found.gpus, found.limit_seconds, found.ran_seconds)
            for found in forecasts.last_lengths(connection, LENGTHS)
        ),
        _mix(arrivals, now, max(now - RECENT, known_since)),
        _mix(arrivals, now, max(now - LATELY, known_since)),
        Calibration([_outcome(kept, now) for kept in forecasts.last_kept(connection, RECORD)]),
    )


def _mix(arrivals: Sequence[Arrival], now: datetime, since: datetime) -> Mix:
    asked = [
        Asked(
            found.gpus,
            found.gpu_model,
            found.memory_bytes,
            found.cpu_millicores,
            found.limit_seconds,
            found.tier,
        )
        for found in arrivals
        if found.at >= since
    ]
    return Mix(asked, max(AT_LEAST, now - since).total_seconds())


def _outcome(kept: Kept, now: datetime) -> Outcome:
    until = kept.admitted_at or now
    missed = 0
    if kept.admitted_at is not None:
        missed = int(kept.admitted_at > kept.shown_to) - int(kept.admitted_at < kept.shown_from)
    return Outcome(
        kept.forecast_seconds,
        max(0.0, (until - kept.at).total_seconds()),
        kept.admitted_at is not None,
        missed,
    )


def as_range(found: Expectation) -> Range:
    """The range as it is shown: whole minutes, outward."""
    earliest = math.floor(found.earliest / MINUTE) * MINUTE
    latest = max(math.ceil(found.latest / MINUTE) * MINUTE, earliest + MINUTE)
    return Range(datetime.fromtimestamp(earliest, UTC), datetime.fromtimestamp(latest, UTC))


def changes(
    before: Mapping[str, Shown],
    queue: Sequence[str],
    expected: Mapping[str, Expectation],
    latest: Mapping[str, float],
    now: datetime,
) -> list[Shown]:
    """What is to be written: for those of the queue what they are told now, for others who were
    told something that it no longer holds. Small moves are none."""
    changed = []
    for identifier in dict.fromkeys([*queue, *before]):
        old = before.get(identifier)
        if old is None:
            continue  # it no longer waits
        found = expected.get(identifier)
        shown = as_range(found) if found else None
        if shown and old.expected_from and old.expected_to:
            former = Range(old.expected_from, old.expected_to)
            if _about(former, shown) and former.latest > now:
                shown = former
        at_last = latest.get(identifier)
        last = datetime.fromtimestamp(at_last, UTC) if at_last is not None else None
        if last and old.latest_start_at and abs(last - old.latest_start_at) < _minutes(1):
            last = old.latest_start_at
        new = Shown(
            identifier,
            shown.earliest if shown else None,
            shown.latest if shown else None,
            last,
            found.forecast_seconds if found else None,
        )
        if (new.expected_from, new.expected_to, new.latest_start_at) != (
            old.expected_from,
            old.expected_to,
            old.latest_start_at,
        ):
            changed.append(new)
    return changed


def _about(former: Range, new: Range) -> bool:
    """Whether one may stand for the other."""
    width = new.latest - new.earliest
    most = max(_minutes(1), width * DAMPING)
    return abs(former.earliest - new.earliest) <= most and abs(former.latest - new.latest) <= most


def _minutes(count: int) -> timedelta:
    return timedelta(minutes=count)


class ForecastWatch:
    """Keeps the forecast fresh in a process that follows the pool: after every change that the
    action log shows, and as time goes by."""

    BETWEEN_SECONDS = 1.0
    """At least so long after the last turn began."""

    REST = 10.0
    """And after so many times what it took: a tenth of a core at the most."""

    IDLE_SECONDS = 20.0
    """When nothing has happened, so often."""

    def __init__(self, platform: Platform, forecaster: Forecaster, pool: PoolWatch) -> None:
        self._platform = platform
        self._forecaster = forecaster
        self._pool = pool
        self._head = -1
        self._next = 0.0
        self._last = 0.0
        self._task: asyncio.Task[None] | None = None
        pool.listeners.append(self._notice)

    def _notice(self, state: PoolState) -> None:
        """A new reading of the pool. On the event loop."""
        if self._task is not None and not self._task.done():
            return
        loop = asyncio.get_running_loop()
        if state.head != self._head or loop.time() - self._last >= self.IDLE_SECONDS:
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._next - loop.time()))
            head, began = self._pool.state.head, loop.time()
            try:
                await self._platform.in_database_thread(self._forecaster.turn)
            except Exception:
                log.exception("Cannot forecast; the pages keep the last ranges.")
            took = loop.time() - began
            self._head, self._last = head, began
            self._next = max(began + self.BETWEEN_SECONDS, loop.time() + self.REST * took)
            if self._pool.state.head == head:
                return
