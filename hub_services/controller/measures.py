"""Samples of what runs: for graphs, averages and energy, never for charges."""

from __future__ import annotations

from datetime import datetime, timedelta

from dcloud_spawner.engines.use import Use
from dcloud_spawner.measuring.step import Held, step
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import measures
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.measures import Addition

GAUGE_PERIODS = 2.0
"""A gauge speaks for at most so many periods: nobody knows the load of an hour without samples."""

FORGET_EVERY = timedelta(hours=1)


class Measurer:
    """One turn reads everything once and writes it in one transaction."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._forgot_at: datetime | None = None

    def turn(self) -> None:
        """Measure what runs; now and then forget what is too old. Blocks."""
        use = self._platform.engine.measure()
        if use.containers:
            record(self._platform.database, use, self._platform.settings.measure_seconds)
        now = utc_now()
        if self._forgot_at is None or not timedelta(0) <= now - self._forgot_at < FORGET_EVERY:
            self.forget(now)
            self._forgot_at = now

    def forget(self, now: datetime) -> None:
        """Delete what is kept no longer."""
        settings = self._platform.settings
        for seconds, days in (
            (measures.SAMPLE, settings.measures_samples_days),
            (measures.MINUTE, settings.measures_minutes_days),
            (measures.HOUR, settings.measures_hours_days),
        ):
            more = True
            while more:
                with self._platform.database.transaction() as connection:
                    more = measures.forget_oldest(connection, seconds, now - timedelta(days=days))


def record(database: Database, use: Use, period_seconds: float) -> int:
    """Write down one reading; returns of how many sessions. Blocks.

    What was read last time is in the database, so it does not matter which process read it, when,
    or whether it lived on: the same reading twice adds nothing.
    """
    of_container = {found.workload_id: found for found in use.containers}
    of_gpu = {found.uuid: found for found in use.accelerators}
    longest = GAUGE_PERIODS * period_seconds
    with database.transaction() as connection:
        running = [
            found for found in measures.subjects(connection) if found.workload in of_container
        ]
        last = measures.last_readings(connection, [found.workload for found in running])
        additions = []
        for subject in running:
            held = [Held(uuid, model, of_gpu.get(uuid)) for uuid, model in subject.held.items()]
            done = step(
                last.get(subject.workload),
                of_container[subject.workload],
                held,
                subject.started_at,
                longest,
            )
            if done is not None:
                additions.append(Addition(subject, done.figures, done.by_model, done.reading))
        measures.add(connection, additions)
    return len(additions)
