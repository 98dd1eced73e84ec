"""Tables of the ledger: accounts, entries, rates, and what a running workload is charged by.

Amounts are integers in micro-credits (a millionth of a credit), positive where an account gets
something. Quantities are integers in microseconds of one GPU, core or GiB.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    text,
)

from dcloud_spawner.store.database import AnyText, UtcDateTime
from dcloud_spawner.store.schema import metadata

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    # user: one person's own; project: of several, with owners.
    Column("kind", String(8), nullable=False),
    Column("name", String(255), nullable=False),
    Column("title", AnyText, nullable=False, server_default=""),
    Column("balance_microcredits", BigInteger, nullable=False, server_default="0"),
    # none: only counted; soft: at zero goes on last in line; hard: at zero stopped.
    Column("budget", String(8), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime, nullable=True),
    UniqueConstraint("kind", "name", name="uq_accounts_kind_name"),
)

account_members = Table(
    "account_members",
    metadata,
    Column("account", ForeignKey("accounts.id"), primary_key=True),
    Column("user", String(255), primary_key=True, index=True),
    Column("role", String(8), nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    # Without gaps, in the order of writing.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("account", ForeignKey("accounts.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("microcredits", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("workload", String(32), nullable=True, index=True),
    # The time that a charge is for.
    Column("from_at", UtcDateTime, nullable=True),
    Column("until_at", UtcDateTime, nullable=True),
    Column("gpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("cpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("memory_gib_microseconds", BigInteger, nullable=False, server_default="0"),
    # Micro-credits an hour by what they are for, as they were used.
    Column("rates", JSON, nullable=True),
    # What happened must not be written twice, however often it is tried.
    Column("key", String(128), nullable=False, unique=True),
    Column("actor", String(255), nullable=False),
    Column("reason", AnyText, nullable=False, server_default=""),
    # The other account of a transfer; the entry that a refund is for.
    Column("other_account", String(32), nullable=True),
    Column("refund_of", BigInteger, nullable=True),
    Index("ix_entries_account", "account", "id"),
)

# What is no charge: few among very many, and what people look for.
Index(
    "ix_entries_moves",
    entries.c.account,
    entries.c.id,
    sqlite_where=text("kind <> 'charge'"),
    postgresql_where=text("kind <> 'charge'"),
)

Index(
    "ix_entries_refund_of",
    entries.c.refund_of,
    sqlite_where=entries.c.refund_of.is_not(None),
    postgresql_where=entries.c.refund_of.is_not(None),
)

lots = Table(
    "lots",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("account", ForeignKey("accounts.id"), nullable=False),
    Column("entry", BigInteger, nullable=False),
    Column("grant", String(32), nullable=True),
    Column("microcredits", BigInteger, nullable=False),
    Column("left_microcredits", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
)

Index(
    "ix_lots_open",
    lots.c.account,
    lots.c.expires_at,
    sqlite_where=lots.c.left_microcredits > 0,
    postgresql_where=lots.c.left_microcredits > 0,
)

grants = Table(
    "grants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("microcredits", BigInteger, nullable=False),
    Column("every", String(8), nullable=False),
    Column("carry_over", Boolean, nullable=False, server_default=text("false")),
    Column("starts_at", UtcDateTime, nullable=False),
    # The last period ends here; of a single grant, when what is left of it expires.
    Column("ends_at", UtcDateTime, nullable=True),
    # When the next part is due; empty when none is.
    Column("next_at", UtcDateTime, nullable=True, index=True),
    Column("given", Integer, nullable=False, server_default="0"),
    Column("created_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("reason", AnyText, nullable=False, server_default=""),
    Column("cancelled_at", UtcDateTime, nullable=True),
)

rates = Table(
    "rates",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # gpu, cpu_core, memory_gib: an hour of one. storage_gib_month: a month of 30 days.
    Column("resource", String(24), nullable=False),
    # Empty: every model, every tier that has no rate of its own.
    Column("gpu_model", String(128), nullable=False, server_default=""),
    Column("tier", String(16), nullable=False, server_default=""),
    Column("microcredits", BigInteger, nullable=False),
    Column("valid_from", UtcDateTime, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

meters = Table(
    "meters",
    metadata,
    Column("workload", ForeignKey("workloads.id"), primary_key=True),
    Column("account", ForeignKey("accounts.id"), nullable=False),
    Column("user", String(255), nullable=False),
    # What admission set aside; what was charged meanwhile is no longer set aside.
    Column("held_microcredits", BigInteger, nullable=False, server_default="0"),
    # The engine's start; empty while it was not ready.
    Column("began_at", UtcDateTime, nullable=True),
    # Everything until here is on the ledger.
    Column("watermark_at", UtcDateTime, nullable=True),
    Column("charged_microcredits", BigInteger, nullable=False, server_default="0"),
    Column("gpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("cpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("memory_gib_microseconds", BigInteger, nullable=False, server_default="0"),
    # Time that cost nothing although it ran: a fault of the platform.
    Column("free_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("settled_at", UtcDateTime, nullable=True),
)

Index(
    "ix_meters_open",
    meters.c.account,
    sqlite_where=meters.c.settled_at.is_(None),
    postgresql_where=meters.c.settled_at.is_(None),
)
Index("ix_meters_account_began", meters.c.account, meters.c.began_at)
Index("ix_meters_user_began", meters.c.user, meters.c.began_at)

spans = Table(
    "spans",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("workload", ForeignKey("workloads.id"), nullable=False, index=True),
    # Until the next span of the workload begins.
    Column("begins_at", UtcDateTime, nullable=False),
    # How many GPUs of each model.
    Column("gpu_models", JSON, nullable=False),
    Column("cpu_millicores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    # Why this time costs nothing; empty where it costs.
    Column("free_reason", AnyText, nullable=False, server_default=""),
)

storage_meters = Table(
    "storage_meters",
    metadata,
    Column("volume", String(255), primary_key=True),
    Column("watermark_at", UtcDateTime, nullable=False),
)

# What each charge for storage was made from; its key is that of its entry.
storage_charges = Table(
    "storage_charges",
    metadata,
    Column("key", String(128), primary_key=True),
    # As it stands in the key: a volume, or the datasets of an owner.
    Column("subject", String(255), nullable=False),
    Column("account", String(32), nullable=False),
    Column("from_at", UtcDateTime, nullable=False),
    Column("until_at", UtcDateTime, nullable=False),
    # Empty: charged before sizes were kept.
    Column("size_bytes", BigInteger, nullable=True),
    # When the engine told the size of a home; of datasets it is known at any moment.
    Column("measured_at", UtcDateTime, nullable=True),
)

usage_hours = Table(
    "usage_hours",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("user", String(255), primary_key=True),
    # Empty: without a GPU.
    Column("gpu_model", String(128), primary_key=True),
    Column("hour", UtcDateTime, primary_key=True, index=True),
    Column("gpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("cpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("memory_gib_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("microcredits", BigInteger, nullable=False, server_default="0"),
    # From samples, never billed: GPU time that was measured, of it what was used, and energy.
    Column("measured_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("busy_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("energy_millijoules", BigInteger, nullable=False, server_default="0"),
    Index("ix_usage_hours_account_hour", "account", "hour"),
    Index("ix_usage_hours_user_hour", "user", "hour"),
)

# The same by the day and by the month of UTC. The database keeps it by triggers on ``usage_hours``,
# so that a year is not read hour by hour; nobody else writes it.
usage_totals = Table(
    "usage_totals",
    metadata,
    # day or month
    Column("length", String(8), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("account", String(32), primary_key=True),
    Column("user", String(255), primary_key=True),
    Column("gpu_model", String(128), primary_key=True),
    Column("gpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("cpu_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("memory_gib_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("microcredits", BigInteger, nullable=False, server_default="0"),
    Column("measured_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("busy_microseconds", BigInteger, nullable=False, server_default="0"),
    Column("energy_millijoules", BigInteger, nullable=False, server_default="0"),
    Index("ix_usage_totals_account", "account", "length", "at"),
    Index("ix_usage_totals_user", "user", "length", "at"),
    sqlite_with_rowid=False,
)

people = Table(
    "people",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("groups", JSON, nullable=False),
    Column("administrator", Boolean, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

limit_overrides = Table(
    "limit_overrides",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("user", String(255), nullable=False, index=True),
    # The name of a limit, or "role".
    Column("limit", String(32), nullable=False),
    # A number, a list of names, the name of a role; null: no limit.
    Column("value", JSON, nullable=True),
    Column("ends_at", UtcDateTime, nullable=True),
    Column("reason", AnyText, nullable=False, server_default=""),
    Column("set_by", String(255), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime, nullable=True),
)

asks = Table(
    "asks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user", String(255), nullable=False, index=True),
    # credits, limit or role.
    Column("what", String(8), nullable=False),
    Column("account", String(32), nullable=True),
    Column("limit", String(32), nullable=False, server_default=""),
    # Micro-credits, the value of a limit, or the name of a role.
    Column("value", JSON, nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("until", UtcDateTime, nullable=True),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("given", JSON, nullable=True),
    Column("given_until", UtcDateTime, nullable=True),
    Column("answer", AnyText, nullable=False, server_default=""),
    Column("answered_by", String(255), nullable=False, server_default=""),
    Column("answered_at", UtcDateTime, nullable=True),
)
