"""The suite's own parts: its databases and its rule about skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from dcloud_spawner.store.database import Database
from tests.conftest import ON_POSTGRESQL
from tests.services import PostgreSQL, free_port, parts_of

ROOT = Path(__file__).resolve().parents[2]

SAMPLE = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no such part here")
def test_needs_a_part():
    pass

@pytest.mark.gpu
def test_needs_a_gpu():
    raise AssertionError("runs only on a real GPU")

@pytest.mark.soak
def test_takes_hours():
    raise AssertionError("runs only by make soak")
"""


def run_sample(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project of its own that uses our conftest."""
    (folder / "sample").mkdir(exist_ok=True)
    (folder / "sample" / "test_sample.py").write_text(SAMPLE)
    (folder / "sample" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: x\n  soak: x\n  database: x\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CI": "",
            "DCLOUD_TEST_FAILED": "",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_outside_ci_a_skip_is_listed_with_its_reason(tmp_path: Path) -> None:
    done = run_sample(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 skipped: no such part here" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_in_ci_a_skip_fails_the_run(tmp_path: Path) -> None:
    done = run_sample(tmp_path, CI="true")
    assert done.returncode == 1, done.stdout
    assert "1 skipped, which CI=true does not allow: no such part here" in done.stdout


def test_gpu_tests_are_left_out_without_a_gpu_and_it_is_said(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        return  # they run here
    done = run_sample(tmp_path, CI="true")
    assert "no NVIDIA GPU here: 1 tests marked gpu were left out" in done.stdout


def test_a_database_is_fresh_and_migrated(database: Database) -> None:
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM workloads")).scalar() == 0
        backend = database.url.get_backend_name()
    assert backend == ("postgresql" if ON_POSTGRESQL else "sqlite")


@pytest.mark.database
def test_tests_get_databases_of_their_own(request: pytest.FixtureRequest) -> None:
    if not ON_POSTGRESQL:
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    first, second = server.create("one"), server.create("two")
    assert first != second
    for name in ("one", "two"):
        server.drop(name)


def test_a_free_port_is_free() -> None:
    assert 1024 < free_port() < 65536


def test_the_parts_of_a_run_are_all_tests_once() -> None:
    containers, rest, postgresql = parts_of(("sqlite", "postgresql"), ("--durations=20",))
    assert {f"--ignore={path}" for path in containers.arguments} == set(rest.arguments)
    assert postgresql.arguments == ()
    assert [part.arguments for part in parts_of(("sqlite",), ("tests/unit",))] == [()]


def test_what_failed_is_listed_for_whoever_asks(tmp_path: Path) -> None:
    listed = tmp_path / "failed"
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "test_broken.py").write_text("def test_broken():\n    assert False\n")
    assert run_sample(tmp_path, DCLOUD_TEST_FAILED=str(listed)).returncode == 1
    assert listed.read_text() == "sample/test_broken.py::test_broken"
