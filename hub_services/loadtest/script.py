"""What each simulated person will do: drawn from a seed before anything starts. Pure.

The same seed, people and offers give the same scripts, so that two runs can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcloud_spawner.profiles import Profile

WEIGHTS: Mapping[int, float] = {0: 10, 1: 50, 2: 25, 3: 5, 4: 10}
"""How often a person asks for so many GPUs, where the deployment offers them all."""

HOURS = 1
"""The shortest limit there is: what a killed load test leaves ends by itself."""

IMPATIENT = 0.15
"""Share of requests whose person leaves the queue when it takes too long for them."""

SHORTEST_WORK_SECONDS = 2.0
OVERHEAD_SECONDS = 5.0
"""About what a start and a stop take besides the work."""


@dataclass(frozen=True)
class Wish:
    """One choice, as it is posted to the hub."""

    profile: str
    gpus: int
    memory_gib: float
    cpus: float
    hours: int = HOURS

    def body(self) -> dict[str, object]:
        """The JSON of ``POST /users/:user/server``."""
        return {
            "profile": self.profile,
            "gpus": self.gpus,
            "memory_gib": self.memory_gib,
            "cpus": self.cpus,
            "hours": self.hours,
        }


@dataclass(frozen=True)
class Round:
    """Think, ask, wait, work, stop. ``patience_seconds`` is None for those who wait on."""

    think_seconds: float
    wish: Wish
    work_seconds: float
    patience_seconds: float | None


@dataclass(frozen=True)
class Pool:
    """What there is to ask for: GPUs in all, and the most on one node that may be offered."""

    gpus: int
    gpus_on_a_node: int
    memory_gib_of_a_node: float
    cpus_of_a_node: float


def offers(profiles: Sequence[Profile], pool: Pool) -> Sequence[Wish]:
    """A small choice for each number of GPUs that could start on this pool, by profile: the
    least memory, and as many of the usual cores as leave some for one server on each GPU."""
    found = []
    share = pool.cpus_of_a_node / (pool.gpus_on_a_node + 1)
    for profile in profiles:
        memory, cpus = min(profile.memory_gib.choices), min(profile.cpus.choices)
        if memory > pool.memory_gib_of_a_node or cpus > pool.cpus_of_a_node:
            continue
        usual = [c for c in profile.cpus.choices if c <= min(share, profile.cpus.default)]
        cpus = max([cpus, *usual])
        found += [
            Wish(profile.name, gpus, memory, cpus)
            for gpus in sorted(set(profile.gpus.choices))
            if gpus <= pool.gpus_on_a_node
        ]
    return found


def draw(
    seed: int, people: int, seconds: float, wishes: Sequence[Wish], gpus: int
) -> Sequence[Sequence[Round]]:
    """The rounds of each person; more than fit into the time, so that nobody runs out of them.

    Work is made short enough for most people to get a turn on ``gpus`` GPUs, as far as the
    time a start takes allows that.
    """
    chance = random.Random(seed)
    weights = _weights(wishes)
    mean_gpus = sum(w.gpus * weight for w, weight in zip(wishes, weights, strict=True))
    turns = people * max(mean_gpus, 0.1) / max(gpus, 1)
    work = max(SHORTEST_WORK_SECONDS, min(seconds / 10, seconds / turns - OVERHEAD_SECONDS))
    return [
        tuple(_round(chance, number, seconds, work, wishes, weights) for number in range(20))
        for _ in range(people)
    ]


def _round(
    chance: random.Random,
    number: int,
    seconds: float,
    work: float,
    wishes: Sequence[Wish],
    weights: Sequence[float],
) -> Round:
    # First turns are spread over half of the time, as people come to work; then a pause.
    think = chance.uniform(0, seconds / 2) if number == 0 else chance.expovariate(8 / seconds)
    impatient = chance.random() < IMPATIENT
    return Round(
        think_seconds=think,
        wish=chance.choices(wishes, weights)[0],
        work_seconds=min(seconds / 3, max(SHORTEST_WORK_SECONDS, chance.expovariate(1 / work))),
        patience_seconds=chance.uniform(0.05, 0.4) * seconds if impatient else None,
    )


def _weights(wishes: Sequence[Wish]) -> Sequence[float]:
    """Chance of each wish: that of its number of GPUs, shared by the profiles that have it."""
    same = {gpus: sum(w.gpus == gpus for w in wishes) for gpus in {w.gpus for w in wishes}}
    raw = [WEIGHTS.get(wish.gpus, 5) / same[wish.gpus] for wish in wishes]
    return [each / sum(raw) for each in raw]
