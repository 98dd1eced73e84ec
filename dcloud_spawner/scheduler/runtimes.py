"""How long work really lasts, by the record of what has ended lately.

People ask for more hours than they use. What counts is the ratio of real to asked length, taken
from recent work that asked for about as many GPUs and about as long. For what runs already, only
those ratios count that are above what it has used so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcloud_spawner.scheduler.snapshot import NEVER

ENOUGH = 20
"""So many like ones are a record; with fewer, less alike ones are taken."""

UNKNOWN_RATIOS = (0.08, 0.13, 0.17, 0.19, 0.22, 0.25, 0.28, 0.36, 0.45, 0.58)
"""Ratios until there is a record: the middles of the ten tenths on the trace
elasticflow-cluster04 with the limits of bench/trace_files.py. A guess about anywhere else."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ended:
    """What asked for a limit, and how long it really ran."""

    gpus: int
    limit_seconds: float
    runtime_seconds: float


class RunTimes:
    """Estimates by a record of what ended."""

    def __init__(self, record: Iterable[Ended] = ()) -> None:
        groups: dict[tuple[object, ...], list[float]] = {}
        for ended in record:
            if ended.limit_seconds <= 0:
                continue
            ratio = min(1.0, max(0.0, ended.runtime_seconds / ended.limit_seconds))
            for key in _keys(ended.gpus, ended.limit_seconds):
                groups.setdefault(key, []).append(ratio)
        self._ratios: dict[tuple[object, ...], Floats] = {
            key: np.sort(np.array(found)) for key, found in groups.items() if len(found) >= ENOUGH
        }
        self._unknown: Floats = np.array(UNKNOWN_RATIOS)

    def ratios(self, gpus: int, limit_seconds: float) -> Floats:
        """Ratios of real to asked length of the most alike that are enough, in order."""
        for key in _keys(gpus, limit_seconds):
            found = self._ratios.get(key)
            if found is not None:
                return found
        return self._unknown

    def runtime_seconds(
        self, gpus: int, limit_seconds: float, *, at: float = 0.5, used_seconds: float = 0.0
    ) -> float:
        """The whole length of something that has run for a time already; ``at`` is the quantile,
        0.5 the median. Never shorter than what is used, never longer than the limit."""
        if limit_seconds <= 0 or used_seconds >= limit_seconds:
            return max(0.0, used_seconds)
        if limit_seconds == NEVER:
            return NEVER
        used = used_seconds / limit_seconds
        ratios = self.ratios(gpus, limit_seconds)
        longer = ratios[int(ratios.searchsorted(used, "right")) :] if used > 0 else ratios
        if len(longer) == 0:
            # Nobody like it ever ran so long: anything up to the limit.
            return (used + (1.0 - used) * at) * limit_seconds
        return float(longer[min(len(longer) - 1, int(len(longer) * at))]) * limit_seconds


def _keys(gpus: int, limit_seconds: float) -> tuple[tuple[object, ...], ...]:
    """From the most alike to the least: GPUs by doubling and the limit; the limit; the limit by
    quadrupling; anything."""
    return (
        (gpus.bit_length(), limit_seconds),
        (limit_seconds,),
        ("about", round(np.log2(max(1.0, limit_seconds / 1800.0)) / 2)),
        (),
    )
