"""Datasets: the catalogue sorted by name, size and last use, and counted, from indexes."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0014"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_datasets_named", ["deleted_at", "name", "id"]),
    ("ix_datasets_sized", ["deleted_at", "size_bytes", "id"]),
    ("ix_datasets_used", ["deleted_at", "last_used_at", "id"]),
    ("ix_datasets_seen", ["deleted_at", "everyone", "owner_kind", "owner", "id"]),
)


def upgrade() -> None:
    """Add them."""
    for name, columns in INDEXES:
        op.create_index(name, "datasets", columns)


def downgrade() -> None:
    """Take them away."""
    for name, _ in INDEXES:
        op.drop_index(name, "datasets")
