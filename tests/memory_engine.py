"""An engine in memory, for one purpose: to fail, hang and race exactly where a test wants it.

What a real engine does is tested on the real ones (engine_contract.py). This one keeps their
contract (a stop that returns has confirmed that nothing is left, an engine that does not answer
says nothing) and calls a hook before each method, which may raise, wait, or change the world.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

from dcloud_spawner.engines.base import (
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
    AcceleratorFacts,
    BeforeRemoval,
    ContainerFacts,
    ContainerSpec,
    Engine,
    Mount,
    NodeFacts,
    Phase,
)
from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use

GIB = 2**30


def node(gpus: int = 4, *, name: str = "local", gib: float = 64, cores: int = 16) -> NodeFacts:
    """A machine with GPUs of one model."""
    return NodeFacts(
        name,
        cores * 1000,
        int(gib * GIB),
        tuple(
            AcceleratorFacts(f"GPU-{name}-{index}", index, "A100", 80 * GIB)
            for index in range(gpus)
        ),
    )


class MemoryEngine(Engine):
    """See the module. ``before[method]`` is called with the method's arguments."""

    name: ClassVar[str] = "memory"

    def __init__(self, *nodes: NodeFacts) -> None:
        self.nodes = nodes or (node(),)
        self.containers: dict[str, ContainerFacts] = {}
        self.volumes: set[str] = set()
        self.limits: dict[str, tuple[int, int]] = {}
        self.container_use: dict[str, ContainerUse] = {}
        """What ``measure`` tells of a workload while its container runs."""
        self.accelerator_use: tuple[AcceleratorUse, ...] = ()
        self.calls: list[str] = []
        self.before: dict[str, Callable[..., object]] = {}
        self._lock = threading.Lock()

    def _enter(self, method: str, *arguments: object) -> None:
        self.calls.append(method)
        for key in ("*", method):
            hook = self.before.get(key)
            if hook is not None:
                hook(*arguments) if key == method else hook()

    def fail(self, error: Exception, *methods: str) -> None:
        """Let these methods raise from now on."""

        def raise_it(*arguments: object) -> None:
            raise error

        for method in methods:
            self.before[method] = raise_it

    def mend(self) -> None:
        """No more hooks."""
        self.before.clear()

    def ends_by_itself(self, workload_id: str, exit_code: int = 1, *, oom: bool = False) -> None:
        """The program inside ends; its container stays, as with a real engine."""
        self.containers[workload_id] = replace(
            self.containers[workload_id],
            phase=Phase.ENDED,
            finished_at=datetime.now(UTC),
            exit_code=exit_code,
            oom_killed=oom,
            url="",
        )

    # -- the contract --------------------------------------------------------------------------

    def ping(self) -> None:
        self._enter("ping")

    def inventory(self) -> tuple[NodeFacts, ...]:
        self._enter("inventory")
        return self.nodes

    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        self._enter("observe", workload_id)
        with self._lock:
            return tuple(
                facts
                for facts in self.containers.values()
                if workload_id in (None, facts.workload_id)
            )

    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        self._enter("launch", spec)
        workload_id = spec.labels[LABEL_WORKLOAD]
        facts = ContainerFacts(
            ref=f"ref-{workload_id}",
            name=spec.name,
            workload_id=workload_id,
            user=spec.labels[LABEL_USER],
            kind=spec.labels[LABEL_KIND],
            accelerators=spec.accelerators,
            phase=Phase.ALIVE,
            devices=spec.accelerators,
            started_at=datetime.now(UTC),
            url="http://10.0.0.1:8888",
        )
        with self._lock:
            self.containers[workload_id] = facts
        return facts

    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        self._enter("stop", workload_id)
        with self._lock:
            facts = self.containers.get(workload_id)
            if facts is not None and facts.phase is not Phase.ENDED:
                now = datetime.now(UTC)
                facts = replace(facts, phase=Phase.ENDED, finished_at=now, exit_code=0, url="")
                self.containers[workload_id] = facts
        if facts is None:
            return None
        if before_removal is not None:
            before_removal(facts)
        self._enter("removal", workload_id)
        with self._lock:
            return self.containers.pop(workload_id, None)

    def measure(self) -> Use:
        self._enter("measure")
        with self._lock:
            alive = {key for key, facts in self.containers.items() if facts.phase is Phase.ALIVE}
        return Use(
            tuple(use for key, use in self.container_use.items() if key in alive),
            self.accelerator_use,
        )

    def logs(self, workload_id: str, lines: int = 200) -> str:
        self._enter("logs", workload_id)
        return ""

    def update_limits(self, workload_id: str, *, memory_bytes: int, cpu_millicores: int) -> None:
        self._enter("update_limits", workload_id)
        self.limits[workload_id] = (memory_bytes, cpu_millicores)

    def has_image(self, image: str) -> bool:
        self._enter("has_image", image)
        return True

    def ensure_home(self, home: str) -> Mount:
        self._enter("ensure_home", home)
        self.volumes.add(home)
        return Mount(home, "/home/dcloud")

    def homes(self) -> Mapping[str, int]:
        self._enter("homes")
        return dict.fromkeys(self.volumes, 7)

    def purge_home(self, home: str) -> None:
        self._enter("purge_home", home)
        self.volumes.discard(home)

    def hub_address(self) -> str:
        self._enter("hub_address")
        return "127.0.0.1"
