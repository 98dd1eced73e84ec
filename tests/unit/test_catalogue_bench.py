"""The generator of the bench of the catalogue writes what the platform itself would write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import datasets_catalogue as bench
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import dataset_files, datasets
from tests import platforms
from tests.memory_engine import MemoryEngine


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Thirty datasets with 2,000 files."""
    for name, value in (("DATASETS", 30), ("FILES", 2000), ("WIDE", 100)):
        monkeypatch.setattr(bench, name, value)
    settings = platforms.settings_for(f"sqlite:///{tmp_path / 'bench.sqlite'}", tmp_path)
    with platforms.opened(settings, MemoryEngine()) as opened:
        yield opened


def test_sums_of_folders_and_versions_agree_with_the_files(platform: Platform) -> None:
    made = bench.write(platform, random.Random(1))
    owner, name = made.largest.split("/")
    with platform.database.reading() as connection:
        (largest,) = datasets.named(connection, owner, name)
        version = datasets.get_version(connection, str(largest.latest_version))
        files = list(dataset_files.walk(connection, version.id))
        wide = dataset_files.find_folder(connection, version.id, made.wide_folder)
        deep = dataset_files.find(connection, version.id, made.deep_file)
    assert version.files == len(files) == 400
    assert version.size_bytes == largest.size_bytes == sum(file.size_bytes for file in files)
    assert wide is not None and wide.files == 100
    assert deep is None or deep.folder == made.deep_folder


def test_a_kept_database_is_asked_for_the_same(platform: Platform) -> None:
    made = bench.write(platform, random.Random(1))
    assert bench.write(platform, random.Random(1), kept=True) == made
    assert made.small and made.small != made.largest
