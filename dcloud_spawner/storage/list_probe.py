"""Whether the storage keeps a list of objects to the prefix that a policy names.

MinIO (of February 2026 and before) does not: its condition ``s3:prefix`` looks at a header or a
parameter ``Prefix`` first, and at every ``prefix`` of several, while the list takes another one. So
whoever may list one prefix lists the bucket. Asked of the server itself, by doing it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import urllib3
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.storage.policies import session_policy
from dcloud_spawner.storage.sts import TemporaryKeys, assume

PROBE = "probe-of-lists/"
_NAMED = quote(PROBE, safe="")
_EMPTY = hashlib.sha256(b"").hexdigest()

TRICKS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("list-type=2", {"Prefix": PROBE}),
    ("list-type=2&prefix=people%2F", {"Prefix": PROBE}),
    (f"Prefix={_NAMED}&list-type=2", {}),
    (f"list-type=2&prefix=&prefix={_NAMED}", {}),
    (f"list-type=2&prefix={_NAMED}&prefix=", {}),
)
"""Queries and headers that list more than the probe's prefix, or nothing at all."""


def lists_are_confined(access: StorageAccess) -> bool:
    """Whether none of the tricks gets a list. Blocks; raises StorageAway, StorageRefused."""
    keys = assume(access, session_policy(access.bucket, read=[PROBE]))
    try:
        with urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=20)) as pool:
            return all(
                _status(pool, access, keys, query, headers) != 200 for query, headers in TRICKS
            )
    except (HTTPError, OSError) as error:
        raise StorageAway(f"lists: {type(error).__name__}: {error}") from error


def _status(
    pool: urllib3.PoolManager,
    access: StorageAccess,
    keys: TemporaryKeys,
    query: str,
    headers: Mapping[str, str],
) -> int:
    url = f"{access.url.rstrip('/')}/{access.bucket}?{query}"
    now = datetime.now(UTC)
    signed = sign_v4_s3(
        method="GET",
        url=urlsplit(url),
        region=access.region,
        headers={
            "Host": access.host,
            "x-amz-content-sha256": _EMPTY,
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-security-token": keys.session_token,
        },
        credentials=Credentials(keys.access_key, keys.secret_key),
        content_sha256=_EMPTY,
        date=now,
    )
    sent = {**{name: str(value) for name, value in signed.items()}, **headers}
    return pool.request("GET", url, headers=sent, retries=False).status
