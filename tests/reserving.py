"""Advance reservations for tests of the planner, and a second opinion on them that tries every
way to lay their GPUs on names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

from hypothesis import strategies as st

from dcloud_spawner.scheduler.snapshot import NEVER, Holding, Request, Reservation, Snapshot
from tests.values import AT, GIB, MODELS, choices, left_at, minutes, pools

Unit = tuple[str, int, int]
"""Model ("" is any), memory in bytes and cores in thousandths of one reserved GPU."""


def reservation(
    name: str,
    gpus: int,
    starts: float,
    ends: float,
    *,
    model: str | None = None,
    gib: float = 1,
    cores: float = 1,
    users: Sequence[str] = (),
) -> Reservation:
    """GPUs that are kept between two times in minutes."""
    return Reservation(
        name,
        AT + minutes(starts),
        AT + minutes(ends),
        gpus,
        model,
        int(gib * GIB),
        int(cores * 1000),
        frozenset(users),
    )


@st.composite
def reserved_pools(draw: st.DrawFn, *, most: int = 2, people: bool = False) -> Snapshot:
    """Any pool with reservations; their people are among those who wait, or nobody is."""
    pool = draw(pools(plain=False))
    found = []
    for number in range(draw(st.integers(1, most))):
        begins = draw(st.sampled_from((-5, 0, 3, 5, 10, 10, 15)))
        users = [wish.user for wish in pool.queue if people and draw(st.booleans())]
        found.append(
            reservation(
                f"r{number}",
                draw(st.sampled_from((1, 1, 2, 3))),
                begins,
                max(begins, 0) + draw(st.sampled_from((1, 5, 10, 30))),
                model=draw(st.sampled_from((None, None, *MODELS))),
                gib=draw(st.sampled_from((0, 1, 1, 4))),
                cores=draw(st.sampled_from((0, 1, 1, 4))),
                users=users,
            )
        )
    return replace(pool, reservations=tuple(found))


def wanted(
    reservations: Sequence[Reservation], running: Sequence[Holding], at: float
) -> list[Unit]:
    """One unit for each reserved GPU that nobody uses at a time."""
    units: list[Unit] = []
    for found in reservations:
        if found.starts_at <= at < found.ends_at:
            used = sum(len(held.accelerators) for held in running if held.reservation == found.id)
            unit = (found.gpu_model or "", found.memory_bytes, found.cpu_millicores)
            units += [unit] * max(0, found.gpus - used)
    return units


def fit_together(pool: Snapshot, running: Sequence[Holding], units: Sequence[Unit]) -> bool:
    """Whether units fit beside what runs, by trying every node and model for each."""
    taken = {uuid for held in running for uuid in held.accelerators}
    boxes = []
    for node in sorted(pool.nodes.values(), key=lambda node: node.name):
        if node.drained:
            continue
        here = [held for held in running if held.node == node.name]
        free = [
            each.model
            for each in pool.accelerators.values()
            if each.node == node.name
            and each.offered
            and not each.parent
            and each.uuid not in taken
        ]
        boxes.append(
            (
                tuple(free.count(model) for model in MODELS),
                node.memory_bytes - sum(held.memory_bytes for held in here),
                node.cpu_millicores - sum(held.cpu_millicores for held in here),
            )
        )
    return _lay(tuple(sorted(units)), tuple(boxes))


@cache
def _lay(units: tuple[Unit, ...], boxes: tuple[tuple[tuple[int, ...], int, int], ...]) -> bool:
    if not units:
        return True
    (model, memory, cpu), rest = units[0], units[1:]
    for number, (free, has_memory, has_cpu) in enumerate(boxes):
        if has_memory < memory or has_cpu < cpu:
            continue
        for index, name in enumerate(MODELS):
            if free[index] and model in ("", name):
                less = (*free[:index], free[index] - 1, *free[index + 1 :])
                box = (less, has_memory - memory, has_cpu - cpu)
                if _lay(rest, (*boxes[:number], box, *boxes[number + 1 :])):
                    return True
    return False


def kept(pool: Snapshot, running: Sequence[Holding], until: float = NEVER) -> bool:
    """Whether what runs leaves every reservation its GPUs, now and whenever it matters before a
    time, if everybody uses up the limit."""
    times = {found.starts_at for found in pool.reservations}
    times |= {held.ends_at for held in running if held.reservation}
    if not fit_together(pool, running, wanted(pool.reservations, running, pool.at)):
        return False
    for at in times:
        if pool.at < at < until:
            left = left_at(running, at, pool.at)
            if not fit_together(pool, left, wanted(pool.reservations, left, at)):
                return False
    return True


def every_start(pool: Snapshot, wish: Request, running: Sequence[Holding]) -> Iterator[Holding]:
    """Every way in which a request of one part could start now, whatever the planner thinks."""
    for node in pool.nodes:
        for free in choices(pool, wish, running, node):
            for chosen in combinations(free, wish.gpus):
                yield Holding(
                    wish.id,
                    wish.user,
                    node,
                    tuple(each.uuid for each in chosen),
                    wish.memory_bytes,
                    wish.cpu_millicores,
                    pool.at + wish.limit_seconds,
                )


def earliest_beside(pool: Snapshot, wish: Request, running: Sequence[Holding]) -> float | None:
    """When a request of one part can start at the latest and break no reservation."""
    times = {pool.at, *(max(held.ends_at, pool.at) for held in running)}
    times |= {found.ends_at for found in pool.reservations}
    for at in sorted(time for time in times if pool.at <= time < NEVER):
        then = replace(pool, at=at)
        left = left_at(running, at, pool.at)
        if any(kept(then, [*left, held]) for held in every_start(then, wish, left)):
            return at
    return None
