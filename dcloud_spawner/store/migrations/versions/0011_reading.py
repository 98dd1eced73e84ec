"""Indexes that the usage pages read by: sessions and hours of an account, and what is no charge."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None

NO_CHARGE = text("kind <> 'charge'")


def upgrade() -> None:
    """Make them."""
    op.create_index(
        "ix_workloads_account_admitted", "workloads", ["account", "admitted_at", "sequence"]
    )
    op.create_index("ix_usage_hours_account_hour", "usage_hours", ["account", "hour"])
    op.create_index("ix_usage_hours_user_hour", "usage_hours", ["user", "hour"])
    op.create_index(
        "ix_entries_moves",
        "entries",
        ["account", "id"],
        sqlite_where=NO_CHARGE,
        postgresql_where=NO_CHARGE,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_entries_moves", "entries")
    op.drop_index("ix_usage_hours_user_hour", "usage_hours")
    op.drop_index("ix_usage_hours_account_hour", "usage_hours")
    op.drop_index("ix_workloads_account_admitted", "workloads")
