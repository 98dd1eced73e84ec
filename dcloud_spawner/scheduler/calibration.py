"""From a forecast wait to the range that is shown: what became of earlier forecasts decides.

For a forecast of so many minutes, the earlier forecasts nearest to it are taken; the shown range
is this forecast times the middle 80 % of the ratios of what those waited to what was forecast
for them. Who still waits counts as "longer than so far" (Kaplan and Meier, JASA 1958), for
leaving them out would make every range too short just when the queue grows. The two ends are
moved, a hundredth of a miss each time, by whether the ranges shown last held (Gibbs and Candes,
"Adaptive conformal inference under distribution shift", NeurIPS 2021). Until there is a record,
that of a public trace stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OUTSIDE = 0.1
"""The part that may start before the range, and as much after it."""

STEP = 0.01
"""How far one miss moves an end of the range, of all cases."""

NEAREST = 200
"""Earlier forecasts that make a range."""

NEAR = float(np.log(4.0))
"""None that is more than four times or less than a quarter as long counts."""

ENOUGH = 30
"""With fewer of them, those of the trace stand in for the rest."""

SHORT_SECONDS = 300.0
"""Added to both sides of a ratio: below a few minutes the ratio says nothing."""

UNKNOWN: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, (-0.40, -0.25, -0.16, -0.07, -0.03, 0.02, 0.09, 0.34, 0.73, 1.41)),
    (900, (-1.18, -0.89, -0.57, -0.34, -0.08, 0.11, 0.32, 0.56, 0.89, 1.40)),
    (3600, (-1.60, -0.74, -0.44, -0.17, 0.05, 0.16, 0.28, 0.43, 0.65, 1.26)),
    (14400, (-0.85, -0.50, -0.26, -0.11, 0.01, 0.07, 0.19, 0.26, 0.38, 0.67)),
    (57600, (-1.09, -0.49, -0.35, -0.28, -0.12, 0.01, 0.18, 0.30, 0.50, 0.72)),
)
"""Until there is a record: forecast waits in seconds, and for each the logarithms of the ratio in
the middles of ten tenths, measured on the trace elasticflow-cluster04 (bench/forecast.py)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was forecast for somebody, and what came of it. Seconds from the forecast on."""

    forecast_seconds: float
    waited_seconds: float
    """Until the start, or until now for who still waits."""
    started: bool = True
    missed: int = 0
    """-1 when the start was before the shown range, 1 when that is over without a start, else 0."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The waits, in seconds from now, between which 80 % start."""

    low_seconds: float
    high_seconds: float


class Calibration:
    """Made of the last outcomes, the oldest first."""

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        forecast = np.array([found.forecast_seconds for found in outcomes], float)
        waited = np.array([found.waited_seconds for found in outcomes], float)
        self._size = _scale(forecast)
        self._ratio = _scale(waited) - self._size
        self._started = np.array([found.started for found in outcomes], bool)
        self.before, self.after = OUTSIDE, OUTSIDE
        for found in outcomes:
            if found.started or found.missed:
                self.before += STEP * (OUTSIDE - (found.missed < 0))
                self.after += STEP * (OUTSIDE - (found.missed > 0))
                self.before = min(0.4, max(0.01, self.before))
                self.after = min(0.4, max(0.01, self.after))

    def spread(self, forecast_seconds: float) -> Spread:
        """The range of one forecast."""
        size = float(np.log(max(0.0, forecast_seconds) + SHORT_SECONDS))
        distance = np.abs(self._size - size)
        near = np.argsort(distance, kind="stable")[:NEAREST]
        near = near[distance[near] <= NEAR]
        ratios, started = self._ratio[near], self._started[near]
        weights = np.ones(len(near))
        missing = ENOUGH - len(near)
        if missing > 0:
            unknown = _unknown(size)
            ratios = np.concatenate([ratios, unknown])
            started = np.concatenate([started, np.ones(len(unknown), bool)])
            weights = np.concatenate([weights, np.full(len(unknown), missing / len(unknown))])
        low, high = _quantiles(ratios, started, weights, (self.before, 1.0 - self.after))
        return Spread(_seconds(size + low), _seconds(size + high))


def _scale(seconds: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(seconds, 0.0) + SHORT_SECONDS))


def _seconds(scaled: float) -> float:
    return max(0.0, float(np.exp(scaled)) - SHORT_SECONDS)


def _unknown(size: float) -> Floats:
    """Ratios by the trace, between those of the two nearest lengths."""
    sizes = [float(np.log(seconds + SHORT_SECONDS)) for seconds, _ in UNKNOWN]
    table = np.array([ratios for _, ratios in UNKNOWN])
    return np.array([np.interp(size, sizes, column) for column in table.T])


def _quantiles(
    values: Floats, started: NDArray[np.bool_], weights: Floats, parts: Sequence[float]
) -> list[float]:
    """Quantiles of lengths of which some are only known to be longer (Kaplan and Meier)."""
    order = np.argsort(values, kind="stable")
    values, started, weights = values[order], started[order], weights[order]
    at_risk = np.cumsum(weights[::-1])[::-1]
    left = np.cumprod(np.where(started, 1.0 - weights / at_risk, 1.0))
    known = 1.0 - left
    found = np.minimum(np.searchsorted(known, np.array(parts) - 1e-9), len(values) - 1)
    return [float(values[index]) for index in found]
