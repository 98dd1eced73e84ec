"""Random starts, stops and cancels of 1-4 GPUs while the hub dies and the engine hangs.

Real: hub, proxy, controller, Docker and its containers. Simulated: the GPUs (at the driver's
library and the OCI runtime), and the server inside (tiny_server.py), so that hundreds start.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import events, leases, workloads
from tests.faults.chaos import GPUS, Chaos, Watch
from tests.faults.relay import Relay
from tests.live import Deployment
from tests.patience import patient
from tests.simgpu.simgpu import docker_gpus, settings_environment

OPERATIONS = (60, 6) if os.environ.get("DCLOUD_TEST_DATABASE") == "postgresql" else (300, 30)
"""Operations and kills: the full count on SQLite; on PostgreSQL, where the same code runs again,
as many as the time of a CI run allows."""

HERE = Path(__file__).parent
IMAGE = "dcloud/tiny:latest"

PROFILE = f"""
title: Tiny
icon: multi
image: {IMAGE}
gpus: {{choices: [0, 1, 2, 3, 4], default: 1}}
memory_gib: {{choices: [0.25], default: 0.25}}
cpus: {{choices: [0.5], default: 0.5}}
"""


@pytest.fixture
def deployment(
    tmp_path: Path, database_url: str, hub_database_url: str, base_image: str
) -> Iterator[tuple[Deployment, Relay]]:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "tiny.yaml").write_text(PROFILE)
    _build_tiny(tmp_path / "tiny")
    relay = Relay(tmp_path / "engine.sock")
    with docker_gpus(tmp_path / "gpus", GPUS) as simulation:
        settings = {
            key.removeprefix("DCLOUD_").lower(): value
            for key, value in settings_environment(simulation).items()
        }
        live = Deployment(
            tmp_path / "state",
            **settings,
            profiles_dir=tmp_path / "profiles",
            database_url=database_url,
            hub_database_url=hub_database_url,
            engine_timeout_seconds=5,
            launch_timeout_seconds=30,
            stop_grace_seconds=0,
        )
        live.environment["DOCKER_HOST"] = f"unix://{tmp_path / 'engine.sock'}"
        with live:
            yield live, relay
    relay.close()


def _build_tiny(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(HERE / "tiny_server.py", folder)
    (folder / "Dockerfile").write_text(
        "FROM dcloud/base:latest\nCOPY tiny_server.py /opt/tiny_server.py\n"
        'ENTRYPOINT ["python3", "-S", "-E", "/opt/tiny_server.py"]\nCMD []\n'
    )
    client = docker.from_env()
    client.images.build(path=str(folder), tag=IMAGE, rm=True)


def _run(deployment: tuple[Deployment, Relay], operations: int, kills: int, seed: int) -> Chaos:
    live, relay = deployment
    chaos = Chaos(live, relay, seed)
    for user in chaos.users:
        live.user(user)
    watch = Watch(live, chaos.findings)
    watch.start()
    done = threading.Event()
    faults = threading.Thread(target=chaos.disturb, args=(kills, done))
    faults.start()
    chaos.operate(operations)
    done.set()
    faults.join()
    chaos.settle()
    chaos.findings.counts["reached"] = chaos.check_reachable()
    _check_devices_inside(chaos)
    chaos.stop_all()
    chaos.settle()
    watch.end()
    return chaos


def _check_devices_inside(chaos: Chaos) -> None:
    """What the programs inside can open is what is leased to them, to nobody twice."""
    platform = chaos.deployment.platform
    assert platform is not None
    client = docker.from_env()
    seen: dict[str, str] = {}
    script = (
        "import pynvml as n; n.nvmlInit(); "
        "print(*[n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) "
        "for i in range(n.nvmlDeviceGetCount())])"
    )
    for found in platform.engine.observe():
        with platform.database.reading() as connection:
            leased = set(leases.held_by(connection, found.workload_id))
        code, output = client.containers.get(found.ref).exec_run(["python3", "-c", script])
        inside = set(output.decode().split()) if code == 0 else {f"error {output!r}"}
        if inside != leased:
            chaos.findings.problem(f"{found.name} sees {inside}, leased are {leased}")
        for device in inside:
            if seen.setdefault(device, found.name) != found.name:
                chaos.findings.problem(f"{device} is in {found.name} and {seen[device]}")


def _check_nothing_is_left(chaos: Chaos) -> None:
    platform = chaos.deployment.platform
    assert platform is not None
    deadline = time.monotonic() + patient(30)
    while time.monotonic() < deadline and platform.engine.observe():
        time.sleep(0.5)
    assert platform.engine.observe() == ()
    with platform.database.reading() as connection:
        assert leases.holders(connection) == {}
        assert workloads.open_workloads(connection) == []
        assert list(events.verify(connection)) == []
        assert list(verify(connection)) == []


def _verdict(chaos: Chaos) -> None:
    print(dict(chaos.findings.counts))
    for answer, count in chaos.findings.answers.most_common():
        print(count, answer)
    log = chaos.deployment.log("hub")
    assert chaos.findings.problems == [], "\n".join([*chaos.findings.problems, log[-6000:]])
    _check_nothing_is_left(chaos)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_no_gpu_has_two_owners_and_nothing_is_lost_while_the_hub_dies(
    deployment: tuple[Deployment, Relay],
) -> None:
    operations, kills = OPERATIONS
    chaos = _run(deployment, operations=operations, kills=kills, seed=20261121)
    _verdict(chaos)
    assert chaos.findings.counts["operations"] >= operations
    assert chaos.findings.counts["hub kills"] >= kills


@pytest.mark.soak
@pytest.mark.docker
@pytest.mark.timeout(0)
def test_the_same_for_as_long_as_asked(deployment: tuple[Deployment, Relay]) -> None:
    minutes = float(os.environ.get("DCLOUD_SOAK_MINUTES", "30"))
    seed = int(time.time())
    print(f"seed {seed}")
    chaos = _run(deployment, operations=int(minutes * 100), kills=int(minutes * 10), seed=seed)
    _verdict(chaos)
