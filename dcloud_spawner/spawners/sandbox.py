"""Servers in sandboxes: for machines without a container engine."""

from __future__ import annotations

from jupyterhub.spawner import Spawner

from dcloud_spawner.engines.base import ContainerFacts, ContainerSpec
from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.errors import LaunchFailed
from dcloud_spawner.spawners.mixin import PlatformSpawner
from dcloud_spawner.store.workloads import Workload


class PlatformSandboxSpawner(PlatformSpawner, Spawner):
    """The platform's spawner on the sandbox engine; the engine picks a free port."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.ip = "127.0.0.1"
        self.port = 0
        # Nothing of the hub's own environment may reach a user.
        self.env_keep: list[str] = []

    async def launch(self, spec: ContainerSpec) -> str:
        """Start a sandbox of this spec."""
        facts = await self.platform.in_engine_thread(self.platform.engine.launch, spec)
        return facts.url

    async def _until_ready(self, workload: Workload, url: str) -> ContainerFacts:
        """As for containers, and the one who answers must be this workload's own server:
        on the shared network another user's program may have been first on its port."""
        facts = await super()._until_ready(workload, url)
        engine = self.platform.engine
        assert isinstance(engine, SandboxEngine)
        if not await self.platform.in_engine_thread(engine.owns_its_port, workload.id):
            raise LaunchFailed("Another program took its port. Start it again.")
        return facts
