"""Refunds are found by the entry that they are for."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

REFUNDS = text("refund_of IS NOT NULL")


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "ix_entries_refund_of",
        "entries",
        ["refund_of"],
        sqlite_where=REFUNDS,
        postgresql_where=REFUNDS,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_entries_refund_of", "entries")
