"""Indexes by which a pass reads the queue."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IN_LINE = "state = 'queued' AND held_at IS NULL AND moved_at IS NULL"
INDEXES = {
    "ix_workloads_line": ["due_at", "sequence"],
    "ix_workloads_class": [
        "gpus",
        "gpu_model",
        "memory_bytes",
        "cpu_millicores",
        "limit_seconds",
        "due_at",
        "sequence",
        "id",
    ],
}


def upgrade() -> None:
    """Make them."""
    for name, columns in INDEXES.items():
        op.create_index(
            name, "workloads", columns, sqlite_where=text(IN_LINE), postgresql_where=text(IN_LINE)
        )


def downgrade() -> None:
    """Drop them."""
    for name in INDEXES:
        op.drop_index(name, "workloads")
