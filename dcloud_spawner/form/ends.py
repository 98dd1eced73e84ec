"""Why a server ended although nobody of its owner's page asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.form.words import count_words, moment, number


@dataclass(frozen=True)
class End:
    """One server that ended."""

    server: str
    title: str
    at: datetime | None
    sentence: str


def end_of(view: Mapping[str, object]) -> End:
    """Put one end into words; ``view`` has ``server``, ``at``, ``reason``, ``detail``,
    ``memory_gib``, ``hours`` and ``exit_code``."""
    server = str(view.get("server") or "")
    return End(
        server=server,
        title=f"Server “{server}”" if server else "Your default server",
        at=moment(view.get("at")),
        sentence=_sentence(view),
    )


def _sentence(view: Mapping[str, object]) -> str:
    code = view.get("exit_code")
    said = str(view.get("detail") or "").strip()
    return {
        "out of memory": f"it used up its {number(view.get('memory_gib')):g} GiB of memory. "
        "Start it with more, or load less at once.",
        "exited": "its own server program ended"
        + (f" (exit code {code})." if code is not None else "."),
        "lost": "its container was gone when the platform looked for it.",
        "time limit": f"it had run for the {count_words(number(view.get('hours')), 'hour')} "
        "that were asked for.",
        "mismatch": "it had GPUs that were not its own; tell an administrator.",
        "failed": f"it could not be started. {said}".strip(),
        "never opened": f"nobody opened it{_within(view)}. Its time counts only until then; "
        "start it again when you are there.",
        "preempted": "a request of a higher tier needed its place. Your home is as it was: "
        "start it again to queue for the rest.",
        "budget": "the account that paid for it has no credits left. Your home is as it was: ask "
        "for more credits, or start it again on another account.",
        "reservation": "the reservation that it ran on is over.",
        "forgotten": "the hub had lost it and nobody could reach it.",
    }[str(view.get("reason"))]


def _within(view: Mapping[str, object]) -> str:
    minutes = number(view.get("unused_minutes"))
    return f" within {count_words(minutes, 'minute')} of its start" if minutes else ""
