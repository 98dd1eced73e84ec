"""What each charge for storage was made from, so that it can be made again."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String, column, select, table

from dcloud_spawner.store.database import UtcDateTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

BEGIN = "storage:"

entries = table(
    "entries",
    column("key", String),
    column("kind", String),
    column("workload", String),
    column("account", String),
    column("from_at", UtcDateTime),
    column("until_at", UtcDateTime),
)


def upgrade() -> None:
    """Make the table; of what was charged before, sizes are unknown."""
    made = op.create_table(
        "storage_charges",
        Column("key", String(128), nullable=False),
        Column("subject", String(255), nullable=False),
        Column("account", String(32), nullable=False),
        Column("from_at", UtcDateTime, nullable=False),
        Column("until_at", UtcDateTime, nullable=False),
        Column("size_bytes", BigInteger, nullable=True),
        Column("measured_at", UtcDateTime, nullable=True),
        PrimaryKeyConstraint("key", name="pk_storage_charges"),
    )
    query = select(entries.c.key, entries.c.account, entries.c.from_at, entries.c.until_at).where(
        entries.c.workload.is_(None),
        entries.c.kind == "charge",
        entries.c.key.startswith(BEGIN, autoescape=True),
    )
    rows = [
        {
            **row._mapping,
            "subject": row.key.removeprefix(BEGIN).removesuffix(f":{row.from_at.isoformat()}"),
        }
        for row in op.get_bind().execute(query)
    ]
    if rows:
        op.bulk_insert(made, rows)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("storage_charges")
