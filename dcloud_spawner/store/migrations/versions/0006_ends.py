"""Resizes under way, and until when at most a workload is charged."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column

from dcloud_spawner.store.database import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    for name in ("resize_until", "charge_until"):
        op.add_column("workloads", Column(name, UtcDateTime, nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in ("resize_until", "charge_until"):
        op.drop_column("workloads", name)
