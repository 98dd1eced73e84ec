"""What a load test may ask of this machine, decided before it starts and said in its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcloud_spawner.engines.base import Health
from dcloud_spawner.errors import Conflict
from dcloud_spawner.options import GIB
from dcloud_spawner.platform import Platform
from dcloud_spawner.profiles import Profile
from dcloud_spawner.store import nodes, workloads
from hub_services.loadtest.names import is_simulated
from hub_services.loadtest.script import HOURS, Pool, Wish, offers

SERVER_GIB = 0.3
"""About what an idle JupyterLab really uses, with its share of the engine."""
SPARE_GIB = 1.0


@dataclass(frozen=True)
class Bounds:
    """Limits of one run, and a sentence for each of them."""

    wishes: Sequence[Wish]
    cpu_places: int
    gpus: int
    sentences: Sequence[str]


def decide(platform: Platform, only: Sequence[str], *, cores: int, available_bytes: int) -> Bounds:
    """Choose what people may ask for. Raises Conflict when no server of any kind would fit."""
    pool = _pool(platform)
    usable = _usable(platform, only)
    wishes = offers(usable, pool)
    if not wishes:
        raise Conflict(
            "No profile that everybody may use has an image that is ready and fits a node.",
            hint="`dcloud images` builds them; `dcloud doctor` says what else is missing.",
        )
    memory_gib = available_bytes / GIB - SPARE_GIB
    most = int(memory_gib / SERVER_GIB)
    with_gpus = [wish.gpus for wish in wishes if wish.gpus]
    at_once = pool.gpus // min(with_gpus) if with_gpus else 0
    if most < at_once + 1:
        raise Conflict(
            f"{at_once} servers with GPUs would run at once, and the machine has only "
            f"{max(memory_gib, 0):.1f} GiB of memory to spare.",
            hint="End something else on it first.",
        )
    places = max(1, min(cores, most - at_once))
    return Bounds(wishes, places, pool.gpus, _sentences(platform, pool, wishes, places, at_once))


def refuse_among_others(platform: Platform) -> None:
    """Raise Conflict when somebody who is not simulated has a server here."""
    with platform.database.reading() as connection:
        others = [
            each.server
            for each in workloads.open_workloads(connection)
            if not is_simulated(each.user)
        ]
    if others:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        raise Conflict(
            f"{len(others)} servers of other people run or wait here: {shown}.",
            hint="A load test would make them wait. With --yes it starts all the same.",
            code="others_at_work",
        )


def _pool(platform: Platform) -> Pool:
    """What there is, and of one node no more than anybody may have."""
    settings = platform.settings
    mine = settings.roles[settings.default_role]
    with platform.database.reading() as connection:
        rows = nodes.all_nodes(connection)
        free = [
            each.node for each in nodes.all_accelerators(connection) if each.health is Health.OK
        ]
    gpus = max((free.count(name) for name in set(free)), default=0)
    memory = max((row.memory_bytes / GIB - settings.reserve_memory_gib for row in rows), default=0)
    cpus = max((row.cpu_millicores / 1000 * settings.cpu_overcommit for row in rows), default=0)
    return Pool(
        gpus=len(free),
        gpus_on_a_node=gpus if mine.gpus is None else min(gpus, mine.gpus),
        memory_gib_of_a_node=memory if mine.memory_gib is None else min(memory, mine.memory_gib),
        cpus_of_a_node=cpus if mine.cpus is None else min(cpus, mine.cpus),
    )


def _usable(platform: Platform, only: Sequence[str]) -> Sequence[Profile]:
    """Profiles open to everybody whose image is there, the smallest image first by its order."""
    known = platform.profiles.current()
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise Conflict(f"There is no profile {unknown[0]}.", hint=f"Profiles: {', '.join(known)}.")
    ready: dict[str, bool] = {}
    for profile in known.values():
        if profile.image not in ready:
            ready[profile.image] = platform.engine.has_image(profile.image)
    return [
        profile
        for profile in known.values()
        if profile.allows(set()) and ready[profile.image] and (not only or profile.name in only)
    ]


def _sentences(
    platform: Platform, pool: Pool, wishes: Sequence[Wish], places: int, at_once: int
) -> Sequence[str]:
    names = ", ".join(dict.fromkeys(wish.profile for wish in wishes))
    said = [
        f"Engine {platform.engine.name}, with {pool.gpus} GPUs"
        + (", which are simulated." if platform.settings.simulated_gpus else "."),
        f"Profiles: {names}, each with its smallest memory, and a limit of {HOURS} hour.",
        f"At most {at_once} servers with GPUs run at once, for there are no more GPUs, and "
        f"{places} without: for these people wait outside the queue.",
    ]
    if not any(wish.gpus for wish in wishes):
        said.append("No profile that was ready offers GPUs that are here: nobody had to wait.")
    said.append("Nothing computes inside the servers: what is shown is the platform's own part.")
    return said
