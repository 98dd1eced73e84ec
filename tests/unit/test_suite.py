"""The suite's own parts: its databases and its rule about skips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from dcloud_spawner.store.database import Database
from tests.conftest import ON_POSTGRESQL
from tests.services import PostgreSQL, free_port
from tests.suite import AGAIN, Outcome, Part, lanes_of, may_end_well, summary

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
            "DCLOUD_TEST_REPORT": "",
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


def test_the_lanes_of_a_run_are_all_tests_once() -> None:
    lanes = lanes_of(("sqlite", "postgresql"), ("--durations=20",))
    (containers,), (browser, faults), (rest,), _ = lanes
    ignored = {f"--ignore={path}" for path in containers.arguments + faults.arguments}
    assert ignored == set(rest.arguments) == set(browser.arguments)
    assert containers.marked == faults.marked == ""
    assert (browser.marked, rest.marked) == ("browser and not soak", "not browser and not soak")
    assert [part.offline for part in (containers, browser, rest)] == [False, True, False]
    assert [part.arguments for (part,) in lanes_of(("sqlite",), ("tests/unit",))] == [()]


def test_postgresql_alone_runs_all_that_touch_the_database_and_less_beside_sqlite() -> None:
    *_, (beside,) = lanes_of(("sqlite", "postgresql"), ())
    ((alone,),) = lanes_of(("postgresql",), ())
    *_, (named,) = lanes_of(("sqlite", "postgresql"), ("tests/docker/test_gpus.py",))
    assert alone.marked == named.marked == "database and not soak"
    assert beside.marked == f"{alone.marked} and not sqlite_suffices"


def test_offline_nothing_but_loopback_is_there(tmp_path: Path) -> None:
    (tmp_path / "test_network.py").write_text(
        "import socket\n"
        "def test_network():\n"
        "    assert socket.if_nameindex() == [(1, 'lo')]\n"
        "    with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "        socket.create_connection(server.getsockname(), 5).close()\n"
    )
    command = [sys.executable, "-m", "tests.offline", "-q", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "no network of our own" in done.stdout or done.returncode == 0, done.stdout


def test_what_came_out_is_reported_for_whoever_asks(tmp_path: Path) -> None:
    listed = tmp_path / "report"
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "test_broken.py").write_text("def test_broken():\n    assert 1 == 2\n")
    assert run_sample(tmp_path, DCLOUD_TEST_REPORT=str(listed)).returncode == 1
    found = json.loads(listed.read_text())
    assert found["failed"] == {"sample/test_broken.py::test_broken": "assert 1 == 2"}
    assert (found["passed"], found["skipped"]) == (1, 1)


def outcome(name: str, *failed: str, code: int = 1) -> Outcome:
    return Outcome(Part(name, "sqlite"), code, 9.6, 3, 0, dict.fromkeys(failed, "assert False"))


WAITS, COMPUTES = "tests/docker/test_a.py::test_waits", "tests/unit/test_b.py::test_computes"


@pytest.mark.parametrize(
    ("red", "may"),
    [
        ([outcome("one", WAITS), outcome("two", WAITS)], True),
        ([outcome("one", WAITS), outcome("two", COMPUTES)], False),
        ([outcome("one", WAITS), outcome("two")], False),  # a skip in CI
        ([outcome("one", WAITS, code=2)], False),
        ([outcome("one", *(f"{WAITS}{n}" for n in range(AGAIN + 1)))], False),
    ],
)
def test_what_failed_is_tried_again_only_where_that_may_turn_the_run(
    red: list[Outcome], may: bool
) -> None:
    assert may_end_well(red) is may


def test_the_summary_names_what_failed_and_what_was_flaky() -> None:
    other = f"{WAITS}_too"
    outcomes = [outcome("one", WAITS, other), Outcome(Part("two", "postgresql"), 0, 60, 800)]
    assert list(summary(outcomes, [outcome("one-again", other)])) == [
        "-- summary",
        "one: 3 passed, 2 failed in 10 s",
        f"  FLAKY, to be mended: {WAITS}: assert False",
        f"  FAILED {other}: assert False",
        "two: 800 passed, 0 failed in 60 s",
    ]
    *_, last = summary([outcome("one", COMPUTES)], [])
    assert last == "nothing was tried once more alone, for the run would have stayed red"
