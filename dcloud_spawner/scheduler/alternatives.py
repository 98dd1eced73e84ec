"""What would start at once instead of what waits. Pure: what fits is asked of the caller."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from dcloud_spawner.scheduler.snapshot import Request

GIB = 2**30
HOUR = 3600.0

MOST = 4
"""So many are offered: more would be a second form."""

Fits = Callable[[Request], bool]
"""Whether a request would start now, without delaying who is ahead."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What the request's profile lets one choose; empty means that it is not known."""

    gpus: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    """Other models too."""
    memory_bytes: tuple[int, ...] = ()
    cpu_millicores: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Alternative:
    """One change of a request with which it would start at once."""

    what: str
    """As a button says it: ``1 GPU of this model``, ``2 × RTX A5000``, ``8 GiB less RAM``."""
    request: Request

    @property
    def text(self) -> str:
        """A sentence's end: ``1 GPU of this model now``."""
        return f"{self.what} now"


def alternatives(
    request: Request, fits: Fits, offered: Offered | None = None
) -> tuple[Alternative, ...]:
    """The smallest changes with which a waiting request would start now, the nearest to what
    was asked for first: each alone, then fewer GPUs with less of everything."""
    found: list[Alternative] = []
    for kind in (_another_model, _fewer_gpus, _less_memory, _fewer_cores, _shorter):
        found += [one for one in kind(request, offered or Offered()) if fits(one.request)][:1]
    single = _one_gpu(request)
    if (
        single is not None
        and fits(single.request)
        and all(one.what != single.what for one in found)
    ):
        found.append(single)
    return tuple(found[:MOST])


def _another_model(request: Request, offered: Offered) -> Iterator[Alternative]:
    if request.gpus and request.gpu_model is not None:
        for model in offered.models:
            if model != request.gpu_model:
                what = f"{request.gpus} × {short_model(model)}"
                yield Alternative(what, replace(request, gpu_model=model))


def _fewer_gpus(request: Request, offered: Offered) -> Iterator[Alternative]:
    if request.parts == 1:
        counts = offered.gpus or range(1, request.gpus)
        for count in sorted((n for n in counts if 0 < n < request.gpus), reverse=True):
            yield Alternative(_gpus(request, count), replace(request, gpus=count))


def _one_gpu(request: Request) -> Alternative | None:
    if request.gpus < 2 or request.parts != 1:
        return None
    return Alternative(_gpus(request, 1), replace(request, gpus=1))


def _gpus(request: Request, count: int) -> str:
    noun = "GPU" if count == 1 else "GPUs"
    return f"{count} {noun}{' of this model' if request.gpu_model else ''}"


def _less_memory(request: Request, offered: Offered) -> Iterator[Alternative]:
    for amount in _smaller(request.memory_bytes, offered.memory_bytes, GIB):
        less = (request.memory_bytes - amount) / GIB
        yield Alternative(f"{less:.4g} GiB less RAM", replace(request, memory_bytes=amount))


def _fewer_cores(request: Request, offered: Offered) -> Iterator[Alternative]:
    for amount in _smaller(request.cpu_millicores, offered.cpu_millicores, 1000):
        less = (request.cpu_millicores - amount) / 1000
        what = f"{less:g} {'core' if less == 1 else 'cores'} less"
        yield Alternative(what, replace(request, cpu_millicores=amount))


def _shorter(request: Request, offered: Offered) -> Iterator[Alternative]:
    """Work that ends before the turn of whoever is ahead delays nobody."""
    hours = math.ceil(request.limit_seconds / HOUR)
    while hours > 1:
        hours //= 2
        what = f"for {hours} {'hour' if hours == 1 else 'hours'}"
        yield Alternative(what, replace(request, limit_seconds=hours * HOUR))


def _smaller(asked: int, choices: Iterable[int], unit: int) -> list[int]:
    """What is less than asked, the most first; halves, where no choices are known."""
    known = sorted((amount for amount in choices if 0 < amount < asked), reverse=True)
    if known or choices:
        return known
    halves = []
    amount = asked // 2 // unit * unit
    while amount >= unit:
        halves.append(amount)
        amount = amount // 2 // unit * unit
    return halves


def short_model(model: str) -> str:
    """A model as people say it: ``NVIDIA RTX A5000`` is ``RTX A5000``."""
    name = re.sub(r"^(NVIDIA|Tesla)\s+", "", model).replace("-", " ")
    return re.sub(r"(\d+)\s?GB\b", r"\1 GB", name)
