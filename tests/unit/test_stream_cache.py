"""The read cache of a stream, which survives a kill -9 and no loss of power."""

from __future__ import annotations

from pathlib import Path

from dcloud_spawner.mounts.streams import drop_cache_of_another_boot


def test_a_read_cache_is_kept_while_the_host_runs_and_not_believed_after(tmp_path: Path) -> None:
    block = tmp_path / "cache" / "vfs" / "a.bin"

    def cached() -> None:
        block.parent.mkdir(parents=True)
        block.write_bytes(b"bytes")

    cached()  # of nobody knows when
    drop_cache_of_another_boot(tmp_path, "one")
    assert not block.exists()
    cached()
    drop_cache_of_another_boot(tmp_path, "one")
    assert block.read_bytes() == b"bytes"
    drop_cache_of_another_boot(tmp_path, "two")
    assert not block.exists()
