"""What the tests on a real Docker engine share."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import events, leases
from tests.docker.people import QUICK, People, built_image
from tests.live import Deployment
from tests.simgpu.simgpu import Simulation, docker_gpus

ROOT = Path(__file__).parents[2]

PROFILE = """
title: Quick
image: {image}
order: 1000
gpus: {{choices: [0, 1, 2, 3, 4], default: 1}}
memory_gib: {{choices: [0.25], default: 0.25}}
cpus: {{choices: [1], default: 1}}
hours: {{default: 2, most: 24}}
"""


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
def more_settings() -> dict[str, Any]:
    """Settings of the module's deployment beside the usual ones."""
    return {}


@pytest.fixture(scope="session")
def tag() -> str:
    """Tag of images that tests make: runs beside each other must not remove each other's."""
    return f"test{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def quick_profiles(
    base_image: str, tag: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The usual profiles, ``quick`` whose server answers at once, and ``silent`` that never does.

    They stand in for the two seconds of JupyterLab's start-up where a test is about something
    else. Container, limits, home and GPUs are as real as everybody's.
    """
    folder = tmp_path_factory.mktemp("profiles")
    shutil.copytree(ROOT / "tests" / "config" / "profiles", folder, dirs_exist_ok=True)
    programs = {"quick": ["/usr/bin/python3", "-c", QUICK], "silent": ["sleep", "600"]}
    with contextlib.ExitStack() as images:
        for name, program in programs.items():
            recipe = f"FROM {base_image}\nCMD {json.dumps(program)}\n"
            image = images.enter_context(built_image(f"dcloud/{name}:{tag}", recipe))
            (folder / f"{name}.yaml").write_text(PROFILE.format(image=image))
        yield folder


@pytest.fixture(scope="module")
def deployment(
    base_image: str,
    simulation: Simulation,
    profiles_dir: Path,
    more_settings: dict[str, Any],
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
        **more_settings,
    ) as running:
        yield running
        _all_in_order(running)


def _all_in_order(deployment: Deployment) -> None:
    """What must hold after whatever the tests of a module have done."""
    platform = deployment.platform
    assert platform is not None
    assert platform.engine.observe() == ()
    with platform.database.reading() as connection:
        assert not leases.holders(connection)
        assert not list(events.verify(connection))
        wrong = list(verify(connection))
        assert not wrong, wrong
    for program in ("hub", "controller", "web"):
        found = deployment.faults(program)
        assert not found, found


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
