"""Servers in sandboxes: for machines without a container engine."""

from __future__ import annotations

from jupyterhub.spawner import Spawner

from dcloud_spawner.engines.base import ContainerSpec
from dcloud_spawner.spawners.mixin import PlatformSpawner


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
