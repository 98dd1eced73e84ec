"""Small charts as inline SVG: readable without colour, in a dark page, printed, by a reader.

Lines differ by their dashes and carry their name at their end; bars carry their value. There is
no style inside (pages forbid it): classes ``chart-*`` are dressed by :data:`STYLE` or a style
sheet that contains it, and without any they are still black on white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
.chart-box { overflow-x: auto; }
.chart { display: block; width: 100%; height: auto; min-width: 480px; max-width: 760px; }
.chart-bars { min-width: 320px; max-width: 520px; }
.chart text { fill: currentColor; font: 13px system-ui, sans-serif; }
.chart .chart-soft { opacity: .72; }
.chart .chart-grid { stroke: currentColor; opacity: .15; }
.chart .chart-line { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linejoin: round; }
.chart .chart-0 { stroke: var(--chart-main, currentColor); stroke-width: 2; }
.chart .chart-bar { fill: currentColor; opacity: .28; }
.chart .chart-bar-0 { fill: var(--chart-main, currentColor); opacity: .9; }
"""

WIDTH, HEIGHT = 600, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 84, 22, 34
DASHES = ("", "6 4", "2 3", "10 3 2 3")
BAR, GAP, GROUP_GAP = 16, 4, 14
BARS_WIDTH, LABEL_WIDTH, VALUE_WIDTH = 490, 164, 94


@dataclass(frozen=True)
class Line:
    """One curve: its name stands at its end. ``steps`` holds each value until the next."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar with its own words for its value, such as ``1 h 20 min``."""

    name: str
    value: float
    words: str
    main: bool = False


def line_chart(title: str, lines: Sequence[Line], *, x_name: str, y_name: str) -> str:
    """Curves over one axis of time, from zero. Empty curves are left out."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    x_top = max(x for line in lines for x, _ in line.points) or 1
    y_top = _round_up(max(y for line in lines for _, y in line.points) or 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / x_top * (WIDTH - LEFT - RIGHT)
        return across, TOP + (1 - y / y_top) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(x_top, y_top, x_name, y_name)]
    ends: list[float] = []
    for number, line in enumerate(lines):
        path = _path([at(x, y) for x, y in line.points], steps=line.steps)
        dash = DASHES[number % len(DASHES)]
        parts.append(
            f'<path class="chart-line chart-{number}" d="{path}" fill="none" '
            f'stroke="currentColor" stroke-dasharray="{dash or "none"}"/>'
        )
        height = _apart(at(*line.points[-1])[1], ends)
        ends.append(height)
        parts.append(_text(WIDTH - RIGHT + 6, height + 4, line.name))
    return _svg(title, HEIGHT, parts)


def bar_chart(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars in named groups, all on one scale from zero."""
    top = max((bar.value for _, bars in groups for bar in bars), default=0) or 1
    parts: list[str] = []
    y = float(TOP)
    for name, bars in groups:
        parts.append(_text(0, y + BAR - 4, name))
        for bar in bars:
            width = bar.value / top * (BARS_WIDTH - LABEL_WIDTH - VALUE_WIDTH)
            kind = "chart-bar chart-bar-0" if bar.main else "chart-bar"
            parts.append(_text(LABEL_WIDTH - 8, y + BAR - 4, bar.name, anchor="end", soft=True))
            parts.append(
                f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y:.0f}" width="{max(width, 1):.1f}" '
                f'height="{BAR}" rx="2"/>'
            )
            parts.append(_text(LABEL_WIDTH + max(width, 1) + 6, y + BAR - 4, bar.words))
            y += BAR + GAP
        y += GROUP_GAP
    return _svg(title, int(y), parts, width=BARS_WIDTH, kind="chart chart-bars")


def _svg(
    title: str, height: int, parts: Sequence[str], *, width: int = WIDTH, kind: str = "chart"
) -> str:
    return (
        f'<div class="chart-box" tabindex="0" role="group" aria-label="{escape(title)}, chart">'
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></div>'
    )


def _grid(x_top: float, y_top: float, x_name: str, y_name: str) -> str:
    floor = HEIGHT - BOTTOM
    parts = [_text(0, TOP - 10, y_name, soft=True)]
    for step in range(5):
        y = floor - step / 4 * (floor - TOP)
        parts.append(
            f'<line class="chart-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}" stroke="currentColor"/>'
        )
        if step < 4:
            label = f"{y_top * step / 4:g}"
            parts.append(_text(LEFT - 6, y + 4, label, anchor="end", soft=True))
    distance = _round_up(x_top / 6)
    for step in range(int(x_top / distance) + 1):
        x = LEFT + step * distance / x_top * (WIDTH - LEFT - RIGHT)
        label = f"{step * distance:g}" + (f" {x_name}" if step == 0 else "")
        parts.append(_text(x, floor + 18, label, anchor="middle", soft=True))
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], *, steps: bool) -> str:
    said = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for x, y in points[1:]:
        said.append(f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}")
    return "".join(said)


def _text(x: float, y: float, words: str, *, anchor: str = "start", soft: bool = False) -> str:
    kind = ' class="chart-soft"' if soft else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _apart(wanted: float, taken: Sequence[float], distance: float = 14) -> float:
    """The nearest height below which no other name stands."""
    height = wanted
    while any(abs(height - other) < distance for other in taken):
        height -= 1
    return height


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten: quarters of it read well."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value * 0.999)
