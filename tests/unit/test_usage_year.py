"""The year that the bench of the usage pages is made on: is it what the platform would write?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from bench.year import Lab, write
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import measures
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.ledger_schema import entries, usage_hours


def test_a_year_from_a_seed_agrees_with_the_ledger_and_with_its_own_measures(
    tmp_path: Path,
) -> None:
    year = write(Lab(120, users=9, projects=3), tmp_path / "year.sqlite", datetime.now(UTC))
    database = Database(f"sqlite:///{tmp_path / 'year.sqlite'}")
    try:
        with database.reading() as connection:
            assert list(verify(connection)) == []
            count = connection.execute(select(func.count()).select_from(entries)).scalar_one()
            assert count > 120 * 20
            sums = connection.execute(
                select(
                    func.sum(usage_hours.c.gpu_microseconds),
                    func.sum(usage_hours.c.measured_microseconds),
                )
            ).one()
            assert sums[0] == sums[1] > 0
            found = measures.of_sessions(connection, year.ids)
            assert set(found) == set(year.ids)
            at = int((year.mark - year.began).argmax())
            hours = measures.series(
                connection,
                year.ids[at],
                time_of(year.began[at]),
                time_of(year.mark[at]),
            )
            lasted = sum(each.figures.measured_microseconds for each in hours)
            assert lasted == year.mark[at] - year.began[at]
            whole = found[year.ids[at]].gpu_utilisation_percent
            assert whole is None or whole == pytest.approx(100 * year.load[at], abs=60)
    finally:
        database.close()


def time_of(microseconds: int) -> datetime:
    return datetime.fromtimestamp(int(microseconds) / 1e6, UTC)
