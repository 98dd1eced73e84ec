"""What the storage can besides holding objects: asked of the server itself, and remembered."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

from dcloud_spawner.storage.bucket_quota import takes_quotas
from dcloud_spawner.storage.errors import StorageCannot, StorageRefused
from dcloud_spawner.storage.list_probe import lists_are_confined
from dcloud_spawner.storage.policies import session_policy
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.sts import assume

REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True)
class Capabilities:
    """What there is."""

    sts: bool = False
    """Short-lived keys for users, limited to what they may read."""
    lists: bool = False
    """Such keys may list what they may read; where a list cannot be kept to its prefix, they may
    not."""
    events: bool = False
    """The storage tells of every access, also of those that did not go through us."""
    quotas: bool = False
    """The storage itself refuses what there is no room for in somebody's own space."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """What is refused for want of it, in sentences for the pages."""
        said = []
        if not self.sts:
            said.append(
                "This storage has no short-lived keys: datasets are mounted, downloaded and "
                "uploaded, but not read by S3 from a notebook, and there is no personal space."
            )
        if self.sts and not self.lists:
            said.append(
                "This storage would show the names of all files to whoever may list some, so "
                "lists by S3 are closed: files are opened by name, and the manifest has the names."
            )
        if self.sts and not self.quotas:
            said.append(
                "This storage takes no limit of an own space from the platform: what is written "
                "there counts within minutes, and until then somebody may store more than is "
                "theirs."
            )
        if not self.events:
            said.append(
                "This storage tells of no access of its own; nobody but the platform has keys."
            )
        return tuple(said)

    def need_sts(self) -> None:
        """Raise StorageCannot without short-lived keys."""
        if not self.sts:
            raise StorageCannot(
                "The storage of this deployment has no short-lived keys, so it cannot be read by "
                "S3 from a notebook.",
                hint="Choose the dataset when you start a server: it is then at ~/datasets. An "
                "administrator can put MinIO in its place (docs/datasets.md).",
            )


class CapabilityBook:
    """Asks once, and again after ten minutes; thread-safe. ``default`` can nothing of it."""

    def __init__(self, store: ObjectStore, *, default: bool) -> None:
        self._store = store
        self._default = default
        self._lock = threading.Lock()
        self._known: tuple[float, Capabilities] | None = None

    def get(self) -> Capabilities:
        """What the storage can; blocks. Raises StorageAway when it cannot be asked."""
        if self._default:
            return Capabilities()
        with self._lock:
            if self._known and time.monotonic() - self._known[0] < REMEMBERED_SECONDS:
                return self._known[1]
            # Of a bucket that is not there yet what is asked here would be answered wrongly.
            with contextlib.suppress(StorageRefused):
                self._store.ensure_bucket()
            sts = self._has_sts()
            lists = sts and lists_are_confined(self._store.access)
            events = self._store.tells_events()
            quotas = sts and takes_quotas(self._store.access)
            found = Capabilities(sts, lists, events, quotas)
            self._known = time.monotonic(), found
            return found

    def _has_sts(self) -> bool:
        try:
            # Keys for nothing.
            assume(self._store.access, session_policy(self._store.bucket))
        except StorageRefused:
            return False
        return True
