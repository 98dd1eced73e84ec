"""A year of 100,000 sessions: how quick usage pages and API are, and how the database grows.

The year is made from a seed (``bench/year.py``), with an entry for each turn of the meter. Pages
and API are asked of the real web service through the real proxy, as a user, an owner of a project
and an administrator, one request after the other; the peer is the promised time. Growth is
measured where the platform's own code writes: whole sessions, turns of the meter, and measures;
the peer is the same rows as CSV.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from bench import year as years
from bench.result import Result
from bench.year import Lab, Year
from dcloud_spawner import charging
from dcloud_spawner.engines.use import AcceleratorUse, ContainerUse, Use
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import measures
from hub_services.controller.measures import record
from tests import platforms
from tests.memory_engine import MemoryEngine
from tests.web_stage import ADMINISTRATOR, WebStage

SESSIONS = int(os.environ.get("DCLOUD_BENCH_SESSIONS", "100000"))
TICK_SECONDS = int(os.environ.get("DCLOUD_BENCH_TICK_SECONDS", "60"))
ROUNDS = int(os.environ.get("DCLOUD_BENCH_ROUNDS", "12"))
KEPT = os.environ.get("DCLOUD_BENCH_YEAR", "")
"""A database that is kept: made by the first run, and only asked again by later ones."""

PROMISED_SECONDS = 0.3
PROMISE = "the promised time"

Ask = tuple[str, str]
"""Who asks, and for what."""


def pages(year: Year) -> list[Ask]:
    """Usage pages of a user, of an owner and of an administrator."""
    user, owner = busiest(year), years.user_name(0)
    last, longest = sessions_of(year, user)
    running = [
        (years.user_name(year.user[at]), f"usage/session/{year.ids[at]}{part}")
        for at in year.runs.nonzero()[0][:3]
        for part in ("", "/live")
    ]
    return [
        *running,
        *((user, f"usage?days={days}") for days in (7, 30, 90)),
        (user, "usage"),
        (user, "usage/running"),
        (user, f"usage/session/{last}"),
        (user, f"usage/session/{longest}"),
        (user, "usage/ledger"),
        (user, "usage/statement"),
        (user, "requests"),
        *((owner, f"usage/project/project-00?days={days}") for days in (7, 30, 90)),
        (owner, f"usage/ledger?account={years.account_id(year.lab.users)}"),
        (owner, f"usage/statement?account={years.account_id(year.lab.users)}"),
        (ADMINISTRATOR, "lab"),
        *((ADMINISTRATOR, f"lab?days={days}") for days in (7, 90)),
        (ADMINISTRATOR, "accounts"),
        (ADMINISTRATOR, f"accounts/{years.account_id(year.lab.users)}"),
        (ADMINISTRATOR, "rates"),
        (ADMINISTRATOR, "limits"),
    ]


def calls(year: Year) -> list[Ask]:
    """Calls of the API, likewise; the widest of each."""
    user, owner = busiest(year), years.user_name(0)
    last, longest = sessions_of(year, user)
    project = years.account_id(year.lab.users)
    begins = f"{years.moment(year.began_year):%Y-%m-%dT%H:%M:%SZ}"
    found: list[Ask] = [
        (user, f"usage/sessions/{last}"),
        (user, f"usage/sessions/{longest}/measures"),
        (user, f"accounts/{years.account_id(int(user[-3:]))}"),
        (user, "limits"),
        (user, "requests"),
        (owner, f"accounts/{project}/grants"),
        (owner, f"ledger?account={project}"),
    ]
    for who in (user, owner, ADMINISTRATOR):
        found += [
            (who, "usage"),
            (who, f"usage?since={begins}&group_by=month"),
            (who, f"usage?since={begins}&group_by=user,gpu_model"),
            (who, "usage/sessions"),
            (who, "ledger"),
            (who, "accounts"),
            (who, "rates"),
        ]
    return found


def busiest(year: Year) -> str:
    """Who had most sessions."""
    counts = [int((year.user == number).sum()) for number in range(year.lab.users)]
    return years.user_name(counts.index(max(counts)))


def sessions_of(year: Year, user: str) -> tuple[str, str]:
    """The last session of a user, and the longest."""
    mine = (year.user == int(user[-3:])).nonzero()[0]
    longest = mine[(year.mark - year.began)[mine].argmax()]
    return year.ids[mine[-1]], year.ids[longest]


# ---------------------------------------------------------------------------- time


def _signed_in(stage: WebStage, name: str) -> httpx.Client:
    client = httpx.Client(base_url=stage.url, timeout=60, trust_env=False, follow_redirects=True)
    client.get("/hub/login")
    data = {"username": name, "password": stage.password, "_xsrf": client.cookies["_xsrf"]}
    client.post("/hub/login", data=data).raise_for_status()
    return client


def timed(asks: Sequence[Ask], get: Callable[[str, str], httpx.Response]) -> dict[Ask, list[float]]:
    """Seconds of each, asked in turn; the first of each only warms up."""
    seconds: dict[Ask, list[float]] = {ask: [] for ask in asks}
    for turn in range(ROUNDS + 1):
        for who, path in asks:
            begun = time.perf_counter()
            answer = get(who, path)
            taken = time.perf_counter() - begun
            assert answer.status_code == 200, (who, path, answer.status_code, answer.text[:300])
            if turn:
                seconds[(who, path)].append(taken)
    return seconds


def _told(name: str, seconds: dict[Ask, list[float]]) -> dict[str, Result]:
    everything = [each for found in seconds.values() for each in found]
    slowest = {ask: _p95(found) for ask, found in seconds.items()}
    for (who, path), p95 in sorted(slowest.items(), key=lambda item: -item[1])[:8]:
        print(f"  {p95 * 1000:7.0f} ms  {who}  {path}")
    count = len(everything)
    return {
        f"usage_year_{name}_p95": Result(
            round(_p95(everything), 4), "s", PROMISE, PROMISED_SECONDS, count
        ),
        f"usage_year_{name}_slowest_p95": Result(
            round(max(slowest.values()), 4), "s", PROMISE, PROMISED_SECONDS, count
        ),
    }


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def latencies(folder: Path) -> dict[str, Result]:
    """Of pages and API over the year."""
    begun, lab = time.perf_counter(), Lab(SESSIONS, TICK_SECONDS)
    path = Path(KEPT) if KEPT else folder / "dcloud.sqlite"
    kept = path.exists()
    year = Year(lab, datetime.now(UTC)) if kept else years.write(lab, path, datetime.now(UTC))
    print(
        f"{SESSIONS} sessions, {int(year.runs.sum())} of them running, an entry each "
        f"{TICK_SECONDS} s: {path.stat().st_size / 2**30:.2f} GiB "
        + ("made before" if kept else f"in {time.perf_counter() - begun:.0f} s")
    )
    with WebStage(
        folder,
        database_url=f"sqlite:///{path}",
        hub_database_url=f"sqlite:///{folder / 'hub.sqlite'}",
        nodes=years.nodes(),
        api_calls_per_minute=10**6,
    ) as stage:
        found = _told("api", timed(calls(year), _api(stage, calls(year))))
        return found | _told("pages", timed(pages(year), _pages(stage, pages(year))))


def _pages(stage: WebStage, asks: Sequence[Ask]) -> Callable[[str, str], httpx.Response]:
    clients = {who: _signed_in(stage, who) for who in dict.fromkeys(who for who, _ in asks)}
    return lambda who, path: clients[who].get(f"/services/dcloud/{path}")


def _api(stage: WebStage, asks: Sequence[Ask]) -> Callable[[str, str], httpx.Response]:
    clients = {who: stage.api(who) for who in dict.fromkeys(who for who, _ in asks)}
    return lambda who, path: clients[who].get(f"/{path}")


# ---------------------------------------------------------------------------- growth

MADE = 150
"""Sessions from start to end."""
TURNS = 600
"""Of the meter, over one session that runs."""


def growth(folder: Path) -> dict[str, Result]:
    """Bytes that one session leaves, and one day of a session that runs."""
    path = folder / "growth.sqlite"
    settings = platforms.settings_for(f"sqlite:///{path}", folder)
    with platforms.opened(settings, MemoryEngine()) as platform:
        size = _Size(path)
        for number in range(MADE):
            platforms.start(platform, f"u{number % 20}")
            platforms.end_all(platform)
        session = size.grown(MADE)
        _turns(platform)
        turn = size.grown(TURNS)
        pieces = _measured(platform)
        piece = size.grown(pieces)
    kept, for_a_while = 1440 * turn[0] + 24 * piece[0], 8640 * piece[0] + 1440 * piece[0]
    print(
        f"a session: {session[0] / 1024:.1f} KiB; a turn of the meter: {turn[0]:.0f} bytes; "
        f"a piece of measures: {piece[0]:.0f} bytes; a day of one that runs: "
        f"{kept / 2**20:.2f} MiB kept, "
        f"{for_a_while / 2**20:.2f} MiB more for a day (10 s) and 30 days (minutes)"
    )
    as_csv = 1440 * turn[1] + 24 * piece[1]
    peer = "the same rows as CSV"
    return {
        "usage_year_growth_session": Result(
            round(session[0] / 1024, 2), "KiB", peer, round(session[1] / 1024, 2), MADE
        ),
        "usage_year_growth_running_day": Result(
            round(kept / 2**20, 3), "MiB", peer, round(as_csv / 2**20, 3), TURNS
        ),
    }


def _turns(platform: Platform) -> None:
    """The meter turns again and again over one session; its end is not part of it."""
    workload = platforms.start(platform, "runner")
    begun = workload.engine_started_at or datetime.now(UTC)
    for number in range(1, TURNS + 1):
        with platform.database.transaction() as connection:
            until = begun + timedelta(seconds=60 * number)
            charging.settle(connection, workload.id, until, until)


def _measured(platform: Platform) -> int:
    """Measure that session for three hours; returns how many pieces there are."""
    with platform.database.reading() as connection:
        (subject,) = measures.subjects(connection)
    for number in range(1, 1081):
        at = subject.started_at + timedelta(seconds=10 * number)
        container = ContainerUse(
            subject.workload, "c" * 64, at, 7_000_000 * number, 2**33 + number, number, 9, 5
        )
        gpus = tuple(
            AcceleratorUse(
                uuid, 50 + number % 50, 2**35 + number, 400_000 + number, 60, 10 * number
            )
            for uuid in subject.held
        )
        record(platform.database, Use((container,), gpus), 10)
    with platform.database.reading() as connection:
        return sum(
            len(
                measures.series(
                    connection, subject.workload, subject.started_at, at + timedelta(1), seconds
                )
            )
            for seconds in measures.RESOLUTIONS
        )


class _Size:
    """Size of a database on disk, and of its rows as CSV."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = self._now()

    def grown(self, by: int) -> tuple[float, float]:
        """Bytes since the last time, for each of so many; and the same as CSV."""
        now, last = self._now(), self._last
        self._last = now
        return (now[0] - last[0]) / by, (now[1] - last[1]) / by

    def _now(self) -> tuple[int, int]:
        copy = self.path.with_suffix(".copy")
        with sqlite3.connect(self.path) as connection:
            copy.unlink(missing_ok=True)
            connection.execute("VACUUM INTO ?", (str(copy),))
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            text = io.StringIO()
            writer = csv.writer(text)
            for (name,) in tables.fetchall():
                writer.writerows(connection.execute(f'SELECT * FROM "{name}"'))
        return copy.stat().st_size, len(text.getvalue().encode())


def measure() -> dict[str, Result]:
    """Everything, in a folder that is removed afterwards."""
    logging.disable(logging.WARNING)  # of the hub's own checks of requests that no browser made
    folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-"))
    try:
        return growth(folder) | latencies(folder)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)
