"""What this host has mounted, as the kernel lists it. Pure but for :func:`read`.

https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class MountPoint:
    """One mount."""

    number: int
    device: str
    """``major:minor`` of its file system."""
    root: str
    """The folder of that file system that shows."""
    point: str
    """Where it shows."""
    options: frozenset[str]
    shared: bool
    """Whether what is mounted below shows in the mounts made from it."""
    kind: str
    """Of the file system."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return "ro" in self.options


def parse(text: str) -> list[MountPoint]:
    """All mounts in the order in which they were made."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, behind = before.split(" "), after.split(" ")
        if len(fields) < 6 or not after:
            continue
        found.append(
            MountPoint(
                number=int(fields[0]),
                device=fields[2],
                root=_plain(fields[3]),
                point=_plain(fields[4]),
                options=frozenset(fields[5].split(",")),
                shared=any(field.startswith("shared:") for field in fields[6:]),
                kind=behind[0],
            )
        )
    return found


def _plain(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def read() -> list[MountPoint]:
    """What is mounted now."""
    return parse(MOUNTINFO.read_bytes().decode("utf-8", "surrogateescape"))


def below(mounts: Sequence[MountPoint], folder: Path) -> dict[str, list[MountPoint]]:
    """The mounts below a folder by their path in it; of several on one point the last shows."""
    start = f"{folder}/"
    found: dict[str, list[MountPoint]] = {}
    for mount in mounts:
        if mount.point.startswith(start):
            found.setdefault(mount.point[len(start) :], []).append(mount)
    return found
