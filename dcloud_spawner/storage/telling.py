"""Whether what the storage tells of its requests arrives: looked at by the web service, which is
told, and kept in a file for pages and the command line."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dcloud_spawner.settings import Settings

FILE = "storage_events.json"

LOOK_SECONDS = 300.0
"""Between two looks."""

BELIEVED = timedelta(seconds=3 * LOOK_SECONDS)
"""What is older says nothing any more: nobody looks."""


@dataclass(frozen=True)
class Silence:
    """Why nothing arrives, and what to do."""

    problem: str
    mend: str


def _path(settings: Settings) -> Path:
    return settings.state / "run" / FILE


def note(settings: Settings, silence: Silence | None, at: datetime) -> None:
    """Keep what was seen; None: it arrives, or nobody expects it to."""
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
    draft.write_text(
        json.dumps({"at": at.isoformat(), "silence": asdict(silence) if silence else None})
    )
    os.replace(draft, path)


def silence(settings: Settings, now: datetime | None = None) -> Silence | None:
    """Why what the storage does is not on the action log; None while it is, or nobody looks."""
    try:
        found = json.loads(_path(settings).read_text())
        if (now or datetime.now(UTC)) - datetime.fromisoformat(found["at"]) > BELIEVED:
            return None
        return Silence(**found["silence"]) if found["silence"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
