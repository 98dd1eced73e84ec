"""Nodes, accelerators, workloads, leases, events, homes."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    String,
    Text,
    text,
)

from dcloud_spawner.store.database import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the spine."""
    op.create_table(
        "nodes",
        Column("name", String(253), primary_key=True),
        Column("cpu_millicores", Integer, nullable=False),
        Column("memory_bytes", BigInteger, nullable=False),
        Column("drained", Boolean, nullable=False, server_default=text("false")),
        Column("seen_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "accelerators",
        Column("uuid", String(96), primary_key=True),
        Column("node", String(253), ForeignKey("nodes.name"), nullable=False),
        Column("index", Integer, nullable=False),
        Column("model", String(128), nullable=False),
        Column("memory_bytes", BigInteger, nullable=False),
        Column("kind", String(16), nullable=False),
        Column("parent_uuid", String(96), nullable=False, server_default=""),
        Column("health", String(16), nullable=False),
        Column("health_reason", Text, nullable=False, server_default=""),
        Column("seen_at", UtcDateTime, nullable=False),
    )
    op.create_index("ix_accelerators_node", "accelerators", ["node"])
    _create_workloads()
    op.create_table(
        "leases",
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column("accelerator", String(96), ForeignKey("accelerators.uuid"), nullable=False),
        Column("workload", String(32), ForeignKey("workloads.id"), nullable=False),
        Column("opened_at", UtcDateTime, nullable=False),
        Column("closed_at", UtcDateTime, nullable=True),
    )
    op.create_index("ix_leases_workload", "leases", ["workload"])
    op.create_index(
        "uq_leases_open_accelerator",
        "leases",
        ["accelerator"],
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    )
    op.create_table(
        "events",
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("at", UtcDateTime, nullable=False),
        Column("actor", String(255), nullable=False),
        Column("action", String(64), nullable=False),
        Column("target", String(255), nullable=False),
        Column("source", String(255), nullable=False),
        Column("result", String(32), nullable=False),
        Column("detail", JSON, nullable=False),
        Column("previous_hash", String(64), nullable=False),
        Column("hash", String(64), nullable=False, unique=True),
    )
    op.create_index("ix_events_target", "events", ["target"])
    op.create_table(
        "homes",
        Column("volume", String(255), primary_key=True),
        Column("user", String(255), nullable=False, unique=True),
        Column("created_at", UtcDateTime, nullable=False),
        Column("user_deleted_at", UtcDateTime, nullable=True),
        Column("size_bytes", BigInteger, nullable=True),
        Column("measured_at", UtcDateTime, nullable=True),
    )


def _create_workloads() -> None:
    op.create_table(
        "workloads",
        Column("id", String(32), primary_key=True),
        Column("sequence", BigInteger, nullable=False, unique=True),
        Column("kind", String(16), nullable=False),
        Column("user", String(255), nullable=False),
        Column("server_name", String(255), nullable=False, server_default=""),
        Column("profile", String(64), nullable=False),
        Column("choice", JSON, nullable=False),
        Column("image", String(512), nullable=False),
        Column("gpus", Integer, nullable=False),
        Column("gpu_model", String(128), nullable=True),
        Column("memory_bytes", BigInteger, nullable=False),
        Column("cpu_millicores", Integer, nullable=False),
        Column("limit_seconds", Integer, nullable=False),
        Column("state", String(16), nullable=False),
        Column("reasons", JSON, nullable=False),
        Column("place", Integer, nullable=True),
        Column("latest_start_at", UtcDateTime, nullable=True),
        Column("node", String(253), nullable=True),
        Column("url", String(512), nullable=False, server_default=""),
        Column("submitted_at", UtcDateTime, nullable=False),
        Column("admitted_at", UtcDateTime, nullable=True),
        Column("starting_at", UtcDateTime, nullable=True),
        Column("ready_at", UtcDateTime, nullable=True),
        Column("stopping_at", UtcDateTime, nullable=True),
        Column("ended_at", UtcDateTime, nullable=True),
        Column("engine_started_at", UtcDateTime, nullable=True),
        Column("engine_finished_at", UtcDateTime, nullable=True),
        Column("exit_code", Integer, nullable=True),
        Column("oom_killed", Boolean, nullable=False, server_default=text("false")),
        Column("end_reason", String(32), nullable=False, server_default=""),
        Column("end_detail", Text, nullable=False, server_default=""),
    )
    op.create_index("ix_workloads_user", "workloads", ["user"])
    op.create_index("ix_workloads_state", "workloads", ["state"])
    op.create_index(
        "uq_workloads_open_server",
        "workloads",
        ["kind", "user", "server_name"],
        unique=True,
        sqlite_where=text("state != 'ended'"),
        postgresql_where=text("state != 'ended'"),
    )
