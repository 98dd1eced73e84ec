"""This machine as a node: what the engines of one host report."""

from __future__ import annotations

import logging

import psutil

from dcloud_spawner.engines.base import AcceleratorFacts, NodeFacts
from dcloud_spawner.engines.nvml import NvmlUnavailable, read_accelerators, read_use
from dcloud_spawner.engines.use import AcceleratorUse

log = logging.getLogger(__name__)

NODE = "local"


class LocalNode:
    """This host. It remembers its accelerators: a driver often cannot name one that is lost."""

    def __init__(self, nvml_library: str) -> None:
        self._library = nvml_library
        self._seen: tuple[AcceleratorFacts, ...] = ()

    def facts(self) -> NodeFacts:
        """Cores, memory and accelerators, asked afresh."""
        known = True
        try:
            accelerators = read_accelerators(self._library, known=self._seen)
            self._seen = accelerators
        except NvmlUnavailable as error:
            log.warning("The NVIDIA driver does not answer: %s", error)
            accelerators, known = (), False
        return NodeFacts(
            NODE,
            cpu_millicores=(psutil.cpu_count() or 1) * 1000,
            memory_bytes=psutil.virtual_memory().total,
            accelerators=accelerators,
            accelerators_known=known,
        )

    def use(self) -> tuple[AcceleratorUse, ...]:
        """What the accelerators do now; nothing of those that the driver does not tell of."""
        try:
            return read_use(self._library)
        except NvmlUnavailable as error:
            log.debug("The NVIDIA driver does not answer: %s", error)
            return ()
