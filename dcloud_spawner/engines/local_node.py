"""This machine as a node: what the engines of one host report."""

from __future__ import annotations

import logging

import psutil

from dcloud_spawner.engines.base import NodeFacts
from dcloud_spawner.engines.nvml import NvmlUnavailable, read_accelerators

log = logging.getLogger(__name__)

NODE = "local"


def local_node(nvml_library: str) -> NodeFacts:
    """Cores, memory and accelerators of this host, asked afresh."""
    known = True
    try:
        accelerators = read_accelerators(nvml_library)
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
