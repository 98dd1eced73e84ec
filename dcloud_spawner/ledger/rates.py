"""What an hour of something costs, at any time: the place to change what is charged.

A rate is for one resource, for one GPU model or all, for one tier or all, from a time on. Of the
rates that are valid the most special one counts (model and tier, then model, then tier, then
neither), of equally special ones the last that became valid. Rates are only ever added, and never
from a time that is over, so the past costs for ever what it cost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

MICRO = 1_000_000
"""Micro-credits in a credit."""

GIB = 2**30
MILLI = 1000
HOURS_IN_MONTH = 30 * 24
"""A month of storage is 30 days."""


class Resource(StrEnum):
    """What has a rate: the first three for an hour of one, storage for a month of one GiB."""

    GPU = "gpu"
    CPU_CORE = "cpu_core"
    MEMORY_GIB = "memory_gib"
    STORAGE_GIB_MONTH = "storage_gib_month"


DEFAULTS: Mapping[Resource, int] = {
    Resource.GPU: MICRO,
    Resource.CPU_CORE: 0,
    Resource.MEMORY_GIB: 0,
    Resource.STORAGE_GIB_MONTH: 0,
}
"""Micro-credits where nobody has set a rate: one GPU-hour is one credit."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate. ``gpu_model`` and ``tier`` are empty where it is for all."""

    id: int
    resource: Resource
    gpu_model: str
    tier: str
    microcredits: int
    valid_from: datetime
    created_by: str = ""
    created_at: datetime | None = None


_Key = tuple[Resource, str, str]


class RateBook:
    """All rates that were ever set."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self.rates = tuple(sorted(rates, key=lambda rate: (rate.valid_from, rate.id)))
        self._times: dict[_Key, list[datetime]] = {}
        self._values: dict[_Key, list[int]] = {}
        for rate in self.rates:
            key = rate.resource, rate.gpu_model, rate.tier
            self._times.setdefault(key, []).append(rate.valid_from)
            self._values.setdefault(key, []).append(rate.microcredits)
        self._changes = sorted({rate.valid_from for rate in self.rates})

    def of(self, resource: Resource, gpu_model: str, tier: str, at: datetime) -> int:
        """Micro-credits for one hour (storage: one month) of one of a resource."""
        for key in (
            (resource, gpu_model, tier),
            (resource, gpu_model, ""),
            (resource, "", tier),
            (resource, "", ""),
        ):
            times = self._times.get(key)
            found = bisect_right(times, at) if times else 0
            if found:
                return self._values[key][found - 1]
        return DEFAULTS[resource]

    def changes(self, after: datetime, before: datetime) -> Iterator[datetime]:
        """Times strictly between two at which some rate changes."""
        for at in self._changes[bisect_right(self._changes, after) :]:
            if at >= before:
                return
            yield at


def hourly(
    book: RateBook,
    gpu_models: Mapping[str, int],
    cpu_millicores: int,
    memory_bytes: int,
    tier: str,
    at: datetime,
) -> Fraction:
    """Micro-credits for an hour of some GPUs (how many of each model), cores and memory; exact."""
    total = Fraction(0)
    for model, count in gpu_models.items():
        total += book.of(Resource.GPU, model, tier, at) * count
    cores = book.of(Resource.CPU_CORE, "", tier, at)
    memory = book.of(Resource.MEMORY_GIB, "", tier, at)
    return total + Fraction(cores * cpu_millicores, MILLI) + Fraction(memory * memory_bytes, GIB)


def used_rates(
    book: RateBook, gpu_models: Mapping[str, int], tier: str, at: datetime
) -> dict[str, int]:
    """Rates as they stand on an entry: by ``gpu:MODEL``, ``cpu_core`` and ``memory_gib``."""
    found = {f"gpu:{model}": book.of(Resource.GPU, model, tier, at) for model in sorted(gpu_models)}
    for resource in (Resource.CPU_CORE, Resource.MEMORY_GIB):
        found[resource.value] = book.of(resource, "", tier, at)
    return found
