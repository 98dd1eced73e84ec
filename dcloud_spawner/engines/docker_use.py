"""What containers use, as Docker's own API tells it, on cgroup v1 and v2 alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import docker
import requests.exceptions
from docker.errors import APIError

from dcloud_spawner.engines.base import LABEL_DEPLOYMENT, LABEL_WORKLOAD
from dcloud_spawner.engines.disk_sizes import DiskSizes
from dcloud_spawner.engines.use import ContainerUse

AT_ONCE = 8
"""Containers that are asked for at the same time."""


class DockerUse:
    """Reads one engine. ``client`` gives the calling thread's own client."""

    def __init__(self, client: Callable[[], docker.APIClient], deployment: str) -> None:
        self._client = client
        self._filters = {"label": [f"{LABEL_DEPLOYMENT}={deployment}"], "status": ["running"]}
        self._threads = ThreadPoolExecutor(AT_ONCE, "docker-use")
        self._disk = DiskSizes(self._sizes)

    def containers(self) -> tuple[ContainerUse, ...]:
        """Every running container; one that ends meanwhile is left out."""
        running = {
            item["Id"]: item["Labels"].get(LABEL_WORKLOAD, "")
            for item in self._client().containers(filters=self._filters)
        }
        sizes = self._disk.get() if running else {}

        def one(ref: str) -> ContainerUse | None:
            try:
                stats = self._client().stats(ref, stream=False, one_shot=True)
            except (APIError, requests.exceptions.RequestException):
                return None
            return container_use(running[ref], ref, stats, sizes.get(ref))

        return tuple(found for found in self._threads.map(one, running) if found is not None)

    def _sizes(self) -> Mapping[str, int]:
        """Docker walks the writable layer of each container for this."""
        listed = self._client().containers(filters=self._filters, size=True)
        return {item["Id"]: int(item.get("SizeRw") or 0) for item in listed}


def container_use(
    workload: str, ref: str, stats: Mapping[str, Any], disk_bytes: int | None = None
) -> ContainerUse | None:
    """From the answer of ``GET /containers/REF/stats``; None when it has ended.

    Memory is what ``docker stats`` shows: without ``total_inactive_file`` (cgroup v1) or
    ``inactive_file`` (v2). Source: calculateMemUsageUnixNoCache of the Docker command line.
    """
    cpu_nanoseconds = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    memory = stats.get("memory_stats") or {}
    used, details = memory.get("usage"), memory.get("stats") or {}
    if not cpu_nanoseconds and used is None:
        return None  # all zero: Docker's answer for what has just ended
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    networks = (stats.get("networks") or {}).values()
    return ContainerUse(
        workload_id=workload,
        ref=ref,
        at=_read_at(str(stats.get("read", ""))),
        cpu_microseconds=None if cpu_nanoseconds is None else int(cpu_nanoseconds) // 1000,
        memory_bytes=None if used is None else max(0, int(used) - int(cached)),
        network_received_bytes=sum(each["rx_bytes"] for each in networks) if networks else None,
        network_sent_bytes=sum(each["tx_bytes"] for each in networks) if networks else None,
        disk_bytes=disk_bytes,
    )


def _read_at(text: str) -> datetime:
    """Docker's time of the reading, else ours."""
    if text and not text.startswith("0001-"):
        # Nanoseconds and any number of digits: newer than what every fromisoformat takes.
        head, _, fraction = text.rstrip("Z").partition(".")
        if len(head) == len("2026-01-01T00:00:00"):
            whole = datetime.fromisoformat(head).replace(tzinfo=UTC)
            return whole.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")))
    return datetime.now(UTC)
