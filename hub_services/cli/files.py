"""Private files: never readable by others, not even for a moment, and whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file in one step; a reader sees the old text or the new, never a part."""
    temporary = _temporary(path, text)
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_private_once(path: Path, text: str) -> str:
    """Write a 0600 file unless it is there, and return what it holds now.

    Of two processes that do this at once, one wins and both get its text.
    """
    temporary = _temporary(path, text)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_text()


def _temporary(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Path(name)
