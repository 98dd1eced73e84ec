"""What containers and accelerators use now, as an engine measures it.

A figure that nobody could read is None. It is never 0: that would say "idle".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ContainerUse:
    """One running container. CPU and network count up from its start."""

    workload_id: str
    ref: str
    """The engine's own identifier: another one means that the counters began again."""
    at: datetime
    """When these figures were read, aware UTC."""
    cpu_microseconds: int | None = None
    memory_bytes: int | None = None
    """Without cached files that the kernel gives up when memory is wanted."""
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    disk_bytes: int | None = None
    """What it wrote outside its home; counted now and then, so it may be some minutes old."""


@dataclass(frozen=True)
class AcceleratorUse:
    """One GPU or MIG instance, held by anybody or free."""

    uuid: str
    utilisation_percent: int | None = None
    """Share of the last moments in which a kernel ran. Not told of a MIG instance."""
    memory_bytes: int | None = None
    power_milliwatts: int | None = None
    """Of a whole GPU only, as is the energy."""
    temperature_celsius: int | None = None
    energy_millijoules: int | None = None
    """Since the driver was loaded; None where the driver does not count it (before Volta)."""


@dataclass(frozen=True)
class Use:
    """All that runs in this deployment, and all accelerators that the driver names."""

    containers: tuple[ContainerUse, ...] = ()
    accelerators: tuple[AcceleratorUse, ...] = ()
    """Empty also where the driver could not be asked."""
