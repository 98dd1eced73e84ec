"""GPU-hours of one person in a window that rolls along: used, set aside, and when they are back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.store import limits as rows
from dcloud_spawner.store.limits import HOUR, HeldBy, HourUsed
from dcloud_spawner.store.schema import State

WEEK = timedelta(days=7)
MONTH = timedelta(days=30)

HOUR_SECONDS = 3600
HOUR_MICROSECONDS = 3_600_000_000


@dataclass(frozen=True)
class GpuTime:
    """In GPU-hours."""

    window: timedelta
    hours: Sequence[HourUsed]
    """What is on the ledger, the oldest first."""
    running_hours: float
    """What has run since, and is not on it yet."""
    aside: Mapping[str, float]
    """What servers that run may still use until their limits, by server."""

    @property
    def used_hours(self) -> float:
        """What counts as used."""
        settled = sum(found.gpu_microseconds for found in self.hours)
        return settled / HOUR_MICROSECONDS + self.running_hours

    @property
    def aside_hours(self) -> float:
        """All that is set aside."""
        return sum(self.aside.values())

    def back_at(self, hours: float) -> datetime | None:
        """When so many of the used hours no longer count; None when there are not so many on the
        ledger."""
        back = 0.0
        for found in self.hours:
            back += found.gpu_microseconds / HOUR_MICROSECONDS
            if back >= hours - 1e-9:
                return found.hour + HOUR + self.window
        return None


def read_gpu_time(
    connection: Connection, user: str, held: Sequence[HeldBy], window: timedelta, at: datetime
) -> GpuTime:
    """Read what somebody had; ``held`` is what they hold now."""
    by_id = {row.id: row for row in held}
    running = 0.0
    for workload, since in rows.unsettled(connection, user):
        row = by_id.get(workload)
        if row is not None:
            running += row.gpus * max(0.0, (at - since).total_seconds())
    aside: dict[str, float] = {}
    for row in held:
        if row.gpus and row.state != State.STOPPING.value:
            left = max(0.0, (_ends_at(row) - at).total_seconds()) * row.gpus / HOUR_SECONDS
            aside[row.server_name] = aside.get(row.server_name, 0.0) + left
    hours = rows.gpu_hours(connection, user, at - window)
    return GpuTime(window, hours, running / HOUR_SECONDS, aside)


def _ends_at(row: HeldBy) -> datetime:
    end = row.admitted_at + timedelta(seconds=row.limit_seconds)
    return end if row.notice_at is None else min(end, row.notice_at)
