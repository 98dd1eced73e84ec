"""Graphs of one session: from its measures to lines, words and a table. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from dcloud_spawner.ledger.rates import GIB
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.store.measures import Measure
from hub_services.web.pages.days import Zone
from hub_services.web.pages.figures import when

ROWS_SHOWN = 120
"""Of the table behind the graphs."""

Value = Callable[[Figures], float | None]


@dataclass(frozen=True)
class Line:
    """One line of a graph."""

    label: str
    value: Value


@dataclass(frozen=True)
class Kind:
    """One graph: what it shows, in which unit, of GPUs or of the container."""

    id: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    of_gpus: bool = False
    most: float | None = None


@dataclass(frozen=True)
class Graph:
    """One graph as it is drawn; without data where nothing was measured."""

    id: str
    title: str
    unit: str
    labels: tuple[str, ...]
    words: str
    data: str
    last: str
    """Its newest value."""


@dataclass(frozen=True)
class TableRow:
    """One line of the table."""

    at: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Graphs:
    """All of a session."""

    graphs: tuple[Graph, ...]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    step: str
    """Length of a piece, in words."""


def _scaled(name: str, unit: float) -> Value:
    def value(figures: Figures) -> float | None:
        found = getattr(figures, name)
        return None if found is None else found / unit

    return value


KINDS = (
    Kind("gpu", "GPU use", "%", (Line("", _scaled("gpu_utilisation_percent", 1)),), True, most=100),
    Kind("gpu-memory", "GPU memory", "GiB", (Line("", _scaled("gpu_memory_bytes", GIB)),), True),
    Kind("power", "GPU power", "W", (Line("", _scaled("gpu_power_milliwatts", 1000)),), True),
    Kind(
        "temperature",
        "GPU temperature, highest",
        "°C",
        (Line("", _scaled("gpu_temperature_celsius_max", 1)),),
        True,
    ),
    Kind("cpu", "CPU", "cores", (Line("", _scaled("cpu_millicores", 1000)),)),
    Kind("memory", "Memory", "GiB", (Line("", _scaled("memory_bytes", GIB)),)),
    Kind(
        "disk", "Disk written in the container", "GB", (Line("", _scaled("disk_bytes_max", 1e9)),)
    ),
    Kind(
        "network",
        "Network",
        "MB/s",
        (
            Line("received", _scaled("network_received_bytes_per_second", 1e6)),
            Line("sent", _scaled("network_sent_bytes_per_second", 1e6)),
        ),
    ),
)


def graphs(
    pieces: Sequence[Measure],
    from_at: datetime,
    until_at: datetime,
    zone: Zone,
    now: datetime,
    *,
    has_gpus: bool,
) -> Graphs:
    """The graphs of a time. A piece that is missing is a gap in the line, not a zero."""
    kinds = [kind for kind in KINDS if has_gpus or not kind.of_gpus]
    step = pieces[0].seconds if pieces else 0
    return Graphs(
        graphs=tuple(_graph(kind, pieces, from_at, until_at, zone, now) for kind in kinds),
        columns=tuple(
            f"{kind.title}{f' {line.label}' if line.label else ''}, {kind.unit}"
            for kind in kinds
            for line in kind.lines
        ),
        rows=tuple(_rows(kinds, pieces, zone, now)),
        step=_length(step),
    )


def _length(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h"


def _graph(
    kind: Kind,
    pieces: Sequence[Measure],
    from_at: datetime,
    until_at: datetime,
    zone: Zone,
    now: datetime,
) -> Graph:
    columns = [[line.value(piece.figures) for piece in pieces] for line in kind.lines]
    known = [value for column in columns for value in column if value is not None]
    labels = tuple(line.label for line in kind.lines)
    if not known:
        words = f"{kind.title}: nothing was measured."
        return Graph(kind.id, kind.title, kind.unit, labels, words, "", "–")
    lasts = [column[-1] for column in columns]
    mean, most = sum(known) / len(known), max(known)
    words = (
        f"{kind.title} from {when(from_at, zone, now)} to {when(until_at, zone, now)}: mean "
        f"{_figure(mean)} {kind.unit}, highest {_figure(most)} {kind.unit}. The table below has "
        "the values."
    )
    return Graph(
        id=kind.id,
        title=kind.title,
        unit=kind.unit,
        labels=labels,
        words=words,
        data=_data(kind, pieces, columns, from_at, until_at),
        last=" and ".join(
            f"{_figure(value)} {kind.unit}{f' {label}' if label else ''}"
            for label, value in zip(labels, lasts, strict=True)
        ),
    )


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else "0"


def _data(
    kind: Kind,
    pieces: Sequence[Measure],
    columns: Sequence[Sequence[float | None]],
    from_at: datetime,
    until_at: datetime,
) -> str:
    at: list[float] = []
    values: list[list[float | None]] = [[] for _ in columns]
    gaps = {
        later.at
        for earlier, later in pairwise(pieces)
        if later.at - earlier.at > timedelta(seconds=1.5 * earlier.seconds)
    }
    for number, piece in enumerate(pieces):
        if piece.at in gaps:
            at.append(pieces[number - 1].at.timestamp() + piece.seconds)
            for column in values:
                column.append(None)
        at.append(piece.at.timestamp())
        for column, given in zip(values, columns, strict=True):
            found = given[number]
            column.append(None if found is None else round(found, 4))
    return json.dumps(
        {
            "kind": "lines",
            "unit": kind.unit,
            "at": at,
            "from": from_at.timestamp(),
            "until": until_at.timestamp(),
            "most": kind.most,
            "series": [
                {"label": line.label, "values": column}
                for line, column in zip(kind.lines, values, strict=True)
            ],
        }
    )


def _rows(
    kinds: Sequence[Kind], pieces: Sequence[Measure], zone: Zone, now: datetime
) -> list[TableRow]:
    """The newest first; neighbours together where there are too many."""
    together = max(1, -(-len(pieces) // ROWS_SHOWN))
    rows = []
    for begin in range(0, len(pieces), together):
        part = pieces[begin : begin + together]
        figures = sum((piece.figures for piece in part[1:]), part[0].figures)
        values = tuple(_figure(line.value(figures)) for kind in kinds for line in kind.lines)
        local = zone.local(part[0].at)
        at = when(part[0].at, zone, now)
        rows.append(TableRow(f"{at}:{local:%S}" if part[0].seconds < 60 else at, values))
    return rows[::-1]
