"""When a disk limit can be had from Docker."""

from __future__ import annotations

import pytest

from dcloud_spawner.engines.docker_disk import can_limit_disk

ROOT = "/dev/vda / ext4 rw,relatime 0 0"
XFS = "/dev/vdb /var/lib/docker xfs rw,relatime,attr2,prjquota 0 0"
XFS_WITHOUT_QUOTA = "/dev/vdb /var/lib/docker xfs rw,relatime,noquota 0 0"


@pytest.mark.parametrize(
    ("driver", "mounts", "can"),
    [
        ("overlay2", [ROOT, XFS], True),
        ("overlay2", [ROOT, XFS_WITHOUT_QUOTA], False),
        ("overlay2", [ROOT], False),
        ("overlay2", [], False),
        ("overlay2", [ROOT, "/dev/vdb /var/lib/dockerish xfs rw,prjquota 0 0"], False),
        ("btrfs", [ROOT], True),
        ("zfs", [], True),
        ("vfs", [ROOT, XFS], False),
    ],
)
def test_a_disk_limit_is_promised_only_where_the_engine_keeps_it(
    driver: str, mounts: list[str], can: bool
) -> None:
    assert can_limit_disk({"Driver": driver, "DockerRootDir": "/var/lib/docker"}, mounts) is can
