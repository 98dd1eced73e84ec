"""What is free now, as the start page needs it. Filled from the scheduler's snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.live.outlook import Expected, Wish, no_forecast
from dcloud_spawner.scheduler.free import FreeNode

GIB = 2**30


def model_words(model: str) -> str:
    """The driver's name as people say it: ``NVIDIA A100-SXM4-80GB`` is ``A100 SXM4 80 GB``."""
    name = re.sub(r"^(NVIDIA|Tesla)\s+", "", model).replace("-", " ")
    return re.sub(r"(\d+)\s?GB\b", r"\1 GB", name)


@dataclass(frozen=True)
class ModelAvailability:
    """All GPUs of one model."""

    model: str
    """The driver's own name; it is also what a request carries."""
    memory_bytes: int
    total: int
    free: int
    unhealthy: int
    """Out of service: not free, and not merely taken."""
    largest_free_on_one_node: int
    largest_on_one_node: int = 0
    """The most one node has, free or not; 0 means that all are on one node."""

    @property
    def most(self) -> int:
        """The most one request could ever get."""
        return self.largest_on_one_node or self.total

    @property
    def label(self) -> str:
        """The name with the memory: ``A100 80 GB``."""
        name = model_words(self.model)
        if "GB" in name or not self.memory_bytes:
            return name
        return f"{name} {round(self.memory_bytes / GIB)} GB"


def always(wish: Wish) -> bool:
    """Where nobody waits, whatever fits starts."""
    return True


@dataclass(frozen=True)
class Availability:
    """One look at the pool."""

    models: tuple[ModelAvailability, ...]
    memory_free_gib: float
    """Free on the node that has most of it free."""
    memory_total_gib: float
    """What the largest node offers."""
    cpus_free: float
    cpus_total: float
    queue_length: int
    at: datetime
    """When it was taken, aware UTC."""
    simulated: bool
    engine: str
    room: tuple[FreeNode, ...] | None = None
    """What is free together; None where only the sums are known."""
    starts_now: Callable[[Wish], bool] = always
    """Whether the policy would start a wish that fits, for it must delay nobody."""
    expected: Expected = no_forecast
    """When a wish that does not fit now would start."""

    def model(self, name: str) -> ModelAvailability | None:
        """The figures of one model."""
        return next((found for found in self.models if found.model == name), None)
