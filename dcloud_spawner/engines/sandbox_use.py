"""What sandboxes use, by their control groups.

The network is the host's own, so nobody can say whose bytes went over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from dcloud_spawner.engines.base import LABEL_WORKLOAD
from dcloud_spawner.engines.disk_sizes import DiskSizes
from dcloud_spawner.engines.sandbox_folders import SandboxFolders
from dcloud_spawner.engines.sandbox_homes import folder_sizes
from dcloud_spawner.engines.sandbox_records import (
    Plan,
    Record,
    SandboxFolder,
    plan_cgroup,
    still_running,
)
from dcloud_spawner.engines.use import ContainerUse

COUNT_SECONDS = 600.0
"""The longest that counting the folders of all sandboxes may take."""


class SandboxUse:
    """Reads the sandboxes of one deployment."""

    def __init__(self, folders: SandboxFolders) -> None:
        self._folders = folders
        self._disk = DiskSizes(self._sizes)

    def sandboxes(self) -> tuple[ContainerUse, ...]:
        """Every running sandbox; without control groups only that it runs."""
        sizes = self._disk.get()
        return tuple(
            _use(folder, plan, record, sizes.get(folder.path.name))
            for folder, plan, record in self._running()
        )

    def _running(self) -> Iterator[tuple[SandboxFolder, Plan, Record]]:
        for folder in self._folders.all():
            try:
                plan, record = folder.read_plan(), folder.read_record()
            except FileNotFoundError:
                continue  # removed while we read
            if (
                record is not None
                and record.started_at is not None
                and still_running(plan, record, plan_cgroup(plan))
            ):
                yield folder, plan, record

    def _sizes(self) -> Mapping[str, int]:
        """What is in the /tmp of each; its home is counted as a home."""
        names = [f"{folder.path.name}/{folder.tmp.name}" for folder, _, _ in self._running()]
        if not names:
            return {}
        found = folder_sizes(self._folders.root, names, COUNT_SECONDS)
        return {name.split("/")[0]: size for name, size in found.items()}


def _use(folder: SandboxFolder, plan: Plan, record: Record, disk_bytes: int | None) -> ContainerUse:
    cgroup = plan_cgroup(plan)
    return ContainerUse(
        workload_id=plan.labels.get(LABEL_WORKLOAD, ""),
        # The folder's name comes again after a relaunch, whose counters begin again.
        ref=f"{folder.path.name}@{record.supervisor.pid}.{record.supervisor.start_ticks}",
        at=datetime.now(UTC),
        cpu_microseconds=cgroup.cpu_microseconds() if cgroup else None,
        memory_bytes=cgroup.memory_in_use_bytes() if cgroup else None,
        disk_bytes=disk_bytes,
    )
