"""A lab's datasets: one with real files in the storage, and the lines of a catalogue around it,
whose sizes and numbers of versions are only written."""

from __future__ import annotations

import hashlib
import io
import struct
import time
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.store import dataset_files, datasets
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.datasets import Dataset, Version, VersionState
from dcloud_spawner.store.events import Actor
from tests.patience import patient
from tests.storage.jobs_beside import jobs_beside

GB = 10**9
OWNER, READER, WRITER, STRANGER = "user-a", "user-b", "user-c", "user-x"
NOON = datetime.now(UTC).replace(hour=12, minute=22, second=0, microsecond=0)

CATALOGUE = (
    # name, owner, tags, version, GB, days ago used, who sees it
    ("street-scenes", "user-d", ("images", "labelled"), 7, 138, 0, "group"),
    ("satellite-tiles", "user-d", ("images",), 2, 62, 0, "everyone"),
    ("news-corpus-en", "user-e", ("text",), 12, 19, 3, "everyone"),
    ("speech-commands", "user-e", ("audio",), 2, 2.3, 7, "everyone"),
    ("lidar-sweeps", "user-f", ("point clouds",), 1, 411, 12, "user-a"),
    ("eval-prompts", OWNER, ("text", "small"), 31, 0.004, 19, ""),
    ("weather-grids", "user-f", ("zarr",), 5, 96, 24, "everyone"),
    ("ward-records", "user-f", ("tables",), 1, 4.1, None, ""),
)

ABOUT = """Predicted structures of 1,204 chains, one file each.

## How it was made

- sequences from the **2026-09** release
- folded with `fold --seed 7`, five models, the best one kept

| column | meaning |
|---|---|
| `chain` | name of the chain |
| `plddt` | confidence, 0 to 100 |

<script>alert("never")</script> Questions: [the wiki](https://wiki.example/folds).
"""


def asker(user: str) -> Asker:
    """Somebody who asks from one address."""
    return Asker(Actor(user, "10.0.0.9"))


def add_files(platform: Platform, dataset: Dataset, files: Mapping[str, bytes], by: str) -> Version:
    """Put files into the draft, in the storage and in the store."""
    with platform.database.reading() as connection:
        draft = datasets.draft_of(connection, dataset.id)
    assert draft is not None
    new = []
    for path, content in files.items():
        platform.storage.put(keys.file_key(dataset.id, draft.id, path), content)
        sha256 = hashlib.sha256(content).hexdigest()
        new.append(NewFile(path, len(content), sha256=sha256, claimed_sha256=sha256))
    with platform.database.transaction() as connection:
        dataset_files.put(connection, draft.id, new, by, utc_now())
    return draft


def published(platform: Platform, dataset: Dataset, by: str, note: str = "") -> Dataset:
    """Publish the draft, as the process ``data`` does it."""
    versions.begin_publish(platform, asker(by), dataset.id, note)
    deadline = time.monotonic() + patient(60)
    with jobs_beside(platform):
        while time.monotonic() < deadline:
            with platform.database.reading() as connection:
                found = datasets.get(connection, dataset.id)
            if found.latest_number != dataset.latest_number:
                return found
            time.sleep(0.05)
    raise TimeoutError("not published within a minute")


def files() -> dict[str, bytes]:
    """Some of every kind."""
    rows = 1204
    table = pa.table(
        {
            "chain": [f"7XY{n:04}_A" for n in range(rows)],
            "length": [80 + n * 7 % 900 for n in range(rows)],
            "plddt": [60 + n % 40 / 1.0 for n in range(rows)],
            "folded": [
                datetime(2026, 9, 1, tzinfo=UTC) + timedelta(minutes=n) for n in range(rows)
            ],
        }
    )
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    lines = "".join(f"7XY{n:04}_A,{80 + n * 7 % 900},{60 + n % 40}.0\n" for n in range(rows))
    return {
        "README.md": b"# protein-folds\n\nSee the description.\n",
        "labels.parquet": parquet.getvalue(),
        "labels.csv": f"chain,length,plddt\n{lines}".encode(),
        "images/overview.png": _png(),
        "images/page.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "chains/a/7XY0001_A.pdb": b"ATOM      1  N   MET A   1\n" * 400,
        "chains/a/7XY0002_A.pdb": b"ATOM      1  N   MET A   1\n" * 300,
        "chains/b/7XY0003 été.pdb": b"ATOM\n" * 10,
        "chains/b/empty.txt": b"",
        "chains/b/page.html": b"<h1>hi</h1><script>alert(document.cookie)</script>",
        "weights.bin": bytes(range(256)) * 64,
    }


def _png() -> bytes:
    width, height = 320, 200
    rows = b"".join(
        b"\x00" + b"".join(bytes((x * 255 // width, y * 255 // height, 120)) for x in range(width))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def fill(platform: Platform) -> Dataset:
    """The whole library; returns ``user-a/protein-folds`` with two versions and a draft."""
    for name, owner, tags, version, size, used, seen in CATALOGUE:
        made = catalog.create(
            platform, asker(owner), name, Description(tags=tags, everyone=seen == "everyone")
        )
        if seen == "group":
            catalog.share(platform, asker(owner), made.id, "group", "vision-lab", "read")
        elif seen.startswith("user-"):
            catalog.share(platform, asker(owner), made.id, "user", seen, "read")
        _pretend(platform, made, version, round(size * GB), used)
    made = catalog.create(
        platform,
        asker(OWNER),
        "protein-folds",
        Description(description=ABOUT, tags=("structures",), licence="CC-BY-4.0"),
    )
    catalog.share(platform, asker(OWNER), made.id, "user", READER, "read")
    catalog.share(platform, asker(OWNER), made.id, "user", WRITER, "write")
    first = {path: content for path, content in files().items() if "chains" not in path}
    add_files(platform, made, first, OWNER)
    made = published(platform, made, OWNER, "first version")
    with platform.database.transaction() as connection:
        datasets.add_draft(connection, made.id, WRITER, utc_now(), made.latest_version)
    add_files(platform, made, files(), WRITER)
    made = published(platform, made, WRITER, "640 chains added, labels replaced")
    with platform.database.transaction() as connection:
        datasets.add_draft(connection, made.id, OWNER, utc_now(), made.latest_version)
    return made


def _pretend(platform: Platform, made: Dataset, number: int, size: int, used: int | None) -> None:
    with platform.database.transaction() as connection:
        draft = datasets.draft_of(connection, made.id)
        assert draft is not None
        now = utc_now()
        datasets.change_version(
            connection,
            draft.id,
            number=number,
            state=VersionState.PUBLISHED.value,
            size_bytes=size,
            files=1000,
            published_by=made.owner,
            published_at=now,
            manifest_sha256="0" * 64,
        )
        datasets.change(
            connection,
            made.id,
            latest_number=number,
            latest_version=draft.id,
            size_bytes=size,
            files=1000,
            last_used_at=None if used is None else NOON - timedelta(days=used),
        )
