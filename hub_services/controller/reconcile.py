"""What runs against what is written, in both directions (invariant 3).

Order matters. Rows are read before and after the containers: a container is an orphan only if
nothing was open for it before and after it was seen (one that began or ended in between is no
stray), and a server is lost only if it was running before the engine was asked. An engine that
does not answer ends the comparison: nothing is known, so nothing is freed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dcloud_spawner import lifecycle
from dcloud_spawner.engines.base import ContainerFacts, Phase
from dcloud_spawner.errors import EngineError, EngineUnreachable
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events, leases, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import HOLDING, State
from dcloud_spawner.store.workloads import Workload

log = logging.getLogger(__name__)

ACTOR = Actor("reconciler")


@dataclass
class Report:
    """What one comparison found and did."""

    orphans: list[str] = field(default_factory=list)
    """Workload ids of containers that nobody should be running."""
    ended: list[Workload] = field(default_factory=list)
    """Workloads that this comparison released: lost, or waiting for the engine's word."""
    mismatched: list[str] = field(default_factory=list)
    """Workload ids whose container has other accelerators than its leases."""
    pending: list[str] = field(default_factory=list)
    """Workload ids that the engine would not let go of; tried again next time."""


def reconcile(platform: Platform) -> Report:
    """Compare once and mend. Blocks. Raises EngineError when the engine does not answer."""
    report = Report()
    before, _ = _rows(platform)
    containers = platform.engine.observe()
    after, held = _rows(platform)
    for container in containers:
        workload = after.get(container.workload_id)
        if workload is not None:
            if _differs(container, held.get(workload.id, frozenset())):
                _end_mismatch(platform, container, workload, report)
        elif container.workload_id not in before:
            _end_orphan(platform, container, report)
    alive = {found.workload_id for found in containers if found.phase is Phase.ALIVE}
    for workload in before.values():
        if workload.state is State.RUNNING and workload.id not in alive:
            _end_lost(platform, workload, containers, report)
        elif workload.state is State.STOPPING and workload.id not in report.mismatched:
            _finish(platform, workload, report)
    return report


def _rows(platform: Platform) -> tuple[Mapping[str, Workload], Mapping[str, frozenset[str]]]:
    """Workloads that hold something, by id, and their accelerators: one consistent reading."""
    held: dict[str, set[str]] = {}
    with platform.database.reading() as connection:
        holding = {found.id: found for found in workloads.in_states(connection, HOLDING)}
        for accelerator, workload in leases.holders(connection).items():
            held.setdefault(workload, set()).add(accelerator)
    return holding, {workload: frozenset(found) for workload, found in held.items()}


def _differs(container: ContainerFacts, leased: frozenset[str]) -> bool:
    """Whether a container could use an accelerator that is not leased to it."""
    return bool(set(container.accelerators) - leased or set(container.devices) - leased)


def _end_orphan(platform: Platform, container: ContainerFacts, report: Report) -> None:
    if not container.workload_id:
        log.error("%s has our label but names no workload; remove it by hand.", container.name)
        return
    log.warning("Ending container %s: its workload is not open.", container.name)
    try:
        platform.engine.stop(container.workload_id, platform.settings.stop_grace_seconds)
    except EngineError as error:
        log.error("Cannot end orphan %s yet: %s", container.name, error)
        report.pending.append(container.workload_id)
        _give_up_on_silence(platform, error)
        return
    report.orphans.append(container.workload_id)
    with platform.database.transaction() as connection:
        events.note(
            connection,
            ACTOR,
            "container.orphan",
            container.workload_id,
            at=utc_now(),
            detail={"container": container.ref, "accelerators": list(container.accelerators)},
        )


def _end_mismatch(
    platform: Platform, container: ContainerFacts, workload: Workload, report: Report
) -> None:
    log.error("%s has accelerators that are not leased to it: ending it.", container.name)
    report.mismatched.append(workload.id)
    lifecycle.begin_stop(platform, workload.id, "mismatch", ACTOR)
    _finish(platform, workload, report)


def _end_lost(
    platform: Platform,
    workload: Workload,
    containers: Sequence[ContainerFacts],
    report: Report,
) -> None:
    facts = next((found for found in containers if found.workload_id == workload.id), None)
    reason = "lost" if facts is None else "out of memory" if facts.oom_killed else "exited"
    log.warning("The server %s ended by itself: %s.", workload.server, reason)
    lifecycle.begin_stop(platform, workload.id, reason, ACTOR)
    _finish(platform, workload, report)


def _finish(platform: Platform, workload: Workload, report: Report) -> None:
    try:
        released = lifecycle.finish_stop(platform, workload.id)
    except EngineError as error:
        log.error("Cannot confirm the end of %s yet: %s", workload.server, error)
        report.pending.append(workload.id)
        _give_up_on_silence(platform, error)
        return
    if released:
        report.ended.append(workload)


def _give_up_on_silence(platform: Platform, error: EngineError) -> None:
    """End the comparison when the whole engine is silent, not for one container that hangs:
    those behind it must get their turn."""
    if isinstance(error, EngineUnreachable):
        platform.engine.ping()
