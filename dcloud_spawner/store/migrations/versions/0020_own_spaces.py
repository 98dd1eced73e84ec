"""How much of a home's size is its user's own space in storage."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; the next measuring fills it in."""
    op.add_column("homes", Column("space_bytes", BigInteger(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("homes", "space_bytes")
