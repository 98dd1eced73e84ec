"""Where mounts and copies lie on a host. Pure.

STATE/mounts/                           a mount of its own, shared
STATE/mounts/versions/VERSION.MODE      one source a version and mode; no container sees it
STATE/mounts/workloads/WORKLOAD/NAME    bound from a source; the folder above is in a container
STATE/copies/VERSION                    a complete copy; VERSION.filling until it is
STATE/streams/VERSION/                  read cache, log and process of a stream
"""

from __future__ import annotations

from pathlib import Path

from dcloud_spawner.engines.base import Mount
from dcloud_spawner.settings import Settings

CACHED = "cached"
STREAM = "stream"

INSIDE = "/home/dcloud/datasets"
"""Where datasets are in every server."""


class Places:
    """The paths of one deployment."""

    def __init__(self, settings: Settings) -> None:
        state = settings.state.absolute()
        self.root = state / "mounts"
        self.versions = self.root / "versions"
        self.workloads = self.root / "workloads"
        self.copies = state / "copies"
        self.streams = state / "streams"

    def left(self) -> bool:
        """Whether anything of datasets is on this host."""
        return any(folder.exists() for folder in (self.root, self.copies, self.streams))

    def source(self, version: str, mode: str) -> Path:
        """Where a version is mounted once for all who use it."""
        return self.versions / f"{version}.{mode}"

    def workload(self, workload: str) -> Path:
        """The folder that a workload's container has."""
        return self.workloads / workload

    def copy(self, version: str) -> Path:
        """A complete copy."""
        return self.copies / version

    def filling(self, version: str) -> Path:
        """A copy that is being made."""
        return self.copies / f"{version}.filling"

    def stream(self, version: str) -> Path:
        """What a stream keeps on this host."""
        return self.streams / version


def mount_of(settings: Settings, workload: str) -> Mount:
    """What a workload with datasets has in its container: what is mounted there or taken away
    later shows inside."""
    folder = Places(settings).workload(workload)
    return Mount(str(folder), INSIDE, read_only=True, propagation="rslave")
