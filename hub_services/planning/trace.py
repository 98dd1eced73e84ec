"""A trace file as a history: CSV with a header, one row for each request.

Needed are a column for the time of submission, one for the duration (both in seconds) and one
for the number of GPUs, under any of the names below; the rest is optional. Without limits they
are drawn as the benches of this project draw them: in one case of ten ten times the duration,
else one to five times, rounded up to what a form offers.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dcloud_spawner.errors import InvalidChoice
from hub_services.planning.whatif import FEWEST, History, Work

GIB = 2**30
HOUR = 3600.0
DAY = 24 * HOUR
FORM_HOURS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0)
MOST_ROWS = 1_000_000

NAMES: Mapping[str, tuple[str, ...]] = {
    "submitted": ("submitted_seconds", "submission_time", "submit_time", "submitted"),
    "duration": ("duration_seconds", "duration", "runtime_seconds", "runtime"),
    "gpus": ("gpus", "num_gpu", "num_gpus", "gpu_num"),
    "limit": ("limit_seconds", "limit", "requested_seconds"),
    "user": ("user", "user_id"),
    "model": ("gpu_model", "model"),
    "memory_gib": ("memory_gib",),
    "cpus": ("cpus",),
    "tier": ("tier",),
}
NEEDED = ("submitted", "duration", "gpus")


@dataclass(frozen=True)
class _Columns:
    """The name that each of our columns has in this file; absent ones are missing."""

    names: Mapping[str, str]

    def text(self, row: Mapping[str, str | None], column: str) -> str:
        """The cell, empty when there is none."""
        return (row.get(self.names.get(column, "")) or "").strip()

    def number(self, row: Mapping[str, str | None], column: str, line: int) -> float:
        """The cell as a number, 0 when it is empty; raises InvalidChoice that names the line."""
        text = self.text(row, column)
        try:
            value = float(text) if text else 0.0
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise InvalidChoice(
                f"trace, line {line}: {self.names[column]} cannot be {text[:30]!r}.",
                hint="A number from 0.",
                field="trace",
            )
        return value


def read_trace(lines: Iterable[str], days: float | None = None, seed: int = 1) -> History:
    """The first ``days`` of a trace, or all of it; limits that are missing are drawn by ``seed``.

    Raises InvalidChoice when it is none, and when there is too little in it.
    """
    reader = csv.DictReader(lines)
    columns = _columns(reader.fieldnames or ())
    drawn = "limit" not in columns.names
    chance = random.Random(seed)
    works = [
        _work(columns, row, number, chance if drawn else None)
        for number, row in enumerate(reader)
        if number < MOST_ROWS
    ]
    works.sort(key=lambda work: work.submitted_at)
    if days is not None and works:
        until = works[0].submitted_at + days * DAY
        works = [work for work in works if work.submitted_at <= until]
    if len(works) < FEWEST:
        raise InvalidChoice(
            f"trace: there are {len(works)} requests in it, and {FEWEST} are the least.",
            hint="Take more days or another file.",
            field="trace",
            code="too_little_history",
        )
    return History(
        tuple(works),
        days=(works[-1].submitted_at - works[0].submitted_at) / DAY,
        notes=(f"The file names no limits; they were drawn (seed {seed}).",) if drawn else (),
    )


def _columns(header: Sequence[str]) -> _Columns:
    known = {name.strip().casefold(): name for name in header}
    found = {
        column: known[name]
        for column, names in NAMES.items()
        for name in reversed(names)
        if name in known
    }
    for column in NEEDED:
        if column not in found:
            raise InvalidChoice(
                f"trace: no column {' or '.join(NAMES[column])}.",
                hint="A CSV file with a header line; docs/plan.md names the columns.",
                field="trace",
            )
    return _Columns(found)


def _work(
    columns: _Columns, row: Mapping[str, str | None], number: int, chance: random.Random | None
) -> Work:
    line = number + 2
    duration = columns.number(row, "duration", line)
    if chance is not None:
        careless, factor = chance.random(), 1 + 4 * chance.random()
        limit = rounded_up(duration * (10 if careless < 0.1 else factor))
    else:
        limit = columns.number(row, "limit", line)
    return Work(
        id=str(number),
        user=columns.text(row, "user"),
        gpus=int(columns.number(row, "gpus", line)),
        gpu_model=columns.text(row, "model") or None,
        memory_bytes=int(columns.number(row, "memory_gib", line) * GIB),
        cpu_millicores=int(columns.number(row, "cpus", line) * 1000),
        limit_seconds=max(limit, duration),
        runtime_seconds=duration,
        submitted_at=columns.number(row, "submitted", line),
        tier=columns.text(row, "tier"),
    )


def rounded_up(seconds: float) -> float:
    """The next limit that a form offers; above the last one each is twice the one before."""
    for hours in FORM_HOURS:
        if seconds <= hours * HOUR:
            return hours * HOUR
    return FORM_HOURS[-1] * HOUR * 2.0 ** math.ceil(math.log2(seconds / (FORM_HOURS[-1] * HOUR)))
