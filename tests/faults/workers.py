"""Worker processes of the store's fault tests: begun with a seed, killed without a word."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def begin(
    processes: Any, role: Callable[..., None], url: str, folder: Path, chooser: random.Random
) -> Any:
    """A process that plays a role of ``store_worker``."""
    process = processes.Process(target=role, args=(url, folder, chooser.randrange(10**6)))
    process.start()
    return process


def kill(process: Any) -> None:
    """kill -9, and nothing left of it."""
    process.kill()
    process.join(10)
    assert not process.is_alive()
    process.close()
