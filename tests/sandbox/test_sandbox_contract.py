"""The engine contract on real sandboxes: bubblewrap and this machine's control groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.sandbox import SandboxEngine  # noqa: E402
from tests.engine_contract import ContractHost, EngineContract  # noqa: E402
from tests.simgpu.simgpu import Simulation  # noqa: E402

pytestmark = pytest.mark.sandbox


class TestSandboxContract(EngineContract):
    @pytest.fixture
    def engine(self, sandbox_engine: SandboxEngine) -> SandboxEngine:
        return sandbox_engine

    @pytest.fixture
    def host(self, sandbox_engine: SandboxEngine, deployment: str) -> ContractHost:
        return ContractHost(deployment=deployment, image="host", port=0)

    @pytest.fixture
    def simulation(self, sandbox_gpus: Simulation) -> Iterator[Simulation]:
        yield sandbox_gpus
