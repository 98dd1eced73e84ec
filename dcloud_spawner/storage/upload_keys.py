"""The keys that presigned parts are signed with: they can write and read nothing.

MinIO lets whoever holds a presigned part add ``x-amz-copy-source``, a header that was not signed,
and copies any object that the signing keys can read. So parts are signed with keys that read
nothing, where the storage has STS. rclone and AWS refuse headers that were not signed; for what
else there may be the gate in front lets no such header pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.storage.keys import DATASETS
from dcloud_spawner.storage.policies import session_policy
from dcloud_spawner.storage.signature_probe import signatures_hold
from dcloud_spawner.storage.sts import assume

LIFE = timedelta(hours=6)
RENEWED_BEFORE = timedelta(hours=3)
"""No URL lives longer than this, so none dies with its keys."""

_ASK_AGAIN_SECONDS = 600.0


class UploadKeys:
    """Asks for keys when they are needed and keeps them while they live; thread-safe."""

    def __init__(self, access: StorageAccess, remove: Callable[[str], None]) -> None:
        self._access = access
        self._remove = remove
        self._shown = False
        self._lock = threading.Lock()
        self._keys: StorageAccess | None = None
        self._renew_at = datetime.min.replace(tzinfo=UTC)
        self._none_until = 0.0

    @property
    def may_be_shown(self) -> bool:
        """Whether the storage looks at every signature, so that the session token tells nothing;
        known after ``get``."""
        return self._shown

    def get(self) -> StorageAccess | None:
        """Access by keys that only write; None where the storage has no STS. May block."""
        with self._lock:
            if self._keys and datetime.now(UTC) < self._renew_at:
                return self._keys
            if time.monotonic() < self._none_until:
                return None
            policy = session_policy(self._access.bucket, put=(DATASETS,))
            try:
                keys = assume(self._access, policy, int(LIFE.total_seconds()))
            except StorageRefused:
                self._keys, self._none_until = None, time.monotonic() + _ASK_AGAIN_SECONDS
                return None
            made = replace(
                self._access,
                access_key=keys.access_key,
                secret_key=keys.secret_key,
                session_token=keys.session_token,
            )
            self._shown, probe = signatures_hold(made)
            if not self._shown:
                self._remove(probe)
            self._renew_at = keys.expires_at - RENEWED_BEFORE
            self._keys = made
            return made
