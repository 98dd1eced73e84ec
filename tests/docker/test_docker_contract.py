"""The engine contract on a real Docker engine; GPUs are simulated by tests/simgpu's runtime."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker.errors import NotFound

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.docker import DockerEngine  # noqa: E402
from dcloud_spawner.errors import EngineUnreachable, LaunchFailed  # noqa: E402
from dcloud_spawner.settings import Settings  # noqa: E402
from tests.engine_contract import Bench, ContractHost, EngineContract  # noqa: E402
from tests.simgpu.simgpu import Simulation, docker_gpus  # noqa: E402

pytestmark = pytest.mark.docker

IMAGE = "dcloud/base:latest"
DEPLOYMENT = f"contract-{os.getpid()}"


@pytest.fixture(scope="module")
def simulation(
    docker_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Simulation]:
    with docker_gpus(tmp_path_factory.mktemp("simgpu"), 4) as gpus:
        yield gpus


@pytest.fixture(scope="module")
def engine(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerEngine]:
    settings = Settings(
        deployment=DEPLOYMENT,
        state=tmp_path_factory.mktemp("state"),
        engine="docker",
        gpu_passing="runtime",
        gpu_runtime=simulation.runtime_name,
        nvml_library=str(simulation.library),
        simulated_gpus=True,
    )
    engine = DockerEngine(settings)
    if not engine.has_image(IMAGE):
        pytest.skip(f"the image {IMAGE} is not built")
    engine.hub_address()  # makes the network
    yield engine
    for facts in engine.observe():
        engine.stop(facts.workload_id, 0)
    with contextlib.suppress(NotFound):
        engine.client().remove_network(f"{DEPLOYMENT}-users")


@pytest.fixture(scope="module")
def host() -> ContractHost:
    return ContractHost(DEPLOYMENT, IMAGE, 8888)


class TestDockerContract(EngineContract):
    def test_an_image_that_is_not_here_fails_the_launch(self, bench: Bench) -> None:
        assert not bench.engine.has_image("dcloud/never-built:1")
        with pytest.raises(LaunchFailed, match="never-built"):
            bench.engine.launch(replace(bench.spec("true"), image="dcloud/never-built:1"))


def test_an_engine_that_does_not_answer_is_unreachable_and_not_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    engine = DockerEngine(Settings(state=tmp_path))
    for ask in (engine.ping, engine.inventory, engine.observe, lambda: engine.stop("w", 0)):
        with pytest.raises(EngineUnreachable):
            ask()
