"""Plays work forward through the policy: traces, what-if, and the forecast.

The same :func:`make_plan` decides here as in the hub; only the clock and the ends of the work
are given. ``runtime_seconds`` is how long something really takes; its limit is all that the
policy sees.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.order import sort_key
from dcloud_spawner.scheduler.plan import Plan, Start, make_plan
from dcloud_spawner.scheduler.snapshot import Request, Reservation


@dataclass(frozen=True, slots=True)
class Job:
    """A request of a replay and how long it really runs, at most its limit."""

    request: Request
    runtime_seconds: float


class Replay:
    """A pool, a queue and a clock. Events are taken in the order of their time; at one time,
    ends come before submissions, and one pass follows them."""

    def __init__(
        self,
        occupancy: Occupancy,
        now: float,
        reservations: Sequence[Reservation] = (),
    ) -> None:
        self.occupancy = occupancy
        self.now = now
        self.queue: list[Request] = []
        """Who waits, in order."""
        self.started: dict[str, float] = {}
        """When each request of this replay started."""
        self._reservations = reservations
        self._runtimes: dict[str, float] = {}
        self._ends: list[tuple[float, int, Running]] = []
        self._count = 0

    def ends_at(self, running: Running, at: float) -> None:
        """Something that runs already ends at a time."""
        self._count += 1
        heapq.heappush(self._ends, (at, self._count, running))

    def submit(self, job: Job) -> None:
        """Put a job into the queue, at its own due time; no pass yet."""
        self._runtimes[job.request.id] = job.runtime_seconds
        insort(self.queue, job.request, key=sort_key)

    def run_pass(self) -> Plan:
        """One pass now."""
        plan = make_plan(self.occupancy, self.queue, self.now, self._reservations)
        if plan.starts:
            for start in plan.starts:
                self._start(start)
            self.queue = list(plan.kept)
        return plan

    def _start(self, start: Start) -> None:
        self.started[start.request.id] = self.now
        runtime = self._runtimes.pop(start.request.id)
        self.ends_at(start.running, min(self.now + runtime, start.running.ends_at))

    def next_end(self) -> float | None:
        """When the next piece of work ends."""
        return self._ends[0][0] if self._ends else None

    def end_next(self) -> Plan:
        """Go to the next end, give back what ends then, and run a pass."""
        self._give_back(self._ends[0][0])
        return self.run_pass()

    def _give_back(self, at: float) -> None:
        self.now = max(self.now, at)
        while self._ends and self._ends[0][0] <= at:
            self.occupancy.end(heapq.heappop(self._ends)[2])

    def play(self, jobs: Iterable[Job]) -> dict[str, float]:
        """Submit jobs at their times (in that order) and go on until all have started; returns
        when each did. For replays without advance reservations: nothing happens at their times."""
        for at, together in groupby(jobs, key=lambda job: job.request.submitted_at):
            while self._ends and self._ends[0][0] < at:
                self.end_next()
            self._give_back(at)
            for job in together:
                self.submit(job)
            self.run_pass()
        while self.queue and self._ends:
            self.end_next()
        return self.started
