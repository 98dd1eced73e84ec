"""A storage that was asked to tell of its requests, and of which nothing is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage import telling
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.storage.admin import administration
from dcloud_spawner.storage.telling import BELIEVED, Silence
from hub_services.cli import storage
from hub_services.web import storage_events
from hub_services.web.storage_events import StorageEvents
from tests import platforms
from tests.memory_engine import MemoryEngine
from tests.services import free_port
from tests.storage.servers import StorageServer


@pytest.fixture
def platform(tmp_path: Path, minio_server: StorageServer) -> Iterator[Platform]:
    """One whose MinIO is told an address at which nobody is."""
    settings = platforms.settings_for(
        f"sqlite:///{tmp_path}/dcloud.sqlite",
        tmp_path,
        storage_url=minio_server.url,
        storage_events_url=f"http://127.0.0.1:{free_port()}/events",
        deployment="silent",
    )
    settings.secrets_dir.mkdir(parents=True, mode=0o700)
    for name, key in ((ACCESS_KEY, minio_server.access_key), (SECRET_KEY, minio_server.secret_key)):
        (settings.secrets_dir / name).write_text(key)
        (settings.secrets_dir / name).chmod(0o600)
    made = Platform(settings, engine=MemoryEngine())
    made.storage.ensure_bucket()
    yield made
    with administration(made.storage.access, "reset") as admin:
        admin.config_reset("audit_webhook:silent")
    made.close()


async def test_a_storage_that_does_not_reach_us_is_told_to_administrators(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = platform.settings
    assert await storage_events.ask(platform) is True
    await storage_events.look(platform, None, seconds=0.5)
    found = telling.silence(settings)
    assert found is not None and found.problem == storage_events.NOTHING_ARRIVES
    assert settings.storage_events_url in found.mend
    seen = storage.look(settings)
    assert "events that do not arrive" in seen.words
    assert (found.problem, found.mend) in storage.remarks(settings, seen)

    # Nobody believes what nobody looked at for long.
    assert telling.silence(settings, utc_now() + BELIEVED * 2) is None

    # The same, and something comes while it is looked.
    asked, loop = platform.storage.require_bucket, asyncio.get_running_loop()

    def heard() -> None:
        asked()
        loop.call_soon_threadsafe(StorageEvents.heard.now)

    monkeypatch.setattr(platform.storage, "require_bucket", heard)
    refused = Silence("the storage does not let the platform ask", "an administrator sets it")
    await storage_events.look(platform, refused, seconds=20)
    assert telling.silence(settings) is None
    assert "events" in (words := storage.look(settings).words) and "arrive" not in words
