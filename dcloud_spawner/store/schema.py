"""Tables. The indexes marked as invariants hold even when every program above is wrong."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    text,
)

from dcloud_spawner.store.database import AnyText, UtcDateTime


class State(StrEnum):
    """The life of a workload. It only ever moves forward, but for ADMITTED or STARTING after a
    hub restart, which may be launched again with the same leases."""

    QUEUED = "queued"
    """Waits; holds nothing."""
    ADMITTED = "admitted"
    """Holds its leases; no container yet."""
    STARTING = "starting"
    """A container may exist."""
    RUNNING = "running"
    """The server answered once."""
    STOPPING = "stopping"
    """To be ended; holds its leases until the engine confirms that the container is gone."""
    ENDED = "ended"
    """Holds nothing; the row stays as history."""


HOLDING = (State.ADMITTED, State.STARTING, State.RUNNING, State.STOPPING)
"""States in which a workload holds its leases, memory and cores."""

OPEN = (State.QUEUED, *HOLDING)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(253), primary_key=True),
    Column("cpu_millicores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("drained", Boolean, nullable=False, server_default=text("false")),
    Column("drained_by", String(255), nullable=False, server_default=""),
    Column("drained_at", UtcDateTime, nullable=True),
    Column("drained_reason", AnyText, nullable=False, server_default=""),
    Column("labels", JSON, nullable=False, server_default="{}"),
    Column("seen_at", UtcDateTime, nullable=False),
)

accelerators = Table(
    "accelerators",
    metadata,
    Column("uuid", String(96), primary_key=True),
    Column("node", ForeignKey("nodes.name"), nullable=False, index=True),
    Column("index", Integer, nullable=False),
    Column("model", String(128), nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("parent_uuid", String(96), nullable=False, server_default=""),
    Column("health", String(16), nullable=False),
    Column("health_reason", AnyText, nullable=False, server_default=""),
    Column("drained", Boolean, nullable=False, server_default=text("false")),
    Column("drained_by", String(255), nullable=False, server_default=""),
    Column("drained_at", UtcDateTime, nullable=True),
    Column("drained_reason", AnyText, nullable=False, server_default=""),
    # Accelerators of one domain reach each other over a fast link; empty where nobody knows.
    Column("link_domain", String(96), nullable=False, server_default=""),
    Column("seen_at", UtcDateTime, nullable=False),
)

workloads = Table(
    "workloads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("user", String(255), nullable=False, index=True),
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
    # The key of the order, fixed at submission, and the two parts that explain it.
    Column("due_at", UtcDateTime, nullable=False, server_default="1970-01-01 00:00:00"),
    Column("slack_seconds", Integer, nullable=False, server_default="0"),
    Column("fair_seconds", Integer, nullable=False, server_default="0"),
    Column("tier", String(16), nullable=False, server_default="bronze"),
    # Who pays.
    Column("account", String(32), nullable=True, index=True),
    # What the ledger or a limit has against its start: a code, and in words. Empty: nothing.
    Column("blocked", String(32), nullable=False, server_default=""),
    Column("blocked_reason", AnyText, nullable=False, server_default=""),
    # An administrator's hand: held out of the queue, or moved to its head.
    Column("held_at", UtcDateTime, nullable=True),
    Column("held_by", String(255), nullable=False, server_default=""),
    Column("held_reason", AnyText, nullable=False, server_default=""),
    Column("moved_at", UtcDateTime, nullable=True),
    Column("moved_by", String(255), nullable=False, server_default=""),
    Column("moved_reason", AnyText, nullable=False, server_default=""),
    # The advance reservation that it draws on.
    Column("reservation", String(32), nullable=True),
    Column("alternatives", JSON, nullable=False, server_default="[]"),
    # The range in which it is expected to start, and what was first shown, for the record.
    Column("expected_from", UtcDateTime, nullable=True),
    Column("expected_to", UtcDateTime, nullable=True),
    Column("first_expected_from", UtcDateTime, nullable=True),
    Column("first_expected_to", UtcDateTime, nullable=True),
    Column("first_expected_at", UtcDateTime, nullable=True),
    # The wait from then on as it was played forward, before any correction by the record.
    Column("first_forecast_seconds", Float, nullable=True),
    Column("latest_start_at", UtcDateTime, nullable=True),
    Column("node", String(253), nullable=True),
    Column("url", String(512), nullable=False, server_default=""),
    Column("submitted_at", UtcDateTime, nullable=False),
    Column("admitted_at", UtcDateTime, nullable=True),
    Column("starting_at", UtcDateTime, nullable=True),
    # Set while an engine may be making the container: until then one may appear at any moment.
    Column("launch_until", UtcDateTime, nullable=True),
    # Set while an engine may be changing the limits: until then nobody else does.
    Column("resize_until", UtcDateTime, nullable=True),
    Column("ready_at", UtcDateTime, nullable=True),
    Column("connected_at", UtcDateTime, nullable=True),
    # When it will be stopped before its limit, and why.
    Column("notice_at", UtcDateTime, nullable=True),
    Column("notice_reason", String(32), nullable=False, server_default=""),
    Column("notice_detail", AnyText, nullable=False, server_default=""),
    # When the credits of its account are used up, as far as it can be told.
    Column("budget_ends_at", UtcDateTime, nullable=True),
    # The waiting workload whose owner works here meanwhile.
    Column("keeps_place_for", String(32), nullable=True),
    Column("stopping_at", UtcDateTime, nullable=True),
    Column("ended_at", UtcDateTime, nullable=True),
    # The engine's own times: what charges are made from.
    Column("engine_started_at", UtcDateTime, nullable=True),
    Column("engine_finished_at", UtcDateTime, nullable=True),
    # Charges end here at the latest, even when it ran longer: nobody had opened it.
    Column("charge_until", UtcDateTime, nullable=True),
    Column("exit_code", Integer, nullable=True),
    Column("oom_killed", Boolean, nullable=False, server_default=text("false")),
    Column("end_reason", String(32), nullable=False, server_default=""),
    Column("end_detail", AnyText, nullable=False, server_default=""),
    Index("ix_workloads_state", "state"),
    Index("ix_workloads_admitted_at", "admitted_at"),
    Index("ix_workloads_ended_at", "ended_at"),
    # Sessions of an account, as its pages list them.
    Index("ix_workloads_account_admitted", "account", "admitted_at", "sequence"),
)

Index(
    "uq_workloads_open_server",
    workloads.c.kind,
    workloads.c.user,
    workloads.c.server_name,
    unique=True,
    sqlite_where=workloads.c.state != State.ENDED.value,
    postgresql_where=workloads.c.state != State.ENDED.value,
)

_in_line = and_(
    workloads.c.state == State.QUEUED.value,
    workloads.c.held_at.is_(None),
    workloads.c.moved_at.is_(None),
    workloads.c.blocked == "",
)

Index(
    "ix_workloads_line",
    workloads.c.due_at,
    workloads.c.sequence,
    sqlite_where=_in_line,
    postgresql_where=_in_line,
)

# By class, see store/queue.py: the whole inner query of a pass is answered from this index.
Index(
    "ix_workloads_class",
    workloads.c.gpus,
    workloads.c.gpu_model,
    workloads.c.memory_bytes,
    workloads.c.cpu_millicores,
    workloads.c.limit_seconds,
    workloads.c.due_at,
    workloads.c.sequence,
    workloads.c.id,
    sqlite_where=_in_line,
    postgresql_where=_in_line,
)

# A pass looks at these again.
Index(
    "ix_workloads_blocked",
    workloads.c.state,
    workloads.c.sequence,
    sqlite_where=workloads.c.blocked != "",
    postgresql_where=workloads.c.blocked != "",
)

leases = Table(
    "leases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("accelerator", ForeignKey("accelerators.uuid"), nullable=False),
    Column("workload", ForeignKey("workloads.id"), nullable=False, index=True),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime, nullable=True),
)

# Invariant 1: an accelerator has at most one open lease, whatever any process believes.
Index(
    "uq_leases_open_accelerator",
    leases.c.accelerator,
    unique=True,
    sqlite_where=leases.c.closed_at.is_(None),
    postgresql_where=leases.c.closed_at.is_(None),
)

events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(255), nullable=False, index=True),
    Column("source", String(255), nullable=False),
    Column("result", String(32), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
)

homes = Table(
    "homes",
    metadata,
    Column("volume", String(255), primary_key=True),
    Column("user", String(255), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("user_deleted_at", UtcDateTime, nullable=True),
    Column("size_bytes", BigInteger, nullable=True),
    Column("measured_at", UtcDateTime, nullable=True),
    Column("space_bytes", BigInteger, nullable=True),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("title", AnyText, nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("gpu_model", String(128), nullable=True),
    # For each GPU.
    Column("memory_bytes", BigInteger, nullable=False),
    Column("cpu_millicores", Integer, nullable=False),
    Column("users", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("created_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("first_used_at", UtcDateTime, nullable=True),
    Column("detail", AnyText, nullable=False, server_default=""),
)

shares = Table(
    "shares",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("weight", Float, nullable=False),
    # Decayed to the time ``at``.
    Column("gpu_seconds", Float, nullable=False),
    Column("cpu_core_seconds", Float, nullable=False),
    Column("memory_gib_seconds", Float, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
