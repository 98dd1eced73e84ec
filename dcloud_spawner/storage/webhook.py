"""The storage is asked to tell the platform of every request: MinIO's audit webhook."""

from __future__ import annotations

import contextlib
import os
import secrets
from urllib.parse import urlsplit

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import StorageAccess, is_default
from dcloud_spawner.storage.admin import administration

TOKEN = "storage_events.token"
"""Secret file with what the storage shows; the web service makes it."""

EVENTS_PATH = "/services/dcloud/storage/events"

LOOPBACK = ("127.0.0.1", "localhost", "::1")

BATCH = 50
"""Entries of one delivery: one is up to 15 KB, and the web service takes 1 MiB."""


def token_of(settings: Settings) -> str:
    """What the storage shows; made the first time. Never empty: what a killed process or a full
    disk left of it is no token, or whoever shows nothing would be taken for the storage."""
    path = settings.secrets_dir / TOKEN
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text().strip():
            return known
    draft = path.with_name(f"{TOKEN}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another process was quicker
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().strip()


def events_url(settings: Settings) -> str:
    """Where the storage tells; "" where nobody said how it reaches us."""
    if settings.storage_events_url:
        return settings.storage_events_url
    root = urlsplit(settings.bind_url).path.rstrip("/")
    if urlsplit(settings.storage_url).hostname in LOOPBACK:
        return f"http://127.0.0.1:{settings.web_port}{root}{EVENTS_PATH}"
    return f"{settings.public_url.rstrip('/')}{EVENTS_PATH}" if settings.public_url else ""


def ask_for_events(settings: Settings, access: StorageAccess) -> bool:
    """Have the storage tell us; False where it cannot or nobody said how. Blocks.

    Raises StorageAway, and StorageRefused when the platform's key may not ask for it: then an
    administrator sets it (docs/datasets.md).
    """
    url = events_url(settings)
    if is_default(settings) or not url:
        return False
    wanted = {
        "enable": "on",
        "endpoint": url,
        "auth_token": f"Bearer {token_of(settings)}",
        "batch_size": str(BATCH),
        "comment": f"DCloud {settings.deployment}",
    }
    with administration(access, "its log is not set") as admin:
        admin.config_set(f"audit_webhook:{settings.deployment.replace('-', '_')}", wanted)
    return True
