"""The engine contract on real sandboxes: bubblewrap and this machine's control groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.sandbox import SandboxEngine  # noqa: E402
from dcloud_spawner.settings import Settings  # noqa: E402
from tests.engine_contract import (  # noqa: E402
    MIB,
    Bench,
    ContractHost,
    EngineContract,
    until,
)
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

    def test_the_network_of_a_sandbox_is_unknown_and_its_tmp_is_counted(
        self, bench: Bench, sandbox_settings: Settings
    ) -> None:
        spec = bench.spec("sh", "-c", "head -c 20M /dev/zero > /tmp/file; echo done; sleep 600")
        bench.engine.launch(spec)
        bench.output(spec, "done")
        # Counting takes place now and then, beside the rest: an engine of its own begins at once.
        fresh = Bench(SandboxEngine(sandbox_settings), bench.host, [])
        until(lambda: (use := fresh.use(spec)) and use.disk_bytes, 10)
        use = fresh.use(spec)
        assert use is not None and use.disk_bytes is not None
        assert 20 * MIB <= use.disk_bytes < 21 * MIB
        assert use.network_received_bytes is None and use.network_sent_bytes is None
