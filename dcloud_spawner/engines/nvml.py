"""What the NVIDIA driver says about the GPUs of this machine.

Three answers are kept apart: no driver and no NVIDIA device is a fact ("no GPUs", an empty
tuple); a driver that answers gives its GPUs, sick ones with a reason; a driver that is there but
fails or hangs is unknown (:class:`NvmlUnavailable`), and unknown is not free.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcloud_spawner.engines.base import AcceleratorFacts, AcceleratorKind, Health
from dcloud_spawner.engines.use import AcceleratorUse
from dcloud_spawner.errors import EngineError

log = logging.getLogger(__name__)

PROBE = Path(__file__).with_name("nvml_probe.py")

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA_VENDOR = "0x10de"

FATAL_XIDS: Mapping[int, str] = {
    62: "its internal micro-controller halted",
    79: "it fell off the bus",
    95: "it had an uncontained memory error",
    119: "its system processor stopped answering",
    120: "its system processor failed",
}
"""Xid errors after which no program can use the GPU until a reset or restart. Others are the
fault of a program, or show up as ECC and row remapping. Source: NVIDIA, "XID Errors"."""

_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:]+)[^)]*\): (\d+)")


class NvmlUnavailable(EngineError):
    """An NVIDIA driver or device is there, but cannot be asked: nothing is known of the GPUs."""


@dataclass(frozen=True)
class DriverFacts:
    """Versions of the driver; both empty when there is none."""

    driver: str = ""
    cuda: str = ""
    """Newest CUDA the driver runs, such as 12.4."""


def read_accelerators(
    library: str = "",
    timeout_seconds: float = 5.0,
    known: Sequence[AcceleratorFacts] = (),
) -> tuple[AcceleratorFacts, ...]:
    """Every GPU and MIG instance with its health, asked afresh.

    A GPU in MIG mode is not offered itself, its instances are. ``library`` is a path of
    libnvidia-ml.so.1. A driver often refuses to name a GPU that is lost: one of ``known`` (an
    earlier answer) that the driver lists no more comes back with Health.LOST.

    Raises NvmlUnavailable when a driver is there but fails, or takes longer than the time-out.
    """
    answer = _ask(library, timeout_seconds)
    if answer is None:
        return ()
    found = _with_memory(_accelerators(answer), known)
    return found + _missing(found, answer.get("lost", ()), known)


def driver_version(library: str = "", timeout_seconds: float = 5.0) -> DriverFacts:
    """The driver's version; empty when there is none. Raises NvmlUnavailable as above."""
    answer = _ask(library, timeout_seconds)
    if answer is None:
        return DriverFacts()
    cuda = int(answer.get("cuda") or 0)
    return DriverFacts(str(answer["driver"]), f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "")


def read_use(library: str = "", timeout_seconds: float = 5.0) -> tuple[AcceleratorUse, ...]:
    """What every GPU and MIG instance does now; one that does not answer is not among them.

    Raises NvmlUnavailable as above.
    """
    answer = _ask(library, timeout_seconds, "use")
    return () if answer is None else tuple(AcceleratorUse(**gpu) for gpu in answer["use"])


# ------------------------------------------------------------------------- the child process


class _Stuck:
    """Children that outlived their time-out. One that hangs in the driver cannot be killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[str, tuple[subprocess.Popen[str], float]] = {}

    def add(self, library: str, child: subprocess.Popen[str]) -> None:
        with self._lock:
            self._children[library] = (child, time.monotonic())

    def seconds(self, library: str) -> float | None:
        """For how long a child hangs already, None when none does."""
        with self._lock:
            entry = self._children.get(library)
            if entry is None:
                return None
            child, since = entry
            if child.poll() is None:
                return time.monotonic() - since
            del self._children[library]
            return None


_stuck = _Stuck()


def _ask(library: str, timeout_seconds: float, what: str = "") -> Mapping[str, Any] | None:
    """The probe's answer, None when there is neither a driver nor a device."""
    hanging = _stuck.seconds(library)
    if hanging is not None:
        # Another child would hang as well, and they would pile up.
        raise NvmlUnavailable(f"the NVIDIA driver has not answered for {hanging:.0f} seconds")
    answer = _run_probe(library, timeout_seconds, what)
    error = answer.get("error")
    if not error:
        return answer
    if not library and error in ("LibraryNotFound", "DriverNotLoaded") and not _has_device():
        return None
    raise NvmlUnavailable(f"the NVIDIA driver cannot be asked: {answer.get('message') or error}")


def _run_probe(library: str, timeout_seconds: float, what: str) -> Mapping[str, Any]:
    child = subprocess.Popen(
        [sys.executable, "-I", str(PROBE), library, what],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = child.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        try:
            child.wait(0.2)
        except subprocess.TimeoutExpired:
            # No wait without end here: in an uninterruptible driver call even SIGKILL waits.
            _stuck.add(library, child)
        raise NvmlUnavailable(
            f"the NVIDIA driver did not answer within {timeout_seconds:g} seconds"
        ) from None
    finally:
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()
    try:
        answer = json.loads(out)
    except ValueError:
        last = errors.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        raise NvmlUnavailable(f"the NVIDIA driver could not be asked: {last[0]}") from None
    assert isinstance(answer, dict)
    return answer


def _has_device() -> bool:
    """Whether the kernel sees an NVIDIA device or driver, whatever the library says."""
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        return True
    for vendor in PCI_DEVICES.glob("*/vendor"):
        try:
            # Class 03: displays and accelerators, not NVIDIA's bridges and audio functions.
            is_display = (vendor.parent / "class").read_text().startswith("0x03")
            if is_display and vendor.read_text().strip() == NVIDIA_VENDOR:
                return True
        except OSError:
            continue
    return False


# ------------------------------------------------------------------------- answer to facts


def _accelerators(answer: Mapping[str, Any]) -> tuple[AcceleratorFacts, ...]:
    xids = fatal_xids(answer.get("kernel_log", ()))
    found: list[AcceleratorFacts] = []
    for gpu in answer["gpus"]:
        health, reason = gpu_health(gpu, xids.get(str(gpu.get("bus", ""))))
        facts = AcceleratorFacts(
            uuid=gpu["uuid"],
            index=gpu["index"],
            model=gpu.get("model", ""),
            memory_bytes=gpu.get("memory_bytes", 0),
            health=health,
            health_reason=reason,
            device_minor=-1 if gpu.get("minor") is None else gpu["minor"],
        )
        if not gpu.get("mig_mode"):
            found.append(facts)
            continue
        found += [
            replace(
                facts,
                uuid=instance["uuid"],
                model=instance["model"],
                memory_bytes=instance["memory_bytes"],
                kind=AcceleratorKind.MIG,
                parent_uuid=facts.uuid,
            )
            for instance in gpu.get("mig", ())
        ]
    return tuple(found)


def gpu_health(gpu: Mapping[str, Any], xid: int | None = None) -> tuple[Health, str]:
    """Health of one GPU of the probe's answer, and the reason in words for people."""
    if gpu.get("failed") == "GpuIsLost" or xid == 79:
        return Health.LOST, "The GPU fell off the bus; the machine needs a restart."
    if gpu.get("failed"):
        return Health.UNHEALTHY, f"The driver cannot read the GPU: {gpu.get('message', '')}."
    if xid is not None:
        return Health.UNHEALTHY, f"Xid {xid}: {FATAL_XIDS[xid]}; the GPU needs a reset."
    if gpu.get("remap_failed"):
        return Health.UNHEALTHY, "Memory is failing beyond repair; the GPU should be replaced."
    errors = gpu.get("ecc_uncorrected") or 0
    if errors:
        plural = "s" if errors > 1 else ""
        return (
            Health.UNHEALTHY,
            f"{errors} uncorrectable memory error{plural} (ECC); the GPU needs a reset.",
        )
    if gpu.get("remap_pending") or gpu.get("retire_pending"):
        return Health.UNHEALTHY, "Bad memory waits to be taken out of use; the GPU needs a reset."
    return Health.OK, ""


def fatal_xids(kernel_log: Iterable[str]) -> dict[str, int]:
    """The last fatal Xid error of each PCI device (``DOMAIN:BUS:DEVICE``) since the boot."""
    found: dict[str, int] = {}
    for line in kernel_log:
        match = _XID.search(line)
        if match and int(match[2]) in FATAL_XIDS:
            found[match[1].lower()] = int(match[2])
    return found


def _with_memory(
    found: Sequence[AcceleratorFacts], known: Sequence[AcceleratorFacts]
) -> tuple[AcceleratorFacts, ...]:
    """Fill in from earlier answers what the driver does not say about a failed GPU any more."""
    by_uuid = {facts.uuid: facts for facts in known}
    instances: dict[str, list[AcceleratorFacts]] = {}
    for facts in known:
        instances.setdefault(facts.parent_uuid, []).append(facts)
    filled: list[AcceleratorFacts] = []
    for facts in found:
        if facts.model:
            filled.append(facts)
            continue
        before = instances.get(facts.uuid) or [by_uuid.get(facts.uuid, facts)]
        filled += [
            replace(earlier, health=facts.health, health_reason=facts.health_reason)
            for earlier in before
        ]
    return tuple(filled)


def _missing(
    found: Sequence[AcceleratorFacts],
    lost: Sequence[Mapping[str, Any]],
    known: Sequence[AcceleratorFacts],
) -> tuple[AcceleratorFacts, ...]:
    """Earlier accelerators that are not listed any more, as lost."""
    listed = {facts.uuid for facts in found}
    parents = {facts.parent_uuid for facts in found} - {""}
    # A GPU that changed into or out of MIG mode, or is cut up differently, is not lost.
    alive = listed | parents
    missing = tuple(
        replace(
            facts,
            health=Health.LOST,
            health_reason="The driver does not find the GPU any more; the machine needs a restart.",
        )
        for facts in known
        if facts.uuid not in alive and facts.parent_uuid not in alive
    )
    if len(lost) > len({facts.parent_uuid or facts.uuid for facts in missing}):
        for gpu in lost:
            log.warning("GPU %s is lost and cannot be named: %s", gpu["index"], gpu["message"])
    return missing
