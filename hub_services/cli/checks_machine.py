"""The doctor's checks of the machine: engine, GPUs, control groups, disk."""

from __future__ import annotations

import os
import platform as host
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from dcloud_spawner.engines.base import Health
from dcloud_spawner.engines.cgroups import find_tree
from dcloud_spawner.engines.nvml import NvmlUnavailable, driver_version, read_accelerators
from hub_services.cli.deployment import Deployment
from hub_services.cli.doctor import Finding, attention, broken, ok
from hub_services.cli.machine import (
    SANDBOX_COMMANDS,
    STREAM_COMMANDS,
    docker_mend,
    install_command,
    is_root,
    missing,
    packages_for,
)

GB = 10**9
LITTLE_DISK_BYTES = 20 * GB
NO_DISK_BYTES = 2 * GB
NVIDIA_TOOLKIT = "sudo apt-get install -y nvidia-container-toolkit && sudo systemctl restart docker"


def check_versions(deployment: Deployment) -> Iterator[Finding]:
    """Python, JupyterHub and the system."""
    seen = f"Python {host.python_version()}, JupyterHub {version('jupyterhub')}"
    yield ok("versions", f"{seen}, {host.system()} {host.release()}")


def check_engine(deployment: Deployment) -> Iterator[Finding]:
    """Whether the engine that is set, or that ``auto`` would choose, can run containers."""
    wanted = deployment.settings.engine
    info = docker_info() if wanted != "sandbox" else None
    if info is not None:
        seen = f"Docker {info['ServerVersion']}, {info['Driver']}, cgroup {info['CgroupVersion']}"
        yield ok("engine", seen)
        yield from _docker_findings(info)
        return
    if wanted == "docker":
        yield broken("engine", "no Docker engine answers", docker_mend())
        return
    absent = missing(SANDBOX_COMMANDS)
    if absent:
        mend = install_command(packages_for(absent))
        yield broken("engine", f"sandbox, but {', '.join(absent)} is missing", mend)
    elif wanted == "auto" or deployment.engine_was_chosen:
        yield attention("engine", "sandbox, a weaker isolation than containers", docker_mend())
    else:
        yield ok("engine", "sandbox, as set; a weaker isolation than containers")


def _docker_findings(info: dict[str, Any]) -> Iterator[Finding]:
    limits = {
        "memory": "MemoryLimit",
        "swap": "SwapLimit",
        "cpu": "CpuCfsQuota",
        "processes": "PidsLimit",
    }
    absent = [name for name, key in limits.items() if not info.get(key)]
    if absent:
        yield broken(
            "container limits",
            f"the kernel does not limit: {', '.join(absent)}",
            "boot with cgroup_enable=memory swapaccount=1, or with cgroup v2",
        )
    else:
        yield ok("container limits", "memory, swap, cpu and processes are limited")


def docker_info() -> dict[str, Any] | None:
    """What the Docker engine says about itself; None when none answers."""
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return None
    try:
        info: dict[str, Any] = client.info()
    except (DockerException, RequestException, OSError):
        return None
    finally:
        client.close()
    return info


def check_gpus(deployment: Deployment) -> Iterator[Finding]:
    """The driver and the health of each GPU."""
    settings = deployment.settings
    try:
        driver = driver_version(settings.nvml_library)
        found = read_accelerators(settings.nvml_library)
    except NvmlUnavailable as error:
        yield broken("NVIDIA driver", str(error), "nvidia-smi; sudo dmesg | grep -i nv")
        return
    if not found:
        yield attention(
            "GPUs",
            "none found; profiles without a GPU work",
            "install the NVIDIA driver, or try it with: dcloud up --simulated-gpus 4",
        )
        return
    kind = "simulated driver" if settings.simulated_gpus else "driver"
    yield ok("NVIDIA driver", f"{kind} {driver.driver}, CUDA {driver.cuda}")
    sick = [each for each in found if each.health is not Health.OK]
    yield ok("GPUs", f"{len(found) - len(sick)} of {len(found)} in order ({found[0].model})")
    for each in sick:
        seen = f"GPU {each.index} {each.uuid}: {each.health.value}, {each.health_reason}"
        yield attention("GPUs", seen, "it is not offered; look at: nvidia-smi -q, sudo dmesg")


def check_gpu_passing(deployment: Deployment) -> Iterator[Finding]:
    """Whether the engine can hand a GPU to a container in the way that is set."""
    settings = deployment.settings
    info = docker_info() if settings.engine != "sandbox" else None
    try:
        has_gpus = bool(read_accelerators(settings.nvml_library))
    except NvmlUnavailable:
        has_gpus = True
    if info is None or not has_gpus:
        return
    runtimes = sorted(info.get("Runtimes") or {})
    if settings.gpu_passing == "runtime":
        if settings.gpu_runtime in runtimes:
            yield ok("NVIDIA runtime", f"{settings.gpu_runtime} is known to Docker")
        else:
            seen = f"Docker knows no runtime {settings.gpu_runtime} (it has {', '.join(runtimes)})"
            again = "dcloud up" if settings.simulated_gpus else NVIDIA_TOOLKIT
            yield broken("NVIDIA runtime", seen, again)
    elif settings.gpu_passing == "device-request":
        if missing(["nvidia-container-runtime-hook"]):
            seen = "nvidia-container-runtime-hook is not on PATH: Docker cannot pass a GPU"
            yield broken("NVIDIA runtime", seen, NVIDIA_TOOLKIT)
        else:
            yield ok("NVIDIA runtime", "nvidia-container-runtime-hook is there")
    else:
        yield from _cdi(str(info["ServerVersion"]))


def _cdi(engine_version: str) -> Iterator[Finding]:
    if int(engine_version.split(".")[0]) < 25:
        seen = f"Docker {engine_version} does not know CDI names, 25 or newer does"
        yield broken("NVIDIA runtime", seen, "set gpu_passing to device-request or runtime")
    elif not any(Path(folder).glob("*nvidia*") for folder in ("/etc/cdi", "/var/run/cdi")):
        command = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
        yield broken("NVIDIA runtime", "no CDI description of the GPUs", command)
    else:
        yield ok("NVIDIA runtime", "CDI names")


def check_cgroups(deployment: Deployment) -> Iterator[Finding]:
    """Control groups for the sandbox; Docker's own limits are in the engine's check."""
    if deployment.settings.engine == "docker":
        return
    if deployment.settings.engine == "auto" and docker_info() is not None:
        return
    tree = find_tree(deployment.settings.deployment)
    seen = f"cgroup v{tree.version}, limits of {', '.join(sorted(tree.parents)) or 'nothing'}"
    if {"memory", "cpu", "pids"} <= set(tree.parents):
        yield ok("cgroups", seen)
    else:
        mend = "run as root" if os.geteuid() else "mount the cgroup file systems (systemd does)"
        seen += "; what servers ask for is not enforced"
        yield attention("cgroups", seen, mend)


def check_disk(deployment: Deployment) -> Iterator[Finding]:
    """Room for the state folder and, on Docker, for images and homes."""
    places = {"state": deployment.state}
    info = docker_info() if deployment.settings.engine != "sandbox" else None
    if info is not None and Path(str(info["DockerRootDir"])).exists():
        places["Docker"] = Path(str(info["DockerRootDir"]))
    for name, place in places.items():
        try:
            free = shutil.disk_usage(_existing(place)).free
        except PermissionError:
            continue
        seen = f"{free / GB:.0f} GB free at {place} ({name})"
        mend = "docker image prune" if name == "Docker" else f"make room, or move {place}"
        if free < NO_DISK_BYTES:
            yield broken("disk", seen, mend)
        elif free < LITTLE_DISK_BYTES:
            yield attention("disk", seen, mend)
        else:
            yield ok("disk", seen)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def check_mounts(deployment: Deployment) -> Iterator[Finding]:
    """Whether datasets can be mounted: by root, and streams by FUSE."""
    if not is_root():
        yield attention(
            "dataset mounts",
            "only root can mount; servers start without datasets alone",
            "run dcloud as root",
        )
        return
    absent = missing(STREAM_COMMANDS)
    if absent or not Path("/dev/fuse").exists():
        seen = f"no {absent[0]}" if absent else "no /dev/fuse"
        mend = install_command(packages_for(absent)) if absent else "sudo modprobe fuse"
        yield attention("dataset mounts", f"by copy, not by stream: {seen}", mend)
        return
    yield ok("dataset mounts", f"copies up to {deployment.settings.cache_gib:g} GiB, and streams")
