"""What if: the same work on other hardware or by other rules, by the policy that decides here.

Pure: requests, hardware and rules in, figures out. Both sides are replays of the same requests
with the same real lengths, so that what differs is the change alone; how it really was stands
beside (restarts, faults, drains and administrators' hands are in that, but in neither replay).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.pool import Pool
from dcloud_spawner.scheduler.replay import Job, Replay
from dcloud_spawner.scheduler.snapshot import Request
from hub_services.planning.hardware import Hardware

FEWEST = 20
"""Requests below which percentiles would say nothing."""

Progress = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Work:
    """One request of the past. Times in seconds since the epoch, or since a trace began."""

    id: str
    user: str
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: float
    runtime_seconds: float
    """How long it really held what it asked for."""
    submitted_at: float
    fair_seconds: float = 0.0
    """How much later it was due for what its user had had lately."""
    tier: str = ""
    waited_seconds: float | None = None
    """How long it really waited; None when it had not started, or in a trace."""
    counted: bool = True
    """False for what was asked for before the period: it fills the pool and is not counted."""


@dataclass(frozen=True)
class History:
    """The requests of a period, in the order of their submission."""

    works: tuple[Work, ...]
    days: float
    """How long the period is that they were submitted in."""
    notes: tuple[str, ...] = ()
    """What was left out or assumed."""

    @property
    def counted(self) -> int:
        """How many requests the figures are of."""
        return sum(work.counted for work in self.works)


@dataclass(frozen=True)
class Rules:
    """A policy, and what its fair part is measured by: the cap under which ``fair_seconds`` of
    the past were decided."""

    policy: Policy
    fair_cap_then_seconds: float

    def due_at(self, work: Work) -> float:
        """When a request of the past would be due."""
        then, cap = self.fair_cap_then_seconds, self.policy.fair_cap_seconds
        fair = work.fair_seconds * (cap / then) if then > 0 else 0.0
        slack = self.policy.slack_seconds(work.gpus, work.limit_seconds, work.tier)
        return work.submitted_at + slack + fair


@dataclass(frozen=True)
class Figures:
    """One quantity over all counted requests, in seconds."""

    mean: float
    median: float
    p90: float
    p99: float
    largest: float


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    gpus: int
    nodes: int
    wait: Figures
    jct: Figures
    """From submission to end."""
    utilisation: float
    """GPU time in hand of that there was, 0 to 1, from the first to the last submission."""
    at_once: float
    """Part of the requests that started at once, 0 to 1."""
    never: int
    """Requests that this hardware could never hold; left out on both sides."""


@dataclass(frozen=True)
class Comparison:
    """The whole answer."""

    requests: int
    days: float
    today: Side
    changed: Side
    really: Figures | None
    """How long those requests really waited, where that is known of enough of them."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Hardware and rules with a name."""

    name: str
    hardware: Hardware
    rules: Rules


def compare(
    history: History, today: World, changed: World, progress: Progress = lambda done: None
) -> Comparison:
    """Replay the history in both worlds. Whoever calls has looked that there is enough of it."""
    impossible = [unfit(history.works, world.hardware) for world in (today, changed)]
    works = [work for work in history.works if not any(work.id in found for found in impossible)]
    sides = []
    for number, world in enumerate((today, changed)):
        half = number / 2

        def tell(done: float, half: float = half) -> None:
            progress(half + done / 2)

        started = replay(works, world, tell)
        sides.append(_side(world, works, started, len(impossible[number])))
    progress(1.0)
    really = [w.waited_seconds for w in works if w.counted and w.waited_seconds is not None]
    return Comparison(
        requests=sum(work.counted for work in works),
        days=history.days,
        today=sides[0],
        changed=sides[1],
        really=_figures(really) if len(really) >= FEWEST else None,
        notes=history.notes,
    )


def replay(works: Sequence[Work], world: World, progress: Progress) -> dict[str, float]:
    """When each piece of work starts in a world that it fits into."""
    names = PoolNames(
        {node.name: node for node in world.hardware.nodes}, world.hardware.accelerators
    )
    most = world.hardware.gpus_on_a_node

    def jobs() -> Iterator[Job]:
        for number, work in enumerate(works):
            yield Job(_request(work, number, world.rules, most), work.runtime_seconds)
            progress(number / len(works))

    begun = Replay(Occupancy(Pool(names.layout)), works[0].submitted_at if works else 0.0)
    return begun.play(jobs())


def unfit(works: Sequence[Work], hardware: Hardware) -> set[str]:
    """Requests that could never start on this hardware, however free it is."""
    names = PoolNames({node.name: node for node in hardware.nodes}, hardware.accelerators)
    pool, most = Pool(names.layout), hardware.gpus_on_a_node
    known: dict[object, bool] = {}
    found = set()
    for work in works:
        shape = _request(work, 0, None, most).shape
        if shape not in known:
            known[shape] = int(pool.fits(shape).sum()) >= shape.parts
        if not known[shape]:
            found.add(work.id)
    return found


def _request(work: Work, number: int, rules: Rules | None, gpus_on_a_node: int) -> Request:
    return Request(
        work.id,
        number,
        work.user,
        work.gpus,
        work.gpu_model,
        work.memory_bytes,
        work.cpu_millicores,
        work.limit_seconds,
        work.submitted_at,
        rules.due_at(work) if rules else 0.0,
        work.tier,
        parts=parts_of(work.gpus, gpus_on_a_node),
    )


def parts_of(gpus: int, gpus_on_a_node: int) -> int:
    """Over how many nodes work spreads that asks for more GPUs than one has (only traces do):
    the fewest that share them evenly."""
    if gpus <= max(gpus_on_a_node, 1):
        return 1
    fewest = math.ceil(gpus / max(gpus_on_a_node, 1))
    return next(parts for parts in range(fewest, gpus + 1) if gpus % parts == 0)


def _side(world: World, works: Sequence[Work], started: dict[str, float], never: int) -> Side:
    counted = [work for work in works if work.counted]
    waits = [started[work.id] - work.submitted_at for work in counted]
    lengths = [min(work.runtime_seconds, work.limit_seconds) for work in counted]
    return Side(
        name=world.name,
        gpus=len(world.hardware.accelerators),
        nodes=len(world.hardware.nodes),
        wait=_figures(waits),
        jct=_figures([wait + length for wait, length in zip(waits, lengths, strict=True)]),
        utilisation=_utilisation(works, started, len(world.hardware.accelerators)),
        at_once=sum(wait <= 0 for wait in waits) / max(len(waits), 1),
        never=never,
    )


def _utilisation(works: Sequence[Work], started: dict[str, float], gpus: int) -> float:
    """Of the time in which people came: behind the last submission the pool only empties."""
    submissions = [work.submitted_at for work in works if work.counted]
    if not submissions or submissions[0] == submissions[-1] or not gpus:
        return 0.0
    first, last = submissions[0], submissions[-1]
    held = 0.0
    for work in works:
        begin = started[work.id]
        end = begin + min(work.runtime_seconds, work.limit_seconds)
        held += work.gpus * max(0.0, min(end, last) - max(begin, first))
    return held / (gpus * (last - first))


def _figures(values: Sequence[float]) -> Figures:
    if not values:
        return Figures(0.0, 0.0, 0.0, 0.0, 0.0)
    found = np.array(values)
    median, p90, p99 = (float(each) for each in np.percentile(found, (50, 90, 99)))
    return Figures(float(found.mean()), median, p90, p99, float(found.max()))
