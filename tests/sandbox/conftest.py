"""One real sandbox engine for all sandbox tests, with four simulated GPUs and a state folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.engines.cgroups import find_tree
from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.settings import Settings
from tests.simgpu.simgpu import Simulation, build


@pytest.fixture(scope="session")
def deployment() -> Iterator[str]:
    """A name of this run's own; its control groups are removed at the end."""
    name = f"test-{os.getpid()}"
    yield name
    tree = find_tree(name)
    tree.remove()
    assert not [path for path in (*tree.parents.values(), *tree.shelters) if path.exists()]


@pytest.fixture(scope="session")
def sandbox_gpus(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return build(tmp_path_factory.mktemp("simgpu"), 4)


@pytest.fixture(scope="session")
def sandbox_settings(
    tmp_path_factory: pytest.TempPathFactory, sandbox_gpus: Simulation, deployment: str
) -> Settings:
    return Settings(
        deployment=deployment,
        state=tmp_path_factory.mktemp("state"),
        engine="sandbox",
        nvml_library=str(sandbox_gpus.library),
        simulated_gpus=True,
        engine_timeout_seconds=20,
    )


@pytest.fixture(scope="session")
def sandbox_engine(sandbox_parts: None, sandbox_settings: Settings) -> Iterator[SandboxEngine]:
    engine = SandboxEngine(sandbox_settings)
    yield engine
    for facts in engine.observe():
        engine.stop(facts.workload_id, 0)
    assert list(Path(sandbox_settings.state, "sandboxes").glob("[!.]*")) == []
