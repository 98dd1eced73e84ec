"""Docker: containers on this host through the engine's own API."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import requests.exceptions
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import kwargs_from_env

from dcloud_spawner.engines.base import (
    LABEL_ACCELERATORS,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
    BeforeRemoval,
    ContainerFacts,
    ContainerSpec,
    Engine,
    Mount,
    NodeFacts,
    Phase,
)
from dcloud_spawner.engines.docker_disk import can_limit_disk
from dcloud_spawner.engines.docker_network import DockerNetwork
from dcloud_spawner.engines.docker_use import DockerUse
from dcloud_spawner.engines.local_node import LocalNode
from dcloud_spawner.engines.use import Use
from dcloud_spawner.errors import EngineError, EngineUnreachable, LaunchFailed
from dcloud_spawner.settings import Settings

CPU_PERIOD_US = 100_000
"""The kernel's default CFS period, in microseconds."""

REMOVAL_SECONDS = 10.0
"""How long another process's removal of the same container is waited for."""

SIGKILLED = 137
"""Exit code of a main process that was killed: 128 and the number of SIGKILL."""

LABEL_HOME = "dcloud.home"

UNANSWERED = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
)


class DockerEngine(Engine):
    """One Docker engine, reached as ``DOCKER_HOST`` and its companions say."""

    name = "docker"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._local = threading.local()
        self._network = DockerNetwork(settings)
        self._node = LocalNode(settings.nvml_library)
        self._use = DockerUse(self.client, settings.deployment)

    @property
    def network_name(self) -> str:
        """Name of the users' network."""
        return self._network.name

    def client(self) -> docker.APIClient:
        """A client of this thread: docker-py's connection pool is not safe to share."""
        client = getattr(self._local, "client", None)
        if client is None:
            try:
                client = docker.APIClient(
                    version="auto",
                    timeout=int(self._settings.engine_timeout_seconds),
                    **kwargs_from_env(),
                )
            except (DockerException, *UNANSWERED) as error:
                raise EngineUnreachable(f"Docker does not answer: {error}") from error
            self._local.client = client
        return client

    @contextlib.contextmanager
    def _calls(self) -> Iterator[docker.APIClient]:
        """Translate docker-py's errors into ours."""
        try:
            yield self.client()
        except UNANSWERED as error:
            self._local.client = None
            raise EngineUnreachable(f"Docker does not answer: {error}") from error
        except APIError as error:
            raise EngineError(f"Docker refused: {error.explanation or error}") from error
        except DockerException as error:
            raise EngineError(f"Docker failed: {error}") from error

    def ping(self) -> None:
        with self._calls() as client:
            client.ping()

    def inventory(self) -> tuple[NodeFacts, ...]:
        self.ping()
        return (self._node.facts(),)

    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        labels = [f"{LABEL_DEPLOYMENT}={self._settings.deployment}"]
        if workload_id is not None:
            labels.append(f"{LABEL_WORKLOAD}={workload_id}")
        with self._calls() as client:
            listed = client.containers(all=True, filters={"label": labels})
            found = []
            for item in listed:
                with contextlib.suppress(NotFound):
                    found.append(self._facts(client.inspect_container(item["Id"])))
        return tuple(found)

    def _facts(self, inspected: Mapping[str, Any]) -> ContainerFacts:
        labels = inspected["Config"].get("Labels") or {}
        state = inspected["State"]
        started, finished = _time(state["StartedAt"]), _time(state["FinishedAt"])
        alive = state["Running"] or state.get("Paused") or state.get("Restarting")
        ended = not alive and finished is not None
        if alive:
            phase = Phase.ALIVE
        else:
            phase = Phase.ENDED if ended else Phase.CREATED
        return ContainerFacts(
            ref=inspected["Id"],
            name=inspected["Name"].lstrip("/"),
            workload_id=labels.get(LABEL_WORKLOAD, ""),
            user=labels.get(LABEL_USER, ""),
            kind=labels.get(LABEL_KIND, ""),
            accelerators=_split(labels.get(LABEL_ACCELERATORS, "")),
            phase=phase,
            devices=_devices(inspected),
            started_at=started,
            finished_at=finished if ended else None,
            exit_code=state["ExitCode"] if ended else None,
            # Docker keeps this mark once any process inside ran out of memory; it ended the
            # container only where the main one was killed too.
            oom_killed=ended and bool(state.get("OOMKilled")) and state["ExitCode"] == SIGKILLED,
            url=self._url(inspected) if alive else "",
        )

    def _url(self, inspected: Mapping[str, Any]) -> str:
        networks = inspected["NetworkSettings"].get("Networks") or {}
        address = (networks.get(self._network.name) or {}).get("IPAddress")
        ports = inspected["Config"].get("ExposedPorts") or {}
        port = next((name.split("/")[0] for name in ports), "8888")
        return f"http://{address}:{port}" if address else ""

    @cached_property
    def limits_disk(self) -> bool:
        """Whether ``disk_limit_gib`` is enforced here; where not, disk use is only measured."""
        with self._calls() as client:
            return can_limit_disk(client.info(), Path("/proc/mounts").read_text().splitlines())

    def create_arguments(self, spec: ContainerSpec) -> dict[str, Any]:
        """Keyword arguments of docker-py's ``create_container`` for a spec."""
        with self._calls() as client:
            host = client.create_host_config(**self._host_arguments(spec))
        environment = {**spec.environment, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
        # Always set: CUDA images say "all", and an nvidia runtime that is the engine's default
        # would believe them whichever way the GPUs are passed.
        by_name = bool(spec.accelerators) and self._settings.gpu_passing != "cdi"
        environment["NVIDIA_VISIBLE_DEVICES"] = ",".join(spec.accelerators) if by_name else "void"
        return {
            "image": spec.image,
            "name": spec.name,
            "command": list(spec.command) or None,
            "environment": environment,
            "labels": dict(spec.labels),
            "ports": [spec.port],
            "volumes": [mount.target for mount in spec.mounts],
            "user": "1000:1000",
            "host_config": host,
        }

    def _host_arguments(self, spec: ContainerSpec) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "binds": {
                mount.source: {"bind": mount.target, "mode": _mode(mount)} for mount in spec.mounts
            },
            "mem_limit": spec.memory_bytes,
            "memswap_limit": spec.memory_bytes,
            "cpu_period": CPU_PERIOD_US,
            "cpu_quota": spec.cpu_millicores * CPU_PERIOD_US // 1000,
            "pids_limit": spec.pids_limit,
            "shm_size": spec.shm_bytes,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "network_mode": self._network.name,
            "init": False,
            "log_config": docker.types.LogConfig(
                type="json-file", config={"max-size": "10m", "max-file": "2"}
            ),
        }
        if spec.disk_bytes and self.limits_disk:
            arguments["storage_opt"] = {"size": str(spec.disk_bytes)}
        if spec.accelerators:
            arguments.update(self._gpu_arguments(spec.accelerators))
        return arguments

    def _gpu_arguments(self, accelerators: tuple[str, ...]) -> dict[str, Any]:
        passing = self._settings.gpu_passing
        if passing == "runtime":
            return {"runtime": self._settings.gpu_runtime}
        if passing == "cdi":
            names = [f"nvidia.com/gpu={uuid}" for uuid in accelerators]
            return {"device_requests": [{"Driver": "cdi", "DeviceIDs": names}]}
        return {
            "device_requests": [
                docker.types.DeviceRequest(
                    driver="nvidia",
                    device_ids=list(accelerators),
                    capabilities=[["gpu", "compute", "utility"]],
                )
            ]
        }

    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        with self._calls() as client:
            self.remove(spec.name)
            try:
                ref = client.create_container(**self.create_arguments(spec))["Id"]
            except ImageNotFound as error:
                raise LaunchFailed(f"The image {spec.image} is not on this node.") from error
            except APIError as error:
                raise LaunchFailed(f"Docker refused: {error.explanation or error}") from error
            try:
                client.start(ref)
            except APIError as error:
                client.remove_container(ref, force=True)
                raise LaunchFailed(f"Docker refused: {error.explanation or error}") from error
            return self._facts(client.inspect_container(ref))

    def remove(self, name: str) -> None:
        """Remove a container by name, running or not; already gone is success."""
        with self._calls() as client, contextlib.suppress(NotFound):
            self._remove(client, name)

    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        last: ContainerFacts | None = None
        with self._calls() as client:
            for found in self.observe(workload_id):
                with contextlib.suppress(NotFound):
                    if found.phase is Phase.ALIVE:
                        self._end(client, found.ref, grace_seconds)
                    facts = self._facts(client.inspect_container(found.ref))
                    if last is None or (facts.started_at and not last.started_at):
                        last = facts
                    if before_removal is not None:
                        before_removal(facts)
                    self._remove(client, found.ref)
            left = self.observe(workload_id)
        if left:
            raise EngineError(f"Docker still has {', '.join(found.name for found in left)}.")
        return last

    def _remove(self, client: docker.APIClient, ref: str) -> None:
        try:
            client.remove_container(ref, force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            # Somebody else is removing it right now: theirs is as good as ours.
            deadline = time.monotonic() + REMOVAL_SECONDS
            while time.monotonic() < deadline:
                client.inspect_container(ref)
                time.sleep(0.05)

    def _end(self, client: docker.APIClient, ref: str, grace_seconds: int) -> None:
        if client.inspect_container(ref)["State"].get("Paused"):
            # A frozen container cannot react to a signal; thawed, it gets its grace.
            client.unpause(ref)
        client.stop(ref, timeout=grace_seconds)

    def measure(self) -> Use:
        with self._calls():
            return Use(self._use.containers(), self._node.use())

    def logs(self, workload_id: str, lines: int = 200) -> str:
        with self._calls() as client:
            for found in self.observe(workload_id):
                raw = client.logs(found.ref, tail=lines, stdout=True, stderr=True)
                return raw.decode("utf-8", "replace")
        return ""

    def update_limits(self, workload_id: str, *, memory_bytes: int, cpu_millicores: int) -> None:
        with self._calls() as client:
            for found in self.observe(workload_id):
                if found.phase is Phase.ALIVE:
                    client.update_container(
                        found.ref,
                        mem_limit=memory_bytes,
                        memswap_limit=memory_bytes,
                        cpu_period=CPU_PERIOD_US,
                        cpu_quota=cpu_millicores * CPU_PERIOD_US // 1000,
                    )

    def has_image(self, image: str) -> bool:
        with self._calls() as client:
            try:
                client.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return False
        return True

    def ensure_home(self, home: str) -> Mount:
        with self._calls() as client:
            client.create_volume(
                home, labels={LABEL_DEPLOYMENT: self._settings.deployment, LABEL_HOME: "1"}
            )
        return Mount(source=home, target="/home/dcloud")

    def homes(self) -> Mapping[str, int]:
        with self._calls() as client:
            volumes = client.df().get("Volumes") or []
        return {
            volume["Name"]: int((volume.get("UsageData") or {}).get("Size", -1))
            for volume in volumes
            if (volume.get("Labels") or {}).get(LABEL_DEPLOYMENT) == self._settings.deployment
        }

    def purge_home(self, home: str) -> None:
        with self._calls() as client, contextlib.suppress(NotFound):
            client.remove_volume(home)

    def hub_address(self) -> str:
        with self._calls() as client:
            return self._network.ensure(client)

    def remove_network(self) -> None:
        """Take the users' network away for good, when no container is left on it."""
        with self._calls() as client:
            self._network.remove(client)


def _mode(mount: Mount) -> str:
    mode = "ro" if mount.read_only else "rw"
    return f"{mode},{mount.propagation}" if mount.propagation else mode


def _time(text: str) -> datetime | None:
    """The engine's RFC 3339 time with nanoseconds; year 1 means never."""
    if not text or text.startswith("0001-"):
        return None
    head, _, fraction = text.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
    return whole.replace(microsecond=int(fraction[:6].ljust(6, "0"))) if fraction else whole


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _devices(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """The UUIDs the engine was told to pass in, from the container's own configuration."""
    found: list[str] = []
    for request in inspected["HostConfig"].get("DeviceRequests") or []:
        found += [name.rpartition("=")[2] for name in request.get("DeviceIDs") or []]
    for entry in inspected["Config"].get("Env") or []:
        name, _, value = entry.partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES" and value not in ("", "void", "none"):
            found += _split(value)
    return tuple(dict.fromkeys(found))
