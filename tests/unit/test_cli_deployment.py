"""Files, secrets, remembered settings and the generated supervisord configuration."""

from __future__ import annotations

import configparser
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY
from hub_services.cli import orphans, processes
from hub_services.cli.deployment import (
    Deployment,
    open_deployment,
    present_variables,
    recall,
    remember,
)
from hub_services.cli.files import create_private_once, write_private
from hub_services.cli.ports import ports_of
from hub_services.cli.secrets import NAMES, ensure_secrets, read_secret
from tests.patience import patient


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    made = Deployment(Settings(state=tmp_path / "state with space"), {})
    made.make_folders()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    os.umask(0o022)
    folder = tmp_path / "secrets"
    ensure_secrets(folder)
    first = {name: read_secret(folder, name) for name in NAMES}
    ensure_secrets(folder)
    assert first == {name: read_secret(folder, name) for name in NAMES}
    assert len(set(first.values())) == len(NAMES)
    assert mode(folder) == 0o700
    assert {mode(folder / name) for name in NAMES} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)


def test_processes_that_make_a_secret_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda n: create_private_once(tmp_path / "x", f"{n}"), range(64)))
    assert set(got) == {(tmp_path / "x").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("text", "bits", "words"),
    [("a" * 64, 0o640, "chmod 600"), ("  \n", 0o600, "is empty"), (None, 0, "is missing")],
)
def test_a_secret_that_cannot_be_trusted_is_refused(
    tmp_path: Path, text: str | None, bits: int, words: str
) -> None:
    if text is not None:
        (tmp_path / "proxy.token").write_text(text)
        (tmp_path / "proxy.token").chmod(bits)
    with pytest.raises(ConfigurationError, match=words) as error:
        read_secret(tmp_path, "proxy.token")
    assert text is None or not text.strip() or text not in str(error.value)


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_settings_of_the_last_up_hold_until_the_shell_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCLOUD_STATE", str(tmp_path))
    monkeypatch.setenv("DCLOUD_PORT", "9001")
    monkeypatch.setenv("DCLOUD_PIDS_LIMIT", "100")
    (tmp_path / "run").mkdir()
    remember(tmp_path, present_variables())
    assert mode(tmp_path / "run" / "environment.json") == 0o600
    monkeypatch.setenv("DCLOUD_PORT", "9002")
    monkeypatch.delenv("DCLOUD_PIDS_LIMIT")
    opened = open_deployment()
    assert (opened.settings.port, opened.settings.pids_limit) == (9002, 100)
    assert opened.recalled == {"DCLOUD_PIDS_LIMIT"}
    monkeypatch.delenv("DCLOUD_PIDS_LIMIT")
    assert open_deployment(forget=True).settings.pids_limit == 4096


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text('{"DCLOUD_PORT": ')
    with pytest.raises(ConfigurationError, match=r"environment\.json is damaged"):
        recall(tmp_path)


def test_folders_are_closed_even_if_they_were_open(tmp_path: Path) -> None:
    (tmp_path / "state" / "logs").mkdir(parents=True)
    (tmp_path / "state").chmod(0o755)
    made = Deployment(Settings(state=tmp_path / "state"), {})
    made.make_folders()
    folders = (made.state, made.settings.secrets_dir, made.settings.logs_dir, made.run_dir)
    assert {mode(folder) for folder in folders} == {0o700}


def test_a_long_state_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = Deployment(Settings(state=tmp_path / ("x" * 120)), {})
    assert len(str(deep.socket)) < 100
    assert deep.socket.parent.name == f"dcloud-{os.getuid()}"
    other = Deployment(Settings(state=tmp_path / ("y" * 120)), {})
    assert deep.socket != other.socket


def test_supervisord_reads_the_configuration_and_it_holds_no_secret(
    deployment: Deployment,
) -> None:
    ensure_secrets(deployment.settings.secrets_dir)
    processes.write_configuration(deployment)
    path = processes.configuration_path(deployment)
    assert mode(path) == 0o600
    parsed = configparser.RawConfigParser()
    parsed.read(path)
    assert {"program:proxy", "program:hub", "program:controller"} <= set(parsed.sections())
    assert parsed["unix_http_server"]["chmod"] == "0700"
    for name in NAMES:
        assert read_secret(deployment.settings.secrets_dir, name) not in path.read_text()
    code = (
        "from supervisor.options import ServerOptions; import sys; o = ServerOptions();"
        "o.realize(['-c', sys.argv[1]]);"
        "print([c.name for g in o.process_group_configs for c in g.process_configs])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        "['storage', 'gate', 'proxy', 'hub', 'controller', 'data', 'web', 'images']"
    )


def test_the_small_storage_runs_only_where_there_is_no_other(tmp_path: Path) -> None:
    small = Settings(state=tmp_path)
    other = Settings(state=tmp_path, storage_url="https://minio.lab.example")
    assert set(processes.long_running(small)) - set(processes.long_running(other)) == {"storage"}
    assert {use.program for use in ports_of(small)} - {use.program for use in ports_of(other)} == {
        "storage"
    }
    assert "program:storage" not in processes.configuration(Deployment(other, {}))


def test_the_storages_keys_reach_its_server_by_environment_alone(deployment: Deployment) -> None:
    folder = deployment.settings.secrets_dir
    ensure_secrets(folder)
    deployment.run_dir.mkdir(exist_ok=True)
    storage = processes.program("storage")
    command = storage.command(deployment)
    keys = [read_secret(folder, name) for name in (DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY)]
    assert storage.extra_environment(deployment) == {"RCLONE_AUTH_KEY": f'"{keys[0]},{keys[1]}"'}
    assert not [word for word in command if any(key in word for key in keys)]
    assert "--addr=127.0.0.1:" in " ".join(command)


def test_settings_change_the_configuration_and_nothing_else_does(tmp_path: Path) -> None:
    one, two, three = (
        Deployment(Settings(state=tmp_path, port=port), {}) for port in (8000, 8000, 8002)
    )
    assert processes.configuration(one) == processes.configuration(two)
    assert processes.configuration(one) != processes.configuration(three)


def test_a_stranger_with_a_recycled_id_is_no_orphan(deployment: Deployment) -> None:
    me = psutil.Process()
    noted = {"pid": me.pid, "started": me.create_time() - 60}
    write_private(processes.pid_file(deployment, "hub"), json.dumps(noted))
    assert orphans.find_orphans(deployment) == []


def test_a_process_that_only_inherited_our_environment_is_no_orphan(
    deployment: Deployment,
) -> None:
    environment = {**os.environ, "DCLOUD_STATE": str(deployment.state), "DCLOUD_PROGRAM": "hub"}
    with subprocess.Popen(["sleep", "60"], env=environment) as sandbox:
        try:
            assert orphans.find_orphans(deployment) == []
        finally:
            sandbox.kill()


def test_ending_does_not_wait_for_a_zombie() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        orphans.end([psutil.Process(child.pid)], grace_seconds=20)  # nobody has looked at it yet
        assert child.wait(timeout=patient(1)) == -15
