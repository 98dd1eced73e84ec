"""From two readings of a session's counters to what happened between them.

Values in, values out. Counters (CPU time, network, energy) tell everything between two readings,
however long ago the first one was; gauges (load, memory, power) only the moments around their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse
from dcloud_spawner.measuring.figures import Figures

MICROSECOND = timedelta(microseconds=1)

CLOCK_STEP = timedelta(seconds=60)
"""A reading that is older than the last one by more was made after a clock was set back; by
less, another process was faster."""


@dataclass(frozen=True)
class Energy:
    """One GPU's counter."""

    millijoules: int
    at: datetime


@dataclass(frozen=True)
class Reading:
    """The counters of one session as last read."""

    at: datetime
    ref: str = ""
    """The container that counted."""
    cpu_microseconds: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    energies: Mapping[str, Energy] = field(default_factory=dict)
    """By UUID, as last told."""

    def as_json(self) -> dict[str, Any]:
        """All but the time."""
        return {
            "ref": self.ref,
            "cpu": self.cpu_microseconds,
            "received": self.network_received_bytes,
            "sent": self.network_sent_bytes,
            "energies": {
                uuid: [energy.millijoules, energy.at.timestamp()]
                for uuid, energy in self.energies.items()
            },
        }

    @classmethod
    def from_json(cls, at: datetime, data: Mapping[str, Any]) -> Reading:
        """The inverse."""
        return cls(
            at,
            data["ref"],
            data["cpu"],
            data["received"],
            data["sent"],
            {
                uuid: Energy(millijoules, datetime.fromtimestamp(seconds, UTC))
                for uuid, (millijoules, seconds) in data["energies"].items()
            },
        )


@dataclass(frozen=True)
class Held:
    """One accelerator of a session, and what it does; None when the driver tells nothing of it."""

    uuid: str
    model: str
    use: AcceleratorUse | None


@dataclass(frozen=True)
class Step:
    """What happened since the last reading, all in all and by GPU model, and the new reading."""

    figures: Figures
    by_model: Mapping[str, Figures]
    reading: Reading


def step(
    last: Reading | None,
    use: ContainerUse,
    held: Sequence[Held],
    started_at: datetime,
    gauge_seconds: float,
) -> Step | None:
    """What is new since ``last``; None when nothing is, because a newer reading was written.

    ``started_at`` is the engine's own start of the container, where its counters began, and
    ``gauge_seconds`` the longest time that one gauge may speak for.
    """
    begun = last.at if last else started_at
    if last is not None and use.at <= last.at:
        if last.at - use.at < CLOCK_STEP:
            return None
        begun = use.at  # the clock was set back: go on from here, with the old counters
    passed = max(0, (use.at - begun) // MICROSECOND)
    spoken = min(passed, int(gauge_seconds * 1_000_000))
    before = last if last and last.ref == use.ref else Reading(started_at)
    energies = dict(last.energies) if last else {}
    by_model: dict[str, Figures] = {}
    for each in held:
        used = _gpu(each, energies.get(each.uuid), use.at, spoken)
        by_model[each.model] = by_model.get(each.model, Figures()) + used
        if each.use is not None and each.use.energy_millijoules is not None:
            energies[each.uuid] = Energy(each.use.energy_millijoules, use.at)
    figures = _container(use, before, passed) + _gauges(held)
    for used in by_model.values():
        figures += used
    return Step(
        figures,
        by_model,
        Reading(
            use.at,
            use.ref,
            _latest(use.cpu_microseconds, before.cpu_microseconds),
            _latest(use.network_received_bytes, before.network_received_bytes),
            _latest(use.network_sent_bytes, before.network_sent_bytes),
            energies,
        ),
    )


def _container(use: ContainerUse, before: Reading, passed: int) -> Figures:
    cpu = _since(use.cpu_microseconds, before.cpu_microseconds)
    received = _since(use.network_received_bytes, before.network_received_bytes)
    known = cpu is not None or received is not None
    return Figures(
        samples=1,
        measured_microseconds=passed if known else 0,
        cpu_microseconds=cpu,
        cpu_millicores_max=cpu * 1000 // passed if cpu is not None and passed else None,
        memory_samples=int(use.memory_bytes is not None),
        memory_bytes_sum=use.memory_bytes or 0,
        memory_bytes_max=use.memory_bytes,
        network_received_bytes=received,
        network_sent_bytes=_since(use.network_sent_bytes, before.network_sent_bytes),
        disk_bytes_max=use.disk_bytes,
    )


def _gauges(held: Sequence[Held]) -> Figures:
    """What all GPUs have together, where each of them could be read."""
    uses = [each.use for each in held]
    memory = _sum([use.memory_bytes if use else None for use in uses])
    return Figures(
        gpus_max=len(held),
        gpu_memory_samples=int(memory is not None),
        gpu_memory_bytes_sum=memory or 0,
        gpu_memory_bytes_max=memory,
        gpu_power_milliwatts_max=_sum([use.power_milliwatts if use else None for use in uses]),
    )


def _gpu(held: Held, before: Energy | None, at: datetime, spoken: int) -> Figures:
    """One GPU."""
    use = held.use
    if use is None:
        return Figures()
    load = use.utilisation_percent
    energy, energy_time = _energy(use, before, at, spoken)
    return Figures(
        gpu_measured_microseconds=spoken if load is not None else 0,
        gpu_busy_microseconds=spoken * min(load, 100) // 100 if load is not None else 0,
        gpu_utilisation_percent_max=load,
        gpu_temperature_celsius_max=use.temperature_celsius,
        energy_millijoules=energy,
        energy_microseconds=energy_time,
    )


def _energy(
    use: AcceleratorUse, before: Energy | None, at: datetime, spoken: int
) -> tuple[int | None, int]:
    """Energy in millijoules and the time it is of, in microseconds: by the driver's counter, else
    by the power and the time that it speaks for."""
    if use.energy_millijoules is not None and before is not None:
        used = use.energy_millijoules - before.millijoules
        if used >= 0:  # else the driver was loaded anew
            return used, max(0, (at - before.at) // MICROSECOND)
    if use.power_milliwatts is None:
        return None, 0
    return use.power_milliwatts * spoken // 1_000_000, spoken


def _since(now: int | None, before: int | None) -> int | None:
    """How far a counter went; not at all where a late answer is lower than what was known."""
    if now is None:
        return None
    return max(0, now - (before or 0))


def _latest(now: int | None, before: int | None) -> int | None:
    """A counter never goes back, so a late answer does not count anything twice."""
    return before if now is None else max(now, before or 0)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
