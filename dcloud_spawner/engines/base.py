"""The contract every engine keeps, and the values that cross it.

An engine runs containers and knows what hardware there is. It decides nothing:
who gets what is the scheduler's business, who pays is the ledger's.
All methods block; callers on an event loop run them in a thread
(:func:`dcloud_spawner.platform.Platform.in_engine_thread`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from dcloud_spawner.engines.use import Use


class Health(StrEnum):
    """Whether an accelerator may be offered. Only OK is; unknown is not free (invariant 7)."""

    OK = "ok"
    UNHEALTHY = "unhealthy"
    LOST = "lost"


class AcceleratorKind(StrEnum):
    """What one accelerator is."""

    GPU = "gpu"
    MIG = "mig"


@dataclass(frozen=True)
class AcceleratorFacts:
    """One GPU or MIG instance as the driver reports it now."""

    uuid: str
    index: int
    model: str
    memory_bytes: int
    kind: AcceleratorKind = AcceleratorKind.GPU
    parent_uuid: str = ""
    health: Health = Health.OK
    health_reason: str = ""
    device_minor: int = -1
    """N of /dev/nvidiaN, -1 when the driver does not say."""


@dataclass(frozen=True)
class NodeFacts:
    """One machine: what it has, not what is free."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    accelerators: tuple[AcceleratorFacts, ...] = ()
    accelerators_known: bool = True
    """False when the driver could not be asked: what it said before is then not offered."""


@dataclass(frozen=True)
class Mount:
    """A host folder or named volume inside a container."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    """``rslave``: what the host mounts or unmounts below ``source`` later shows inside too."""


@dataclass(frozen=True)
class ContainerSpec:
    """All an engine needs to run one workload. Made by ``spec.build_spec``, a pure function."""

    name: str
    """Unique within the deployment and the same for every attempt of one workload."""
    image: str
    command: tuple[str, ...]
    """Empty means the image's own command."""
    environment: Mapping[str, str] = field(repr=False)
    """May hold tokens: never logged, hence not in repr()."""
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...]
    accelerators: tuple[str, ...]
    """UUIDs. Empty means that no GPU is visible."""
    memory_bytes: int
    """Limit of memory and swap together."""
    cpu_millicores: int
    pids_limit: int
    shm_bytes: int
    port: int
    """Port the server inside listens on."""
    disk_bytes: int = 0
    """Limit of the writable layer; 0 means none."""


class Phase(StrEnum):
    """Where a container is in its life, as its engine says."""

    CREATED = "created"
    ALIVE = "alive"
    ENDED = "ended"


LABEL = "dcloud."
LABEL_DEPLOYMENT = LABEL + "deployment"
LABEL_WORKLOAD = LABEL + "workload"
LABEL_USER = LABEL + "user"
LABEL_KIND = LABEL + "kind"
LABEL_ACCELERATORS = LABEL + "accelerators"
"""Comma-separated UUIDs, empty for none. These five are on every container (invariant 3)."""


@dataclass(frozen=True)
class ContainerFacts:
    """What an engine says about one container that carries our deployment label."""

    ref: str
    """The engine's own identifier."""
    name: str
    workload_id: str
    user: str
    kind: str
    accelerators: tuple[str, ...]
    """From the label; compare with ``devices``."""
    phase: Phase
    devices: tuple[str, ...] = ()
    """UUIDs the engine really passed in, read back from the container's own configuration."""
    started_at: datetime | None = None
    """The engine's own time, aware UTC. None before the first start."""
    finished_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    url: str = ""
    """Where the server inside is reached from the hub, empty while unknown."""


BeforeRemoval = Callable[[ContainerFacts], None]
"""Told of a container that has ended, while it is still there; what it raises keeps it there."""


class Engine(ABC):
    """Runs containers on one or more nodes.

    Errors: ``EngineUnreachable`` when the engine does not answer, ``LaunchFailed`` when it
    answers that a container cannot run, ``EngineError`` for the rest. Methods are idempotent.
    """

    name: ClassVar[str]
    weaker_isolation: ClassVar[str] = ""
    """A sentence for the pages when this engine isolates less than containers do."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the engine answers; raise EngineUnreachable when it does not."""

    @abstractmethod
    def inventory(self) -> tuple[NodeFacts, ...]:
        """Every node with its accelerators and their health, asked afresh."""

    @abstractmethod
    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        """Every container of this deployment, alive or ended, or only one workload's.

        An empty answer means that the engine confirmed there is none.
        """

    @abstractmethod
    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        """Create and start a container; an older one of the same name is removed first.

        A container that could not be started is removed before LaunchFailed is raised.
        """

    @abstractmethod
    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        """Stop and remove all containers of a workload; already gone is success.

        ``before_removal`` is called for each after it has ended and before it is removed, so
        that its times can be written down while the engine still knows them: whoever dies in
        between, or comes second, finds them either here or there.

        Returns the last facts (times, exit code, OOM) of the container that ran, None when
        there was none. When it returns, the engine has confirmed that nothing of it is left.
        """

    @abstractmethod
    def measure(self) -> Use:
        """What every running container and every accelerator uses now, in one call.

        For graphs and averages, never for charges. Whatever cannot be read is None or missing;
        a driver that does not answer keeps nobody from the figures of the containers.
        """

    @abstractmethod
    def logs(self, workload_id: str, lines: int = 200) -> str:
        """The last lines a container wrote, for its owner and administrators; empty when gone."""

    @abstractmethod
    def update_limits(self, workload_id: str, *, memory_bytes: int, cpu_millicores: int) -> None:
        """Change the limits of a running container without restarting it."""

    @abstractmethod
    def has_image(self, image: str) -> bool:
        """Whether a container of this image could start without fetching anything."""

    @abstractmethod
    def ensure_home(self, home: str) -> Mount:
        """Make the home volume if it is missing, owned by uid 1000, and say how to mount it."""

    @abstractmethod
    def homes(self) -> Mapping[str, int]:
        """Size in bytes of every home volume of this deployment, by volume name; -1 if unknown."""

    @abstractmethod
    def purge_home(self, home: str) -> None:
        """Delete a home volume for good; already gone is success."""

    @abstractmethod
    def hub_address(self) -> str:
        """The host address at which a container reaches the hub; prepares the network it is on."""
