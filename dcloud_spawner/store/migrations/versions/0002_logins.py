"""Accounts of our own and failed sign-ins."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, Integer, String, Text, text

from dcloud_spawner.store.database import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create logins and sign_in_failures."""
    op.create_table(
        "logins",
        Column("name", String(63), primary_key=True),
        Column("status", String(16), nullable=False),
        Column("password_hash", Text, nullable=False, server_default=""),
        Column("note", String(200), nullable=False, server_default=""),
        Column("source", String(64), nullable=False, server_default=""),
        Column("signed_up_at", UtcDateTime, nullable=False),
        Column("approved_at", UtcDateTime, nullable=True),
        Column("approved_by", String(255), nullable=False, server_default=""),
        Column("password_at", UtcDateTime, nullable=True),
        Column("signed_in_at", UtcDateTime, nullable=True),
        Column("link_hash", String(64), nullable=True, unique=True),
        Column("link_expires_at", UtcDateTime, nullable=True),
        Column("link_grants_admin", Boolean, nullable=False, server_default=text("false")),
        Column("grants_admin", Boolean, nullable=False, server_default=text("false")),
        Column("end_sessions", Boolean, nullable=False, server_default=text("false")),
    )
    op.create_index("ix_logins_status", "logins", ["status"])
    op.create_table(
        "sign_in_failures",
        Column("key", String(320), primary_key=True),
        Column("failures", Integer, nullable=False),
        Column("since", UtcDateTime, nullable=False),
        Column("locked_until", UtcDateTime, nullable=True),
    )
    op.create_index("ix_sign_in_failures_since", "sign_in_failures", ["since"])


def downgrade() -> None:
    """Drop both."""
    op.drop_table("sign_in_failures")
    op.drop_table("logins")
