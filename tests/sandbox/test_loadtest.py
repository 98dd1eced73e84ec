"""`dcloud loadtest` on a real hub and controller with sandboxes and four simulated GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyterhub import orm
from sqlalchemy import select

from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.store import homes, workloads
from dcloud_spawner.store.schema import State, shares
from hub_services.loadtest.names import is_simulated, noted_runs
from hub_services.loadtest.rights import NAME
from tests.docker.people import SMALL, People, until
from tests.live import ROOT, Deployment
from tests.simgpu.simgpu import Simulation

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def running(
    sandbox_parts: None,
    sandbox_gpus: Simulation,
    module_databases: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("deployment"),
        engine="sandbox",
        simulated_gpus=True,
        nvml_library=str(sandbox_gpus.library),
        **module_databases,
    ) as deployment:
        yield deployment
        settings = deployment.settings
    SandboxEngine(settings).remove_groups()


def dcloud(running: Deployment, *arguments: str | Path) -> subprocess.Popen[str]:
    """The command in a process of its own, on this deployment."""
    return subprocess.Popen(
        [sys.executable, "-m", "hub_services.cli.main", "loadtest", *arguments],
        cwd=running.state,
        env={**running.environment, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def nothing_is_left(running: Deployment) -> None:
    """No user, server, home or right of a load test."""
    platform = running.platform
    assert platform is not None
    assert platform.engine.observe() == ()
    with platform.database.reading() as connection:
        assert workloads.open_workloads(connection) == []
        ended = workloads.in_states(connection, (State.ENDED,))
        assert not [row for row in ended if is_simulated(row.user)]
        users = connection.scalars(select(shares.c.user))
        assert not [user for user in users if is_simulated(user)]
        assert [each.user for each in homes.all_homes(connection)] == []
    with running.api() as api:
        assert [each["name"] for each in api.get("/users").json()] == []
    assert noted_runs(running.settings.state) == []
    for program in ("hub", "controller"):
        assert not running.faults(program)
    hub = orm.new_session_factory(running.settings.hub_store_url)()
    tokens = hub.query(orm.APIToken).join(orm.Service).filter(orm.Service.name.startswith(NAME))
    assert all(token.expires_at < orm.APIToken.now() for token in tokens)
    hub.close()


def token_of_the_service(running: Deployment) -> str:
    session = orm.new_session_factory(running.settings.hub_store_url)()
    (service,) = session.query(orm.Service).filter(orm.Service.name.startswith(NAME))
    token = service.new_api_token(note="killed", expires_in=600)
    session.commit()
    session.close()
    return str(token)


def served(running: Deployment) -> int:
    """How many servers have been ready and are over."""
    assert running.platform is not None
    with running.platform.database.reading() as connection:
        ended = workloads.in_states(connection, (State.ENDED,))
    return sum(each.ready_at is not None for each in ended)


@pytest.mark.sqlite_suffices
def test_ctrl_c_ends_a_run_with_a_report_and_tidies_up(running: Deployment, tmp_path: Path) -> None:
    early = ("--seed", "149")  # its first two people come within five seconds and work for two
    command = dcloud(running, "--users", "8", "--minutes", "2", *early, "--report", tmp_path)
    try:
        until(lambda: served(running) >= 2, 110, "two people's work")
    finally:
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["interrupted"] and found["served"] >= 2 and found["failures"] == []
    assert found["asked"] >= found["served"] + found["cancelled"]
    assert found["used_twice"] == [] and found["leases_checked"] >= 2
    assert max(sample["gpus_used"] for sample in found["pool"]) <= 4
    assert found["answers"]["probe"]["n"] >= 10 and found["left_behind"] == ""
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5 and "No GPU was in two hands" in page
    assert "http" not in page  # it needs nothing but itself
    assert "no GPU in two hands" in output
    nothing_is_left(running)


def test_a_run_ends_by_itself_when_its_time_is_up(running: Deployment) -> None:
    command = dcloud(running, "--users", "3", "--minutes", "0.1")
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    (report,) = (running.settings.state / "loadtest").glob("*/report.json")
    assert not json.loads(report.read_text())["interrupted"]
    nothing_is_left(running)


@pytest.mark.sqlite_suffices
def test_a_run_that_is_killed_is_tidied_up_by_name(running: Deployment) -> None:
    platform = running.platform
    assert platform is not None
    early = ("--seed", "13")  # somebody comes in the first second
    command = dcloud(running, "--users", "6", "--minutes", "2", *early)
    try:
        until(lambda: platform.engine.observe(), 60, "the first server")
    finally:
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
    assert noted_runs(running.settings.state)
    stale = token_of_the_service(running)
    running.restart("hub")
    with running.api(stale) as api:  # the hub has the service in memory now, without its role
        assert api.get("/users").status_code == 403
    stranger = running.user("loadtest-abcdef-000")  # has the shape of a name, but of no run
    assert stranger
    tidy = dcloud(running, "--clean")
    output, _ = tidy.communicate(timeout=120)
    assert tidy.returncode == 0 and "nothing is left" in output, output
    with running.api() as api:
        assert [each["name"] for each in api.get("/users").json()] == ["loadtest-abcdef-000"]
        api.delete("/users/loadtest-abcdef-000")
    nothing_is_left(running)


@pytest.mark.sqlite_suffices
def test_it_refuses_where_somebody_works(running: Deployment) -> None:
    people = People(running)
    person = people()
    try:
        person.run(SMALL)
        command = dcloud(running, "--users", "2", "--minutes", "0.1")
        output, _ = command.communicate(timeout=60)
        assert command.returncode == 1
        assert f"of other people run or wait here: {person.name}" in output and "--yes" in output
        assert person.answers()
    finally:
        people.end_everything()
