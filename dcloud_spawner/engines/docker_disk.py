"""Whether this engine can limit the writable layer of a container."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

QUOTA_DRIVERS = frozenset({"btrfs", "zfs", "devicemapper", "windowsfilter"})
"""Storage drivers with quotas of their own. Source: Docker's reference of ``--storage-opt``."""


def can_limit_disk(info: Mapping[str, Any], mounts: Iterable[str]) -> bool:
    """Judge from Docker's ``info`` and the lines of /proc/mounts.

    overlay2 can where its folder lies on xfs that is mounted with project quotas.
    """
    driver = info.get("Driver")
    if driver in QUOTA_DRIVERS:
        return True
    if driver != "overlay2":
        return False
    root = Path(str(info.get("DockerRootDir") or "/var/lib/docker"))
    holding = [
        (Path(point), kind, options.split(","))
        for _, point, kind, options, *_ in (line.split() for line in mounts if line.strip())
        if root.is_relative_to(point)
    ]
    if not holding:
        return False
    _, kind, options = max(holding, key=lambda mount: len(mount[0].parts))
    return kind == "xfs" and bool({"pquota", "prjquota"} & set(options))
