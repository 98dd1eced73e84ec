"""Servers in Docker containers. DockerSpawner pulls, creates, starts and finds the address."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import docker
from docker.errors import APIError
from dockerspawner import DockerSpawner

from dcloud_spawner.engines.base import ContainerSpec
from dcloud_spawner.engines.docker import UNANSWERED, DockerEngine
from dcloud_spawner.errors import EngineUnreachable, LaunchFailed
from dcloud_spawner.spawners.mixin import PlatformSpawner


class PlatformDockerSpawner(PlatformSpawner, DockerSpawner):
    """DockerSpawner with the platform's admission around it and its container inside."""

    container_spec: ContainerSpec

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_internal_ip = True
        # A left-over of an attempt that died with the hub is replaced, never reused: it holds
        # a token that the hub no longer knows.
        self.remove = True

    @property
    def _engine(self) -> DockerEngine:
        engine = self.platform.engine
        assert isinstance(engine, DockerEngine)
        return engine

    @property
    def client(self) -> docker.APIClient:
        """A client of the calling thread."""
        return self._engine.client()

    @property
    def executor(self) -> Executor:
        """Many threads: DockerSpawner's single one lets one image pull block every other call."""
        return self.platform.engine_threads

    @property
    def network_name(self) -> str:
        """The users' network, also where the address is looked up."""
        return self._engine.network_name

    async def launch(self, spec: ContainerSpec) -> str:
        """Let DockerSpawner start a container of this spec."""
        self.container_spec = spec
        self.image = spec.image
        self.object_name = spec.name
        try:
            ip, port = await DockerSpawner.start(self)
        except UNANSWERED as error:
            raise EngineUnreachable(f"Docker does not answer: {error}") from error
        except APIError as error:
            raise LaunchFailed(f"Docker refused: {error.explanation or error}") from error
        return f"http://{ip}:{port}"

    async def fetch_image(self, image: str) -> None:
        """Let DockerSpawner pull an image that is not here, and say so on the waiting page."""
        self.image = image  # the environment names it
        if not await self.platform.in_engine_thread(self._engine.has_image, image):
            self.fetching_image = f"Fetching {image}"
            try:
                await super().pull_image(image)
            except UNANSWERED as error:
                raise EngineUnreachable(f"Docker does not answer: {error}") from error
            except APIError as error:
                raise LaunchFailed(
                    f"The image {image} cannot be fetched: {error.explanation or error}"
                ) from error
            finally:
                self.fetching_image = ""

    async def check_allowed(self, image: str) -> str:
        """The image was decided by the profile; DockerSpawner may not decide again."""
        return self.container_spec.image

    async def pull_image(self, image: str) -> None:
        """Nothing: fetch_image has done it, before the launch's time limit began."""

    async def remove_object(self) -> None:
        """Remove a left-over of a dead hub, running or not, and see that it is gone."""
        await self.platform.in_engine_thread(self._engine.remove, self.container_spec.name)

    async def create_object(self) -> Any:
        """Create exactly the container of the spec, by the same function as every workload."""
        return await self.docker(
            "create_container",
            **await self.platform.in_engine_thread(
                self._engine.create_arguments, self.container_spec
            ),
        )
