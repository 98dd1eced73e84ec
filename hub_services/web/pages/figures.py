"""Figures of use and credits as the usage pages write them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.form.words import credits_figure, gpus_words, left_figure, length_words
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.usage import Session, Use
from hub_services.web.pages.days import Zone, day_words

HOUR_MICROSECONDS = 3_600_000_000
KWH_MILLIJOULES = 3_600_000_000
IDLE = 0.1
"""Mean use of GPUs below which it is worth a look."""

ENDED = {
    "stopped": "Stopped",
    "out of memory": "Out of memory",
    "exited": "Its own program ended",
    "lost": "Its container was gone",
    "time limit": "Time limit",
    "mismatch": "It had GPUs that were not its own",
    "failed": "Could not be started",
    "never opened": "Nobody opened it",
    "preempted": "A higher tier needed its place",
    "budget": "No credits left",
    "reservation": "Its reservation was over",
    "forgotten": "The hub had lost it",
    "platform stopped": "The platform was stopped",
    "stopped by an administrator": "Stopped by an administrator",
}
BROKEN = frozenset({"out of memory", "lost", "mismatch", "failed", "forgotten", "exited"})
LOOK = frozenset({"never opened", "budget", "preempted"})


@dataclass(frozen=True)
class Figure:
    """One of the row of figures: a label over a number."""

    label: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Ending:
    """Why a session is over, with an icon and a look."""

    words: str
    icon: str = ""
    look: str = ""


def gpu_hours(microseconds: int) -> str:
    """``168.9``, and ``0.07`` below one."""
    hours = microseconds / HOUR_MICROSECONDS
    return f"{hours:,.2f}" if 0 < hours < 0.995 else f"{hours:,.1f}"


def kwh(millijoules: int | None) -> str:
    """``1.61``; a dash where nothing was measured."""
    return "–" if millijoules is None else f"{millijoules / KWH_MILLIJOULES:,.2f}"


def percent(part: float | None) -> str:
    """``71 %``; a dash where nothing was measured."""
    return "–" if part is None else f"{round(part * 100)} %"


def mean_use(use: Use) -> float | None:
    """Part of the measured GPU time that was used, 0 to 1."""
    if not use.measured_microseconds:
        return None
    return min(1.0, use.busy_microseconds / use.measured_microseconds)


def signed(microcredits: int) -> str:
    """``+5.20``, ``−1.00``, ``0.00``: what an account got or gave."""
    shown = credits_figure(abs(microcredits))
    return f"{'+' if microcredits > 0 else '−' if microcredits < 0 else ''}{shown}"


def exact(microcredits: int) -> str:
    """``63.492833``: to the last micro-credit, at least two decimals, with a true minus."""
    whole, rest = divmod(abs(microcredits), 1_000_000)
    part = f"{rest:06}".rstrip("0").ljust(2, "0")
    return f"{'−' if microcredits < 0 else ''}{whole:,}.{part}"


def balance_figure(microcredits: int) -> str:
    """``399.60``: rounded down, so that what is shown is there; debt with a true minus."""
    return left_figure(microcredits).replace("-", "−")


def when(moment: datetime | None, zone: Zone, now: datetime) -> str:
    """``Today, 14:22``, ``20 Nov, 09:12``, ``20 Nov 2025, 09:12`` in the reader's zone."""
    if moment is None:
        return "–"
    local, today = zone.local(moment), zone.day(now)
    if local.date() == today:
        return f"Today, {local:%H:%M}"
    year = f" {local.year}" if local.year != today.year else ""
    return f"{day_words(local.date())}{year}, {local:%H:%M}"


def utc(moment: datetime | None) -> str:
    """The exact time, for a title."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def seconds_of(session: Session, now: datetime) -> float:
    """How long it ran, or has run."""
    meter, workload = session.meter, session.workload
    if meter.began_at is None:
        return 0.0
    over = workload.engine_finished_at or workload.ended_at
    until = over or (meter.watermark_at if meter.settled_at else now) or now
    return max(0.0, (until - meter.began_at).total_seconds())


def session_length(session: Session, now: datetime) -> str:
    """In words."""
    return length_words(seconds_of(session, now))


def session_gpus(session: Session, models: Mapping[str, int] | None = None) -> str:
    """``3 × A100``, ``none``; by what it held, else by what it asked for."""
    workload = session.workload
    if not workload.gpus:
        return "none"
    if models:
        return ", ".join(gpus_words(count, model) for model, count in sorted(models.items()))
    return gpus_words(workload.gpus, workload.gpu_model)


def ending(session: Session, viewer: str) -> Ending:
    """Why it is over."""
    workload, meter = session.workload, session.meter
    if workload.state is not State.ENDED:
        return _still(workload.state)
    if meter.began_at is None:
        return Ending("Never ready, not charged", "fault", "is-bad")
    words = ENDED.get(workload.end_reason, workload.end_reason.capitalize() or "Ended")
    if workload.end_reason == "stopped" and workload.user == viewer:
        words = "Stopped"
    if workload.end_reason == "time limit":
        words = f"Time limit of {length_words(workload.limit_seconds)}"
    if workload.end_reason in BROKEN and not (
        workload.end_reason == "exited" and workload.exit_code == 0
    ):
        return Ending(words, "fault", "is-bad")
    if workload.end_reason in LOOK:
        return Ending(words, "pause", "is-idle")
    return Ending(words)


def _still(state: State) -> Ending:
    if state is State.RUNNING:
        return Ending("Still running", "now", "is-ok")
    if state is State.STOPPING:
        return Ending("Stopping", "clock", "is-wait")
    return Ending("Starting", "clock", "is-wait")
