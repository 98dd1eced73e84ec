"""Presigned downloads. The platform gives out none; a holder of keys can make them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from dcloud_spawner.storage.signing import presign
from dcloud_spawner.storage.store import ObjectStore


def download_url(
    store: ObjectStore, key: str, *, seconds: int = 60, now: datetime | None = None
) -> str:
    """A URL that downloads an object as a file, by the keys of ``store``."""
    name = quote(key.rpartition("/")[2], safe="")
    return presign(
        store.access,
        "GET",
        key,
        base=store.access.public_url or store.access.url,
        query={
            "response-content-type": "application/octet-stream",
            "response-content-disposition": f"attachment; filename*=UTF-8''{name}",
        },
        headers={},
        seconds=seconds,
        now=now or datetime.now(UTC),
    )
