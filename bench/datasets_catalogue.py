"""10,000 datasets and a million files: how quick the catalogue, a search, the page of a dataset
and a deep folder are.

Made from a seed, written straight into the store. Pages are asked of the real web service through
the real proxy and hub, as a user, the owner of the largest dataset, somebody of whom nothing is,
and an administrator, one request after the other; the peer is the promised time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sqlalchemy import Table

from bench.result import Result
from dcloud_spawner.datasets.paths import folder_of, folders_of
from dcloud_spawner.platform import Platform
from dcloud_spawner.store.datasets import search_text
from dcloud_spawner.store.datasets_schema import (
    dataset_files,
    dataset_folders,
    dataset_shares,
    dataset_versions,
    datasets,
)
from tests.memory_engine import node
from tests.web_stage import ADMINISTRATOR, WebStage

SEED = 20261121
DATASETS = int(os.environ.get("DCLOUD_BENCH_DATASETS", "10000"))
FILES = int(os.environ.get("DCLOUD_BENCH_FILES", "1000000"))
ROUNDS = int(os.environ.get("DCLOUD_BENCH_ROUNDS", "15"))
KEPT = os.environ.get("DCLOUD_BENCH_CATALOGUE", "")
"""A database that is kept: made by the first run, and only asked again by later ones."""
USERS = 200
GROUPS = 20
LARGEST = 0.2
"""Part of all files that is in one dataset."""
WIDE = 20_000
"""Files in one folder of it."""

PROMISED_SECONDS = 0.2
PROMISE = "the promised time"

TAGS = ("images", "text", "audio", "video", "tables", "zarr", "labelled", "raw", "small", "2026")
WORDS = (
    *("street", "scene", "satellite", "tile", "protein", "fold", "speech", "command", "weather"),
    *("grid", "lidar", "sweep", "news", "corpus", "eval", "prompt", "ward", "record", "sensor"),
    *("log", "trace", "genome", "cell", "scan", "depth", "pose", "gait", "crowd", "traffic"),
)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
BATCH = 20_000

Ask = tuple[str, str]


@dataclass
class Made:
    """What the generator made that the pages are asked for."""

    largest: str = ""
    wide_folder: str = ""
    deep_folder: str = ""
    deep_file: str = ""
    small: str = ""


def user(number: int) -> str:
    """One of the users."""
    return f"user-{number:03}"


def write(platform: Platform, dice: random.Random, *, kept: bool = False) -> Made:
    """Fill the store; or only say what was made, where it is ``kept`` from a run before."""
    made = Made()
    rows: dict[Table, list[dict[str, object]]] = {
        table: []
        for table in (datasets, dataset_versions, dataset_shares, dataset_folders, dataset_files)
    }
    rest = FILES - int(FILES * LARGEST)
    for number in range(DATASETS):
        count = int(FILES * LARGEST) if number == 0 else rest // (DATASETS - 1)
        _dataset(dice, number, count, rows, made)
        if kept and made.small:
            return made
        if not kept and sum(map(len, rows.values())) > BATCH:
            _flush(platform, rows)
    _flush(platform, rows)
    return made


def _flush(platform: Platform, rows: dict[Table, list[dict[str, object]]]) -> None:
    with platform.database.transaction() as connection:
        for table, found in rows.items():
            if found:
                connection.execute(table.insert(), found)
                found.clear()


def _dataset(
    dice: random.Random,
    number: int,
    count: int,
    rows: dict[Table, list[dict[str, object]]],
    made: Made,
) -> None:
    owner = user(0 if number == 0 else dice.randrange(USERS))
    name = f"{dice.choice(WORDS)}-{dice.choice(WORDS)}-{number}"
    tags = dice.sample(TAGS, dice.randrange(4))
    about = " ".join(dice.choices(WORDS, k=dice.randrange(20, 200)))
    changed = NOW - timedelta(minutes=dice.randrange(500_000))
    identifier = f"{number:08x}" + hashlib.md5(name.encode()).hexdigest()[:24]
    versions = dice.randrange(1, 4)
    everyone = dice.random() < 0.3
    ids = [hashlib.md5(f"{identifier}{each}".encode()).hexdigest() for each in range(versions)]
    paths = list(_large(count, made) if number == 0 else _small(dice, count))
    sizes = [dice.randrange(1000, 10_000_000) for _ in paths]
    rows[datasets].append(
        {
            "id": identifier,
            "owner_kind": "user",
            "owner": owner,
            "owner_name": owner,
            "name": name,
            "description": about,
            "tags": tags,
            "search_text": search_text(name, owner, tags, about),
            "everyone": everyone,
            "latest_number": versions,
            "latest_version": ids[-1],
            "size_bytes": sum(sizes),
            "files": count,
            "stored_bytes": sum(sizes),
            "created_by": owner,
            "created_at": changed,
            "changed_at": changed,
            "last_used_at": changed if dice.random() < 0.7 else None,
        }
    )
    for each, version in enumerate(ids, 1):
        latest = each == versions
        rows[dataset_versions].append(
            {
                "id": version,
                "dataset": identifier,
                "number": each,
                "state": "published",
                "files": count if latest else 0,
                "size_bytes": sum(sizes) if latest else 0,
                "manifest_sha256": hashlib.sha256(version.encode()).hexdigest(),
                "created_by": owner,
                "created_at": changed,
                "published_by": owner,
                "published_at": changed,
            }
        )
    for kind, of, most in (("user", USERS, 3), ("group", GROUPS, 2)):
        for other in dice.sample(range(of), dice.randrange(most)):
            share = {"dataset": identifier, "kind": kind, "right": "read", "by": owner, "at": NOW}
            rows[dataset_shares].append(
                {**share, "name": user(other) if kind == "user" else f"group-{other:02}"}
            )
    _files(ids[-1], owner, changed, paths, sizes, rows)
    if number == 0:
        made.largest = f"{owner}/{name}"
    elif everyone and not made.small:
        made.small = f"{owner}/{name}"


def _large(count: int, made: Made) -> Iterator[str]:
    """One wide folder, one deep one, and many of a thousand."""
    made.wide_folder, made.deep_folder = "wide", "/".join(f"level-{n:02}" for n in range(20))
    made.deep_file = f"{made.deep_folder}/frame-000500.png"
    for number in range(min(WIDE, count)):
        yield f"wide/frame-{number:06}.png"
    left = count - WIDE
    for number in range(min(1000, left)):
        yield f"{made.deep_folder}/frame-{number:06}.png"
    for number in range(max(0, left - 1000)):
        yield f"scenes/part-{number // 1000:04}/frame-{number:06}.png"


def _small(dice: random.Random, count: int) -> Iterator[str]:
    for number in range(count):
        yield f"{dice.choice(WORDS)}/{number % 7}/file-{number:05}.csv"


def _files(
    version: str,
    owner: str,
    at: datetime,
    paths: Sequence[str],
    sizes: Sequence[int],
    rows: dict[Table, list[dict[str, object]]],
) -> None:
    sums: dict[str, list[int]] = {}
    for path, size in zip(paths, sizes, strict=True):
        rows[dataset_files].append(
            {
                "version": version,
                "path": path,
                "folder": folder_of(path),
                "size_bytes": size,
                "sha256": f"{size:064x}",
                "etag": "",
                "added_by": owner,
                "added_at": at,
            }
        )
        for folder in folders_of(path):
            found = sums.setdefault(folder, [0, 0])
            found[0] += 1
            found[1] += size
    rows[dataset_folders] += [
        {
            "version": version,
            "path": folder,
            "parent": folder_of(folder) if folder else "/",
            "files": found[0],
            "size_bytes": found[1],
        }
        for folder, found in sums.items()
    ]


# ---------------------------------------------------------------------------- asked


def asks(made: Made) -> dict[str, list[Ask]]:
    """Addresses by what they are of."""
    somebody, nobody = user(7), "newcomer"
    largest, folder = f"datasets/{made.largest}", made.deep_folder
    readers = (somebody, nobody, ADMINISTRATOR)
    return {
        "catalogue": [
            *((who, "datasets") for who in readers),
            *((somebody, f"datasets?sort={sort}") for sort in ("used", "name", "size")),
            *((somebody, f"datasets?view={view}") for view in ("mine", "shared", "public")),
        ],
        "search": [
            *((who, "datasets?find=protein+fold") for who in readers),
            (somebody, "datasets?find=images+weather+user-00"),
            (somebody, "datasets?find=nothing-like-this"),
        ],
        "dataset": [
            (user(0), largest),
            (ADMINISTRATOR, largest),
            (nobody, f"datasets/{made.small}"),
        ],
        "folder": [
            (user(0), f"{largest}?folder={folder}"),
            (user(0), f"{largest}?folder=wide"),
            (user(0), f"{largest}?folder=wide&after=f:wide/frame-019000.png"),
            (user(0), f"{largest}?folder=scenes"),
        ],
        "files_search": [
            (user(0), f"{largest}?find=frame-000777"),
            (user(0), f"{largest}?find=not-there-at-all"),
        ],
    }


def _signed_in(stage: WebStage, name: str) -> httpx.Client:
    client = httpx.Client(base_url=stage.url, timeout=60, trust_env=False, follow_redirects=True)
    client.get("/hub/login")
    data = {"username": name, "password": stage.password, "_xsrf": client.cookies["_xsrf"]}
    client.post("/hub/login", data=data).raise_for_status()
    return client


def measure() -> dict[str, Result]:
    """Make it, ask, and remove it."""
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-"))
    path = Path(KEPT) if KEPT else folder / "dcloud.sqlite"
    kept = path.exists()
    try:
        with WebStage(
            folder,
            database_url=f"sqlite:///{path}",
            hub_database_url=f"sqlite:///{folder / 'hub.sqlite'}",
            nodes=(node(),),
        ) as stage:
            begun = time.perf_counter()
            made = write(stage.platform, random.Random(SEED), kept=kept)
            taken = "kept" if kept else f"written in {time.perf_counter() - begun:.0f} s"
            print(f"{DATASETS} datasets, {FILES} files, {taken}")
            for number in range(0, GROUPS, 7):
                stage.join(user(7), f"group-{number:02}")
            return _measured(stage, asks(made))
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)


def _measured(stage: WebStage, wanted: dict[str, list[Ask]]) -> dict[str, Result]:
    people = dict.fromkeys(who for found in wanted.values() for who, _ in found)
    clients = {who: _signed_in(stage, who) for who in people}
    results = {}
    for name, found in wanted.items():
        seconds: dict[Ask, list[float]] = {ask: [] for ask in found}
        for turn in range(ROUNDS + 1):
            for who, path in found:
                begun = time.perf_counter()
                answer = clients[who].get(f"/services/dcloud/{path}")
                taken = time.perf_counter() - begun
                assert answer.status_code == 200, (who, path, answer.text[:300])
                if turn:
                    seconds[(who, path)].append(taken)
        for ask, values in seconds.items():
            print(f"  {_p95(values) * 1000:6.0f} ms  {ask[0]:10} {ask[1][:80]}")
        every = [each for values in seconds.values() for each in values]
        results[f"datasets_{name}_p95"] = Result(
            round(_p95(every), 4), "s", PROMISE, PROMISED_SECONDS, len(every)
        )
    return results


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]
