"""What the storage tells of, put beside what we know: whose it was, and whether it was ours.

Requests with credentials that we gave out are on the action log as their user's. The platform's
own are there already, each from where it was asked for; of them only those are noted that nobody
here can have asked for: a change to a version that is published, or where nothing of ours is.
So is everything that came with keys of somebody else (an administrator at the storage's console).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.datasets.storage_log import Access
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.keys import Place
from dcloud_spawner.store import datasets, events, homes, storage_credentials
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor, Line
from dcloud_spawner.store.storage_credentials import Credential

CLOCKS = timedelta(seconds=60)
"""How far the storage's clock may be from ours."""

OWN_SETTINGS = frozenset({"PutBucket", "PutBucketNotification", "PutBucketQuotaConfig"})
"""What the platform itself does to its buckets."""

VERBS = {"read": "read", "write": "write", "delete": "delete", "settings": "settings"}


@dataclass
class _Sum:
    """Requests of one delivery for the same."""

    line: Line
    requests: int = 0
    size_bytes: int = 0
    last: datetime | None = None


@dataclass
class Reconciler:
    """Reads what one delivery is about once, and makes the lines of the action log."""

    connection: Connection
    bucket: str
    platform_key: str = field(repr=False)
    _versions: dict[str, datasets.Version | None] = field(default_factory=dict)
    _datasets: dict[str, datasets.Dataset | None] = field(default_factory=dict)
    _homes: Mapping[str, str] | None = None

    def lines(self, found: Iterable[Access]) -> list[Line]:
        """The lines of a delivery: one for each who, what and object."""
        ours = [access for access in found if self._ours(access.bucket)]
        given = storage_credentials.by_key(
            self.connection, sorted({access.access_key for access in ours if access.access_key})
        )
        sums: dict[tuple[str, str, str, str, bool], _Sum] = {}
        for access in ours:
            line = self._line(access, given.get(access.access_key))
            if line is None:
                continue
            key = (access.access_key, line.action, access.key, access.source, access.refused)
            total = sums.setdefault(key, _Sum(line))
            total.requests += 1
            total.size_bytes += access.size_bytes
            total.last = access.at
        return [_summed(total) for total in sums.values()]

    def _ours(self, bucket: str) -> bool:
        return bucket == self.bucket or bucket in self._own_buckets()

    def _place(self, access: Access) -> Place | None:
        if access.bucket == self.bucket:
            return keys.place_of(access.key)
        return Place("person", self._own_buckets()[access.bucket], path=access.key)

    def _own_buckets(self) -> Mapping[str, str]:
        """Users by the bucket of their own space."""
        if self._homes is None:
            self._homes = {
                keys.own_bucket(self.bucket, row.volume): row.user
                for row in homes.all_homes(self.connection)
            }
        return self._homes

    def _line(self, access: Access, given: Credential | None) -> Line | None:
        place = self._place(access)
        if given is not None:
            return self._of_somebody(access, given, place)
        by_platform = self.platform_key in (access.access_key, access.parent)
        if not access.access_key or (access.refused and not by_platform):
            return None  # whoever knocks at the storage without keys of anybody
        if by_platform and (access.refused or self._expected(access, place)):
            return None
        actor = "platform's key" if by_platform else f"key {access.access_key}"
        return Line(
            Actor(actor, access.source),
            f"storage.foreign.{VERBS[access.act]}",
            self._target(access, place),
            "flagged",
            {**_object(access, place), "request": access.name},
        )

    def _of_somebody(self, access: Access, given: Credential, place: Place | None) -> Line:
        kind = "personal" if place is not None and place.kind == "person" else "dataset"
        detail: dict[str, object] = {
            **_object(access, place),
            "workload": given.workload,
            "through": "s3",
        }
        if place is not None and place.kind == "dataset":
            version = self._version(place.version)
            detail["version"] = version.number if version else place.version
        if access.act == "settings":
            kind = "storage"
        return Line(
            Actor(given.user, access.source),
            f"{kind}.{VERBS[access.act]}",
            self._target(access, place),
            "refused" if access.refused else "ok",
            detail,
        )

    def _target(self, access: Access, place: Place | None) -> str:
        if place is None:
            return access.key or access.bucket
        return place.owner

    def _expected(self, access: Access, place: Place | None) -> bool:
        """Whether it may have been the platform itself."""
        if access.act == "read":
            return True
        if access.act == "settings":
            return access.name in OWN_SETTINGS or not access.bucket
        if place is None:
            return False
        if place.kind == "person":
            return access.act == "delete"  # a home that is purged
        dataset = self._dataset(place.owner)
        version = self._version(place.version)
        if dataset is None or version is None or dataset.deleted_at is not None:
            return access.act == "delete" or self._just_now(access)
        if place.kind == "manifest":
            return access.act == "write"
        published = version.published_at
        return published is None or access.at <= published + CLOCKS

    def _just_now(self, access: Access) -> bool:
        """A write whose draft was discarded at the same moment."""
        return utc_now() - access.at < CLOCKS

    def _version(self, identifier: str) -> datasets.Version | None:
        if identifier not in self._versions:
            self._versions[identifier] = datasets.find_version(self.connection, identifier)
        return self._versions[identifier]

    def _dataset(self, identifier: str) -> datasets.Dataset | None:
        if identifier not in self._datasets:
            self._datasets[identifier] = datasets.find(self.connection, identifier)
        return self._datasets[identifier]


def note_accesses(
    database: Database, found: Sequence[Access], bucket: str, platform_key: str
) -> int:
    """Put a delivery on the action log; returns how many lines it made. Most deliveries are of
    the platform's own reads and make none: those keep no writer waiting."""
    with database.reading() as connection:
        lines = Reconciler(connection, bucket, platform_key).lines(found)
    if lines:
        with database.transaction() as connection:
            events.note_all(connection, lines, at=utc_now())
    return len(lines)


def _object(access: Access, place: Place | None) -> dict[str, object]:
    return {"path": place.path if place and place.path else access.key}


def _summed(total: _Sum) -> Line:
    line = total.line
    detail = {**line.detail, "size_bytes": total.size_bytes, "requests": total.requests}
    if total.last is not None:
        detail["seen"] = total.last.isoformat(timespec="milliseconds")
    return Line(line.actor, line.action, line.target, line.result, detail)
