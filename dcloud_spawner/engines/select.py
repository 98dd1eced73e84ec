"""Which engine this machine gets."""

from __future__ import annotations

import logging

from dcloud_spawner.engines.base import Engine
from dcloud_spawner.engines.docker import DockerEngine
from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.errors import EngineUnreachable
from dcloud_spawner.settings import Settings

log = logging.getLogger(__name__)


def select_engine(settings: Settings) -> Engine:
    """The engine the settings force; with ``auto`` Docker when one answers, else the sandbox."""
    if settings.engine == "docker":
        return DockerEngine(settings)
    if settings.engine == "sandbox":
        return SandboxEngine(settings)
    docker = DockerEngine(settings)
    try:
        docker.ping()
    except EngineUnreachable as error:
        log.info("No Docker engine answers (%s): using the sandbox.", error)
        return SandboxEngine(settings)
    return docker
