"""A mark that tells the controller that a new hub process took over."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from dcloud_spawner.settings import Settings


def _mark(settings: Settings) -> Path:
    return settings.state / "hub.instance"


def announce_hub(settings: Settings) -> None:
    """Say that this process is the hub now."""
    path = _mark(settings)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(uuid.uuid4().hex)
    fresh.replace(path)


def hub_instance(settings: Settings) -> str:
    """The mark of the present hub, empty when there never was one."""
    with contextlib.suppress(OSError):
        return _mark(settings).read_text()
    return ""
