"""The doctor, its checks that need no running platform, and what the machine lacks."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from dcloud_spawner.errors import ConfigurationError, EngineUnreachable
from dcloud_spawner.settings import Settings
from hub_services.cli import checks_deployment, checks_machine, machine, ports
from hub_services.cli.deployment import Deployment
from hub_services.cli.doctor import Finding, Level, any_broken, attention, broken, examine, ok, show
from hub_services.cli.main import dcloud
from hub_services.cli.secrets import ensure_secrets
from hub_services.cli.status import length
from tests.services import free_port


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    settings = Settings(
        state=tmp_path / "state",
        engine="sandbox",
        port=free_port(),
        hub_port=free_port(),
        proxy_api_port=free_port(),
        web_port=free_port(),
        storage_port=free_port(),
        storage_gate_port=free_port(),
        profiles_dir=tmp_path / "profiles",
    )
    made = Deployment(settings, {})
    made.make_folders()
    return made


def found(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(deployment: Deployment) -> None:
    def check_engine(_: Deployment) -> Iterator[Finding]:
        raise EngineUnreachable("Docker does not answer: timed out")

    def check_disk(_: Deployment) -> Iterator[Finding]:
        yield ok("disk", "much")

    findings = examine(deployment, (check_engine, check_disk))
    assert [(f.subject, f.level) for f in findings] == [
        ("engine", Level.BROKEN),
        ("disk", Level.OK),
    ]
    assert any_broken(findings)


def test_only_what_is_broken_fails_the_doctor() -> None:
    findings = [ok("a", "b"), attention("c", "d", "mend c")]
    assert not any_broken(findings)
    assert any_broken([*findings, broken("e", "f", "mend e")])


def test_every_complaint_is_shown_with_its_mend() -> None:
    out = io.StringIO()
    show(Console(file=out, width=120), [ok("a", "b"), broken("secrets", "open", "chmod 600 x")])
    assert "→ chmod 600 x" in out.getvalue()
    assert "1 broken" in out.getvalue()


def test_an_open_state_folder_is_broken(deployment: Deployment) -> None:
    assert found(checks_deployment.check_state(deployment))["state"].level is Level.OK
    deployment.state.chmod(0o755)
    finding = found(checks_deployment.check_state(deployment))["state"]
    assert (finding.level, finding.mend) == (Level.BROKEN, f"chmod 700 {deployment.state}")


def test_a_missing_secret_is_broken(deployment: Deployment) -> None:
    ensure_secrets(deployment.settings.secrets_dir)
    assert found(checks_deployment.check_secrets(deployment))["secrets"].level is Level.OK
    (deployment.settings.secrets_dir / "crypt.key").unlink()
    finding = found(checks_deployment.check_secrets(deployment))["secrets"]
    assert (finding.level, finding.seen) == (Level.BROKEN, "missing: crypt.key")


def test_a_broken_profile_is_named(deployment: Deployment) -> None:
    folder = deployment.settings.profiles_dir
    folder.mkdir()
    (folder / "bad.yaml").write_text("title: [")
    finding = found(checks_deployment.check_profiles(deployment))["profiles"]
    assert finding.level is Level.BROKEN
    assert "bad.yaml" in finding.seen


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://dcloud:hunter2secret@127.0.0.1:{free_port()}/x"
    away = Deployment(Settings(state=tmp_path, database_url=url), {})
    finding = found(checks_deployment.check_database(away))["database"]
    assert finding.level is Level.BROKEN
    assert "hunter2secret" not in finding.seen + finding.mend


def test_ports_are_free_or_named_with_their_holder(deployment: Deployment) -> None:
    findings = list(checks_deployment.check_programs(deployment))
    assert [f.level for f in findings if f.subject == "ports"] == [Level.OK] * 6
    with socket.create_server(("127.0.0.1", deployment.settings.hub_port)):
        findings = list(checks_deployment.check_programs(deployment))
        taken = [f for f in findings if f.subject == "ports" and f.level is Level.BROKEN]
        assert len(taken) == 1
        assert "python" in taken[0].seen
        assert f"DCLOUD_HUB_PORT={deployment.settings.hub_port + 1000}" in taken[0].mend
    assert ports.is_free("127.0.0.1", deployment.settings.hub_port)


def test_an_engine_too_old_for_cdi_names_is_broken() -> None:
    assert [f.level for f in checks_machine._cdi("20.10.24+dfsg1")] == [Level.BROKEN]


def test_little_disk_is_told(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, level in (("LITTLE_DISK_BYTES", Level.ATTENTION), ("NO_DISK_BYTES", Level.BROKEN)):
        monkeypatch.setattr(checks_machine, limit, 10**18)
        assert [f.level for f in checks_machine.check_disk(deployment)] == [level]


def test_without_root_a_missing_package_is_a_command_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "is_root", lambda: False)
    with pytest.raises(ConfigurationError) as error:
        machine.install(["bubblewrap"], print)
    assert "sudo apt-get install -y --no-install-recommends bubblewrap" in str(error.value)


def test_a_forced_engine_that_does_not_answer_is_an_error_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setattr(machine, "start_docker", lambda *_: False)
    monkeypatch.setattr(machine, "may_install", lambda: False)
    settings = Settings(state=tmp_path, engine="docker")
    with pytest.raises(ConfigurationError, match=r"No Docker engine answers\. Run"):
        machine.prepare_engine(settings, tmp_path / "log", print)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["up", "--simulated-gpus", "-1"], 2),
        (["resize", "ada"], 2),
        (["resize", "ada", "--memory-gib", "0"], 2),
        (["nothing"], 2),
    ],
)
def test_a_misspelt_command_ends_with_2(arguments: list[str], code: int) -> None:
    assert CliRunner().invoke(dcloud, arguments).exit_code == code


def test_lengths_are_written_as_on_the_pages() -> None:
    from datetime import timedelta

    written = [length(timedelta(seconds=s)) for s in (0, 59, 60, 3599, 3600, 6180)]
    assert written == ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "1 h 43 min"]
