"""One control group a sandbox, on cgroup v1 and on v2, behind one small class.

Standard library only: the supervisor of every sandbox imports this module and stays in memory
as long as its sandbox.

Sources: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the Linux kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

CPU_PERIOD_MICROSECONDS = 100_000
"""The period Docker uses; one millicore is 100 us of it."""
SMALLEST_QUOTA_MICROSECONDS = 1_000
"""The kernel refuses less."""
V1_CONTROLLERS = ("memory", "cpu", "pids", "devices", "freezer", "cpuacct")
NO_LIMIT = frozenset({"freezer", "devices", "cpuacct"})
"""Controllers that alone hold nobody to a share."""
V2_CONTROLLERS = ("memory", "cpu", "pids")
SHELTER = "_supervisors"
"""No sandbox can have this name: theirs begin with a letter or digit."""


@dataclass(frozen=True)
class Limits:
    """What one group may use."""

    memory_bytes: int
    """Memory and swap together."""
    cpu_millicores: int
    pids: int
    devices: tuple[str, ...] = ()
    """Rules of the v1 device controller ("c 1:3 rwm"); everything else is denied. v2 has no
    such files: there a device that is not in the sandbox's /dev cannot be made (no CAP_MKNOD)."""


class Cgroup(ABC):
    """The group of one sandbox. Methods raise OSError when the kernel refuses."""

    version: int

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every folder of the group once; v1 may mount two controllers together."""
        return tuple(dict.fromkeys(self.folders.values()))

    @property
    def enforced(self) -> frozenset[str]:
        """Which of memory, cpu, pids, devices the kernel enforces for this group."""
        return frozenset(self.folders) & {"memory", "cpu", "pids", "devices"}

    def create(self, limits: Limits) -> None:
        """Make the group with its limits; an empty one of the same name is used again."""
        for path in self.paths:
            path.mkdir(parents=True, exist_ok=True)
        self._write_limits(limits)

    def add(self, pid: int) -> None:
        """Move a process into the group; its later children are born there."""
        for path in self.paths:
            _write(path / "cgroup.procs", str(pid))

    def pids(self) -> tuple[int, ...]:
        """The living processes of the group; empty when the group is gone."""
        found: dict[int, None] = {}
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError, OSError):
                text = (path / "cgroup.procs").read_text()
                found.update((int(line), None) for line in text.split())
        return tuple(found)

    def kill(self, timeout_seconds: float) -> bool:
        """Kill every process of the group, frozen ones too; True when it is empty."""
        deadline = time.monotonic() + timeout_seconds
        while self.pids():
            self._kill_once()
            if time.monotonic() > deadline:
                return not self.pids()
            time.sleep(0.02)
        return True

    def remove(self, timeout_seconds: float = 2.0) -> None:
        """Remove the folders of an empty group; already gone is success."""
        deadline = time.monotonic() + timeout_seconds
        for path in self.paths:
            while True:
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as error:
                    # A group whose last process has just died stays busy for a moment.
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def as_record(self) -> dict[str, object]:
        """For the sandbox's file, so that another process finds the same group."""
        return {
            "version": self.version,
            "folders": {name: str(path) for name, path in self.folders.items()},
        }

    @abstractmethod
    def update(self, memory_bytes: int, cpu_millicores: int) -> None:
        """Change memory and CPU of the living group; refuses less memory than is in use."""

    @abstractmethod
    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for memory."""

    @abstractmethod
    def cpu_microseconds(self) -> int | None:
        """CPU time of the group since it was made; None where the kernel does not count it."""

    @abstractmethod
    def memory_in_use_bytes(self) -> int | None:
        """Memory without the cached files that the kernel drops first; None as above."""

    @abstractmethod
    def _write_limits(self, limits: Limits) -> None: ...

    @abstractmethod
    def _kill_once(self) -> None: ...


class CgroupV1(Cgroup):
    """One folder a controller, each in its own hierarchy."""

    version = 1

    def update(self, memory_bytes: int, cpu_millicores: int) -> None:
        if "memory" in self.folders:
            self._write_memory(memory_bytes)
        if "cpu" in self.folders:
            _write(self.folders["cpu"] / "cpu.cfs_quota_us", str(_quota(cpu_millicores)))

    def oom_kills(self) -> int:
        if "memory" not in self.folders:
            return 0
        return _keyed_number(self.folders["memory"] / "memory.oom_control", "oom_kill")

    def cpu_microseconds(self) -> int | None:
        for controller in ("cpuacct", "cpu"):  # mounted together almost everywhere
            if controller in self.folders:
                used = _known_number(self.folders[controller] / "cpuacct.usage")
                if used is not None:
                    return used // 1000
        return None

    def memory_in_use_bytes(self) -> int | None:
        if "memory" not in self.folders:
            return None
        return _without_cache(
            self.folders["memory"] / "memory.usage_in_bytes", "total_inactive_file"
        )

    def _write_limits(self, limits: Limits) -> None:
        if "cpu" in self.folders:
            _write(self.folders["cpu"] / "cpu.cfs_period_us", str(CPU_PERIOD_MICROSECONDS))
        self.update(limits.memory_bytes, limits.cpu_millicores)
        if "pids" in self.folders:
            _write(self.folders["pids"] / "pids.max", str(limits.pids))
        if "devices" in self.folders:
            _write(self.folders["devices"] / "devices.deny", "a")
            for rule in limits.devices:
                _write(self.folders["devices"] / "devices.allow", rule)

    def _write_memory(self, memory_bytes: int) -> None:
        folder = self.folders["memory"]
        files = [folder / "memory.limit_in_bytes", folder / "memory.memsw.limit_in_bytes"]
        if not files[1].exists():  # a kernel that does not count swap
            files.pop()
        elif memory_bytes > int(files[1].read_text()):
            files.reverse()  # the kernel wants memory <= memory and swap at every moment
        for file in files:
            _write(file, str(memory_bytes))

    def _kill_once(self) -> None:
        state = self.folders["freezer"] / "freezer.state" if "freezer" in self.folders else None
        try:
            if state is not None:  # what is frozen cannot fork away from the kill
                _write(state, "FROZEN")
                _wait_for(state, "FROZEN", 0.2)
            _kill_each(self.pids())
        finally:
            if state is not None:  # a frozen process dies only once it is thawed
                with contextlib.suppress(OSError):
                    _write(state, "THAWED")


class CgroupV2(Cgroup):
    """One folder, all controllers."""

    version = 2

    @property
    def folder(self) -> Path:
        return self.paths[0]

    def update(self, memory_bytes: int, cpu_millicores: int) -> None:
        if "memory" in self.folders:
            # v2 would kill the group instead of refusing.
            if _number(self.folder / "memory.current") > memory_bytes:
                raise OSError(errno.EBUSY, "more memory than that is in use")
            _write(self.folder / "memory.max", str(memory_bytes))
        if "cpu" in self.folders:
            quota = f"{_quota(cpu_millicores)} {CPU_PERIOD_MICROSECONDS}"
            _write(self.folder / "cpu.max", quota)

    def create(self, limits: Limits) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        _enable(self.folder.parent, self.folders)
        super().create(limits)

    def oom_kills(self) -> int:
        return _keyed_number(self.folder / "memory.events", "oom_kill")

    def cpu_microseconds(self) -> int | None:
        return _keyed_number(self.folder / "cpu.stat", "usage_usec") or None

    def memory_in_use_bytes(self) -> int | None:
        return _without_cache(self.folder / "memory.current", "inactive_file")

    def _write_limits(self, limits: Limits) -> None:
        self.update(limits.memory_bytes, limits.cpu_millicores)
        if "memory" in self.folders:
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                _write(self.folder / "memory.swap.max", "0")
        if "pids" in self.folders:
            _write(self.folder / "pids.max", str(limits.pids))

    def _kill_once(self) -> None:
        if (self.folder / "cgroup.kill").exists():  # Linux 5.14
            _write(self.folder / "cgroup.kill", "1")
            return
        _write(self.folder / "cgroup.freeze", "1")
        _kill_each(self.pids())
        _write(self.folder / "cgroup.freeze", "0")


@dataclass(frozen=True)
class CgroupTree:
    """Where the groups of a deployment live."""

    version: int
    parents: Mapping[str, Path]
    """Folder that holds one group a sandbox, by controller; empty when none may be made."""
    reason: str = ""
    """Why a controller is missing, for ``dcloud doctor``."""
    shelters: tuple[Path, ...] = ()
    """Groups for the supervisors, outside the hub's own: a service manager that ends the hub by
    its group then spares the sandboxes."""

    def group(self, name: str) -> Cgroup | None:
        """The group of one sandbox, made or not; None where no groups can be had."""
        folders = {controller: parent / name for controller, parent in self.parents.items()}
        return _group(self.version, folders) if folders else None

    def remove(self) -> None:
        """Remove the folders of the deployment; those with a sandbox in them stay."""
        for path in (*self.shelters, *self.parents.values(), *(s.parent for s in self.shelters)):
            with contextlib.suppress(OSError):
                path.rmdir()


def group_from_record(record: Mapping[str, object]) -> Cgroup | None:
    """The inverse of :meth:`Cgroup.as_record`; None for an empty record."""
    folders = record.get("folders")
    if not isinstance(folders, Mapping) or not folders:
        return None
    version = 2 if record.get("version") == 2 else 1
    return _group(version, {str(name): Path(str(path)) for name, path in folders.items()})


def find_tree(deployment: str, proc: Path = Path("/proc/self")) -> CgroupTree:
    """Where a deployment's groups go in each hierarchy we may write to; makes no folder yet."""
    v1, v2 = _mounts(proc / "mountinfo")
    name = f"dcloud-{deployment}"
    if {"memory", "cpu", "pids"} & set(v1):
        # systemd tracks services in a hierarchy of its own name, or in a bare v2 one beside v1.
        trackers = [mount for mount in (v1.pop("name=systemd", None), v2) if mount is not None]
        tree = _v1_tree(v1, name)
        usable = [mount for mount in trackers if os.access(mount, os.W_OK)]
        return replace(tree, shelters=tuple(mount / name / SHELTER for mount in usable))
    if v2 is not None:
        return _v2_tree(v2, _own_v2_path(proc / "cgroup"), name)
    return CgroupTree(2, {}, "no cgroup file system is mounted")


def _v1_tree(mounts: Mapping[str, Path], name: str) -> CgroupTree:
    parents: dict[str, Path] = {}
    missing: list[str] = []
    for controller in V1_CONTROLLERS:
        if controller not in mounts:
            missing.append(f"{controller} is not mounted")
            continue
        try:
            _require_room(mounts[controller], name)
            parents[controller] = mounts[controller] / name
        except OSError as error:
            missing.append(f"{controller}: {error.strerror}")
    # Killing and freezing without any limit would only look like a limit.
    if set(parents) <= NO_LIMIT:
        parents = {}
    return CgroupTree(1, parents, "; ".join(missing))


def _v2_tree(root: Path, own: str, name: str) -> CgroupTree:
    reason = ""
    for base in _ancestors(root, own):
        try:
            offered = set((base / "cgroup.controllers").read_text().split())
            wanted = [controller for controller in V2_CONTROLLERS if controller in offered]
            if not wanted:
                reason = reason or f"{base} offers no controllers"
                continue
            # Whoever may not write here may not move processes from our group to the new ones.
            _require_write(base / "cgroup.procs")
            _require_room(base, name)
            _enable(base, wanted)  # refused where processes are, but for the real top
            missing = sorted(set(V2_CONTROLLERS) - set(wanted))
            return CgroupTree(
                2,
                dict.fromkeys(wanted, base / name),
                f"not offered here: {', '.join(missing)}" if missing else "",
                (base / name / SHELTER,),
            )
        except OSError as error:
            reason = reason or f"{base}: {error.strerror}"
    return CgroupTree(2, {}, reason)


def _require_write(path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable for us")


def _require_room(base: Path, name: str) -> None:
    """Another user's deployment may have the name already."""
    _require_write(base / name if (base / name).exists() else base)


def _enable(folder: Path, controllers: Iterable[str]) -> None:
    for controller in controllers:
        _write(folder / "cgroup.subtree_control", f"+{controller}")


def _ancestors(root: Path, own: str) -> Iterator[Path]:
    """From the mount point down to our own group: the highest one we may use wins."""
    base = root
    yield base
    for part in Path(own).parts:
        if part not in ("/", ".."):
            base = base / part
            yield base


def _mounts(mountinfo: Path) -> tuple[dict[str, Path], Path | None]:
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(before.split()[4])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            v2 = v2 or mount_point
        elif kind == "cgroup":
            for controller in options.split(","):
                if controller in (*V1_CONTROLLERS, "name=systemd"):
                    v1.setdefault(controller, mount_point)
    return v1, v2


def _own_v2_path(cgroup: Path) -> str:
    for line in cgroup.read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def _group(version: int, folders: Mapping[str, Path]) -> Cgroup:
    return CgroupV2(folders) if version == 2 else CgroupV1(folders)


def _quota(cpu_millicores: int) -> int:
    return max(SMALLEST_QUOTA_MICROSECONDS, cpu_millicores * CPU_PERIOD_MICROSECONDS // 1000)


def _write(file: Path, text: str) -> None:
    with open(file, "w", encoding="ascii") as stream:
        stream.write(text)


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _keyed_number(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), 0)


def _known_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _without_cache(usage: Path, cached: str) -> int | None:
    used = _known_number(usage)
    if used is None:
        return None
    return max(0, used - _keyed_number(usage.with_name("memory.stat"), cached))


def _wait_for(file: Path, text: str, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while file.read_text().strip() != text and time.monotonic() < deadline:
        time.sleep(0.005)


def _kill_each(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
