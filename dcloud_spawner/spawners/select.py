"""The spawner class of each engine."""

from __future__ import annotations

from dcloud_spawner.platform import Platform
from dcloud_spawner.spawners.docker import PlatformDockerSpawner
from dcloud_spawner.spawners.mixin import PlatformSpawner
from dcloud_spawner.spawners.sandbox import PlatformSandboxSpawner

_CLASSES: dict[str, type[PlatformSpawner]] = {
    "docker": PlatformDockerSpawner,
    "sandbox": PlatformSandboxSpawner,
}


def spawner_class(platform: Platform) -> type[PlatformSpawner]:
    """The class for the platform's engine, ready for use."""
    chosen = _CLASSES[platform.engine.name]
    PlatformSpawner.plug_in(platform)
    return chosen
