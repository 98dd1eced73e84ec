"""Launches under way."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column

from dcloud_spawner.store.database import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("workloads", Column("launch_until", UtcDateTime, nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("workloads", "launch_until")
