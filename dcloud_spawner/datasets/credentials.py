"""Short-lived credentials for programs inside one server.

They read the datasets that this server has and whose user may read them at this moment, and read
and write the user's own space. They live at most 15 minutes, so that a share that is taken back
ends within that time; asking again is how they are renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sqlalchemy import Connection

from dcloud_spawner.datasets import own_spaces, quota
from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.rights import Asker, Who, right_of
from dcloud_spawner.errors import Conflict, InvalidChoice
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.storage.parents import parent_of
from dcloud_spawner.storage.policies import LONGEST, OwnBucket, session_policy
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.sts import TemporaryKeys, assume
from dcloud_spawner.store import (
    dataset_mounts,
    datasets,
    events,
    homes,
    storage_credentials,
    workloads,
)
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.datasets import VersionState
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.storage_credentials import Credential

REMEMBERED_DAYS = 30
"""For so long an access key in the storage's own log is known to be somebody's."""

LIVE = (State.STARTING, State.RUNNING)


@dataclass(frozen=True)
class Place:
    """A dataset of a server in the bucket."""

    name: str
    """Its folder under ~/datasets."""
    dataset: str
    reference: str
    version: int | None
    prefix: str
    manifest: str
    """Key of its list of files: path, size and SHA-256 of each, one JSON object a line."""


@dataclass(frozen=True)
class Reach:
    """What credentials of one server may reach."""

    workload: str
    places: tuple[Place, ...]
    own_bucket: str
    """The user's own space; "" while they have none."""
    room: bool
    """Whether more may be written there: the user's limit for storage is not reached."""

    def policy(self, bucket: str, *, lists: bool) -> str:
        """As STS wants it."""
        return session_policy(
            bucket,
            read=[place.prefix for place in self.places],
            objects=[place.manifest for place in self.places],
            lists=lists,
            own=OwnBucket(self.own_bucket, self.room) if self.own_bucket else None,
        )


@dataclass(frozen=True)
class Issued:
    """Keys, and what they reach."""

    keys: TemporaryKeys = field(repr=False)
    reach: Reach
    left_out: tuple[str, ...]
    """Datasets of the server for which one policy had no room; they can be asked for by name."""
    lists: bool
    """Whether datasets may be listed by S3."""


def issue(
    platform: Platform,
    asking: Asker,
    server: str,
    *,
    only: Sequence[str] = (),
) -> Issued:
    """Keys for a server that runs. Blocks, and calls the storage between its transactions.

    ``only``: folder names under ~/datasets, where not all are wanted. Raises Conflict
    ``no_server``, StorageAway, StorageRefused.
    """
    can = platform.storage_capabilities.get()
    can.need_sts()
    access = platform.storage.access
    with platform.database.reading() as connection:
        reach = reach_of(connection, platform.settings, asking.known(connection), server, only)
    if reach.own_bucket:
        _have_bucket(access, reach.own_bucket)
        own_spaces.keep_quota(platform, asking.user)
    granted = fitting(reach, access.bucket, lists=can.lists)
    parent = _parent(platform, reach.own_bucket)
    made = assume(parent, granted.policy(access.bucket, lists=can.lists))
    now = utc_now()
    with platform.database.transaction() as connection:
        # What was taken back meanwhile is not handed out; the keys themselves nobody has seen.
        again = reach_of(connection, platform.settings, asking.known(connection), server, only)
        if not {place.prefix for place in granted.places} <= {one.prefix for one in again.places}:
            raise Conflict(
                "What this server may read has just changed.",
                hint="Ask once more.",
                code="changed_meanwhile",
            )
        _remember(connection, asking, granted, made)
        storage_credentials.forget(connection, now - timedelta(days=REMEMBERED_DAYS))
    left_out = tuple(place.name for place in reach.places[len(granted.places) :])
    return Issued(made, granted, left_out, can.lists)


def _remember(connection: Connection, asking: Asker, granted: Reach, made: TemporaryKeys) -> None:
    now = utc_now()
    ids = tuple(sorted({place.dataset for place in granted.places}))
    storage_credentials.insert(
        connection,
        Credential(made.access_key, asking.user, granted.workload, ids, now, made.expires_at),
    )
    detail: dict[str, object] = {
        "workload": granted.workload,
        "datasets": [place.reference for place in granted.places],
        "own_bucket": granted.own_bucket,
        "until": made.expires_at.isoformat(timespec="seconds"),
    }
    events.note(
        connection, asking.actor, "storage.credentials", made.access_key, at=now, detail=detail
    )


def reach_of(
    connection: Connection,
    settings: Settings,
    asking: Who,
    server: str,
    only: Sequence[str] = (),
) -> Reach:
    """What a server of somebody may reach now. Raises Conflict when it does not run."""
    found = workloads.find_open(connection, asking.user, server) if asking.person else None
    if found is None or found.state not in LIVE:
        raise Conflict(
            "Credentials are for a server that runs.",
            hint="Start it, and ask from inside it.",
            code="no_server",
        )
    places = [
        place
        for mount in dataset_mounts.of_workload(connection, found.id)
        if (not only or mount.name in only)
        and (place := _place(connection, asking, mount)) is not None
    ]
    missing = sorted({*only} - {place.name for place in places})
    if missing:
        raise InvalidChoice(
            f"datasets: this server has no {shown(missing[0])} that you may read.",
            hint="The names are those of the folders under ~/datasets.",
            field="datasets",
        )
    own = own_bucket(connection, settings, asking.user)
    left = quota.stored(connection, settings, datasets.USER, asking.user).left_bytes
    return Reach(found.id, tuple(places), own, left is None or left > 0)


def _place(
    connection: Connection, asking: Who, mount: dataset_mounts.WorkloadDataset
) -> Place | None:
    """Where a dataset of a server lies; None when it may not be read (any more)."""
    if mount.state in (MountState.REVOKED, MountState.GONE):
        return None
    dataset = datasets.find(connection, mount.dataset)
    version = datasets.find_version(connection, mount.version)
    if dataset is None or dataset.deleted_at is not None or version is None:
        return None
    if version.dataset != dataset.id or version.state is not VersionState.PUBLISHED:
        return None
    if right_of(connection, asking, dataset) is None:
        return None
    return Place(
        mount.name,
        dataset.id,
        dataset.reference,
        version.number,
        keys.version_prefix(dataset.id, version.id),
        keys.manifest_key(dataset.id, version.id),
    )


def own_bucket(connection: Connection, settings: Settings, user: str) -> str:
    """Where somebody's own space is: it goes with the home, so that a new user of an old name
    gets nothing of the one before. "" without a home, or with one that is closed."""
    home = homes.of_user(connection, user)
    if home is None or home.user_deleted_at is not None:
        return ""
    return keys.own_bucket(settings.storage_bucket, home.volume)


def _parent(platform: Platform, own: str) -> StorageAccess:
    """In whose name keys are made. Where the storage makes no users, in the platform's own, if
    it looks at every signature: the name of the parent is in what people get."""
    store = platform.storage
    try:
        return parent_of(store.access, own)
    except StorageRefused:
        store._upload_keys.get()
        if not store._upload_keys.may_be_shown:
            raise
        return store.access


def _have_bucket(access: StorageAccess, name: str) -> None:
    store = ObjectStore(replace(access, bucket=name))
    try:
        store.ensure_bucket()
    finally:
        store.close()


def fitting(reach: Reach, bucket: str, *, lists: bool) -> Reach:
    """As many of the datasets as one policy can name, in their order."""
    for count in range(len(reach.places), -1, -1):
        tried = replace(reach, places=reach.places[:count])
        if len(tried.policy(bucket, lists=lists)) <= LONGEST:
            return tried
    return replace(reach, places=())
