"""Asks NVML once and prints the answer as JSON. Run as a child process by ``engines/nvml.py``.

A process of its own for two reasons: a driver call on a GPU that fell off the bus may never
return, which only a process can be left behind in; and the library's path must be able to
differ from one call to the next, which a loaded library cannot. Imports nothing of this project,
so that it starts quickly.

``use`` as the second argument asks for load, memory, power, temperature and energy instead of
what the GPUs are: ``{"use": [...]}``.

Output: ``{"driver": str, "cuda": int, "gpus": [...], "lost": [...], "kernel_log": [...]}``, or
``{"error": name, "message": text}`` where the driver could not be asked.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pynvml

KERNEL_LOG = "/dev/kmsg"


def main(library: str, what: str = "") -> dict[str, Any]:
    """One answer. ``library`` is a path to load NVML from, empty for the loader's own search."""
    if library:
        try:
            # Loaded first and globally, it is what pynvml's own dlopen by SONAME finds.
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return {"error": "LibraryNotFound", "message": str(error)}
    try:
        pynvml.nvmlInit()
        if what == "use":
            return {"use": use()}
        return {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "cuda": optional(pynvml.nvmlSystemGetCudaDriverVersion) or 0,
            **gpus(),
            "kernel_log": nvrm_lines(KERNEL_LOG),
        }
    except pynvml.NVMLError as error:
        return {"error": type(error).__name__.removeprefix("NVMLError_"), "message": str(error)}


def gpus() -> dict[str, Any]:
    """Every GPU that gives a handle, and a message for each that does not."""
    found, lost = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        except pynvml.NVMLError as error:
            lost.append({"index": index, "message": str(error)})
            continue
        try:
            found.append({"uuid": uuid, "index": index, **describe(handle)})
        except pynvml.NVMLError as error:
            found.append(
                {
                    "uuid": uuid,
                    "index": index,
                    "failed": type(error).__name__.removeprefix("NVMLError_"),
                    "message": str(error),
                }
            )
    return {"gpus": found, "lost": lost}


def describe(handle: Any) -> dict[str, Any]:
    """What one GPU is and how it is. None where this model or driver does not say."""
    remapped = optional(pynvml.nvmlDeviceGetRemappedRows, handle)
    mig_mode = optional(pynvml.nvmlDeviceGetMigMode, handle)
    facts: dict[str, Any] = {
        "model": str(pynvml.nvmlDeviceGetName(handle)),
        "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "minor": optional(pynvml.nvmlDeviceGetMinorNumber, handle),
        "bus": pci_bus(handle),
        "ecc_uncorrected": optional(
            pynvml.nvmlDeviceGetTotalEccErrors,
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
        "remap_pending": bool(remapped and remapped[2]),
        "remap_failed": bool(remapped and remapped[3]),
        "retire_pending": bool(optional(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)),
        "mig_mode": bool(mig_mode and mig_mode[0]),
    }
    if facts["mig_mode"]:
        facts["mig"] = mig_instances(handle)
    return facts


def use() -> list[dict[str, Any]]:
    """What every GPU and MIG instance does now. One that does not answer is left out."""
    found: list[dict[str, Any]] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            temperature = optional(
                pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
            )
            mig_mode = optional(pynvml.nvmlDeviceGetMigMode, handle)
            if mig_mode and mig_mode[0]:
                # Power and energy are the whole GPU's, and NVML tells no load of an instance.
                found += [
                    {
                        "uuid": instance["uuid"],
                        "memory_bytes": instance["used_bytes"],
                        "temperature_celsius": temperature,
                    }
                    for instance in mig_instances(handle)
                ]
                continue
            rates = optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
            found.append(
                {
                    "uuid": str(pynvml.nvmlDeviceGetUUID(handle)),
                    "utilisation_percent": int(rates.gpu) if rates is not None else None,
                    "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
                    "power_milliwatts": optional(pynvml.nvmlDeviceGetPowerUsage, handle),
                    "temperature_celsius": temperature,
                    "energy_millijoules": optional(
                        pynvml.nvmlDeviceGetTotalEnergyConsumption, handle
                    ),
                }
            )
        except pynvml.NVMLError:
            continue
    return found


def mig_instances(handle: Any) -> list[dict[str, Any]]:
    """The instances a GPU in MIG mode is cut into; gaps in their numbering are normal."""
    found = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        instance = optional(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if instance is not None:
            memory = pynvml.nvmlDeviceGetMemoryInfo(instance)
            found.append(
                {
                    "uuid": str(pynvml.nvmlDeviceGetUUID(instance)),
                    "model": str(pynvml.nvmlDeviceGetName(instance)),
                    "memory_bytes": int(memory.total),
                    "used_bytes": int(memory.used),
                }
            )
    return found


def pci_bus(handle: Any) -> str:
    """``DOMAIN:BUS:DEVICE`` in the kernel log's way of writing it, empty when not told."""
    info = optional(pynvml.nvmlDeviceGetPciInfo, handle)
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}" if info else ""


def optional(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where the question does not apply; a lost GPU is still an error."""
    try:
        return ask(*arguments)
    except (
        pynvml.NVMLError_NotSupported,
        pynvml.NVMLError_FunctionNotFound,
        pynvml.NVMLError_NotFound,
        pynvml.NVMLError_NoPermission,
        pynvml.NVMLError_InvalidArgument,
    ):
        return None


def nvrm_lines(path: str) -> list[str]:
    """The driver's own lines about Xid errors since boot; none where the log is not readable."""
    lines: list[str] = []
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return lines
    try:
        while True:
            try:
                record = os.read(log, 8192).decode("utf-8", "replace")
            except BrokenPipeError:
                continue  # the ring moved on under the reader
            except OSError:
                return lines
            if "NVRM: Xid" in record:
                lines.append(record.partition(";")[2].partition("\n")[0])
    finally:
        os.close(log)


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:3] or ("",)), sys.stdout)
