"""The folders of all sandboxes of a deployment: made, locked, listed, removed.

A folder's lock is held by whoever launches or ends its sandbox, in any process; the kernel lets
go of it when that process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dcloud_spawner.engines.sandbox_records import SandboxFolder
from dcloud_spawner.errors import EngineError, LaunchFailed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_DRAFT, _GONE = ".new-", ".gone-"
_LEFTOVER_SECONDS = 3600.0


class SandboxFolders:
    """STATE/sandboxes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> list[SandboxFolder]:
        """Every sandbox that has a plan, by name; none of them may still be there when read."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        return [SandboxFolder(self.root / name) for name in names if _NAME.fullmatch(name)]

    def named(self, name: str) -> SandboxFolder:
        """The folder of a name, there or not. Raises LaunchFailed for an impossible name."""
        if not _NAME.fullmatch(name):
            raise LaunchFailed(f"{name!r} is no name for a sandbox")
        return SandboxFolder(self.root / name)

    @contextlib.contextmanager
    def draft(self) -> Iterator[SandboxFolder]:
        """A new, locked folder without a name; :meth:`publish` gives it one.

        Until then nobody sees it, and a crash leaves nothing that looks like a sandbox.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        path = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.root))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield SandboxFolder(path)
        finally:
            os.close(descriptor)
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, draft: SandboxFolder, folder: SandboxFolder) -> None:
        """Make a draft the sandbox of that name, still locked."""
        try:
            draft.path.rename(folder.path)
        except OSError as error:
            raise EngineError(
                f"another launch of {folder.path.name} came first ({error.strerror})"
            ) from error

    @contextlib.contextmanager
    def locked(self, folder: SandboxFolder, timeout_seconds: float) -> Iterator[bool]:
        """Hold the lock; False when the folder is gone by then, EngineError when it is late."""
        try:
            descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            yield False
            return
        try:
            deadline = time.monotonic() + timeout_seconds
            while not _try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise EngineError(f"{folder.path.name} is being started or stopped elsewhere")
                time.sleep(0.02)
            yield _same(descriptor, folder.path)
        finally:
            os.close(descriptor)

    def is_locked(self, folder: SandboxFolder) -> bool:
        """Whether somebody launches or ends this sandbox at this moment."""
        try:
            descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def remove(self, folder: SandboxFolder) -> None:
        """Remove a folder at once for everybody else; already gone is success."""
        gone = self.root / f"{_GONE}{folder.path.name}-{os.getpid()}-{time.monotonic_ns()}"
        with contextlib.suppress(FileNotFoundError):
            folder.path.rename(gone)
            shutil.rmtree(gone)

    def _sweep(self) -> None:
        """Remove what killed launches and removals left, long after they can still be at work."""
        for entry in os.scandir(self.root):
            if entry.name.startswith((_DRAFT, _GONE)):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _LEFTOVER_SECONDS:
                        shutil.rmtree(entry.path)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
