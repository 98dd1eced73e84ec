"""The ledger: accounts, entries, rates, meters, limits of people, and what they ask for."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    text,
)

from dcloud_spawner.store.database import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CLASS = (
    "gpus",
    "gpu_model",
    "memory_bytes",
    "cpu_millicores",
    "limit_seconds",
    "due_at",
    "sequence",
    "id",
)
WAITS = "state = 'queued' AND held_at IS NULL AND moved_at IS NULL"
IN_LINE = {"ix_workloads_line": ("due_at", "sequence"), "ix_workloads_class": CLASS}
WORKLOADS = ("account", "blocked", "blocked_reason", "budget_ends_at")
TABLES = (
    *("accounts", "rates", "people", "limit_overrides", "asks", "storage_meters", "usage_hours"),
    *("account_members", "entries", "lots", "grants", "meters", "spans"),
)


def upgrade() -> None:
    """Make them; what waits is now also not blocked."""
    _money()
    _entries()
    _meters()
    _people()
    _workloads()


def downgrade() -> None:
    """Drop them."""
    _in_line(WAITS)
    op.drop_index("ix_workloads_blocked", "workloads")
    op.drop_index("ix_workloads_account", "workloads")
    for name in WORKLOADS:
        op.drop_column("workloads", name)
    for name in reversed(TABLES):
        op.drop_table(name)


def _workloads() -> None:
    op.add_column("workloads", Column("account", String(32), nullable=True))
    op.add_column("workloads", Column("blocked", String(32), nullable=False, server_default=""))
    op.add_column("workloads", Column("blocked_reason", Text, nullable=False, server_default=""))
    op.add_column("workloads", Column("budget_ends_at", UtcDateTime, nullable=True))
    op.create_index("ix_workloads_account", "workloads", ["account"])
    _in_line(f"{WAITS} AND blocked = ''")
    where = text("blocked != ''")
    op.create_index(
        "ix_workloads_blocked",
        "workloads",
        ["state", "sequence"],
        sqlite_where=where,
        postgresql_where=where,
    )


def _in_line(condition: str) -> None:
    where = text(condition)
    for name, columns in IN_LINE.items():
        op.drop_index(name, "workloads")
        op.create_index(
            name, "workloads", list(columns), sqlite_where=where, postgresql_where=where
        )


def _people() -> None:
    op.create_table(
        "people",
        Column("user", String(255), nullable=False),
        Column("groups", JSON, nullable=False),
        Column("administrator", Boolean, nullable=False),
        Column("seen_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("user", name="pk_people"),
    )
    op.create_table(
        "limit_overrides",
        Column("id", Integer, autoincrement=True, nullable=False),
        Column("user", String(255), nullable=False),
        Column("limit", String(32), nullable=False),
        Column("value", JSON, nullable=True),
        Column("ends_at", UtcDateTime, nullable=True),
        Column("reason", Text, server_default="", nullable=False),
        Column("set_by", String(255), nullable=False),
        Column("set_at", UtcDateTime, nullable=False),
        Column("removed_at", UtcDateTime, nullable=True),
        PrimaryKeyConstraint("id", name="pk_limit_overrides"),
    )
    op.create_index("ix_limit_overrides_user", "limit_overrides", ["user"])
    op.create_table(
        "asks",
        Column("id", String(32), nullable=False),
        Column("user", String(255), nullable=False),
        Column("what", String(8), nullable=False),
        Column("account", String(32), nullable=True),
        Column("limit", String(32), server_default="", nullable=False),
        Column("value", JSON, nullable=False),
        Column("reason", Text, nullable=False),
        Column("until", UtcDateTime, nullable=True),
        Column("asked_at", UtcDateTime, nullable=False),
        Column("state", String(16), nullable=False),
        Column("given", JSON, nullable=True),
        Column("given_until", UtcDateTime, nullable=True),
        Column("answer", Text, server_default="", nullable=False),
        Column("answered_by", String(255), server_default="", nullable=False),
        Column("answered_at", UtcDateTime, nullable=True),
        PrimaryKeyConstraint("id", name="pk_asks"),
    )
    op.create_index("ix_asks_state", "asks", ["state"])
    op.create_index("ix_asks_user", "asks", ["user"])


def _money() -> None:
    op.create_table(
        "accounts",
        Column("id", String(32), nullable=False),
        Column("kind", String(8), nullable=False),
        Column("name", String(255), nullable=False),
        Column("title", Text, server_default="", nullable=False),
        Column("balance_microcredits", BigInteger, server_default="0", nullable=False),
        Column("budget", String(8), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("closed_at", UtcDateTime, nullable=True),
        PrimaryKeyConstraint("id", name="pk_accounts"),
        UniqueConstraint("kind", "name", name="uq_accounts_kind_name"),
    )
    op.create_table(
        "account_members",
        Column("account", String(32), nullable=False),
        Column("user", String(255), nullable=False),
        Column("role", String(8), nullable=False),
        Column("added_at", UtcDateTime, nullable=False),
        ForeignKeyConstraint(
            ["account"], ["accounts.id"], name="fk_account_members_account_accounts"
        ),
        PrimaryKeyConstraint("account", "user", name="pk_account_members"),
    )
    op.create_index("ix_account_members_user", "account_members", ["user"])
    op.create_table(
        "lots",
        Column("id", Integer, autoincrement=True, nullable=False),
        Column("account", String(32), nullable=False),
        Column("entry", BigInteger, nullable=False),
        Column("grant", String(32), nullable=True),
        Column("microcredits", BigInteger, nullable=False),
        Column("left_microcredits", BigInteger, nullable=False),
        Column("expires_at", UtcDateTime, nullable=True),
        ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_lots_account_accounts"),
        PrimaryKeyConstraint("id", name="pk_lots"),
    )
    op.create_index(
        "ix_lots_open",
        "lots",
        ["account", "expires_at"],
        sqlite_where=text("left_microcredits > 0"),
        postgresql_where=text("left_microcredits > 0"),
    )
    op.create_table(
        "grants",
        Column("id", String(32), nullable=False),
        Column("account", String(32), nullable=False),
        Column("microcredits", BigInteger, nullable=False),
        Column("every", String(8), nullable=False),
        Column("carry_over", Boolean, server_default=text("false"), nullable=False),
        Column("starts_at", UtcDateTime, nullable=False),
        Column("ends_at", UtcDateTime, nullable=True),
        Column("next_at", UtcDateTime, nullable=True),
        Column("given", Integer, server_default="0", nullable=False),
        Column("created_by", String(255), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("reason", Text, server_default="", nullable=False),
        Column("cancelled_at", UtcDateTime, nullable=True),
        ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_grants_account_accounts"),
        PrimaryKeyConstraint("id", name="pk_grants"),
    )
    op.create_index("ix_grants_account", "grants", ["account"])
    op.create_index("ix_grants_next_at", "grants", ["next_at"])


def _entries() -> None:
    op.create_table(
        "entries",
        Column("id", BigInteger, autoincrement=False, nullable=False),
        Column("account", String(32), nullable=False),
        Column("at", UtcDateTime, nullable=False),
        Column("kind", String(16), nullable=False),
        Column("microcredits", BigInteger, nullable=False),
        Column("balance_after", BigInteger, nullable=False),
        Column("workload", String(32), nullable=True),
        Column("from_at", UtcDateTime, nullable=True),
        Column("until_at", UtcDateTime, nullable=True),
        Column("gpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("cpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("memory_gib_microseconds", BigInteger, server_default="0", nullable=False),
        Column("rates", JSON, nullable=True),
        Column("key", String(128), nullable=False),
        Column("actor", String(255), nullable=False),
        Column("reason", Text, server_default="", nullable=False),
        Column("other_account", String(32), nullable=True),
        Column("refund_of", BigInteger, nullable=True),
        ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_entries_account_accounts"),
        PrimaryKeyConstraint("id", name="pk_entries"),
        UniqueConstraint("key", name="uq_entries_key"),
    )
    op.create_index("ix_entries_account", "entries", ["account", "id"])
    op.create_index("ix_entries_workload", "entries", ["workload"])
    op.create_table(
        "rates",
        Column("id", Integer, autoincrement=True, nullable=False),
        Column("resource", String(24), nullable=False),
        Column("gpu_model", String(128), server_default="", nullable=False),
        Column("tier", String(16), server_default="", nullable=False),
        Column("microcredits", BigInteger, nullable=False),
        Column("valid_from", UtcDateTime, nullable=False),
        Column("created_by", String(255), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("id", name="pk_rates"),
    )
    op.create_table(
        "storage_meters",
        Column("volume", String(255), nullable=False),
        Column("watermark_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("volume", name="pk_storage_meters"),
    )


def _meters() -> None:
    op.create_table(
        "meters",
        Column("workload", String(32), nullable=False),
        Column("account", String(32), nullable=False),
        Column("user", String(255), nullable=False),
        Column("held_microcredits", BigInteger, server_default="0", nullable=False),
        Column("began_at", UtcDateTime, nullable=True),
        Column("watermark_at", UtcDateTime, nullable=True),
        Column("charged_microcredits", BigInteger, server_default="0", nullable=False),
        Column("gpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("cpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("memory_gib_microseconds", BigInteger, server_default="0", nullable=False),
        Column("free_microseconds", BigInteger, server_default="0", nullable=False),
        Column("settled_at", UtcDateTime, nullable=True),
        ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_meters_account_accounts"),
        ForeignKeyConstraint(["workload"], ["workloads.id"], name="fk_meters_workload_workloads"),
        PrimaryKeyConstraint("workload", name="pk_meters"),
    )
    op.create_index("ix_meters_account_began", "meters", ["account", "began_at"])
    op.create_index(
        "ix_meters_open",
        "meters",
        ["account"],
        sqlite_where=text("settled_at IS NULL"),
        postgresql_where=text("settled_at IS NULL"),
    )
    op.create_index("ix_meters_user_began", "meters", ["user", "began_at"])
    op.create_table(
        "spans",
        Column("id", Integer, autoincrement=True, nullable=False),
        Column("workload", String(32), nullable=False),
        Column("begins_at", UtcDateTime, nullable=False),
        Column("gpu_models", JSON, nullable=False),
        Column("cpu_millicores", Integer, nullable=False),
        Column("memory_bytes", BigInteger, nullable=False),
        Column("free_reason", Text, server_default="", nullable=False),
        ForeignKeyConstraint(["workload"], ["workloads.id"], name="fk_spans_workload_workloads"),
        PrimaryKeyConstraint("id", name="pk_spans"),
    )
    op.create_index("ix_spans_workload", "spans", ["workload"])
    op.create_table(
        "usage_hours",
        Column("account", String(32), nullable=False),
        Column("user", String(255), nullable=False),
        Column("gpu_model", String(128), nullable=False),
        Column("hour", UtcDateTime, nullable=False),
        Column("gpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("cpu_microseconds", BigInteger, server_default="0", nullable=False),
        Column("memory_gib_microseconds", BigInteger, server_default="0", nullable=False),
        Column("microcredits", BigInteger, server_default="0", nullable=False),
        Column("measured_microseconds", BigInteger, server_default="0", nullable=False),
        Column("busy_microseconds", BigInteger, server_default="0", nullable=False),
        Column("energy_millijoules", BigInteger, server_default="0", nullable=False),
        PrimaryKeyConstraint("account", "user", "gpu_model", "hour", name="pk_usage_hours"),
    )
    op.create_index("ix_usage_hours_hour", "usage_hours", ["hour"])
