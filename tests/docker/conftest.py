"""What the tests on a real Docker engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.people import People
from tests.live import Deployment
from tests.simgpu.simgpu import Simulation, docker_gpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simulation(
    docker_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Simulation]:
    """Four simulated GPUs that the Docker engine can hand out."""
    with docker_gpus(tmp_path_factory.mktemp("simgpu"), 4) as built:
        yield built


@pytest.fixture(scope="module")
def profiles_dir() -> Path:
    """The profiles of the module's deployment."""
    return ROOT / "tests" / "config" / "profiles"


@pytest.fixture(scope="module")
def deployment(
    base_image: str,
    simulation: Simulation,
    profiles_dir: Path,
    module_databases: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A proxy, a hub and a controller with four simulated GPUs, shared by a module's tests."""
    with Deployment(
        tmp_path_factory.mktemp("deployment"),
        engine="docker",
        profiles_dir=profiles_dir,
        pids_limit=300,
        simulated_gpus=True,
        gpu_passing="runtime",
        gpu_runtime=simulation.runtime_name,
        nvml_library=str(simulation.library),
        **module_databases,
    ) as running:
        yield running


@pytest.fixture
def people(deployment: Deployment) -> Iterator[People]:
    """Makes users; whatever they have open at the end of the test is ended."""
    made = People(deployment)
    yield made
    made.end_everything()


@pytest.fixture(scope="module")
def residents(deployment: Deployment) -> Iterator[People]:
    """The same for users who stay for all tests of a module."""
    made = People(deployment)
    yield made
    made.end_everything()
