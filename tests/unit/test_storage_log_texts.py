"""Odd texts in what the storage tells: whoever may ask it for a key chooses them."""

from __future__ import annotations

import json

import pytest

from dcloud_spawner.datasets.reconciling import note_accesses
from dcloud_spawner.datasets.storage_log import accesses
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import events, storage_credentials
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.storage_credentials import Credential

pytestmark = pytest.mark.database


def entry(key: str, access_key: str) -> str:
    """A refused look at an object, as MinIO writes it."""
    api = {"name": "GetObject", "bucket": "lab", "object": key, "statusCode": 403}
    said = {"api": api, "requestID": "R", "time": "2026-11-22T00:00:00Z", "accessKey": access_key}
    return json.dumps(said)


@pytest.mark.parametrize("access_key", ["KEY", "K\x00Y"])
@pytest.mark.parametrize(
    "key", ["datasets/a/b\x00/x", "datasets/a\x00/b/x", "manifests/a/\x00.json"]
)
def test_a_key_that_no_database_takes_does_not_stop_what_the_storage_tells(
    database: Database, key: str, access_key: str
) -> None:
    with database.transaction() as connection:
        now = utc_now()
        storage_credentials.insert(connection, Credential("KEY", "eve", "w", (), now, now))
    found = list(accesses(entry(key, access_key)))
    lines = note_accesses(database, found, "lab", "platform")
    assert lines == (1 if access_key == "KEY" else 0)
    if lines:
        with database.reading() as connection:
            line = events.read(connection)[-1]
        assert (line.actor, line.result) == ("eve", "refused")
