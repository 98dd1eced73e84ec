"""The forecast of free GPUs as a step chart, and as the table behind it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hub_services.web.forecast import AHEAD, Step

WIDTH, HEIGHT = 960, 160
TICKS = 6


@dataclass(frozen=True)
class StepChart:
    """Everything that the template draws."""

    total: int
    low_area: str
    """SVG path of what is left when those who wait have started."""
    low_line: str
    """Its upper edge."""
    high_line: str
    """SVG path of what is free if nobody else comes."""
    band: str
    """SVG path of what lies between the two."""
    rules: tuple[int, ...]
    """Heights of the horizontal lines."""
    labels: tuple[int, ...]
    """Numbers at the left, from the top; each at a height of ``rules``."""
    ticks: tuple[datetime, ...]
    """Equally far from each other, the first one is now."""
    steps: tuple[Step, ...]
    words: str
    """The chart in a sentence."""


def step_chart(steps: Sequence[Step], total: int, now: datetime) -> StepChart:
    """Draw steps that begin now."""
    top = max(1, total)
    high = _corners([(step.at, step.high) for step in steps], now, top)
    low = _corners([(step.at, step.low) for step in steps], now, top)
    base = f"L{WIDTH} {HEIGHT}L0 {HEIGHT}Z"
    labels = sorted({0, top // 2 if top > 2 else 0, top}, reverse=True)
    return StepChart(
        total=total,
        low_area=_path(low) + base,
        low_line=_path(low),
        high_line=_path(high),
        band=_path(high) + "L" + "L".join(f"{x:g} {y:g}" for x, y in reversed(low)) + "Z",
        rules=tuple(round(HEIGHT - HEIGHT * label / top) for label in labels),
        labels=tuple(labels),
        ticks=tuple(now + AHEAD * number / TICKS for number in range(TICKS + 1)),
        steps=tuple(steps),
        words=_words(steps, total, now),
    )


def _corners(
    values: Sequence[tuple[datetime, int]], now: datetime, top: int
) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for at, value in values:
        x = round(WIDTH * ((at - now) / AHEAD), 1)
        y = round(HEIGHT - HEIGHT * min(value, top) / top, 1)
        if found:
            found.append((x, found[-1][1]))
        found.append((x, y))
    found.append((float(WIDTH), found[-1][1] if found else float(HEIGHT)))
    return found


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in corners)


def _words(steps: Sequence[Step], total: int, now: datetime) -> str:
    if not steps or not total:
        return "There are no GPUs."
    least = min(step.low for step in steps)
    soon = [step for step in steps if step.at <= now + timedelta(hours=1)]
    return (
        f"Now {steps[0].high} of {total} are free; within the hour at most "
        f"{max(step.high for step in soon)}. When those who wait have started, the fewest left "
        f"over in this day are {least}."
    )
