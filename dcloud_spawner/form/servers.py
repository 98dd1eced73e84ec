"""The servers of a user as the first page lists them. Drawn from the hub's spawner objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dcloud_spawner.form.budget_lines import BudgetLine
from dcloud_spawner.form.datasets import MountLine, mount_lines
from dcloud_spawner.form.ends import End, end_of
from dcloud_spawner.form.waiting import WaitingPage, waiting_page
from dcloud_spawner.form.words import (
    count_words,
    gpus_words,
    length_words,
    moment,
    number,
    rows,
    section,
    size_words,
    texts,
)


@dataclass(frozen=True)
class ServerRow:
    """One server in words."""

    name: str
    title: str
    state: str
    """running, waiting, starting, stopping, stopped."""
    place: str
    """In the queue, empty when it is not known."""
    held: bool
    """An administrator keeps it from starting."""
    blocked: str
    """What the ledger or a limit has against its start; empty when nothing."""
    about: str
    """Profile and what is held or asked for."""
    gpus: int
    started_at: datetime | None
    running_for: str
    stops_at: datetime | None
    an_hour: str
    """Credits; empty where nothing is charged."""
    cost: str
    """So far."""
    fault: str
    """Which of its GPUs are out of order, and what to do; empty when none is."""
    warning: str
    """Why it will be stopped before its limit; empty when it will not."""
    notes: tuple[str, ...]
    datasets: tuple[MountLine, ...]
    last_activity: datetime | None
    home: str
    """Size of the home on disk, empty when it is not measured."""


class PageWords:
    """What the templates call, as the template variable ``dcloud``."""

    def waiting(self, spawner: object) -> WaitingPage:
        """The waiting page of a spawner (its ``waiting_view()``, where it has one)."""
        return waiting_page(_view(spawner, "waiting_view"), str(getattr(spawner, "name", "")))

    def still_waits(self, user: object, server: str) -> bool:
        """Whether a request waits although nothing is being started (the hub was restarted)."""
        spawners = getattr(user, "spawners", {})
        if server not in spawners:
            return False
        return bool(_view(spawners[server], "waiting_view"))

    def ends(self, spawner: object) -> tuple[End, ...]:
        """Why servers of this spawner's user ended lately (its ``ended_views()``)."""
        found = getattr(spawner, "ended_views", None)
        return tuple(end_of(view) for view in found()) if callable(found) else ()

    def warnings(self, user: object) -> tuple[BudgetLine, ...]:
        """Budgets near their end (their spawner's ``warnings_view()``)."""
        show = getattr(getattr(user, "spawner", None), "warnings_view", None)
        return show() if show is not None else ()

    def balance(self, user: object) -> Mapping[str, object] | None:
        """What the bar shows of a user's accounts (their spawner's ``balance_view()``)."""
        return _view(getattr(user, "spawner", None), "balance_view")

    def server(self, spawner: object, now: datetime | None = None) -> ServerRow:
        """One server of the list; takes the hub's Spawner or its bare database row."""
        now = now or datetime.now(UTC)
        name = str(getattr(spawner, "name", ""))
        held = _view(spawner, "holding_view") or {}
        waits = _view(spawner, "waiting_view") or {}
        state = _state(spawner, waits)
        page = waiting_page(waits, name, now)
        started = moment(held.get("started_at")) if state == "running" else None
        size = getattr(spawner, "home_size_bytes", None)
        return ServerRow(
            name=name,
            title=str(getattr(spawner, "display_name", "") or name) if name else "Default server",
            state=state,
            place=page.place if state == "waiting" else "",
            held=page.held and state == "waiting",
            blocked=str(section(waits, "blocked").get("reason") or "")
            if state == "waiting"
            else "",
            about=_about(held or section(waits, "request"), state),
            gpus=len(rows(held, "gpus")),
            started_at=started,
            running_for=length_words((now - started).total_seconds()) if started else "",
            stops_at=moment(held.get("stops_at")) if state == "running" else None,
            an_hour=str(held.get("an_hour") or "") if state == "running" else "",
            cost=str(held.get("cost") or ""),
            fault=_fault(held),
            warning=str(held.get("warning") or ""),
            notes=tuple(texts(held, "reasons")),
            datasets=mount_lines(held) if held else mount_lines(waits),
            last_activity=moment(getattr(spawner, "last_activity", None)),
            home=size_words(size) if isinstance(size, int) and size >= 0 else "",
        )


def _view(spawner: object, method: str) -> Mapping[str, object] | None:
    found = getattr(spawner, method, None)
    view = found() if callable(found) else None
    return view if isinstance(view, Mapping) else None


def _state(spawner: object, waits: Mapping[str, object]) -> str:
    pending = getattr(spawner, "pending", None)
    if pending == "stop":
        return "stopping"
    if pending == "spawn":
        return "waiting" if waits.get("stage") == "queue" else "starting"
    if getattr(spawner, "ready", False):
        return "running"
    return "waiting" if waits else "stopped"


def _about(held: Mapping[str, object], state: str) -> str:
    """What is held, or what was asked for: the two differ only in how they name the GPUs."""
    if state == "stopped" or not held:
        return ""
    gpus = rows(held, "gpus")
    count = len(gpus) or int(number(held.get("gpus")))
    model = gpus[0].get("model") if gpus else held.get("gpu_model")
    parts = [str(held.get("title") or "")]
    if count:
        parts.append(gpus_words(count, str(model) if model else None))
    memory, cpus = number(held.get("memory_gib")), number(held.get("cpus"))
    parts.append(f"{memory:g} GiB" if memory else "")
    parts.append(count_words(cpus, "core") if cpus else "")
    parts.append(f"on {held['node']}" if held.get("node") else "")
    return ", ".join(part for part in parts if part)


def _fault(held: Mapping[str, object]) -> str:
    bad = [gpu for gpu in rows(held, "gpus") if str(gpu.get("health") or "ok") != "ok"]
    sentences = []
    for gpu in bad:
        reason = str(gpu.get("health_reason") or "").rstrip(".")
        said = f": {reason}" if reason else ""
        sentences.append(f"GPU {gpu.get('index', '?')} is out of order{said}.")
    if bad:
        sentences.append("Save your work, stop the server and start it again on other GPUs.")
    return " ".join(sentences)
