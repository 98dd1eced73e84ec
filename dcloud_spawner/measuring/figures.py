"""What was measured in one piece of time, in a form that pieces can be added up in.

Times and sums add up and maxima are compared, so a minute is made of its samples, an hour of its
minutes and a session of all of it without anything being lost. Means are derived when read.
What was never read is None, or has no samples: it is not zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

MILLIJOULES_PER_KWH = 3_600_000_000


@dataclass(frozen=True)
class Figures:
    """Of one workload. Quantities are integers; ``gpu_`` times add up over its GPUs."""

    samples: int = 0
    measured_microseconds: int = 0
    """Time that the counters of CPU and network speak for."""
    cpu_microseconds: int | None = None
    cpu_millicores_max: int | None = None
    memory_samples: int = 0
    memory_bytes_sum: int = 0
    memory_bytes_max: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    disk_bytes_max: int | None = None
    gpus_max: int = 0
    """GPUs held, whether they could be read or not."""
    gpu_measured_microseconds: int = 0
    """GPU time of which the utilisation is known."""
    gpu_busy_microseconds: int = 0
    """Of it, what was used: the sum of time and utilisation."""
    gpu_utilisation_percent_max: int | None = None
    gpu_memory_samples: int = 0
    gpu_memory_bytes_sum: int = 0
    """Of all GPUs together, only of samples in which each could be read."""
    gpu_memory_bytes_max: int | None = None
    gpu_power_milliwatts_max: int | None = None
    """Of all GPUs together, likewise."""
    gpu_temperature_celsius_max: int | None = None
    energy_millijoules: int | None = None
    energy_microseconds: int = 0
    """GPU time of which the energy is known."""

    def __add__(self, other: Figures) -> Figures:
        """Both pieces of time together."""
        mine, theirs = vars(self), vars(other)
        together: dict[str, Any] = {
            field.name: _together(field.name, mine[field.name], theirs[field.name])
            for field in fields(self)
        }
        return Figures(**together)

    @property
    def cpu_millicores(self) -> int | None:
        """Mean use of the CPU."""
        if self.cpu_microseconds is None or not self.measured_microseconds:
            return None
        return self.cpu_microseconds * 1000 // self.measured_microseconds

    @property
    def memory_bytes(self) -> int | None:
        """Mean memory in use."""
        return self.memory_bytes_sum // self.memory_samples if self.memory_samples else None

    @property
    def network_received_bytes_per_second(self) -> int | None:
        """Mean rate."""
        return self._rate(self.network_received_bytes)

    @property
    def network_sent_bytes_per_second(self) -> int | None:
        """Mean rate."""
        return self._rate(self.network_sent_bytes)

    def _rate(self, count: int | None) -> int | None:
        if count is None or not self.measured_microseconds:
            return None
        return count * 1_000_000 // self.measured_microseconds

    @property
    def gpu_utilisation_percent(self) -> float | None:
        """Mean of all its GPUs."""
        if not self.gpu_measured_microseconds:
            return None
        return 100 * self.gpu_busy_microseconds / self.gpu_measured_microseconds

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Mean of all its GPUs together."""
        if not self.gpu_memory_samples:
            return None
        return self.gpu_memory_bytes_sum // self.gpu_memory_samples

    @property
    def gpu_power_milliwatts(self) -> int | None:
        """Mean of all its GPUs together, from the energy."""
        if self.energy_millijoules is None or not self.energy_microseconds:
            return None
        return self.energy_millijoules * 1_000_000 * self.gpus_max // self.energy_microseconds

    @property
    def energy_kwh(self) -> float | None:
        """Energy of its GPUs as far as it is known."""
        if self.energy_millijoules is None:
            return None
        return self.energy_millijoules / MILLIJOULES_PER_KWH


def _together(name: str, mine: int | None, theirs: int | None) -> int | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    return max(mine, theirs) if name.endswith("_max") else mine + theirs
