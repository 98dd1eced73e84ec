"""A real v2 group without controllers: any kernel mounts that hierarchy beside v1."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.engines.cgroups import CgroupV2

pytestmark = pytest.mark.sandbox


@pytest.fixture
def group(sandbox_parts: None, tmp_path: Path) -> Iterator[CgroupV2]:
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", tmp_path], check=True)
    made = CgroupV2({"freezer": tmp_path / f"test-{os.getpid()}"})
    made.paths[0].mkdir()
    yield made
    made.kill(5)
    made.remove()
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_v2_group_is_killed_whole_frozen_or_not(group: CgroupV2, frozen: bool) -> None:
    children = [subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600"]) for _ in range(3)]
    for child in children:
        group.add(child.pid)
    assert set(group.pids()) >= {child.pid for child in children}
    if frozen:
        (group.paths[0] / "cgroup.freeze").write_text("1")
    assert group.kill(5)
    assert {child.wait(5) for child in children} == {-9}
    assert group.pids() == ()
    group.remove()
    assert not group.paths[0].exists()


def test_a_v2_group_with_a_process_cannot_be_removed(group: CgroupV2) -> None:
    child = subprocess.Popen(["sleep", "600"])
    group.add(child.pid)
    with pytest.raises(OSError, match="busy"):
        group.remove(timeout_seconds=0.1)
    assert group.kill(5)
    child.wait(5)
