"""MinIO's own interface for administrators, beside S3; other storages have none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from urllib3.exceptions import HTTPError

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageAway, StorageRefused


@contextmanager
def administration(access: StorageAccess, refused: str) -> Iterator[MinioAdmin]:
    """A client with the platform's keys; what goes wrong inside is StorageAway or StorageRefused,
    in which ``refused`` says what was not done."""
    # The library's own waits five minutes, and does not know the authorities of this machine.
    connections = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=20),
        retries=urllib3.Retry(
            total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], redirect=0
        ),
    )
    try:
        yield MinioAdmin(
            endpoint=access.host,
            credentials=StaticProvider(access.access_key, access.secret_key),
            secure=access.secure,
            region=access.region,
            http_client=connections,
        )
    except MinioAdminException as error:
        raise StorageRefused(error._code, f"{refused}: {error._body[:300]}") from error
    except (HTTPError, OSError) as error:
        raise StorageAway(f"admin: {type(error).__name__}: {error}") from error
    finally:
        connections.clear()
