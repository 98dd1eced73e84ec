"""The forecast of free GPUs as a step chart, and as the table behind it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dcloud_spawner.scheduler.band import Band

WIDTH, HEIGHT = 960, 160
TICKS = 6


@dataclass(frozen=True)
class Step:
    """Free GPUs from a moment until the next step."""

    at: datetime
    low: int
    median: int
    high: int


@dataclass(frozen=True)
class StepChart:
    """Everything that the template draws."""

    total: int
    low_area: str
    """SVG path of what is free in every course of the future."""
    band: str
    """SVG path of what lies between the least and the most."""
    median_line: str
    """SVG path of the middle one."""
    rules: tuple[int, ...]
    """Heights of the horizontal lines."""
    labels: tuple[int, ...]
    """Numbers at the left, from the top; each at a height of ``rules``."""
    ticks: tuple[datetime, ...]
    """Equally far from each other, the first one is now."""
    steps: tuple[Step, ...]
    words: str
    """The chart in a sentence."""


def step_chart(band: Band, free_now: int) -> StepChart:
    """Draw the GPUs of all models together."""
    total = sum(free.total for free in band.models.values())
    steps = steps_of(band, free_now)
    start = datetime.fromtimestamp(band.times[0], UTC)
    length = timedelta(seconds=band.times[-1] - band.times[0])
    top = max(1, total)

    def corners(values: Sequence[int]) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        for step, value in zip(steps, values, strict=True):
            x = round(WIDTH * ((step.at - start) / length), 1)
            y = round(HEIGHT - HEIGHT * min(value, top) / top, 1)
            if found:
                found.append((x, found[-1][1]))
            found.append((x, y))
        return [*found, (float(WIDTH), found[-1][1])]

    low = corners([step.low for step in steps])
    high = corners([step.high for step in steps])
    labels = sorted({0, top // 2 if top > 2 and top % 2 == 0 else 0, top}, reverse=True)
    return StepChart(
        total=total,
        low_area=_path(low) + f"L{WIDTH} {HEIGHT}L0 {HEIGHT}Z",
        band=_path(high) + "L" + "L".join(f"{x:g} {y:g}" for x, y in reversed(low)) + "Z",
        median_line=_path(corners([step.median for step in steps])),
        rules=tuple(round(HEIGHT - HEIGHT * label / top) for label in labels),
        labels=tuple(labels),
        ticks=tuple(start + length * number / TICKS for number in range(TICKS + 1)),
        steps=steps,
        words=_words(steps, total),
    )


def steps_of(band: Band, free_now: int) -> tuple[Step, ...]:
    """All models together; equal neighbours are one step. The first one is no forecast: a course
    of the future may take what is free in its first moment."""
    steps = [Step(datetime.fromtimestamp(band.times[0], UTC), free_now, free_now, free_now)]
    for number, at in enumerate(band.times[1:], start=1):
        free = band.models.values()
        step = Step(
            datetime.fromtimestamp(at, UTC),
            sum(one.low[number] for one in free),
            sum(one.median[number] for one in free),
            sum(one.high[number] for one in free),
        )
        before = steps[-1]
        if (step.low, step.median, step.high) != (before.low, before.median, before.high):
            steps.append(step)
    return tuple(steps)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in corners)


def _words(steps: Sequence[Step], total: int) -> str:
    soon = [step for step in steps if step.at <= steps[0].at + timedelta(hours=1)]
    return (
        f"{_from_to(soon)} of the {total} GPUs in service are free within the hour, "
        f"{_from_to(steps)} in the day."
    )


def _from_to(steps: Sequence[Step]) -> str:
    least, most = min(step.low for step in steps), max(step.high for step in steps)
    return f"{least}" if least == most else f"{least} to {most}"
