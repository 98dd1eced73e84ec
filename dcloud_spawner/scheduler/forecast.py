"""When those who wait will start: at the latest, and as it is expected. Pure.

The first is what the limits promise: everybody uses up the limit and nobody overtakes. The
second plays the present plan forward through the very policy that decides, a few times, with
lengths as they really were lately and with others coming as they did lately.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from dcloud_spawner.scheduler.arrivals import AFTER_ALL, Mix
from dcloud_spawner.scheduler.calibration import Calibration
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy, Running, occupancy_of
from dcloud_spawner.scheduler.order import Policy, ordered
from dcloud_spawner.scheduler.plan import make_plan
from dcloud_spawner.scheduler.replay import Job, Replay
from dcloud_spawner.scheduler.runtimes import RunTimes
from dcloud_spawner.scheduler.snapshot import NEVER, Request, Reservation, Snapshot

FORECAST_LIMIT = 200
"""Places in the queue that get a time; behind them nobody could trust it."""

MOST_EVENTS = 4000
"""After so many ends and arrivals a course stops: who waits still then has no time."""

Quantile = Callable[[str], float]
"""How long something runs, among those like it: 0 the shortest, 1 the longest. By its id."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of the past."""

    times: RunTimes = field(default_factory=RunTimes)
    mix: Mix = field(default_factory=Mix)
    """Who came in the last day."""
    lately: Mix = field(default_factory=Mix)
    """Who came in the last hours: people come in bursts."""
    calibration: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True, slots=True)
class Expectation:
    """When something is expected to start, seconds since the epoch."""

    forecast_seconds: float
    """The wait from now on as it was played, before any correction."""
    earliest: float
    """One in ten starts before this, and one in ten after ``latest``."""
    middle: float
    """The forecast itself. (Correcting it by the record as well made it worse on the traces, for
    the record comes late.)"""
    latest: float


class Forecast:
    """The future of one moment. ``queue`` is in order; only its first places are looked at."""

    def __init__(
        self,
        occupancy: Occupancy,
        queue: Sequence[Request],
        now: float,
        reservations: Sequence[Reservation] = (),
        history: History | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.now = now
        self.occupancy = occupancy
        self.queue = queue[:FORECAST_LIMIT]
        self.reservations = reservations
        self.history = history or History()
        self.policy = policy or Policy()
        self._latest: dict[str, float] | None = None

    @classmethod
    def of(
        cls, snapshot: Snapshot, history: History | None = None, policy: Policy | None = None
    ) -> Forecast:
        """The future of a snapshot."""
        names = PoolNames(snapshot.nodes, snapshot.accelerators.values())
        return cls(
            occupancy_of(snapshot, names),
            ordered(snapshot.queue),
            snapshot.at,
            snapshot.reservations,
            history,
            policy,
        )

    @property
    def latest(self) -> dict[str, float]:
        """For who waits, the start at the latest if nobody overtakes."""
        if self._latest is None:
            self._latest = latest_starts(self.occupancy, self.queue, self.now, self.reservations)
        return self._latest

    def waiting(self) -> dict[str, Expectation]:
        """For each of the first who wait. Who has no room even if all limits are used up (the
        GPUs are drained, say) has no expectation."""
        return self._expected(self.queue, set(self.latest))

    def of_one(self, identifier: str) -> Expectation | None:
        """For one of the first who wait."""
        return self._expected(self.queue, {identifier}).get(identifier)

    def wish(self, request: Request) -> Expectation | None:
        """For somebody who has not asked yet."""
        alone = latest_starts(self.occupancy, [request], self.now, self.reservations)
        queue = ordered([*self.queue, request])
        return self._expected(queue, set(alone)).get(request.id)

    def new_request(
        self,
        gpus: int,
        gpu_model: str | None,
        memory_bytes: int,
        cpu_millicores: int,
        limit_seconds: float,
        tier: str = "",
    ) -> Request:
        """A wish as it would be queued now, by somebody who had no more than a fair share."""
        return Request(
            "wish",
            AFTER_ALL - 1,
            "",
            gpus,
            gpu_model,
            memory_bytes,
            cpu_millicores,
            limit_seconds,
            self.now,
            self.policy.due_at(self.now, gpus, limit_seconds, tier),
            tier,
        )

    def course(
        self,
        number: int,
        of: int,
        queue: Sequence[Request],
        wanted: Collection[str],
        *,
        until: float = NEVER,
        look: Callable[[Replay, float], None] | None = None,
        mix: Mix | None = None,
    ) -> dict[str, float]:
        """Play one of several courses of the future; see :func:`expected_starts`."""
        coming = mix or self.history.mix
        times = self.history.times
        return expected_starts(
            self.occupancy,
            queue,
            self.now,
            times,
            self.reservations,
            quantile=spread_out(number, of),
            arrivals=coming.arrivals(self.now, times, self.policy, number),
            wanted=wanted,
            until=until,
            look=look,
        )

    def _courses(
        self, queue: Sequence[Request], wanted: Collection[str]
    ) -> tuple[dict[str, float], ...]:
        """Three guesses that err differently, so that their mean is better than each: everything
        lasts as usual and nobody comes; as many come as in the last day, or as in the last
        hours, and what is short in one of these is long in the other."""
        plain = expected_starts(
            self.occupancy,
            queue,
            self.now,
            self.history.times,
            self.reservations,
            wanted=wanted,
        )
        return (
            plain,
            self.course(0, 2, queue, wanted),
            self.course(1, 2, queue, wanted, mix=self.history.lately),
        )

    def _expected(
        self, queue: Sequence[Request], wanted: Collection[str]
    ) -> dict[str, Expectation]:
        if not wanted:
            return {}
        courses = self._courses(queue, wanted)
        expected = {}
        for identifier in wanted:
            starts = [course[identifier] for course in courses if identifier in course]
            if len(starts) < len(courses):
                continue
            wait = sum(starts) / len(starts) - self.now
            spread = self.history.calibration.spread(wait)
            low, high = spread.low_seconds, spread.high_seconds
            expected[identifier] = Expectation(
                wait,
                self.now + low,
                self.now + min(high, max(low, wait)),
                self.now + high,
            )
        return expected


def spread_out(number: int, of: int) -> Quantile:
    """Quantiles for one of several courses: each thing is short in one and long in another, and
    the same whenever it is asked about, so that a forecast does not flicker."""

    def quantile(identifier: str) -> float:
        return (zlib.crc32(identifier.encode()) / 2**32 + number / of) % 1.0

    return quantile


def median(identifier: str) -> float:
    """Everything is as usual."""
    return 0.5


def copy_of(occupancy: Occupancy) -> Occupancy:
    """An occupancy that may be played with."""
    other = Occupancy(occupancy.pool.copy(), occupancy.placer.usual)
    other.running = list(occupancy.running)
    return other


def latest_starts(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    reservations: Sequence[Reservation] = (),
) -> dict[str, float]:
    """Start of each of the first of a queue in order, if everybody uses up the limit and nobody
    overtakes. One that no known limit makes room for (its GPUs are drained, say) has none, and
    those behind it are planned around it, as the pass itself does."""
    pool = copy_of(occupancy)
    at, latest = now, {}
    for request in queue[:FORECAST_LIMIT]:
        plan = make_plan(pool, [request], at, reservations)
        if not plan.starts:
            if plan.head_at is None:
                continue
            at = plan.head_at
            while pool.running and pool.running[0].ends_at <= at:
                pool.end(pool.running[0])
            plan = make_plan(pool, [request], at, reservations)
        if plan.starts:
            latest[request.id] = at
    return latest


def expected_starts(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    times: RunTimes,
    reservations: Sequence[Reservation] = (),
    *,
    quantile: Quantile = median,
    arrivals: Iterator[Job] | None = None,
    wanted: Collection[str] | None = None,
    until: float = NEVER,
    look: Callable[[Replay, float], None] | None = None,
) -> dict[str, float]:
    """Start of each of a queue in order, if work lasts as it did lately.

    ``arrivals`` is who else comes, in the order of time; ``wanted`` is whom the caller wants to
    know about (all by default): when they have started, or at ``until``, the course ends. Who
    never gets room has no start. ``look`` is called before time goes on, with the replay and the
    time to which it goes.
    """
    replay = Replay(copy_of(occupancy), now, reservations)
    for running in occupancy.running:
        ends_at = expected_end(running, now, times, quantile(running.id))
        if ends_at < NEVER:
            replay.ends_at(running, ends_at)
    for request in queue:
        length = times.runtime_seconds(request.gpus, request.limit_seconds, at=quantile(request.id))
        replay.submit(Job(request, length))
    waits = {request.id for request in queue}
    if wanted is not None:
        waits &= set(wanted)
    for going_to in _play(replay, waits if until == NEVER else None, until, reservations, arrivals):
        if look is not None:
            look(replay, going_to)
    return {identifier: at for identifier, at in replay.started.items() if identifier in waits}


def expected_end(running: Running, now: float, times: RunTimes, quantile: float = 0.5) -> float:
    """When something that runs will end, given that it has run so long."""
    if running.ends_at <= now:
        return now
    if running.ends_at == NEVER:
        return NEVER
    started_at = min(running.started_at or now, now)
    gpus = sum(len(grant.gpus) for grant in running.grants)
    length = times.runtime_seconds(
        gpus, running.ends_at - started_at, at=quantile, used_seconds=now - started_at
    )
    return min(running.ends_at, max(now, started_at + length))


def _play(
    replay: Replay,
    waits: Collection[str] | None,
    until: float,
    reservations: Sequence[Reservation],
    arrivals: Iterator[Job] | None,
) -> Iterator[float]:
    """Go on until all of them have started, the time is over, or nothing happens any more.
    Yields the time to which it goes before it goes there."""
    left = None if waits is None else set(waits)
    edges = sorted(
        {at for found in reservations for at in (found.starts_at, found.ends_at) if at > replay.now}
    )
    arriving = next(arrivals, None) if arrivals else None
    plan = replay.run_pass()
    for _ in range(MOST_EVENTS):
        if left is not None:
            left.difference_update(start.request.id for start in plan.starts)
            if not left:
                return
        end = replay.next_end()
        end = NEVER if end is None else max(end, replay.now)
        edge = edges[0] if edges else NEVER
        arrival = arriving.request.submitted_at if arriving else NEVER
        going_to = min(end, edge, arrival)
        yield min(going_to, until)
        if going_to >= until:
            return
        if end == going_to:
            plan = replay.end_next()
            continue
        replay.now = going_to
        if edge == going_to:
            edges.pop(0)
        elif arriving is not None and arrivals is not None:
            replay.submit(arriving)
            arriving = next(arrivals, None)
        plan = replay.run_pass()
