"""The engine contract on a real Docker engine; GPUs are simulated by tests/simgpu's runtime."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from docker.errors import NotFound

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.docker import DockerEngine  # noqa: E402
from dcloud_spawner.errors import EngineUnreachable, LaunchFailed  # noqa: E402
from dcloud_spawner.settings import Settings  # noqa: E402
from tests.engine_contract import (  # noqa: E402
    MIB,
    Bench,
    ContractHost,
    EngineContract,
    until,
)
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
def engine_settings(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        deployment=DEPLOYMENT,
        state=tmp_path_factory.mktemp("state"),
        engine="docker",
        gpu_passing="runtime",
        gpu_runtime=simulation.runtime_name,
        nvml_library=str(simulation.library),
        simulated_gpus=True,
    )


@pytest.fixture(scope="module")
def engine(engine_settings: Settings) -> Iterator[DockerEngine]:
    engine = DockerEngine(engine_settings)
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

    def test_traffic_and_written_files_are_told(
        self, bench: Bench, engine_settings: Settings
    ) -> None:
        write = "dd if=/dev/zero of=/tmp/file bs=1M count=20 && exec python3 -m http.server -d /tmp"
        spec = bench.spec("sh", "-c", f"{write} 8888")
        bench.engine.launch(spec)
        address = f"{bench.facts(spec).url}/file"
        until(lambda: _answers(address), 20)
        before = bench.use(spec)
        assert len(httpx.get(address, trust_env=False).content) == 20 * MIB
        after = bench.use(spec)
        assert before is not None and after is not None
        assert (after.network_sent_bytes or 0) - (before.network_sent_bytes or 0) > 20 * MIB
        assert (after.network_received_bytes or 0) > (before.network_received_bytes or 0) > 0
        # Counting takes place now and then, beside the rest: an engine of its own begins at once.
        fresh = Bench(DockerEngine(engine_settings), bench.host, [])

        def written() -> int:
            use = fresh.use(spec)
            assert use is not None
            return use.disk_bytes or 0

        until(written, 10)
        assert 20 * MIB <= written() < 21 * MIB


def _answers(address: str) -> bool:
    try:
        return httpx.head(address, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_an_engine_that_does_not_answer_is_unreachable_and_not_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    engine = DockerEngine(Settings(state=tmp_path))
    for ask in (
        engine.ping,
        engine.inventory,
        engine.observe,
        engine.measure,
        lambda: engine.stop("w", 0),
    ):
        with pytest.raises(EngineUnreachable):
            ask()
