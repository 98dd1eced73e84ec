"""GPUs in containers: the real engine with the simulated runtime and library (tests/simgpu)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.simgpu import simgpu
from tests.simgpu.simgpu import Gpu, Mig, Simulation

pytestmark = pytest.mark.docker

PROBE = """
import json, os, pynvml as n
n.nvmlInit()
handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
print(json.dumps({
    "uuids": [n.nvmlDeviceGetUUID(h) for h in handles],
    "nodes": sorted(f for f in os.listdir("/dev") if f.startswith("nvidia")),
    "ecc": [n.nvmlDeviceGetTotalEccErrors(h, 1, 0) for h in handles],
    "mig": [
        n.nvmlDeviceGetUUID(n.nvmlDeviceGetMigDeviceHandleByIndex(h, 0))
        for h in handles if n.nvmlDeviceGetMigMode(h)[0]
    ],
}))
"""


@dataclass(frozen=True)
class Docker:
    """`docker run` with the simulated runtime."""

    image: str
    simulation: Simulation

    def run(self, visible: str | None, *command: str) -> subprocess.CompletedProcess[str]:
        environment = [] if visible is None else ["-e", f"NVIDIA_VISIBLE_DEVICES={visible}"]
        options = ["--rm", "--network", "none", "--runtime", self.simulation.runtime_name]
        return subprocess.run(
            ["docker", "run", *options, *environment, self.image, *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def probe(self, visible: str) -> dict[str, list[str]]:
        done = self.run(visible, "python", "-c", PROBE)
        assert done.returncode == 0, done.stderr
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def simulation(
    docker_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Simulation]:
    gpus = [Gpu(f"GPU-{letter}") for letter in "abcd"]
    gpus.append(Gpu("GPU-cut", mig=(Mig("MIG-1"), Mig("MIG-2"))))
    with simgpu.docker_gpus(tmp_path_factory.mktemp("simgpu"), gpus) as built:
        yield built


@pytest.fixture
def docker(simulation: Simulation, base_image: str) -> Docker:
    return Docker(base_image, simulation)


def test_a_container_sees_exactly_the_gpus_it_was_given(docker: Docker) -> None:
    found = docker.probe("GPU-b,GPU-d")
    assert found["uuids"] == ["GPU-b", "GPU-d"]
    assert found["nodes"] == ["nvidia-uvm", "nvidia1", "nvidia3", "nvidiactl"]


def test_indices_and_all_work_as_with_the_real_runtime(docker: Docker) -> None:
    assert docker.probe("2")["uuids"] == ["GPU-c"]
    assert len(docker.probe("all")["uuids"]) == 5


def test_a_mig_instance_brings_its_gpu_but_no_sibling(docker: Docker) -> None:
    found = docker.probe("MIG-2")
    assert found["uuids"] == ["GPU-cut"]
    assert found["mig"] == ["MIG-2"]


@pytest.mark.parametrize("visible", [None, "", "void"])
def test_no_gpu_asked_means_no_device_and_no_driver(docker: Docker, visible: str | None) -> None:
    done = docker.run(visible, "sh", "-c", "ls /dev; ls /usr/lib/*/libnvidia-ml.so.1")
    assert "nvidia" not in done.stdout
    assert "No such file" in done.stderr


@pytest.mark.parametrize("visible", ["GPU-nobody", "GPU-a,GPU-nobody", "17"])
def test_an_unknown_gpu_fails_the_start_as_the_real_runtime_does(
    docker: Docker, visible: str
) -> None:
    done = docker.run(visible, "true")
    assert done.returncode == 125
    assert "nvidia-container-cli: device error" in done.stderr
    assert "unknown device" in done.stderr


def test_a_lost_gpu_fails_the_start(docker: Docker) -> None:
    simgpu.set_health(docker.simulation, "GPU-c", "lost")
    try:
        assert "gpu is lost" in docker.run("GPU-c", "true").stderr
        assert docker.probe("GPU-d")["uuids"] == ["GPU-d"]
    finally:
        simgpu.set_health(docker.simulation, "GPU-c", "ok")


def test_a_gpu_that_turns_sick_is_seen_in_a_running_container(docker: Docker) -> None:
    command = ["docker", "run", "-d", "--rm", "--network", "none", "-e"]
    command += ["NVIDIA_VISIBLE_DEVICES=GPU-a", "--runtime", docker.simulation.runtime_name]
    command += [docker.image, "sleep", "60"]
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        simgpu.set_health(docker.simulation, "GPU-a", "ecc")
        inside = ["docker", "exec", container, "python", "-c", PROBE]
        done = subprocess.run(inside, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["ecc"] == [2]
    finally:
        simgpu.set_health(docker.simulation, "GPU-a", "ok")
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)
    assert not list(docker.simulation.folder.glob(f"containers/{container}*"))


def test_registering_a_runtime_leaves_the_rest_of_the_configuration_alone(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = json.loads(simgpu.DAEMON_CONFIG.read_text())
    other = simgpu.build(tmp_path_factory.mktemp("other"), 1)
    name = simgpu.register_docker_runtime(other)
    assert {name, simulation.runtime_name} <= set(simgpu.docker_runtimes())
    with pytest.raises(simgpu.SimulationError, match="already has a runtime"):
        simgpu.register_docker_runtime(other, simulation.runtime_name)
    simgpu.unregister_docker_runtime(other)
    assert name not in simgpu.docker_runtimes()
    assert (
        json.loads(simgpu.DAEMON_CONFIG.read_text())["runtimes"].items()
        >= {simulation.runtime_name: before["runtimes"][simulation.runtime_name]}.items()
    )
