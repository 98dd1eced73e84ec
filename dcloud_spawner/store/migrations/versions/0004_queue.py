"""The queue: due times, holds, moves, drains, reservations, shares, expected starts."""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    String,
    Text,
    text,
)

from dcloud_spawner.store.database import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _new() -> dict[str, tuple[Column[Any], ...]]:
    return {
        "workloads": (
            Column("due_at", UtcDateTime, nullable=False, server_default="1970-01-01 00:00:00"),
            Column("slack_seconds", Integer, nullable=False, server_default="0"),
            Column("fair_seconds", Integer, nullable=False, server_default="0"),
            Column("tier", String(16), nullable=False, server_default="bronze"),
            Column("held_at", UtcDateTime, nullable=True),
            Column("held_by", String(255), nullable=False, server_default=""),
            Column("held_reason", Text, nullable=False, server_default=""),
            Column("moved_at", UtcDateTime, nullable=True),
            Column("moved_by", String(255), nullable=False, server_default=""),
            Column("moved_reason", Text, nullable=False, server_default=""),
            Column("reservation", String(32), nullable=True),
            Column("alternatives", JSON, nullable=False, server_default="[]"),
            Column("expected_from", UtcDateTime, nullable=True),
            Column("expected_to", UtcDateTime, nullable=True),
            Column("first_expected_from", UtcDateTime, nullable=True),
            Column("first_expected_to", UtcDateTime, nullable=True),
            Column("first_expected_at", UtcDateTime, nullable=True),
            Column("connected_at", UtcDateTime, nullable=True),
            Column("notice_at", UtcDateTime, nullable=True),
            Column("notice_reason", String(32), nullable=False, server_default=""),
            Column("notice_detail", Text, nullable=False, server_default=""),
            Column("keeps_place_for", String(32), nullable=True),
        ),
        "nodes": (
            Column("drained_by", String(255), nullable=False, server_default=""),
            Column("drained_at", UtcDateTime, nullable=True),
            Column("drained_reason", Text, nullable=False, server_default=""),
            Column("labels", JSON, nullable=False, server_default="{}"),
        ),
        "accelerators": (
            Column("drained", Boolean, nullable=False, server_default=text("false")),
            Column("drained_by", String(255), nullable=False, server_default=""),
            Column("drained_at", UtcDateTime, nullable=True),
            Column("drained_reason", Text, nullable=False, server_default=""),
            Column("link_domain", String(96), nullable=False, server_default=""),
        ),
    }


def upgrade() -> None:
    """Add what the order needs; who waits already is due when they asked."""
    for table, columns in _new().items():
        for column in columns:
            op.add_column(table, column)
    op.execute("UPDATE workloads SET due_at = submitted_at")
    op.drop_column("workloads", "place")
    op.create_table(
        "reservations",
        Column("id", String(32), primary_key=True),
        Column("title", Text, nullable=False),
        Column("starts_at", UtcDateTime, nullable=False),
        Column("ends_at", UtcDateTime, nullable=False),
        Column("gpus", Integer, nullable=False),
        Column("gpu_model", String(128), nullable=True),
        Column("memory_bytes", BigInteger, nullable=False),
        Column("cpu_millicores", Integer, nullable=False),
        Column("users", JSON, nullable=False),
        Column("groups", JSON, nullable=False),
        Column("state", String(16), nullable=False),
        Column("created_by", String(255), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("first_used_at", UtcDateTime, nullable=True),
        Column("detail", Text, nullable=False, server_default=""),
    )
    op.create_index("ix_reservations_state", "reservations", ["state"])
    op.create_table(
        "shares",
        Column("user", String(255), primary_key=True),
        Column("weight", Float, nullable=False),
        Column("gpu_seconds", Float, nullable=False),
        Column("cpu_core_seconds", Float, nullable=False),
        Column("memory_gib_seconds", Float, nullable=False),
        Column("at", UtcDateTime, nullable=False),
    )


def downgrade() -> None:
    """Take it back; the next pass of the older code writes the places."""
    op.drop_table("shares")
    op.drop_table("reservations")
    op.add_column("workloads", Column("place", Integer, nullable=True))
    for table, columns in _new().items():
        for column in columns:
            op.drop_column(table, column.name)
