"""The waiting page as the server draws it, before any script runs.

It is drawn from one progress event, the same that the script gets later, in which every field
may be missing. ``static/waiting.js`` draws later events in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dcloud_spawner.form.datasets import MountLine, copied_percent, copying_words, mount_lines
from dcloud_spawner.form.words import (
    count_words,
    gpus_words,
    length_words,
    listed,
    moment,
    number,
    rows,
    section,
    texts,
)

STAGES = ("queue", "held", "image", "data", "container", "ready")

_DOING = {
    "held": "Taking what you asked for",
    "image": "Fetching the image",
    "data": "Preparing the datasets",
    "container": "Starting the container",
    "ready": "Waiting for the server",
}


@dataclass(frozen=True)
class Step:
    """One stage of the start."""

    key: str
    name: str
    state: str
    """done, now, then, or bad."""
    note: str
    percent: int | None = None
    hidden: bool = False
    """It is no part of this start."""


@dataclass(frozen=True)
class Instead:
    """Something that would start at once instead."""

    what: str
    note: str
    """What the button does."""


@dataclass(frozen=True)
class WaitingPage:
    """The words of the waiting page."""

    queued: bool
    stage: str
    title: str
    lede: str
    tab: str
    """What the title of the browser's tab says."""
    place: str
    of: str
    since: datetime | None
    waited: str
    latest: datetime | None
    held: bool
    """An administrator holds it back."""
    blocked: str
    """What is against its start in two words; empty when nothing is."""
    expected: tuple[datetime, datetime] | None
    """The range in which it is expected to start."""
    expected_note: str
    record: str
    """How good such ranges were lately."""
    booked: str
    """The reservation that it starts on."""
    instead: tuple[Instead, ...]
    on_cpu: bool
    """Whether a server without GPUs can be had meanwhile, at once."""
    meanwhile: str | None
    """Name of the server that runs meanwhile; None when there is none."""
    doing: str
    message: str
    yours: str
    where: str
    held_since: datetime | None
    reasons: tuple[str, ...]
    steps: tuple[Step, ...]
    datasets: tuple[MountLine, ...]
    log: tuple[tuple[datetime | None, str], ...]


def waiting_page(
    view: Mapping[str, object] | None, server: str, now: datetime | None = None
) -> WaitingPage:
    """Draw one progress event; ``server`` is the server's name, empty for the default one."""
    view = view or {}
    now = now or datetime.now(UTC)
    stage = str(view.get("stage") or "")
    queued = stage == "queue"
    place = int(number(view.get("place")))
    of = max(int(number(view.get("queue_length"))), place)
    queue = section(section(view, "stages"), "queue")
    held = section(section(view, "stages"), "held")
    since = moment(queue.get("since"))
    expected = _expected(view)
    meanwhile = view.get("meanwhile")
    return WaitingPage(
        queued=queued,
        stage=stage,
        title=_title(view, queued),
        lede=_lede(view, server),
        tab=_tab(view, queued, place),
        place=f"{place}" if place else "",
        of=f"of {of} in the queue" if place else "",
        since=since,
        waited=length_words((now - since).total_seconds()) if since else "",
        latest=moment(view.get("latest_start")),
        held=bool(view.get("held")),
        blocked=blocked_by(section(view, "blocked").get("code")),
        expected=expected,
        expected_note=_expected_note(expected, now),
        record=_record(view),
        booked=_booked(view, now),
        instead=tuple(
            Instead(str(found.get("what") or ""), _instead(found))
            for found in rows(view, "alternatives")
        ),
        on_cpu=queued and bool(view.get("on_cpu")) and not isinstance(meanwhile, Mapping),
        meanwhile=str(meanwhile.get("server") or "") if isinstance(meanwhile, Mapping) else None,
        doing=_DOING.get(stage, "Getting ready"),
        message=_message(view, stage),
        yours=_held(view),
        where=_where(view),
        held_since=moment(held.get("since")),
        reasons=tuple(texts(view, "reasons")),
        steps=_steps(view, stage, now),
        datasets=mount_lines(view),
        log=tuple(
            (moment(line.get("at")), str(line.get("text", ""))) for line in rows(view, "log")
        ),
    )


def blocked_by(code: object) -> str:
    """What keeps a request out of the queue: ``by its budget``."""
    if not code:
        return ""
    return "by its budget" if code == "budget" else "by your limit"


def _expected(view: Mapping[str, object]) -> tuple[datetime, datetime] | None:
    found = section(view, "expected")
    earliest, latest = moment(found.get("from")), moment(found.get("to"))
    return (earliest, latest) if earliest and latest else None


def _expected_note(expected: tuple[datetime, datetime] | None, now: datetime) -> str:
    """``in 29 to 59 min``."""
    if expected is None:
        return ""
    soon, late = ((at - now).total_seconds() for at in expected)
    if late <= 0:
        return "any moment now"
    if soon <= 0:
        return f"within {length_words(late)}"
    one, two = length_words(soon).split(" "), length_words(late).split(" ")
    alike = len(one) == len(two) == 2 and one[1] == two[1]
    return f"in {one[0] if alike else ' '.join(one)} to {' '.join(two)}"


def _record(view: Mapping[str, object]) -> str:
    """``Of the last 50 such ranges, 41 held.``"""
    record = section(view, "record")
    of, inside = int(number(record.get("of"))), int(number(record.get("inside")))
    if of == 1:
        return "The last such range held." if inside else "The last such range did not hold."
    return f"Of the last {of} such ranges, {inside} held." if of else ""


def _booked(view: Mapping[str, object], now: datetime) -> str:
    booked = section(view, "reservation")
    title, begins = str(booked.get("title") or ""), moment(booked.get("from"))
    if title and begins and begins > now:
        return f"May start on the reservation “{title}” once that begins"
    return f"On the reservation “{title}”" if title else ""


def _instead(found: Mapping[str, object]) -> str:
    gpus = int(number(found.get("gpus")))
    return f"Start {count_words(gpus, 'GPU')}" if gpus else "Start this"


def _title(view: Mapping[str, object], queued: bool) -> str:
    request = section(view, "request")
    if not request:
        return "Waiting for your server" if queued else "Starting your server"
    if queued:
        return f"Waiting for {_asked(request)}"
    if int(number(request.get("gpus"))) == 0:
        return f"Starting {request.get('title') or 'your server'}"
    return f"Starting on {_yours(view)}"


def _asked(request: Mapping[str, object]) -> str:
    gpus = int(number(request.get("gpus")))
    model = request.get("gpu_model")
    if gpus:
        return gpus_words(gpus, str(model) if model else None)
    cores = count_words(number(request.get("cpus")), "core")
    return f"{number(request.get('memory_gib')):g} GiB and {cores}"


def _yours(view: Mapping[str, object]) -> str:
    """What is held: of one model always, so the first one names it."""
    held = rows(view, "gpus")
    if held:
        return gpus_words(len(held), str(held[0].get("model") or "") or None)
    return _asked(section(view, "request"))


def _held(view: Mapping[str, object]) -> str:
    gpus = len(rows(view, "gpus"))
    return count_words(gpus, "GPU") if gpus else _asked(section(view, "request"))


def _message(view: Mapping[str, object], stage: str) -> str:
    if stage == "data":
        return copying_words(rows(view, "datasets"))
    image = section(view, "image") if stage == "image" else {}
    said = str(image.get("message") or view.get("message") or "")
    return "" if said.rstrip(".") == _DOING.get(stage) else said


def _where(view: Mapping[str, object]) -> str:
    indexes = [f"{item['index']}" for item in rows(view, "gpus") if "index" in item]
    node = f"{view.get('node') or ''}"
    if not indexes:
        return f"on {node}" if node else ""
    noun = "GPU" if len(indexes) == 1 else "GPUs"
    return f"{noun} {listed(indexes)}{f' of {node}' if node else ''}"


def _lede(view: Mapping[str, object], server: str) -> str:
    parts = [f"Server “{server}”" if server else "Default server"]
    request = section(view, "request")
    if request:
        parts += [
            str(request.get("title") or request.get("profile") or ""),
            f"{number(request.get('memory_gib')):g} GiB",
            count_words(number(request.get("cpus")), "core"),
            count_words(number(request.get("hours")), "hour"),
        ]
    return ", ".join(part for part in parts if part)


def _tab(view: Mapping[str, object], queued: bool, place: int) -> str:
    if queued:
        if place:
            return f"Place {place}"
        return "On hold" if view.get("held") else "Blocked" if view.get("blocked") else "Waiting"
    percent = int(number(view.get("progress")))
    return f"Starting, {percent} %" if percent else "Starting"


def _steps(view: Mapping[str, object], stage: str, now: datetime) -> tuple[Step, ...]:
    at = STAGES.index(stage) if stage in STAGES else -1
    gpus = int(number(section(view, "request").get("gpus")))
    names = {
        "queue": "Queue",
        "held": "GPUs held" if gpus else "Resources held",
        "image": "Image",
        "data": "Datasets",
        "container": "Container",
        "ready": "Server ready",
    }
    steps = []
    for index, key in enumerate(STAGES):
        state = "done" if index < at else "now" if index == at else "then"
        percent = None
        if key == "image" and state == "now":
            progress = section(view, "image").get("progress")
            percent = round(number(progress) * 100) if progress is not None else None
        if key == "data" and state == "now":
            percent = copied_percent(rows(view, "datasets"))
        hidden = key == "data" and not rows(view, "datasets")
        steps.append(Step(key, names[key], state, _note(view, key, state, now), percent, hidden))
    return tuple(steps)


def _note(view: Mapping[str, object], key: str, state: str, now: datetime) -> str:
    times = section(section(view, "stages"), key)
    since, until = moment(times.get("since")), moment(times.get("until"))
    if key == "held" and state == "done":
        return _yours(view)
    if key == "held" and state == "then":
        return "at once"
    if key == "image" and state == "now" and section(view, "image").get("message"):
        return str(section(view, "image")["message"])
    if key == "data":
        said = count_words(len(rows(view, "datasets")), "dataset")
        return copying_words(rows(view, "datasets")) or said if state == "now" else said
    if key == "ready" and state != "done":
        return "opens by itself"
    if state == "done" and since and until:
        return length_words((until - since).total_seconds())
    if state == "now" and since:
        return f"now, for {length_words((now - since).total_seconds())}"
    return ""
