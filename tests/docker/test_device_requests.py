"""GPUs by device request, the way of a real NVIDIA host, on a Docker engine of the test's own.

dockerd offers device requests only if it found NVIDIA's hook on its PATH when it started, so this
starts one with the simulated hook (tests/simgpu/hook.py) there. It has a bridge, a socket and
folders of its own and leaves iptables alone: the machine's engine does not notice it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException

from dcloud_spawner.engines.base import ContainerSpec
from dcloud_spawner.engines.docker import DockerEngine
from dcloud_spawner.settings import Settings
from tests.patience import patient
from tests.simgpu import simgpu
from tests.simgpu.simgpu import Gpu

pytestmark = pytest.mark.docker

IMAGE = "debian:bookworm-slim"
LOOK = "cd /dev && ls -d nvidia[0-9]*; grep -o 'uuid=GPU-[a-z]*' /run/dcloud-simgpu/state"


@dataclass(frozen=True)
class OwnDockerd:
    """A Docker engine that knows the simulated hook."""

    client: docker.APIClient
    engine: DockerEngine

    def run(self, *gpus: str) -> str:
        """The output of a container made with DCloud's own arguments for these GPUs."""
        spec = ContainerSpec(
            name=f"look-{time.monotonic_ns()}",
            image=IMAGE,
            command=("sh", "-c", LOOK),
            environment={},
            labels={},
            mounts=(),
            accelerators=gpus,
            memory_bytes=2**27,
            cpu_millicores=1000,
            pids_limit=64,
            shm_bytes=2**20,
            port=8888,
        )
        arguments = self.engine.create_arguments(spec)
        arguments["host_config"]["NetworkMode"] = "none"
        container = self.client.create_container(**arguments)["Id"]
        try:
            self.client.start(container)
            self.client.wait(container, timeout=30)
            return str(self.client.logs(container).decode())
        finally:
            self.client.remove_container(container, force=True)


@pytest.fixture(scope="module")
def dockerd(
    docker_engine: str, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OwnDockerd]:
    if os.geteuid() or shutil.which("dockerd") is None:
        pytest.skip("a Docker engine of the test's own needs root and dockerd")
    simulation = simgpu.build(
        tmp_path_factory.mktemp("simgpu"), [Gpu(f"GPU-{letter}") for letter in "abc"]
    )
    with ExitStack() as stack:
        # Not under pytest's folder: the path of a Unix socket has 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dockerd-")))
        simgpu.install_docker_hook(simulation, folder / "bin")
        stack.callback(simgpu.remove_docker_hook, simulation)
        address = stack.enter_context(_running(folder))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("DOCKER_HOST", address)
        client = docker.APIClient(base_url=address, version="auto", timeout=60)
        stack.callback(client.close)
        _copy_image(address)
        settings = Settings(state=folder / "state", engine="docker")
        yield OwnDockerd(client, DockerEngine(settings))


@contextmanager
def _running(folder: Path) -> Iterator[str]:
    """A dockerd with its own bridge, folders and socket; its address."""
    bridge = f"dt{os.getpid()}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "172.31.254.1/28", "dev", bridge], check=True)
        subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
        (folder / "daemon.json").write_text("{}")
        address = f"unix://{folder}/docker.sock"
        options = {
            "--data-root": folder / "data",
            "--exec-root": folder / "exec",
            "--pidfile": folder / "pid",
            "--config-file": folder / "daemon.json",
            "--host": address,
            "--bridge": bridge,
            "--iptables": "false",
            "--ip6tables": "false",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["dockerd", *(f"{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
                start_new_session=True,
            )
        try:
            _wait(address, process, folder / "log")
            yield address
        finally:
            process.terminate()
            process.wait(30)
            # Where mounts are not passed on, dockerd makes its folder one, and may leave it.
            subprocess.run(["umount", "-l", str(folder / "data")], capture_output=True, check=False)
    finally:
        subprocess.run(["ip", "link", "del", bridge], check=False)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + patient(30)
    while True:
        try:
            docker.APIClient(base_url=address, timeout=5).ping()
            return
        except (DockerException, RequestException):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)


def _copy_image(address: str) -> None:
    """Give it the base's Debian, which the machine's engine has."""
    with subprocess.Popen(
        ["docker", "--host", "unix:///var/run/docker.sock", "save", IMAGE], stdout=subprocess.PIPE
    ) as save:
        load = ["docker", "--host", address, "load", "--quiet"]
        subprocess.run(load, stdin=save.stdout, stdout=subprocess.DEVNULL, check=True)


def test_a_device_request_passes_exactly_the_named_gpus(dockerd: OwnDockerd) -> None:
    assert dockerd.run("GPU-a", "GPU-c").split() == [
        "nvidia0",
        "nvidia2",
        "uuid=GPU-a",
        "uuid=GPU-c",
    ]


def test_without_accelerators_nothing_is_passed(dockerd: OwnDockerd) -> None:
    assert "uuid=" not in dockerd.run()
    assert "nvidia0" not in dockerd.run()


def test_an_unknown_gpu_fails_the_start_in_the_real_words(dockerd: OwnDockerd) -> None:
    with pytest.raises(APIError, match="nvidia-container-cli: device error: GPU-x: unknown device"):
        dockerd.run("GPU-a", "GPU-x")
