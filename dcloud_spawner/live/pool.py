"""One consistent reading of the pool, for everything that shows it: who holds what, who waits
at which place, what is free. Pages read the copy that :mod:`dcloud_spawner.live.watch` keeps;
whatever decides something (validation, admission) reads the database itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.live.availability import Availability, ModelAvailability
from dcloud_spawner.live.ledger import LedgerReading, read_ledger, with_running
from dcloud_spawner.live.outlook import Chances, Expected, no_forecast
from dcloud_spawner.live.warnings import WARNINGS_AGAIN, Warnings, read_warnings
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.free import FreeNode, free_now, openings
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.schedule import GIB, take_snapshot
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.store import (
    dataset_choices,
    events,
    homes,
    leases,
    listing,
    nodes,
    reservations,
    workloads,
)
from dcloud_spawner.store.dataset_choices import Mounted
from dcloud_spawner.store.listing import Record
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.reservations import Reservation
from dcloud_spawner.store.workloads import Workload

TOLD = (
    *("out of memory", "exited", "lost", "time limit", "mismatch", "failed", "forgotten"),
    *("never opened", "preempted", "reservation", "budget"),
)
"""Reasons of an end that a page tells; a stop by its owner explains itself."""

TOLD_FOR = timedelta(days=1)
"""How long a page tells why a server ended."""


PAST_AGAIN = timedelta(seconds=3)
"""After which the past is read again."""

RECOUNT = timedelta(minutes=1)
"""After which the record of the ranges is counted again."""

NO_RECORD = Record(0, 0)

NO_LEDGER = LedgerReading()


@dataclass(frozen=True, slots=True)
class Place:
    """One request in the queue, in the order in which it is served."""

    place: int
    """1 is the head."""
    workload: Workload
    gpus_ahead: int
    """GPUs that all requests before it ask for."""

    @property
    def ahead(self) -> int:
        """How many requests are before it."""
        return self.place - 1


@dataclass(frozen=True)
class Past:
    """What was, for the servers page: it takes long to find where the history is long."""

    at: datetime
    ends: Mapping[str, tuple[Workload, ...]] = field(default_factory=dict)
    """Servers that ended within a day by anything but a wish, newest first, by user."""
    home_bytes: Mapping[str, int] = field(default_factory=dict)
    """Measured size of homes by user."""


@dataclass(frozen=True)
class PoolState:
    """One consistent reading."""

    at: datetime
    snapshot: Snapshot
    head: int = 0
    """Sequence of the action log's last row: who finds another one there has to read anew."""
    free: tuple[FreeNode, ...] = ()
    """What each node that takes work has free."""
    room: tuple[FreeNode, ...] = ()
    """The same without what another node has too."""
    accelerators: Mapping[str, AcceleratorRow] = field(default_factory=dict)
    held: Mapping[str, tuple[AcceleratorRow, ...]] = field(default_factory=dict)
    """Accelerators of each workload that holds any, by workload id."""
    servers: Mapping[tuple[str, str], Workload] = field(default_factory=dict)
    """Open workloads by user and server name."""
    queue: tuple[Place, ...] = ()
    """Who waits, head first; those on hold are not in it."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """The same by workload id."""
    past: Past = field(default_factory=lambda: Past(datetime.min.replace(tzinfo=UTC)))

    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    """Planned and active ones by their id."""
    mounts: Mapping[str, tuple[Mounted, ...]] = field(default_factory=dict)
    """Datasets of open workloads by workload id."""
    ledger: LedgerReading = field(default_factory=LedgerReading)
    warnings: Warnings = field(default_factory=Warnings)
    """Budgets near their end."""
    """Everybody's accounts, and what runs at which price."""
    record: Record = NO_RECORD
    """How good the expected ranges were lately."""
    record_at: datetime | None = None
    chances: Chances = field(init=False, compare=False)
    """What would start at once besides those who wait."""
    memo: dict[Hashable, object] = field(default_factory=dict, compare=False)
    """What pages made of this reading, for the next page that needs it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "chances", Chances(self.snapshot))

    def place_of(self, identifier: str) -> Place | None:
        """Where a workload waits; None when it does not, or is on hold."""
        return self.places.get(identifier)


def read_pool(platform: Platform, before: PoolState | None = None) -> PoolState:
    """Read everything the pages need. Blocks. ``before`` is the reading before this one, for
    what need not be counted anew each time."""
    now = utc_now()
    with platform.database.reading() as connection:
        head = events.head(connection).sequence
        snapshot = take_snapshot(connection, platform.capacity, now)
        accelerators = {row.uuid: row for row in nodes.all_accelerators(connection)}
        held: dict[str, list[AcceleratorRow]] = {}
        for uuid, workload in leases.holders(connection).items():
            held.setdefault(workload, []).append(accelerators[uuid])
        open_workloads = workloads.open_workloads(connection)
        past = before.past if before and now - before.past.at < PAST_AGAIN else None
        past = past or read_past(connection, now)
        known = before.ledger if before else NO_LEDGER
        ledger = known if known.serves(open_workloads, now) else read_ledger(connection, now)
        warned = before.warnings if before and now - before.warnings.at < WARNINGS_AGAIN else None
        warned = warned or read_warnings(connection, now)
        booked = {found.id: found for found in reservations.open_reservations(connection)}
        counted = before is not None and before.record_at and now - before.record_at < RECOUNT
        record = before.record if before and counted else listing.record(connection)
        mounts = dataset_choices.mounted(connection)
    queue = places_of(snapshot, open_workloads)
    free = tuple(free_now(snapshot).values())
    return PoolState(
        at=now,
        snapshot=snapshot,
        head=head,
        free=free,
        room=openings(free),
        accelerators=accelerators,
        held={
            workload: tuple(sorted(rows, key=lambda row: row.index))
            for workload, rows in held.items()
        },
        servers={(found.user, found.server_name): found for found in open_workloads},
        queue=queue,
        places={found.workload.id: found for found in queue},
        past=past,
        reservations=booked,
        mounts=mounts,
        ledger=with_running(ledger, open_workloads, held, now),
        warnings=warned,
        record=record,
        record_at=before.record_at if before and counted else now,
    )


def read_past(connection: Connection, now: datetime) -> Past:
    """Read what was. Blocks."""
    ends: dict[str, list[Workload]] = {}
    for ended in workloads.last_ends(connection, now - TOLD_FOR):
        if ended.end_reason in TOLD:
            ends.setdefault(ended.user, []).append(ended)
    return Past(
        at=now,
        ends={user: tuple(ended) for user, ended in ends.items()},
        home_bytes={
            home.user: home.size_bytes
            for home in homes.all_homes(connection)
            if home.size_bytes is not None
        },
    )


def places_of(snapshot: Snapshot, known: Iterable[Workload]) -> tuple[Place, ...]:
    """The queue of a snapshot in its order, with the rows behind it."""
    rows = {workload.id: workload for workload in known}
    places: list[Place] = []
    gpus = 0
    for number, request in enumerate(ordered(snapshot.queue), start=1):
        places.append(Place(number, rows[request.id], gpus))
        gpus += request.gpus
    return tuple(places)


def availability(
    state: PoolState, *, simulated: bool, engine: str, expected: Expected = no_forecast
) -> Availability:
    """The reading in the words of the spawn page; ``expected`` is the forecast."""
    free = state.free
    models = []
    for model in sorted({row.model for row in state.accelerators.values()}):
        rows = [row for row in state.accelerators.values() if row.model == model]
        per_node = [node.count(model) for node in free]
        totals = Counter(row.node for row in rows)
        models.append(
            ModelAvailability(
                model=model,
                memory_bytes=max(row.memory_bytes for row in rows),
                total=len(rows),
                free=sum(per_node),
                unhealthy=sum(not state.snapshot.accelerators[row.uuid].offered for row in rows),
                largest_free_on_one_node=max(per_node, default=0),
                largest_on_one_node=max(totals.values(), default=0),
            )
        )
    total = state.snapshot.nodes.values()
    return Availability(
        models=tuple(models),
        memory_free_gib=max((node.memory_bytes for node in free), default=0) / GIB,
        memory_total_gib=max((node.memory_bytes for node in total), default=0) / GIB,
        cpus_free=max((node.cpu_millicores for node in free), default=0) / 1000,
        cpus_total=max((node.cpu_millicores for node in total), default=0) / 1000,
        queue_length=len(state.queue),
        at=state.at,
        simulated=simulated,
        engine=engine,
        room=state.room,
        starts_now=state.chances.starts_now,
        expected=expected,
    )
