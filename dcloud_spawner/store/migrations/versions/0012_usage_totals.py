"""Use by the day and by the month, kept by the database beside use by the hour.

Triggers do it, so that whoever writes an hour, in whatever program, cannot leave its day and its
month behind: all three change in one statement.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String

from dcloud_spawner.store.database import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SUMS = (
    *("gpu_microseconds", "cpu_microseconds", "memory_gib_microseconds", "microcredits"),
    *("measured_microseconds", "busy_microseconds", "energy_millijoules"),
)
LENGTHS = ("day", "month")

ON_SQLITE = {
    "day": "substr({row}.hour, 1, 10) || ' 00:00:00.000000'",
    "month": "substr({row}.hour, 1, 7) || '-01 00:00:00.000000'",
}
ON_POSTGRESQL = {
    length: f"date_trunc('{length}', {{row}}.hour AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
    for length in LENGTHS
}


def upgrade() -> None:
    """Make the table, fill it from what is there, and have the database keep it."""
    op.create_table(
        "usage_totals",
        Column("length", String(8), nullable=False),
        Column("at", UtcDateTime, nullable=False),
        Column("account", String(32), nullable=False),
        Column("user", String(255), nullable=False),
        Column("gpu_model", String(128), nullable=False),
        *(Column(name, BigInteger, nullable=False, server_default="0") for name in SUMS),
        PrimaryKeyConstraint(
            "length", "at", "account", "user", "gpu_model", name="pk_usage_totals"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_totals_account", "usage_totals", ["account", "length", "at"])
    op.create_index("ix_usage_totals_user", "usage_totals", ["user", "length", "at"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    begins = ON_SQLITE if sqlite else ON_POSTGRESQL
    for length in LENGTHS:
        op.execute(_filled(length, begins[length].format(row="usage_hours")))
    for statement in _on_sqlite() if sqlite else _on_postgresql():
        op.execute(statement)


def downgrade() -> None:
    """Take it away."""
    if op.get_bind().dialect.name == "sqlite":
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER usage_totals_{event}")
    else:
        op.execute("DROP TRIGGER usage_totals_change ON usage_hours")
        op.execute("DROP FUNCTION usage_totals_change()")
    op.drop_table("usage_totals")


KEYS = 'length, at, account, "user", gpu_model'


def _filled(length: str, begin: str) -> str:
    sums = ", ".join(f"sum({name})" for name in SUMS)
    return (
        f"INSERT INTO usage_totals ({KEYS}, {', '.join(SUMS)}) "
        f"SELECT '{length}', {begin}, account, \"user\", gpu_model, {sums} "
        f'FROM usage_hours GROUP BY {begin}, account, "user", gpu_model'
    )


def _added(length: str, begin: str, row: str, sign: str) -> str:
    """Add what a row of an hour has, or take it off."""
    values = ", ".join(f"{sign}{row}.{name}" for name in SUMS)
    grown = ", ".join(f"{name} = usage_totals.{name} + excluded.{name}" for name in SUMS)
    return (
        f"INSERT INTO usage_totals ({KEYS}, {', '.join(SUMS)}) "
        f"VALUES ('{length}', {begin.format(row=row)}, {row}.account, {row}.\"user\", "
        f"{row}.gpu_model, {values}) ON CONFLICT ({KEYS}) DO UPDATE SET {grown};"
    )


ROWS = {
    "insert": (("NEW", ""),),
    "update": (("OLD", "-"), ("NEW", "")),
    "delete": (("OLD", "-"),),
}


def _changes(event: str, begins: dict[str, str]) -> str:
    return " ".join(
        _added(length, begins[length], row, sign) for length in LENGTHS for row, sign in ROWS[event]
    )


def _on_sqlite() -> list[str]:
    return [
        f"CREATE TRIGGER usage_totals_{event} AFTER {event.upper()} ON usage_hours "
        f"BEGIN {_changes(event, ON_SQLITE)} END"
        for event in ("insert", "update", "delete")
    ]


def _on_postgresql() -> list[str]:
    cases = " ".join(
        f"IF TG_OP = '{event.upper()}' THEN {_changes(event, ON_POSTGRESQL)} END IF;"
        for event in ("insert", "update", "delete")
    )
    return [
        "CREATE FUNCTION usage_totals_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {cases} RETURN NULL; END $$",
        "CREATE TRIGGER usage_totals_change AFTER INSERT OR UPDATE OR DELETE ON usage_hours "
        "FOR EACH ROW EXECUTE FUNCTION usage_totals_change()",
    ]
