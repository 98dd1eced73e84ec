"""How many GPUs will be free over the next hours: the least, the middle and the most of several
courses of the future. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dcloud_spawner.scheduler.forecast import Forecast
from dcloud_spawner.scheduler.replay import Replay
from dcloud_spawner.scheduler.reserved import covers
from dcloud_spawner.scheduler.snapshot import Reservation

DAY_SECONDS = 24 * 3600.0
STEP_SECONDS = 900.0
COURSES = 5


@dataclass(frozen=True, slots=True)
class Free:
    """Free GPUs of one model at each time of a band."""

    low: tuple[int, ...]
    median: tuple[int, ...]
    high: tuple[int, ...]
    total: int
    """Those in service."""


@dataclass(frozen=True, slots=True)
class Band:
    """Times in seconds since the epoch, and what is free at each, by model."""

    times: tuple[float, ...]
    models: Mapping[str, Free]


def forecast_band(
    forecast: Forecast,
    *,
    seconds: float = DAY_SECONDS,
    step_seconds: float = STEP_SECONDS,
    courses: int = COURSES,
) -> Band:
    """Play the future and count. GPUs of an advance reservation that nobody uses yet are not
    free; they are counted from the model that it is for, or from the one with most free."""
    times = [forecast.now + step_seconds * step for step in range(int(seconds / step_seconds) + 1)]
    groups = forecast.occupancy.pool.layout.groups
    models = sorted({group.model for group in groups if group.gpus})
    rows = np.array([[group.model == model for group in groups] for model in models], np.int64)
    seen = []
    for number in range(courses):
        counts: list[Sequence[int]] = []

        def look(replay: Replay, going_to: float, counts: list[Sequence[int]] = counts) -> None:
            # What happens exactly at a time is counted in it.
            while len(counts) < len(times) and (
                times[len(counts)] < going_to or going_to >= times[-1]
            ):
                free = (rows @ replay.occupancy.pool.full).tolist() if models else []
                at = times[len(counts)]
                counts.append(_without_reserved(models, free, replay, forecast.reservations, at))

        queue = forecast.queue
        until = times[-1] + 1.0
        forecast.course(number, courses, queue, (), until=until, look=look)
        while len(counts) < len(times):  # a course that was cut off: as it was last
            counts.append(counts[-1] if counts else [0] * len(models))
        seen.append(counts)
    every = np.array(seen, np.int64).reshape(courses, len(times), len(models))
    return Band(
        tuple(times),
        {
            model: Free(
                tuple(every[:, :, index].min(axis=0).tolist()),
                tuple(np.median(every[:, :, index], axis=0).astype(int).tolist()),
                tuple(every[:, :, index].max(axis=0).tolist()),
                int(rows[index] @ forecast.occupancy.pool.layout.gpu_count),
            )
            for index, model in enumerate(models)
        },
    )


def _without_reserved(
    models: Sequence[str],
    free: list[int],
    replay: Replay,
    reservations: Sequence[Reservation],
    at: float,
) -> list[int]:
    for reservation in reservations:
        if not models or not covers(reservation, at):
            continue
        used = sum(
            len(grant.gpus)
            for running in replay.occupancy.running
            if running.reservation == reservation.id
            for grant in running.grants
        )
        kept = max(0, reservation.gpus - used)
        if reservation.gpu_model in models:
            index = models.index(reservation.gpu_model)
        elif reservation.gpu_model is None:
            index = max(range(len(models)), key=free.__getitem__)
        else:
            continue
        free[index] = max(0, free[index] - kept)
    return free
