"""Real S3 servers for tests: MinIO, and the small default.

``store``           an :class:`ObjectStore` in a bucket of its own; once on each of the two
``minio_store``     on MinIO alone
``rclone_store``    on the small default alone
``storage_server``  what ``store`` talks to (a :class:`StorageServer`), to stop and start it
``open_stage``      opens hub, proxy, web service, gate and what does jobs over one of them
``browser``         a Chromium for the module
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser

from dcloud_spawner.storage.store import ObjectStore
from tests import services
from tests.chromium import chromium
from tests.conftest import fresh_database
from tests.services import Missing
from tests.storage.jobs_beside import jobs_beside
from tests.storage.servers import StorageServer, minio, rclone
from tests.storage.stage import OpenStage, StorageStage


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


@pytest.fixture(scope="module")
def open_stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OpenStage:
    """Opens everything behind the pages over one storage, with databases of its own."""

    @contextmanager
    def opened(server: StorageServer, **settings: Any) -> Iterator[StorageStage]:
        folder = tmp_path_factory.mktemp("stage")
        with (
            fresh_database(request, folder, "dcloud") as database,
            fresh_database(request, folder, "jupyterhub") as hub,
            StorageStage(
                folder, server, database_url=database, hub_database_url=hub, **settings
            ) as made,
            jobs_beside(made.platform),
        ):
            yield made

    return opened


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    """A real Chromium."""
    with chromium(chromium_path) as opened:
        yield opened


def _fresh(server: StorageServer) -> Iterator[ObjectStore]:
    store = ObjectStore(server.access(f"test-{secrets.token_hex(6)}"), direct=True)
    store.ensure_bucket()
    yield store
    store.close()
