"""What every test may use, and the rule about skips.

A part that cannot be had (no Docker, no Chromium) skips its tests with a reason, listed at the
end. With ``CI=true`` nothing may be skipped: then a skip fails the run. Tests marked ``gpu``
are not skipped but left out where there is no NVIDIA GPU, and the run says so.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.settings import Settings
from dcloud_spawner.store.database import Database
from tests import services
from tests.patience import patient_ms
from tests.services import Missing, PostgreSQL

CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
ON_POSTGRESQL = os.environ.get("DCLOUD_TEST_DATABASE", "sqlite") == "postgresql"

_DATABASE_FIXTURES = {"database_url", "hub_database_url", "database", "module_databases"}
_skips: list[tuple[str, str]] = []
_failed: dict[str, str] = {}
_passed = 0
_began = time.monotonic()
_left_out = pytest.StashKey[int]()


# ---------------------------------------------------------------------------- what runs


def pytest_configure(config: pytest.Config) -> None:
    expect.set_options(timeout=patient_ms(8))
    for name in [name for name in os.environ if name.startswith("DCLOUD_")]:
        if (
            name not in {"DCLOUD_CACHE", "DCLOUD_SOAK_MINUTES", "DCLOUD_FULL_LEDGER"}
            and "_TEST_" not in name
        ):
            # Settings of the developer's own deployment must not reach the tests.
            del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("database")
    chosen = config.getoption("-m")
    unwanted = set() if "soak" in chosen else {"soak"}
    if not services.has_nvidia_gpu():
        unwanted.add("gpu")
        config.stash[_left_out] = sum(item.get_closest_marker("gpu") is not None for item in items)
    left_out = [item for item in items if any(item.get_closest_marker(m) for m in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


# ---------------------------------------------------------------------------- skips


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _passed
    _passed += report.passed and report.when == "call"
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _skips.append((report.nodeid, str(reason).removeprefix("Skipped: ")))
    if report.failed:
        _note_failure(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _note_failure(report)
    if report.skipped:
        _skips.append((report.nodeid, str(report.longrepr)))


def _note_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    _failed.setdefault(report.nodeid, next(iter(text.strip().splitlines()), ""))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    wanted = os.environ.get("DCLOUD_TEST_REPORT")
    if wanted:
        report = {
            "passed": _passed,
            "failed": _failed,
            "skipped": len(_skips),
            "seconds": time.monotonic() - _began,
        }
        Path(wanted).write_text(json.dumps(report))
    if CI and _skips and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    where = "PostgreSQL" if ON_POSTGRESQL else "SQLite"
    terminalreporter.write_line(f"database: {where}")
    count = config.stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(f"no NVIDIA GPU here: {count} tests marked gpu were left out")
    if _skips:
        reasons: dict[str, int] = {}
        for _, reason in _skips:
            reasons[reason] = reasons.get(reason, 0) + 1
        verdict = "skipped, which CI=true does not allow" if CI else "skipped"
        for reason, number in reasons.items():
            terminalreporter.write_line(f"{number} {verdict}: {reason}", red=CI, yellow=not CI)


# ---------------------------------------------------------------------------- databases


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the session, with a migrated ``dcloud_template``."""
    try:
        with services.postgresql() as server:
            template = Database(server.create("dcloud_template"))
            template.migrate()
            template.close()
            yield server
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database that nobody has open, to be copied."""
    path = tmp_path_factory.mktemp("template") / "dcloud.sqlite"
    template = Database(f"sqlite:///{path}")
    template.migrate()
    template.close()
    return path


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database of the platform."""
    with fresh_database(request, tmp_path, "dcloud") as url:
        yield url


@pytest.fixture
def hub_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database for JupyterHub itself."""
    with fresh_database(request, tmp_path, "jupyterhub") as url:
        yield url


@pytest.fixture(scope="module")
def module_databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """``database_url`` and ``hub_database_url`` of a deployment that one test module shares."""
    folder = tmp_path_factory.mktemp("databases")
    with (
        fresh_database(request, folder, "dcloud") as platform,
        fresh_database(request, folder, "jupyterhub") as hub,
    ):
        yield {"database_url": platform, "hub_database_url": hub}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database, opened."""
    opened = Database(database_url)
    opened.migrate()
    yield opened
    opened.close()


@contextmanager
def fresh_database(request: pytest.FixtureRequest, folder: Path, name: str) -> Iterator[str]:
    """The URL of a database of its own, for fixtures of any scope; mark their tests ``database``.

    ``dcloud`` is already migrated, any other name is empty: on SQLite not there yet.
    """
    if not ON_POSTGRESQL:
        path = folder / f"{name}.sqlite"
        if name == "dcloud":
            shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    fresh = f"{name}_{secrets.token_hex(6)}"
    yield server.create(fresh, "dcloud_template" if name == "dcloud" else "template1")
    server.drop(fresh)


# ---------------------------------------------------------------------------- other parts


@pytest.fixture(scope="session")
def docker_engine() -> str:
    """Version of the Docker engine that answers; skips where none does."""
    try:
        return services.docker_engine()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def base_image(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """``dcloud/base:latest``, built from its recipe where it is missing or out of date."""
    root = Path(__file__).parents[1]
    settings = Settings(
        state=tmp_path_factory.mktemp("images"),
        images_dir=root / "images",
        profiles_dir=root / "profiles",
    )
    status = ImageStore(settings).prepare("dcloud/base:latest")
    assert status.state is ImageState.READY, status.message
    return "dcloud/base:latest"


@pytest.fixture(scope="session")
def sandbox_parts() -> None:
    """Skips where sandboxes cannot be made."""
    try:
        services.sandbox_parts()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of Chromium; skips where there is none."""
    try:
        return services.chromium()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture
def free_port() -> int:
    """A TCP port that was free a moment ago."""
    return services.free_port()
