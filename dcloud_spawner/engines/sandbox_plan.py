"""From a spec to the plan of a sandbox, and the files its folder starts with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcloud_spawner.engines.base import ContainerSpec
from dcloud_spawner.engines.cgroups import Cgroup, CgroupTree, Limits
from dcloud_spawner.engines.sandbox_command import (
    GROUP,
    PASSWD,
    USUAL_DEVICES,
    HostView,
    SandboxView,
    bwrap_arguments,
)
from dcloud_spawner.engines.sandbox_gpus import GpuPassage, device_rules
from dcloud_spawner.engines.sandbox_ports import ADDRESS
from dcloud_spawner.engines.sandbox_records import Plan, SandboxFolder, boot_id


def furnish(draft: SandboxFolder) -> Path:
    """Write what every sandbox finds inside; returns its /tmp, to be given to the user."""
    for name, text in (("passwd", PASSWD), ("group", GROUP)):
        file = draft.path / name
        file.write_text(text, encoding="ascii")
        file.chmod(0o644)
    draft.tmp.mkdir(mode=0o700)
    return draft.tmp


def make_plan(
    spec: ContainerSpec,
    host: HostView,
    gpus: GpuPassage,
    extra_files: Sequence[tuple[str, str]],
    tree: CgroupTree,
    folder: SandboxFolder,
) -> Plan:
    """The plan of a spec whose mounts are placed and whose port is chosen."""
    cgroup = tree.group(spec.name)
    view = SandboxView(
        tmp=str(folder.tmp),
        passwd=str(folder.path / "passwd"),
        group=str(folder.path / "group"),
        mounts=spec.mounts,
        device_nodes=gpus.nodes,
        files=(*gpus.files, *extra_files),
        cgroup=_own_limits(cgroup),
        shm_bytes=spec.shm_bytes,
    )
    return Plan(
        name=spec.name,
        labels=dict(spec.labels),
        arguments=bwrap_arguments(host, view),
        devices=spec.accelerators,
        url=f"http://{ADDRESS}:{spec.port}",
        port=spec.port,
        writable_folders=tuple(mount.source for mount in spec.mounts if not mount.read_only),
        limits=Limits(
            memory_bytes=spec.memory_bytes,
            cpu_millicores=spec.cpu_millicores,
            pids=spec.pids_limit,
            devices=(*USUAL_DEVICES, *device_rules(gpus.nodes)),
        ),
        cgroup=cgroup.as_record() if cgroup else {},
        shelters=tuple(str(path) for path in tree.shelters),
        boot_id=boot_id(),
    )


def _own_limits(cgroup: Cgroup | None) -> tuple[tuple[str, str], ...]:
    """Programs size themselves by their own group: shown where they look for it."""
    if cgroup is None:
        return ()
    if cgroup.version == 2:
        return ((str(cgroup.paths[0]), "/sys/fs/cgroup"),)
    return tuple(
        (str(path), f"/sys/fs/cgroup/{controller}")
        for controller, path in cgroup.folders.items()
        if controller in ("memory", "cpu", "pids")
    )
