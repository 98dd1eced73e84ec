"""Real S3 servers for tests: MinIO, and the small default.

``store``           an :class:`ObjectStore` in a bucket of its own; once on each of the two
``minio_store``     on MinIO alone
``rclone_store``    on the small default alone
``storage_server``  what ``store`` talks to (a :class:`StorageServer`), to stop and start it
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from dcloud_spawner.storage.store import ObjectStore
from tests import services
from tests.services import Missing
from tests.storage.servers import StorageServer, minio, rclone


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """One MinIO for the session."""
    try:
        binary = services.minio_binary()
    except Missing as error:
        pytest.skip(str(error))
    with minio(binary, tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """One ``rclone serve s3`` for the session, started as ``dcloud up`` does."""
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["minio", "rclone"])
def storage_server(request: pytest.FixtureRequest) -> StorageServer:
    """Each of the two servers in turn."""
    server: StorageServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def store(storage_server: StorageServer) -> Iterator[ObjectStore]:
    """A store in a bucket of its own, on each of the two servers."""
    yield from _fresh(storage_server)


@pytest.fixture
def minio_store(minio_server: StorageServer) -> Iterator[ObjectStore]:
    """A store in a bucket of its own on MinIO."""
    yield from _fresh(minio_server)


@pytest.fixture
def rclone_store(rclone_server: StorageServer) -> Iterator[ObjectStore]:
    """A store in a bucket of its own on the small default."""
    yield from _fresh(rclone_server)


def _fresh(server: StorageServer) -> Iterator[ObjectStore]:
    store = ObjectStore(server.access(f"test-{secrets.token_hex(6)}"), direct=True)
    store.ensure_bucket()
    yield store
    store.close()
