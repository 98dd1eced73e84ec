"""Users' homes of the sandbox engine: folders under STATE/homes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dcloud_spawner.engines.base import Mount
from dcloud_spawner.engines.sandbox_command import HOME, UID
from dcloud_spawner.errors import EngineError, LaunchFailed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class SandboxHomes:
    """One folder a home, mode 0700, owned by uid 1000 (by us when we are not root)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, home: str) -> Path:
        """Where a home is, there or not."""
        if not _NAME.fullmatch(home):
            raise EngineError(f"{home!r} is no name for a home")
        return self.root / home

    def ensure(self, home: str) -> Mount:
        """Make a home if it is missing."""
        path = self.path(home)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        self.give(path)
        return Mount(source=str(path), target=HOME)

    def give(self, path: Path) -> None:
        """Make a folder the sandboxed user's own."""
        if os.geteuid() == 0:
            os.chown(path, UID, UID)

    def sizes(self, timeout_seconds: float) -> Mapping[str, int]:
        """Bytes on disk of every home; -1 for all when counting takes too long."""
        if not self.root.is_dir():
            return {}
        names = sorted(path.name for path in self.root.iterdir() if _NAME.fullmatch(path.name))
        if not names:
            return {}
        return dict.fromkeys(names, -1) | folder_sizes(self.root, names, timeout_seconds)

    def purge(self, home: str) -> None:
        """Delete a home for good; already gone is success."""
        path = self.path(home)
        if path.exists():
            shutil.rmtree(path)

    def checked(self, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
        """The mounts, with homes named instead of placed put in their place.

        A mount below a writable one is refused: bubblewrap would follow, as root, whatever link
        the user put there.
        """
        placed: list[Mount] = []
        for mount in mounts:
            source = Path(mount.source)
            if not source.is_absolute():
                source = self.path(mount.source)
            if not source.exists():
                raise LaunchFailed(f"{mount.source} is not on this host")
            above = PurePosixPath(mount.target).parents
            for other in placed:
                if not other.read_only and PurePosixPath(other.target) in above:
                    raise LaunchFailed(f"{mount.target} lies below {other.target}")
            placed.append(replace(mount, source=str(source)))
        return tuple(placed)

    def linked(self, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
        """The mounts, with read-only ones right below a home put at the root of the sandbox, and
        a link to them in the home.

        A link is made without following anything, so nothing that the user put there leads
        elsewhere. What is there already stays, and the folder is found at the root alone.
        """
        homes = {mount.target: mount.source for mount in mounts if not mount.read_only}
        moved: list[Mount] = []
        for mount in mounts:
            target = PurePosixPath(mount.target)
            home = homes.get(str(target.parent))
            if mount.read_only and home is not None:
                outside = f"/{target.name}"
                self._link(self.root / home, target.name, outside)
                mount = replace(mount, target=outside)
            moved.append(mount)
        return tuple(moved)

    def _link(self, home: Path, name: str, to: str) -> None:
        path = home / name
        with contextlib.suppress(OSError):
            path.rmdir()  # an empty folder, as another engine leaves it; a link is none
        with contextlib.suppress(FileExistsError):
            path.symlink_to(to)
            if os.geteuid() == 0:
                os.chown(path, UID, UID, follow_symlinks=False)


def folder_sizes(root: Path, names: Sequence[str], timeout_seconds: float) -> dict[str, int]:
    """Bytes on disk of folders below one; nothing of any when counting takes too long."""
    command = ["du", "--summarize", "--one-file-system", "--block-size=1", "--", *names]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired:
        return {}
    counted = (line.split("\t", 1) for line in done.stdout.splitlines())
    return {name: int(size) for size, name in counted}
