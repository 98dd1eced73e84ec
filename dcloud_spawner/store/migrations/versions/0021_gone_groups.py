"""Shares with groups of the hub: how long the hub has not had the group any more."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; the controller fills it in."""
    op.add_column("dataset_shares", Column("missing", Integer(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("dataset_shares", "missing")
