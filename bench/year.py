"""A year of a lab, made from a seed and written straight into a SQLite database.

Everything that the ledger keeps is there and agrees, as ``dcloud ledger verify`` finds: sessions
on GPUs that are never held twice, an entry for each turn of the meter, balances, lots, use by the
hour; and what was measured, as long as each length is kept. Only the action log stays empty: the
pages of this bench do not read it. Times are microseconds since 1970, as numpy's integers.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcloud_spawner.engines.base import AcceleratorFacts, NodeFacts
from dcloud_spawner.ledger.rates import Resource, used_rates
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.store import rates as rate_rows
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.schema import State

GIB, HOUR, DAY, S = 2**30, 3_600_000_000, 86_400_000_000, 1_000_000
MODELS = {"H100": 2_500_000, "A100": 1_500_000, "L40S": 800_000, "A5000": 500_000}
"""GPU models with their price an hour in micro-credits; 16 GPUs of each."""
CORE_HOUR, GIB_HOUR = 10_000, 2_000
SHAPES = np.array([0, 1, 2, 4])
"""GPUs of a session."""
SHARES = [0.10, 0.65, 0.17, 0.08]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lab:
    """How large, and how often the meter turns."""

    sessions: int
    tick_seconds: int = 60
    users: int = 200
    projects: int = 40
    seed: int = 11


def nodes() -> tuple[NodeFacts, ...]:
    """The hardware."""
    return tuple(
        NodeFacts(
            f"{model.lower()}-{number}",
            128_000,
            1024 * GIB,
            tuple(
                AcceleratorFacts(f"GPU-{model}-{number}-{gpu}", gpu, model, 80 * GIB)
                for gpu in range(8)
            ),
        )
        for model in MODELS
        for number in range(2)
    )


def user_name(number: int) -> str:
    """Of one person."""
    return f"person-{number:03}"


class Year:
    """The sessions as columns, one row a session, in the order in which they began."""

    def __init__(self, lab: Lab, now: datetime) -> None:
        self.lab = lab
        self.now = int(now.timestamp()) * S
        self.began_year = self.now - 365 * DAY
        self.rng = np.random.default_rng(lab.seed)
        count = lab.sessions
        self.ids = [self.rng.bytes(16).hex() for _ in range(count)]
        self.user = self.rng.integers(0, lab.users, count)
        self._account_of()
        self.gpus = self.rng.choice(SHAPES, count, p=SHARES)
        self.model = self.rng.integers(0, len(MODELS), count)
        self.cores = self.rng.choice([2, 4, 8, 16], count)
        self.gib = self.cores * 4
        self.load = self.rng.beta(2.2, 1.8, count)
        self._times()
        price = np.array(list(MODELS.values()))[self.model] * self.gpus
        self.an_hour = price + CORE_HOUR * self.cores + GIB_HOUR * self.gib
        self.model[self.gpus == 0] = len(MODELS)  # no model

    def _account_of(self) -> None:
        """Accounts are numbered: people first, then projects; each person is in two."""
        lab, rng = self.lab, self.rng
        self.projects_of = np.stack(
            [np.arange(lab.users) % lab.projects, (np.arange(lab.users) * 7 + 3) % lab.projects]
        )
        own = rng.random(lab.sessions) < 0.6
        project = self.projects_of[rng.integers(0, 2, lab.sessions), self.user]
        self.account = np.where(own, self.user, lab.users + project)

    def _times(self) -> None:
        """Wishes over the year; each begins when GPUs are free."""
        count, rng = self.lab.sessions, self.rng
        wished = np.sort(rng.integers(self.began_year, self.now - 60 * S, count))
        length = np.clip(rng.lognormal(np.log(40 * 60), 1.1, count), 30, 24 * 3600)
        pools = [
            [(self.began_year, f"GPU-{model}-{at // 8}-{at % 8}") for at in range(16)]
            for model in MODELS
        ]
        self.began, self.ends = wished.copy(), np.zeros(count, np.int64)
        self.held: list[list[str]] = []
        for at in range(count):
            pool = pools[self.model[at]]
            taken = [heapq.heappop(pool) for _ in range(self.gpus[at])]
            begins = max([int(wished[at]), *(free for free, _ in taken)])
            ends = begins + int(length[at] * S)
            self.began[at], self.ends[at] = begins, ends
            for _, uuid in taken:
                heapq.heappush(pool, (ends + 5 * S, uuid))
            self.held.append([uuid for _, uuid in taken])
        assert int(self.began.max()) < self.now, "the lab is too small for so many sessions"
        self.runs = self.ends >= self.now
        # What runs is charged up to the meter's last turn.
        tick = self.lab.tick_seconds * S
        self.mark = np.where(self.runs, np.maximum(self.began, self.now // tick * tick), self.ends)

    def cut(self, seconds: int, since: int = 0) -> tuple[Ints, Ints, Ints]:
        """Sessions in pieces at multiples of a length: of which session, from when, until when."""
        step = seconds * S
        begins = np.maximum(self.began, since)
        alive = np.flatnonzero(self.mark > begins)
        first, last = begins[alive], self.mark[alive]
        counts = (last - 1) // step - first // step + 1
        of = np.repeat(alive, counts)
        number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        grid = (np.repeat(first // step, counts) + number) * step
        return of, np.maximum(grid, begins[of]), np.minimum(grid + step, self.mark[of])

    def due(self, of: Ints, at: Ints) -> Ints:
        """Micro-credits of sessions from their beginning until a time, rounded down."""
        found: Ints = self.an_hour[of] * (at - self.began[of]) // HOUR
        return found


# ---------------------------------------------------------------------------- writing


def write(lab: Lab, path: Path, now: datetime) -> Year:
    """Make the database; returns what is in it."""
    year = Year(lab, now)
    database = Database(f"sqlite:///{path}")
    database.migrate()
    with database.transaction() as connection:
        for resource, model, amount in (
            *((Resource.GPU, model, amount) for model, amount in MODELS.items()),
            (Resource.CPU_CORE, "", CORE_HOUR),
            (Resource.MEMORY_GIB, "", GIB_HOUR),
        ):
            rate_rows.add_rate(
                connection,
                resource,
                amount,
                gpu_model=model,
                valid_from=moment(year.began_year),
                created_by="bench",
                at=moment(year.began_year),
            )
        book = rate_rows.read_book(connection)
    rates = [
        json.dumps(used_rates(book, {model: 1} if model else {}, "bronze", now))
        for model in (*MODELS, "")
    ]
    raw = database.engine.raw_connection()
    try:
        sql = raw.driver_connection
        assert sql is not None
        # Nobody reads it yet, and who is interrupted begins again.
        sql.execute("PRAGMA journal_mode=OFF")
        sql.execute("PRAGMA synchronous=OFF")
        sql.execute("PRAGMA cache_size=-1000000")
        sql.execute("BEGIN IMMEDIATE")
        for table, rows in _tables(year, rates):
            _insert(sql, table, rows)
        sql.execute("COMMIT")
        sql.execute("ANALYZE")
        sql.execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()
    database.close()
    return year


def _insert(sql: Any, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    names = ", ".join(f'"{name}"' for name in first)
    statement = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(first))})"
    sql.execute(statement, tuple(first.values()))
    sql.executemany(statement, (tuple(row.values()) for row in rows))


def _tables(year: Year, rates: Sequence[str]) -> Iterator[tuple[str, Iterable[Mapping[str, Any]]]]:
    yield "nodes", _nodes(year)
    yield "accelerators", _accelerators(year)
    entries = Entries(year)
    yield "accounts", entries.accounts()
    yield "account_members", _members(year)
    yield "workloads", _workloads(year)
    yield "leases", _leases(year)
    yield "meters", _meters(year)
    yield "spans", _spans(year)
    yield "grants", entries.grants()
    yield "entries", entries.rows(rates)
    yield "lots", entries.lots()
    yield "usage_hours", _hours(year)
    yield "session_measures", _session_measures(year)
    for seconds, days in ((3600, 365), (60, 30), (10, 1)):
        yield "measures", _measures(year, seconds, year.now - days * DAY)


def moment(at: int) -> datetime:
    """Aware UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(at))


def _texts(times: Ints) -> list[str]:
    """As SQLite keeps them."""
    found = np.datetime_as_string(times.astype("datetime64[us]"), unit="us")
    return [text.replace("T", " ") for text in found.tolist()]


def _text(at: int) -> str:
    return _texts(np.array([at]))[0]


def _nodes(year: Year) -> Iterator[dict[str, Any]]:
    for node in nodes():
        yield {
            "name": node.name,
            "cpu_millicores": node.cpu_millicores,
            "memory_bytes": node.memory_bytes,
            "seen_at": _text(year.began_year),
        }


def _accelerators(year: Year) -> Iterator[dict[str, Any]]:
    for node in nodes():
        for gpu in node.accelerators:
            yield {
                "uuid": gpu.uuid,
                "node": node.name,
                "index": gpu.index,
                "model": gpu.model,
                "memory_bytes": gpu.memory_bytes,
                "kind": gpu.kind.value,
                "health": gpu.health.value,
                "seen_at": _text(year.began_year),
            }


def _members(year: Year) -> Iterator[dict[str, Any]]:
    lab = year.lab
    for user in range(lab.users):
        for project in sorted({int(each) for each in year.projects_of[:, user]}):
            owns = user % lab.projects == project and user < lab.projects
            yield {
                "account": account_id(lab.users + project),
                "user": user_name(user),
                "role": "owner" if owns else "member",
                "added_at": _text(year.began_year),
            }


def account_id(number: int) -> str:
    """Of an account."""
    return f"{number:032x}"


def _workloads(year: Year) -> Iterator[dict[str, Any]]:
    names = (*MODELS, "")
    began, ends = _texts(year.began), _texts(year.ends)
    asked, before = _texts(year.began - 9 * S), _texts(year.began - 2 * S)
    over = _texts(year.ends + S)
    for at, identifier in enumerate(year.ids):
        gpus, runs = int(year.gpus[at]), bool(year.runs[at])
        model = names[year.model[at]]
        yield {
            "id": identifier,
            "sequence": at + 1,
            "kind": "notebook",
            "user": user_name(year.user[at]),
            "server_name": f"s{at}" if runs else "",
            "profile": "gpu" if gpus else "cpu",
            "choice": json.dumps({"profile": "gpu", "gpus": gpus, "hours": 24}),
            "image": "dcloud/base",
            "gpus": gpus,
            "gpu_model": model or None,
            "memory_bytes": int(year.gib[at]) * GIB,
            "cpu_millicores": int(year.cores[at]) * 1000,
            "limit_seconds": 86_400 * 2,
            "state": (State.RUNNING if runs else State.ENDED).value,
            "reasons": "[]",
            "due_at": asked[at],
            "account": account_id(year.account[at]),
            "node": f"{(model or 'A100').lower()}-0",
            "submitted_at": asked[at],
            "admitted_at": before[at],
            "starting_at": before[at],
            "ready_at": began[at],
            "connected_at": began[at],
            "engine_started_at": began[at],
            "engine_finished_at": None if runs else ends[at],
            "stopping_at": None if runs else ends[at],
            "ended_at": None if runs else over[at],
            "exit_code": None if runs else 0,
            "end_reason": "" if runs else "stopped",
        }


def _leases(year: Year) -> Iterator[dict[str, Any]]:
    opened, closed = _texts(year.began - 2 * S), _texts(year.ends + S)
    for at, held in enumerate(year.held):
        for uuid in held:
            yield {
                "accelerator": uuid,
                "workload": year.ids[at],
                "opened_at": opened[at],
                "closed_at": None if year.runs[at] else closed[at],
            }


def _meters(year: Year) -> Iterator[dict[str, Any]]:
    began, mark, over = _texts(year.began), _texts(year.mark), _texts(year.ends + S)
    lasted = year.mark - year.began
    due = year.due(np.arange(len(year.ids)), year.mark)
    for at, identifier in enumerate(year.ids):
        yield {
            "workload": identifier,
            "account": account_id(year.account[at]),
            "user": user_name(year.user[at]),
            "began_at": began[at],
            "watermark_at": mark[at],
            "charged_microcredits": int(due[at]),
            "gpu_microseconds": int(lasted[at] * year.gpus[at]),
            "cpu_microseconds": int(lasted[at] * year.cores[at]),
            "memory_gib_microseconds": int(lasted[at] * year.gib[at]),
            "settled_at": None if year.runs[at] else over[at],
        }


def _spans(year: Year) -> Iterator[dict[str, Any]]:
    names, began = (*MODELS, ""), _texts(year.began)
    for at, identifier in enumerate(year.ids):
        gpus = int(year.gpus[at])
        yield {
            "workload": identifier,
            "begins_at": began[at],
            "gpu_models": json.dumps({names[year.model[at]]: gpus} if gpus else {}),
            "cpu_millicores": int(year.cores[at]) * 1000,
            "memory_bytes": int(year.gib[at]) * GIB,
        }


class Entries:
    """Charges at each turn of the meter and a grant a month that covers them, in the order in
    which they were written."""

    def __init__(self, year: Year) -> None:
        self.year = year
        lab = year.lab
        self.count_accounts = lab.users + lab.projects
        of, begins, ends = year.cut(lab.tick_seconds)
        amounts = year.due(of, ends) - year.due(of, begins)
        month = np.minimum((ends - year.began_year) // (DAY * 365 // 12), 11)
        used = np.zeros((self.count_accounts, 12), np.int64)
        np.add.at(used, (year.account[of], month), amounts)
        self.given = (used * 11 // 10 // S + 50) * S
        grants = np.indices(self.given.shape).reshape(2, -1)
        at = np.concatenate([year.began_year + grants[1] * (DAY * 365 // 12), ends])
        # Of one moment the grant is first.
        order = np.lexsort((np.arange(len(at)), at))
        self.at = at[order]
        self.begins = np.concatenate([np.zeros(grants.shape[1], np.int64), begins])[order]
        self.of = np.concatenate([np.full(grants.shape[1], -1), of])[order]
        self.month = np.concatenate([grants[1], np.full(len(of), -1)])[order]
        self.account = np.concatenate([grants[0], year.account[of]])[order]
        self.amounts = np.concatenate([self.given[grants[0], grants[1]], -amounts])[order]
        self.balance = np.zeros(len(self.at), np.int64)
        by_account = np.argsort(self.account, kind="stable")
        sums = np.cumsum(self.amounts[by_account])
        edges = np.searchsorted(self.account[by_account], np.arange(self.count_accounts))
        before = np.where(edges > 0, sums[edges - 1], 0)
        self.balance[by_account] = sums - before[self.account[by_account]]
        assert int(self.balance.min()) >= 0

    def accounts(self) -> Iterator[dict[str, Any]]:
        """With their balances."""
        balances = np.zeros(self.count_accounts, np.int64)
        np.add.at(balances, self.account, self.amounts)
        for number in range(self.count_accounts):
            person = number < self.year.lab.users
            project = f"project-{number - self.year.lab.users:02}"
            yield {
                "id": account_id(number),
                "kind": "user" if person else "project",
                "name": user_name(number) if person else project,
                "title": "" if person else project.title(),
                "balance_microcredits": int(balances[number]),
                "budget": "none" if person else "hard",
                "created_at": _text(self.year.began_year),
            }

    def grants(self) -> Iterator[dict[str, Any]]:
        """One for each account."""
        for number in range(self.count_accounts):
            yield {
                "id": f"{number:032x}",
                "account": account_id(number),
                "microcredits": int(self.given[number, 0]),
                "every": "month",
                "carry_over": 1,
                "starts_at": _text(self.year.began_year),
                "next_at": None,
                "given": 12,
                "created_by": "admin-a",
                "created_at": _text(self.year.began_year),
                "reason": "The lab's share",
            }

    def rows(self, rates: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All entries."""
        for begin in range(0, len(self.at), 100_000):
            yield from self._some(begin, slice(begin, begin + 100_000), rates)

    def _some(self, first: int, part: slice, rates: Sequence[str]) -> Iterator[dict[str, Any]]:
        year = self.year
        at, begins = _texts(self.at[part]), _texts(self.begins[part])
        columns = zip(
            *(each[part].tolist() for each in (self.of, self.account, self.amounts, self.balance)),
            (self.at[part] - self.begins[part]).tolist(),
            self.month[part].tolist(),
            strict=True,
        )
        for number, (of, account, amount, balance, length, month) in enumerate(columns):
            charge = of >= 0
            key = (
                f"charge:{year.ids[of]}:{begins[number].replace(' ', 'T')}+00:00"
                if charge
                else f"grant:{account:032x}:{month}"
            )
            yield {
                "id": first + number + 1,
                "account": account_id(account),
                "at": at[number],
                "kind": "charge" if charge else "grant",
                "microcredits": amount,
                "balance_after": balance,
                "workload": year.ids[of] if charge else None,
                "from_at": begins[number] if charge else None,
                "until_at": at[number] if charge else None,
                "gpu_microseconds": length * int(year.gpus[of]) if charge else 0,
                "cpu_microseconds": length * int(year.cores[of]) if charge else 0,
                "memory_gib_microseconds": length * int(year.gib[of]) if charge else 0,
                "rates": rates[year.model[of]] if charge else "null",
                "key": key,
                "actor": "meter" if charge else "ledger",
                "reason": "" if charge else "The lab's share",
            }

    def lots(self) -> Iterator[dict[str, Any]]:
        """What is left of each grant, the first of which is used first."""
        spent = np.zeros(self.count_accounts, np.int64)
        charges = self.of >= 0
        np.add.at(spent, self.account[charges], -self.amounts[charges])
        for entry in np.flatnonzero(~charges).tolist():
            account, amount = int(self.account[entry]), int(self.amounts[entry])
            used = min(amount, int(spent[account]))
            spent[account] -= used
            yield {
                "account": account_id(account),
                "entry": entry + 1,
                "grant": account_id(account),
                "microcredits": amount,
                "left_microcredits": amount - used,
            }


def _hours(year: Year) -> Iterator[dict[str, Any]]:
    """Use by the hour, with what was measured of it."""
    of, begins, ends = year.cut(3600)
    hour = begins // HOUR
    keys = np.stack([year.account[of], year.user[of], year.model[of], hour])
    groups, place = np.unique(keys, axis=1, return_inverse=True)
    length = ends - begins
    gpu = length * year.gpus[of]
    watts = (70 + 560 * year.load[of]).astype(np.int64)
    sums = []
    for column in (
        gpu,
        length * year.cores[of],
        length * year.gib[of],
        year.due(of, ends) - year.due(of, begins),
        gpu,
        (gpu * year.load[of]).astype(np.int64),
        gpu // 1000 * watts,
    ):
        total = np.zeros(groups.shape[1], np.int64)
        np.add.at(total, place.ravel(), column)
        sums.append(total.tolist())
    hours, names = _texts(groups[3] * HOUR), (*MODELS, "")
    for at in np.argsort(groups[3], kind="stable").tolist():  # as they would be written
        yield {
            "account": account_id(int(groups[0, at])),
            "user": user_name(int(groups[1, at])),
            "gpu_model": names[groups[2, at]],
            "hour": hours[at],
            "gpu_microseconds": sums[0][at],
            "cpu_microseconds": sums[1][at],
            "memory_gib_microseconds": sums[2][at],
            "microcredits": sums[3][at],
            "measured_microseconds": sums[4][at],
            "busy_microseconds": sums[5][at],
            "energy_millijoules": sums[6][at],
        }


def _figures(year: Year, of: Ints, length: Ints) -> Iterator[dict[str, int | None]]:
    """What was measured in pieces of sessions."""
    load = np.clip(year.load[of] + year.rng.normal(0, 0.1, len(of)), 0, 1)
    gpus, gib = year.gpus[of], year.gib[of]
    memory = (gib * GIB * (0.2 + 0.5 * year.load[of])).astype(np.int64)
    gpu_memory = (gpus * 80 * GIB * (0.1 + 0.8 * year.load[of])).astype(np.int64)
    watts = (70 + 560 * load).astype(np.int64) * gpus
    samples = np.maximum(1, length // (10 * S))
    held = gpus > 0
    columns: dict[str, list[Any]] = {
        "samples": samples.tolist(),
        "measured_microseconds": length.tolist(),
        "cpu_microseconds": (length * year.cores[of] * load * 0.6).astype(np.int64).tolist(),
        "cpu_millicores_max": (year.cores[of] * 900).tolist(),
        "memory_samples": samples.tolist(),
        "memory_bytes_sum": (memory * samples).tolist(),
        "memory_bytes_max": memory.tolist(),
        "network_received_bytes": (length // 40).tolist(),
        "network_sent_bytes": (length // 90).tolist(),
        "disk_bytes_max": (gib * GIB // 20).tolist(),
        "gpus_max": gpus.tolist(),
        "gpu_measured_microseconds": (length * gpus).tolist(),
        "gpu_busy_microseconds": (length * gpus * load).astype(np.int64).tolist(),
        "gpu_utilisation_percent_max": _known(np.minimum(100, load * 130), held),
        "gpu_memory_samples": (samples * held).tolist(),
        "gpu_memory_bytes_sum": (gpu_memory * samples).tolist(),
        "gpu_memory_bytes_max": _known(gpu_memory, held),
        "gpu_power_milliwatts_max": _known(watts * 1000, held),
        "gpu_temperature_celsius_max": _known(34 + 40 * load, held),
        "energy_millijoules": _known(length // 1000 * watts, held),
        "energy_microseconds": (length * gpus).tolist(),
    }
    assert set(columns) == {field.name for field in fields(Figures)}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _known(values: NDArray[Any], known: NDArray[np.bool_]) -> list[int | None]:
    pairs = zip(values.astype(np.int64).tolist(), known.tolist(), strict=True)
    return [value if there else None for value, there in pairs]


def _measures(year: Year, seconds: int, since: int) -> Iterator[dict[str, Any]]:
    of, begins, ends = year.cut(seconds, since)
    figures = _figures(year, of, ends - begins)
    at = (begins // (seconds * S) * seconds).tolist()
    for session, begin, values in zip(of.tolist(), at, figures, strict=True):
        yield {"workload": year.ids[session], "seconds": seconds, "at": begin, **values}


def _session_measures(year: Year) -> Iterator[dict[str, Any]]:
    everything, read_at = np.arange(len(year.ids)), _texts(year.mark)
    for at, values in enumerate(_figures(year, everything, year.mark - year.began)):
        energies = {uuid: [10**9 + at, 1.7e9 + at] for uuid in year.held[at]}
        reading = {
            "ref": year.ids[at] * 2,
            "cpu": values["cpu_microseconds"],
            "received": values["network_received_bytes"],
            "sent": values["network_sent_bytes"],
            "energies": energies,
        }
        yield {
            "workload": year.ids[at],
            "read_at": read_at[at],
            "reading": json.dumps(reading),
            **values,
        }
