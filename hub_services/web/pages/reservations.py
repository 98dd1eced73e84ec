"""What the page of advance reservations shows to one viewer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.form.words import count_words, gpus_words, listed
from dcloud_spawner.scheduler.schedule import GIB
from dcloud_spawner.store.reservations import OPEN_RESERVATIONS, Reservation
from hub_services.web.board import Board
from hub_services.web.viewer import Viewer

WORDS = {
    "planned": ("clock", "is-wait", "Planned"),
    "active": ("now", "is-ok", "Now"),
    "ended": ("check", "is-off", "Over"),
    "expired": ("no", "is-off", "Expired"),
    "cancelled": ("x", "is-off", "Cancelled"),
}


@dataclass(frozen=True)
class ReservationRow:
    """One reservation."""

    id: str
    title: str
    starts_at: datetime
    ends_at: datetime
    size: str
    more: str
    whom: str
    """Empty where it is not the viewer's business."""
    yours: bool
    icon: str
    look: str
    word: str
    note: str
    open: bool


@dataclass(frozen=True)
class ReservationsPage:
    """Everything on it."""

    viewer: Viewer
    coming: tuple[ReservationRow, ...]
    past: tuple[ReservationRow, ...]
    tab: str = "Reservations"
    news: str = ""


def reservations_page(board: Board, viewer: Viewer) -> ReservationsPage:
    """The page for one viewer."""
    rows = [_row(found, viewer) for found in board.reservations]
    return ReservationsPage(
        viewer=viewer,
        coming=tuple(row for row in rows if row.open),
        past=tuple(row for row in reversed(rows) if not row.open),
    )


def concerns(found: Reservation, viewer: Viewer) -> bool:
    """Whether the viewer may use it."""
    return viewer.person and found.is_for(viewer.name, viewer.groups)


def _row(found: Reservation, viewer: Viewer) -> ReservationRow:
    icon, look, word = WORDS[found.state.value]
    yours = concerns(found, viewer)
    named = viewer.administrator or yours
    return ReservationRow(
        id=found.id,
        title=found.title if named else "Reserved",
        starts_at=found.starts_at,
        ends_at=found.ends_at,
        size=gpus_words(found.gpus, found.gpu_model),
        more=_more(found),
        whom=_whom(found.users, found.groups) if named else "",
        yours=yours,
        icon=icon,
        look=look,
        word=word,
        note=found.detail if named else "",
        open=found.state in OPEN_RESERVATIONS,
    )


def _more(found: Reservation) -> str:
    parts = []
    if found.memory_bytes:
        parts.append(f"{found.memory_bytes / GIB:g} GiB")
    if found.cpu_millicores:
        parts.append(count_words(found.cpu_millicores / 1000, "core"))
    return f"{listed(parts)} with each" if parts else ""


def _whom(users: Iterable[str], groups: Iterable[str]) -> str:
    return listed([*users, *(f"group {name}" for name in groups)])
