"""From a choice and a lease to a container: pure, so that what runs can be tested as a value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from dcloud_spawner.engines.base import (
    LABEL_ACCELERATORS,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
    ContainerSpec,
    Mount,
)
from dcloud_spawner.profiles import Profile
from dcloud_spawner.settings import Settings
from dcloud_spawner.store.workloads import Workload

HOME = "/home/dcloud"
"""Where the home volume is mounted, in every image and sandbox."""

GIB = 2**30

API_PATH = "/services/dcloud/api/v1"
"""Where the web service has the API; its process listens on the hub's address too."""


def home_volume(deployment: str, user: str) -> str:
    """Name of a user's home volume. Readable, and different for different users: the hash
    keeps names apart that look alike once characters that volumes do not take are replaced."""
    digest = hashlib.sha256(user.encode()).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:40] or "user"
    return f"{deployment}-home-{readable}-{digest}"


def container_name(deployment: str, workload_id: str) -> str:
    """Name of a workload's container, the same for every attempt to start it."""
    return f"{deployment}-{workload_id}"


def build_spec(
    settings: Settings,
    workload: Workload,
    profile: Profile | None,
    accelerators: Sequence[str],
    *,
    environment: Mapping[str, str],
    mounts: Sequence[Mount],
    command: Sequence[str] = (),
    port: int = 8888,
) -> ContainerSpec:
    """The container of one workload.

    ``profile`` is None when it was deleted while the workload waited; the workload's own row
    still says what was promised. ``environment`` comes from the hub and wins over the profile's.
    """
    cores = workload.cpu_millicores / 1000
    threads = str(max(1, int(cores)))
    defaults = {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MEM_LIMIT": str(workload.memory_bytes),
        "CPU_LIMIT": f"{cores:g}",
        "JUPYTERHUB_ACTIVITY_INTERVAL": str(settings.activity_seconds),
        "DCLOUD_WORKLOAD": workload.id,
        "DCLOUD_GPUS": str(len(accelerators)),
        **data_environment(settings, environment.get("JUPYTERHUB_API_URL", "")),
    }
    if profile is not None and profile.notebooks == "storage":
        defaults["DCLOUD_NOTEBOOKS"] = "storage"
    return ContainerSpec(
        name=container_name(settings.deployment, workload.id),
        image=workload.image,
        command=tuple(command),
        environment={**defaults, **(profile.environment if profile else {}), **environment},
        labels={
            LABEL_DEPLOYMENT: settings.deployment,
            LABEL_WORKLOAD: workload.id,
            LABEL_USER: workload.user,
            LABEL_KIND: workload.kind,
            LABEL_ACCELERATORS: ",".join(accelerators),
        },
        mounts=tuple(mounts),
        accelerators=tuple(accelerators),
        memory_bytes=workload.memory_bytes,
        cpu_millicores=workload.cpu_millicores,
        pids_limit=settings.pids_limit,
        shm_bytes=int(workload.memory_bytes * settings.shm_fraction),
        port=port,
        disk_bytes=int(settings.disk_limit_gib * GIB),
    )


def data_environment(settings: Settings, hub_api: str) -> dict[str, str]:
    """Where a program inside finds the platform's API and, if users reach it, the storage."""
    hub = urlsplit(hub_api)
    if not hub.hostname:
        return {}
    root = urlsplit(settings.bind_url).path.rstrip("/")
    found = {"DCLOUD_API_URL": f"{hub.scheme}://{hub.hostname}:{settings.web_port}{root}{API_PATH}"}
    storage = settings.storage_public_url or settings.storage_url
    if storage:
        found["DCLOUD_STORAGE_URL"] = storage.rstrip("/")
        found["DCLOUD_STORAGE_REGION"] = settings.storage_region
    return found
