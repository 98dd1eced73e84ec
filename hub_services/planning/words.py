"""A comparison as people read it: rows of words, the same at a shell and on the page."""

from __future__ import annotations

from dataclasses import dataclass

from hub_services.planning.whatif import Comparison, Figures

_PARTS = (
    ("mean", "mean"),
    ("median", "median"),
    ("p90", "9 of 10 below"),
    ("p99", "99 of 100 below"),
    ("largest", "longest"),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. ``really`` is empty where it is not known."""

    name: str
    really: str
    today: str
    changed: str
    difference: str


def rows(found: Comparison) -> list[Row]:
    """The whole table."""
    today, changed = found.today, found.changed
    said = [_plain("GPUs", today.gpus, changed.gpus)]
    if today.nodes != changed.nodes:
        said.append(_plain("nodes", today.nodes, changed.nodes))
    said += _lengths("wait", found.really, today.wait, changed.wait)
    said.append(_share("started at once", today.at_once, changed.at_once))
    said += _lengths("submission to end", None, today.jct, changed.jct)[:3]
    said.append(_share("GPU time in use", today.utilisation, changed.utilisation))
    if today.never or changed.never:
        said.append(_plain("could never start", today.never, changed.never))
    return said


def _lengths(name: str, really: Figures | None, today: Figures, changed: Figures) -> list[Row]:
    return [
        Row(
            f"{name}, {words}",
            duration(getattr(really, part)) if really else "",
            duration(getattr(today, part)),
            duration(getattr(changed, part)),
            change(getattr(today, part), getattr(changed, part)),
        )
        for part, words in _PARTS
    ]


def _plain(name: str, today: int, changed: int) -> Row:
    difference = f"{changed - today:+d}" if changed != today else "same"
    return Row(name, "", str(today), str(changed), difference)


def _share(name: str, today: float, changed: float) -> Row:
    points = round(changed * 100) - round(today * 100)
    difference = f"{points:+d} point{'' if abs(points) == 1 else 's'}" if points else "same"
    return Row(name, "", f"{today:.0%}", f"{changed:.0%}", difference)


def change(before: float, after: float) -> str:
    """How much longer or shorter, as part of what it was."""
    if abs(after - before) < 1:
        return "same"
    if before < 1:
        return f"+{duration(after)}"
    if after >= 3 * before:
        return f"{after / before:.0f} times"
    return f"{(after - before) / before:+.0%}"


def duration(seconds: float) -> str:
    """A length as the pages write it: 1 h 43 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min"
