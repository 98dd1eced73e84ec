"""The forecast: what was forecast before any correction, and ways to the record of it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Float

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, and indexes for what reads the last starts and ends."""
    op.add_column("workloads", Column("first_forecast_seconds", Float, nullable=True))
    op.create_index("ix_workloads_admitted_at", "workloads", ["admitted_at"])
    op.create_index("ix_workloads_ended_at", "workloads", ["ended_at"])


def downgrade() -> None:
    """Take it back."""
    op.drop_index("ix_workloads_ended_at", "workloads")
    op.drop_index("ix_workloads_admitted_at", "workloads")
    op.drop_column("workloads", "first_forecast_seconds")
