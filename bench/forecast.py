"""How good the expected start is: the range as it is first shown, against the start, on a trace.

Method. The trace is replayed as in ``bench/traces.py``, under the production key. For every
``EVERY``-th submission that does not start at once, the production forecast is made with what is
known at that moment only: the lengths of the last 5000 jobs that have ended, the arrivals of the
last 24 and 3 hours, and the record of the forecasts made before it (their starts, or that they
still wait). That record has every ``EVERY``-th forecast; a deployment has them all. The range is
rounded outward to minutes, as it is shown. Figures count jobs that waited over 10 minutes; who
stood behind the first 200 is not counted, for nothing is shown there. The built-in record that
stands in for a missing one was made from seed 1 on ``bag`` and stops counting after a day or so.

Coverage is the part that started within the shown 80 % range; ``least`` and ``most`` are those of
five equal stretches of time. The error is that of the point forecast. The peer, in the same run,
is one course with median lengths and nobody coming: the plan played forward.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from bench.result import Result
from bench.trace_files import HOUR, asked_limits, jobs
from bench.traces import VARIANTS, empty_pool, submission
from dcloud_spawner.scheduler.arrivals import Asked, Mix
from dcloud_spawner.scheduler.calibration import Calibration, Outcome
from dcloud_spawner.scheduler.forecast import FORECAST_LIMIT, Forecast, History, expected_starts
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.replay import Job, Replay
from dcloud_spawner.scheduler.runtimes import Ended, RunTimes

RUNS = (("bag", 1), ("bag", 2), ("nodes", 1), ("nodes", 2))
EVERY = 16
LENGTHS = 5000
RECORD = 1000
DAY, LATELY = 86400.0, 3 * 3600.0
LONG_SECONDS = 600.0
STRETCHES = 5
TARGET = "what the range promises"
PEER = "one course with median lengths, nobody else coming"


@dataclass(slots=True)
class Told:
    """What one was told at submission, and what came of it. Seconds from then on."""

    id: str
    at: float
    forecast: float
    low: float
    middle: float
    high: float
    peer: float
    wait: float = math.nan

    @property
    def inside(self) -> bool:
        """Whether the shown range held."""
        return self.low <= self.wait <= self.high


class Forecasting:
    """A replay of a trace with forecasts on the way."""

    def __init__(self, variant: str, seed: int, every: int, prefix: int | None = None) -> None:
        trace = jobs()[:prefix]
        gpus, policy = VARIANTS[variant], Policy()
        self._policy = policy
        self._jobs = sorted(
            (
                submission(job, limit, policy, gpus)
                for job, limit in zip(trace, asked_limits(trace, seed), strict=True)
            ),
            key=lambda job: (job.request.submitted_at, job.request.sequence),
        )
        self._times_of = [job.request.submitted_at for job in self._jobs]
        self._by_id = {job.request.id: job for job in self._jobs}
        self._replay = Replay(Occupancy(empty_pool(gpus)), 0.0)
        self._every = every
        self._ended: list[Ended] = []
        self._lengths = (-100, RunTimes())
        self._open: list[Told] = []
        self._known: list[Told] = []
        self.told: list[Told] = []
        self.not_told = 0

    def run(self) -> None:
        """Go through the whole trace."""
        replay, queued = self._replay, 0
        for position, job in enumerate(self._jobs):
            at = job.request.submitted_at
            while (end := replay.next_end()) is not None and end <= at:
                self._end_next()
            replay.now = max(replay.now, at)
            replay.submit(job)
            replay.run_pass()
            if job.request.id in replay.started:
                continue
            queued += 1
            if queued % self._every == 0:
                self._tell(position, job)
        while replay.queue and replay.next_end() is not None:
            self._end_next()
        self._close()

    def _end_next(self) -> None:
        before = {running.id for running in self._replay.occupancy.running}
        self._replay.end_next()
        after = {running.id for running in self._replay.occupancy.running}
        for identifier in before - after:
            job = self._by_id[identifier]
            self._ended.append(
                Ended(job.request.gpus, job.request.limit_seconds, job.runtime_seconds)
            )

    def _close(self) -> None:
        """Note who of those who were told something has started."""
        started = self._replay.started
        done = [told for told in self._open if told.id in started]
        for told in sorted(done, key=lambda told: started[told.id]):
            told.wait = started[told.id] - told.at
            self._known.append(told)
        self._open = [told for told in self._open if told.id not in started]

    def _tell(self, position: int, job: Job) -> None:
        replay, now, wanted = self._replay, self._replay.now, job.request.id
        if replay.queue.index(job.request) >= FORECAST_LIMIT:
            self.not_told += 1
            return
        self._close()
        history = History(
            self._run_times(),
            self._mix(position, now, DAY),
            self._mix(position, now, LATELY),
            self._calibration(now),
        )
        forecast = Forecast(
            replay.occupancy, replay.queue, now, history=history, policy=self._policy
        )
        found = forecast.of_one(wanted)
        peer = expected_starts(
            replay.occupancy, forecast.queue, now, history.times, wanted=(wanted,)
        )
        if found is None:
            self.not_told += 1
            return
        told = Told(
            wanted,
            now,
            found.forecast_seconds,
            math.floor(found.earliest / 60) * 60 - now,
            found.middle - now,
            math.ceil(found.latest / 60) * 60 - now,
            peer[wanted] - now,
        )
        self.told.append(told)
        self._open.append(told)

    def _run_times(self) -> RunTimes:
        count, times = self._lengths
        if len(self._ended) - count >= 20:
            times = RunTimes(self._ended[-LENGTHS:])
            self._lengths = (len(self._ended), times)
        return times

    def _mix(self, position: int, now: float, seconds: float) -> Mix:
        known_since = max(now - DAY, 0.0)
        if position + 1 - bisect_left(self._times_of, known_since) > RECORD:
            known_since = self._times_of[position + 1 - RECORD]
        since = max(now - seconds, known_since)
        asked = [
            Asked(job.request.gpus, None, 0, 0, job.request.limit_seconds, parts=job.request.parts)
            for job in self._jobs[bisect_left(self._times_of, since) : position + 1]
        ]
        return Mix(asked, max(HOUR, now - since))

    def _calibration(self, now: float) -> Calibration:
        return Calibration(
            [
                *(
                    Outcome(told.forecast, told.wait, True, _missed(told, told.wait))
                    for told in self._known[-RECORD:]
                ),
                *(
                    Outcome(told.forecast, now - told.at, False, int(now - told.at > told.high))
                    for told in self._open
                ),
            ]
        )


def _missed(told: Told, wait: float) -> int:
    return int(wait > told.high) - int(wait < told.low)


def run(variant: str, seed: int, every: int = EVERY, prefix: int | None = None) -> list[Told]:
    """All that were told something on one replay, in the order of time."""
    forecasting = Forecasting(variant, seed, every, prefix)
    forecasting.run()
    return forecasting.told


def _run(todo: tuple[str, int]) -> list[Told]:
    return run(*todo)


def figures(runs: list[list[Told]]) -> Iterator[tuple[str, Result]]:
    """Coverage and errors over several replays."""
    everybody = [told for found in runs for told in found]
    waited = [[told for told in found if told.wait > LONG_SECONDS] for found in runs]
    long = [told for found in waited for told in found]
    n = len(long)
    stretches = [
        np.mean([told.inside for found in waited for told in _stretch(found, number)])
        for number in range(STRETCHES)
    ]
    for name, value in (
        ("coverage", np.mean([told.inside for told in long])),
        ("coverage_least", min(stretches)),
        ("coverage_most", max(stretches)),
        ("coverage_of_all_waits", np.mean([told.inside for told in everybody])),
    ):
        count = len(everybody) if name.endswith("waits") else n
        yield name, Result(round(float(value), 4), "part", TARGET, 0.8, count)
    error = np.array([abs(told.middle - told.wait) for told in long])
    peer = np.array([abs(told.peer - told.wait) for told in long])
    wait = np.array([told.wait for told in long])
    for name, unit, ours, theirs in (
        ("error_median", "min", np.median(error) / 60, np.median(peer) / 60),
        ("error_p90", "min", np.percentile(error, 90) / 60, np.percentile(peer, 90) / 60),
        ("error_of_wait", "part", np.median(error / wait), np.median(peer / wait)),
    ):
        yield name, Result(round(float(ours), 4), unit, PEER, round(float(theirs), 4), n)
    width = float(np.median([told.high - told.low for told in long])) / 60
    yield (
        "range_width",
        Result(round(width, 4), "min", "median wait", float(np.median(wait)) / 60, n),
    )


def _stretch(found: list[Told], number: int) -> list[Told]:
    size = len(found) / STRETCHES
    return found[round(number * size) : round((number + 1) * size)]


def measure() -> dict[str, Result]:
    """``forecast_*`` of all replays together, ``forecast_bag_*`` and ``forecast_nodes_*``."""
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        done = dict(zip(RUNS, workers.map(_run, RUNS), strict=True))
    by_variant = {
        f"forecast_{variant}_{name}": result
        for variant in VARIANTS
        for name, result in figures([told for (one, _), told in done.items() if one == variant])
    }
    together = {f"forecast_{name}": result for name, result in figures(list(done.values()))}
    return {**together, **by_variant}
