"""How much the storage itself lets into a bucket (MinIO). All functions block.

MinIO refuses at once what is larger than the whole, and goes by what its scanner has counted for
the rest: that is some minutes old, and knows no parts of uploads that are not complete.
"""

from __future__ import annotations

import json

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.admin import administration
from dcloud_spawner.storage.errors import StorageRefused


def takes_quotas(access: StorageAccess) -> bool:
    """Whether it does so, and lets the platform say how much. Raises StorageAway."""
    try:
        most_of(access, access.bucket)
    except StorageRefused:
        return False
    return True


def most_of(access: StorageAccess, bucket: str) -> int | None:
    """The bytes that a bucket may hold; None without a limit. Raises StorageAway,
    StorageRefused."""
    with administration(access, f"no quota of {bucket}") as admin:
        answer = admin.bucket_quota_get(bucket)
    try:
        found = json.loads(answer)
        limit = int(found.get("size") or found.get("quota") or 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise StorageRefused("NoQuota", "what answered knows no quotas") from error
    return limit - 1 if limit else None


def limit(access: StorageAccess, bucket: str, most_bytes: int | None) -> None:
    """Let no more than so many bytes into a bucket; None takes the limit away. Raises
    StorageAway, StorageRefused."""
    if most_of(access, bucket) == most_bytes:
        return
    with administration(access, f"no quota of {bucket}") as admin:
        # What reaches the number is refused already, and 0 would be no limit at all.
        admin.bucket_quota_set(bucket, 0 if most_bytes is None else most_bytes + 1)
