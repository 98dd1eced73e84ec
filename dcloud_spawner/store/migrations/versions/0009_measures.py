"""What sessions used, by 10 seconds, minutes and hours, and in all."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, Integer, PrimaryKeyConstraint, String

from dcloud_spawner.store.database import UtcDateTime
from dcloud_spawner.store.measures_schema import UtcSecond

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COUNTED = (
    *("samples", "measured_microseconds", "memory_samples", "memory_bytes_sum", "gpus_max"),
    *("gpu_measured_microseconds", "gpu_busy_microseconds", "gpu_memory_samples"),
    *("gpu_memory_bytes_sum", "energy_microseconds"),
)
"""Never empty; all others are where nobody could read them."""
FIGURES = (
    *("samples", "measured_microseconds", "cpu_microseconds", "cpu_millicores_max"),
    *("memory_samples", "memory_bytes_sum", "memory_bytes_max"),
    *("network_received_bytes", "network_sent_bytes", "disk_bytes_max"),
    *("gpus_max", "gpu_measured_microseconds", "gpu_busy_microseconds"),
    *("gpu_utilisation_percent_max", "gpu_memory_samples", "gpu_memory_bytes_sum"),
    *("gpu_memory_bytes_max", "gpu_power_milliwatts_max", "gpu_temperature_celsius_max"),
    *("energy_millijoules", "energy_microseconds"),
)


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "measures",
        Column("workload", String(32), nullable=False),
        Column("seconds", Integer, autoincrement=False, nullable=False),
        Column("at", UtcSecond, autoincrement=False, nullable=False),
        *_figures(),
        PrimaryKeyConstraint("workload", "seconds", "at", name="pk_measures"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_measures_age", "measures", ["seconds", "at"])
    op.create_table(
        "session_measures",
        Column("workload", String(32), nullable=False),
        Column("read_at", UtcDateTime, nullable=False),
        Column("reading", JSON, nullable=False),
        *_figures(),
        PrimaryKeyConstraint("workload", name="pk_session_measures"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("session_measures")
    op.drop_table("measures")


def _figures() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=name not in COUNTED) for name in FIGURES]
