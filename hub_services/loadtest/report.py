"""The report of a load test: one HTML file that needs nothing else, and its figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hub_services.charts import STYLE, Bar, Line, bar_chart, line_chart
from hub_services.loadtest.figures import Figures, SizeFigures, Spread

Pick = Callable[[SizeFigures], Spread | None]


def write(figures: Figures, folder: Path) -> Path:
    """Write ``report.html`` and ``report.json``; returns the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(figures.as_json(), indent=1))
    page = folder / "report.html"
    page.write_text(render(figures), encoding="utf-8")
    return page


def render(figures: Figures) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(seconds=seconds, ms=milliseconds, size=size_name)
    return environment.get_template("report.html").render(
        f=figures,
        sizes=[*figures.sizes, figures.all_sizes],
        style=Markup(STYLE),
        waits=Markup(_spreads("Waits by size", figures, lambda each: each.wait)),
        starts=Markup(_spreads("Start times by size", figures, lambda each: each.start)),
        pulse=Markup(_pulse(figures)),
        queue=Markup(_pool("Queue", figures, "queued")),
        gpus=Markup(_pool("GPUs in use", figures, "gpus_used", "gpus")),
    )


def _spreads(title: str, figures: Figures, pick: Pick) -> str:
    groups = []
    for size in figures.sizes:
        found = pick(size)
        if found is not None:
            bars = [
                Bar("median", found.median, seconds(found.median), main=True),
                Bar("p90", found.p90, seconds(found.p90)),
                Bar("p99", found.p99, seconds(found.p99)),
            ]
            groups.append((f"{size_name(size.gpus)} ({found.n})", bars))
    return bar_chart(title, groups) if groups else ""


def _pulse(figures: Figures) -> str:
    windows = figures.pulse
    return line_chart(
        "How fast the hub answers, over time",
        [
            Line("p50", [(each.at, each.p50 * 1000) for each in windows]),
            Line("p95", [(each.at, each.p95 * 1000) for each in windows]),
            Line("p99", [(each.at, each.p99 * 1000) for each in windows]),
        ],
        x_name="s",
        y_name="ms",
    )


def _pool(title: str, figures: Figures, *keys: str) -> str:
    names = {"queued": "waiting", "gpus_used": "in use", "gpus": "there are"}
    lines = [
        Line(names[key], [(each["at"], each[key]) for each in figures.pool], steps=True)
        for key in keys
    ]
    return line_chart(f"{title}, over time", lines, x_name="s", y_name="")


def size_name(gpus: int) -> str:
    """How the report names a size."""
    if gpus < 0:
        return "all"
    return {0: "CPU only", 1: "1 GPU"}.get(gpus, f"{gpus} GPUs")


def seconds(value: float) -> str:
    """A duration as people say it, never more exact than it is."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def milliseconds(value: float) -> str:
    """Seconds as milliseconds."""
    return f"{value * 1000:.0f}" if value >= 0.01 else f"{value * 1000:.1f}"
