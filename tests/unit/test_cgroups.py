"""The logic of the control groups: which folder, which file, which value, in which order.

Where the controllers are mounted as v1, v2 is tested on an ordinary folder with the file names of
a v2 hierarchy, which takes any write. What a kernel does with the values is seen by tests/sandbox,
in the version that the host has (and once, by hand, on v2 in an emulated Debian 12, kernel 6.1).
Moving, freezing and killing in a v2 group need no controller: tests/sandbox does them for real.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from dcloud_spawner.engines import cgroups
from dcloud_spawner.engines.cgroups import (
    CgroupTree,
    CgroupV1,
    CgroupV2,
    Limits,
    find_tree,
    group_from_record,
)

GIB = 2**30
LIMITS = Limits(memory_bytes=GIB, cpu_millicores=1500, pids=512, devices=("c 1:3 rwm",))


def proc(folder: Path, mountinfo: str, own: str = "0::/\n") -> Path:
    """A stand-in for /proc/self."""
    folder.mkdir()
    (folder / "mountinfo").write_text(mountinfo)
    (folder / "cgroup").write_text(own)
    return folder


def v2_mount(folder: Path, controllers: str = "cpuset cpu io memory pids") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers + "\n")
    (folder / "cgroup.procs").write_text("")
    return f"29 22 0:26 / {folder} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_mount(folder: Path, options: str) -> str:
    folder.mkdir(exist_ok=True)
    return f"35 31 0:32 / {folder} rw,relatime - cgroup cgroup rw,{options}\n"


@pytest.fixture
def v2(tmp_path: Path) -> CgroupV2:
    tree = find_tree("lab", proc(tmp_path / "proc", v2_mount(tmp_path / "cg")))
    group = tree.group("one")
    assert isinstance(group, CgroupV2)
    return group


def read(file: Path) -> str:
    return file.read_text().strip()


# -- where ----------------------------------------------------------------------------------------


def test_on_v2_the_deployment_gets_a_folder_below_the_mount_with_its_controllers(
    tmp_path: Path,
) -> None:
    tree = find_tree("lab", proc(tmp_path / "proc", v2_mount(tmp_path / "cg")))
    assert tree.version == 2 and tree.reason == ""
    assert set(tree.parents) == {"memory", "cpu", "pids"}
    assert set(tree.parents.values()) == {tmp_path / "cg" / "dcloud-lab"}
    assert tree.shelters == (tmp_path / "cg" / "dcloud-lab" / "_supervisors",)
    assert not (tmp_path / "cg" / "dcloud-lab").exists()  # looking makes nothing
    group = tree.group("one")
    assert group is not None
    group.create(LIMITS)
    for folder in (tmp_path / "cg", tmp_path / "cg" / "dcloud-lab"):
        assert read(folder / "cgroup.subtree_control").startswith("+")


def test_a_user_gets_the_highest_group_that_was_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = v2_mount(tmp_path / "cg")
    service = tmp_path / "cg" / "user.slice" / "dcloud.service"
    service.mkdir(parents=True)
    for folder in (service.parent, service):
        (folder / "cgroup.controllers").write_text("memory pids\n")
        (folder / "cgroup.procs").write_text("")
    own = "0::/user.slice/dcloud.service\n"
    written = cgroups._write

    def write(file: Path, text: str) -> None:
        if file.parent == tmp_path / "cg":  # what the kernel answers to who is not root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        written(file, text)

    monkeypatch.setattr(cgroups, "_write", write)
    tree = find_tree("lab", proc(tmp_path / "proc", mounts, own))
    assert set(tree.parents.values()) == {service.parent / "dcloud-lab"}
    assert set(tree.parents) == {"memory", "pids"}
    assert "cpu" in tree.reason
    group = tree.group("one")
    assert group is not None and group.enforced == {"memory", "pids"}


def test_without_any_control_group_the_reason_is_told(tmp_path: Path) -> None:
    tree = find_tree("lab", proc(tmp_path / "proc", "22 1 0:20 / /proc rw - proc proc rw\n"))
    assert tree.parents == {} and tree.group("one") is None
    assert tree.reason == "no cgroup file system is mounted"


def test_a_hybrid_host_uses_its_v1_controllers(tmp_path: Path) -> None:
    mounts = (
        v1_mount(tmp_path / "memory", "memory")
        + v1_mount(tmp_path / "cpu,cpuacct", "cpu,cpuacct")
        + v1_mount(tmp_path / "pids", "pids")
        + v1_mount(tmp_path / "systemd", "name=systemd")
        + v2_mount(tmp_path / "unified", "")
    )
    tree = find_tree("lab", proc(tmp_path / "proc", mounts))
    assert tree.version == 1
    assert set(tree.parents) == {"memory", "cpu", "cpuacct", "pids"}
    assert "devices is not mounted" in tree.reason
    assert {path.parent.parent.name for path in tree.shelters} == {"systemd", "unified"}
    group = tree.group("one")
    assert isinstance(group, CgroupV1) and len(group.paths) == 3


def test_a_group_is_found_again_by_its_record(v2: CgroupV2) -> None:
    again = group_from_record(v2.as_record())
    assert isinstance(again, CgroupV2) and again.paths == v2.paths
    assert group_from_record({}) is None


# -- v2 -------------------------------------------------------------------------------------------


def test_v2_limits_memory_and_swap_together(v2: CgroupV2) -> None:
    v2.create(LIMITS)
    assert read(v2.folder / "memory.max") == str(GIB)
    assert read(v2.folder / "memory.swap.max") == "0"
    assert read(v2.folder / "cpu.max") == "150000 100000"
    assert read(v2.folder / "pids.max") == "512"
    assert v2.enforced == {"memory", "cpu", "pids"}


def test_v2_never_sets_less_memory_than_is_in_use(v2: CgroupV2) -> None:
    v2.create(LIMITS)
    (v2.folder / "memory.current").write_text(f"{GIB // 2}\n")
    v2.update(GIB // 2, 500)
    assert read(v2.folder / "cpu.max") == "50000 100000"
    with pytest.raises(OSError, match="in use"):
        v2.update(GIB // 4, 250)
    assert read(v2.folder / "memory.max") == str(GIB // 2)


def test_v2_counts_the_processes_killed_for_memory(v2: CgroupV2) -> None:
    assert v2.oom_kills() == 0
    v2.create(LIMITS)
    (v2.folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\n")
    assert v2.oom_kills() == 2


def test_v2_tells_cpu_time_and_memory_without_droppable_cache(v2: CgroupV2) -> None:
    assert (v2.cpu_microseconds(), v2.memory_in_use_bytes()) == (None, None)
    v2.create(LIMITS)
    (v2.folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1400000\n")
    (v2.folder / "memory.current").write_text("900\n")
    (v2.folder / "memory.stat").write_text("anon 500\ninactive_file 300\nactive_file 100\n")
    assert (v2.cpu_microseconds(), v2.memory_in_use_bytes()) == (1_500_000, 600)


def test_v2_kills_by_one_write_where_the_kernel_can(v2: CgroupV2) -> None:
    v2.create(LIMITS)
    (v2.folder / "cgroup.procs").write_text("999999999\n")
    (v2.folder / "cgroup.kill").write_text("")
    assert v2.kill(0.05) is False  # nothing empties this imitation
    assert read(v2.folder / "cgroup.kill") == "1"
    (v2.folder / "cgroup.procs").write_text("")
    assert v2.kill(0.05) is True


def test_v2_freezes_and_kills_on_an_older_kernel(v2: CgroupV2) -> None:
    v2.create(LIMITS)
    child = subprocess.Popen(["sleep", "60"])
    (v2.folder / "cgroup.procs").write_text(f"{child.pid}\n")
    v2.kill(0.05)
    assert child.wait(5) == -9
    assert read(v2.folder / "cgroup.freeze") == "0"


def test_a_process_joins_by_its_number(v2: CgroupV2) -> None:
    v2.create(LIMITS)
    v2.add(4321)
    assert v2.pids() == (4321,)


def test_a_group_that_is_gone_is_empty_and_removing_it_again_is_success(v2: CgroupV2) -> None:
    assert v2.pids() == () and v2.kill(0.05) is True
    v2.remove()


# -- v1 -------------------------------------------------------------------------------------------


@pytest.fixture
def v1(tmp_path: Path) -> CgroupV1:
    folders = {name: tmp_path / name / "one" for name in cgroups.V1_CONTROLLERS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["memory"] / "memory.memsw.limit_in_bytes").write_text(f"{8 * GIB}\n")
    return CgroupV1(folders)


def test_v1_tells_cpu_time_and_memory_without_droppable_cache(v1: CgroupV1) -> None:
    assert (v1.cpu_microseconds(), v1.memory_in_use_bytes()) == (None, None)
    (v1.folders["cpuacct"] / "cpuacct.usage").write_text("1500000999\n")
    (v1.folders["memory"] / "memory.usage_in_bytes").write_text("900\n")
    (v1.folders["memory"] / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 300\n")
    assert (v1.cpu_microseconds(), v1.memory_in_use_bytes()) == (1_500_000, 600)
    (v1.folders["cpuacct"] / "cpuacct.usage").rename(v1.folders["cpu"] / "cpuacct.usage")
    assert v1.cpu_microseconds() == 1_500_000  # mounted together


def test_v1_writes_every_limit_to_its_own_hierarchy(v1: CgroupV1, tmp_path: Path) -> None:
    v1.create(LIMITS)
    assert read(tmp_path / "memory/one/memory.limit_in_bytes") == str(GIB)
    assert read(tmp_path / "memory/one/memory.memsw.limit_in_bytes") == str(GIB)
    assert read(tmp_path / "cpu/one/cpu.cfs_period_us") == "100000"
    assert read(tmp_path / "cpu/one/cpu.cfs_quota_us") == "150000"
    assert read(tmp_path / "pids/one/pids.max") == "512"
    assert read(tmp_path / "devices/one/devices.deny") == "a"
    assert read(tmp_path / "devices/one/devices.allow") == "c 1:3 rwm"
    assert v1.enforced == {"memory", "cpu", "pids", "devices"}


def test_v1_keeps_memory_below_memory_and_swap_at_every_moment(
    v1: CgroupV1, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1.create(LIMITS)
    order: list[str] = []
    written = cgroups._write

    def write(file: Path, text: str) -> None:
        order.append(file.name)
        written(file, text)

    monkeypatch.setattr(cgroups, "_write", write)
    v1.update(2 * GIB, 1000)
    v1.update(GIB, 1000)
    memory = [name for name in order if name.startswith("memory")]
    assert memory == [
        "memory.memsw.limit_in_bytes",
        "memory.limit_in_bytes",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
    ]


def test_the_kernels_smallest_quota_is_kept() -> None:
    assert cgroups._quota(1) == 1000
    assert cgroups._quota(250) == 25_000


def test_freezing_alone_is_no_limit(tmp_path: Path) -> None:
    assert cgroups._v1_tree({"freezer": tmp_path}, "dcloud-lab").parents == {}
    assert CgroupTree(1, {}).group("one") is None
