"""Datasets: what there is, versions and files, shares, uploads, jobs, mounts, copies."""

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
    UniqueConstraint,
    text,
)

from dcloud_spawner.store.database import AnyText, PathText, UtcDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KEPT = text("deleted_at IS NULL")
DRAFT = text("number IS NULL")
TABLES = (
    "datasets",
    "dataset_versions",
    "dataset_files",
    "dataset_folders",
    "dataset_shares",
    "dataset_uploads",
    "dataset_jobs",
    "workload_datasets",
    "dataset_copies",
    "storage_credentials",
)
"""In the order in which they can be made."""


def upgrade() -> None:
    """Make them."""
    _catalogue()
    _contents()
    _work()
    _use()


def downgrade() -> None:
    """Drop them."""
    for name in reversed(TABLES):
        op.drop_table(name)


def _catalogue() -> None:
    op.create_table(
        "datasets",
        Column("id", String(32), nullable=False),
        Column("owner_kind", String(8), nullable=False),
        Column("owner", String(255), nullable=False),
        Column("owner_name", String(255), nullable=False),
        Column("name", String(64), nullable=False),
        Column("description", AnyText(), server_default="", nullable=False),
        Column("tags", JSON(), nullable=False),
        Column("licence", String(64), server_default="", nullable=False),
        Column("search_text", AnyText(), server_default="", nullable=False),
        Column("everyone", Boolean(), server_default=text("false"), nullable=False),
        Column("mount_mode", String(8), server_default="cached", nullable=False),
        Column("latest_number", Integer()),
        Column("latest_version", String(32)),
        Column("size_bytes", BigInteger(), server_default="0", nullable=False),
        Column("files", Integer(), server_default="0", nullable=False),
        Column("stored_bytes", BigInteger(), server_default="0", nullable=False),
        Column("created_by", String(255), nullable=False),
        Column("created_at", UtcDateTime(), nullable=False),
        Column("changed_at", UtcDateTime(), nullable=False),
        Column("last_used_at", UtcDateTime()),
        Column("deleted_at", UtcDateTime()),
        Column("deleted_by", String(255)),
        PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    op.create_index("ix_datasets_everyone", "datasets", ["everyone", "deleted_at"])
    op.create_index("ix_datasets_listed", "datasets", ["deleted_at", "changed_at", "id"])
    op.create_index("ix_datasets_owner", "datasets", ["owner_kind", "owner"])
    op.create_index(
        "uq_datasets_name",
        "datasets",
        ["owner_kind", "owner", "name"],
        unique=True,
        sqlite_where=KEPT,
        postgresql_where=KEPT,
    )
    op.create_table(
        "dataset_versions",
        Column("id", String(32), nullable=False),
        Column("dataset", String(32), nullable=False),
        Column("number", Integer()),
        Column("state", String(12), nullable=False),
        Column("note", AnyText(), server_default="", nullable=False),
        Column("files", Integer(), server_default="0", nullable=False),
        Column("size_bytes", BigInteger(), server_default="0", nullable=False),
        Column("manifest_sha256", String(64)),
        Column("based_on", String(32)),
        Column("created_by", String(255), nullable=False),
        Column("created_at", UtcDateTime(), nullable=False),
        Column("published_by", String(255)),
        Column("published_at", UtcDateTime()),
        Column("problem", AnyText(), server_default="", nullable=False),
        ForeignKeyConstraint(
            ["dataset"], ["datasets.id"], name="fk_dataset_versions_dataset_datasets"
        ),
        PrimaryKeyConstraint("id", name="pk_dataset_versions"),
        UniqueConstraint("dataset", "number", name="uq_dataset_versions_number"),
    )
    op.create_index(
        "uq_dataset_versions_draft",
        "dataset_versions",
        ["dataset"],
        unique=True,
        sqlite_where=DRAFT,
        postgresql_where=DRAFT,
    )
    op.create_table(
        "dataset_shares",
        Column("dataset", String(32), nullable=False),
        Column("kind", String(8), nullable=False),
        Column("name", String(255), nullable=False),
        Column("right", String(8), nullable=False),
        Column("by", String(255), nullable=False),
        Column("at", UtcDateTime(), nullable=False),
        ForeignKeyConstraint(
            ["dataset"], ["datasets.id"], name="fk_dataset_shares_dataset_datasets"
        ),
        PrimaryKeyConstraint("dataset", "kind", "name", name="pk_dataset_shares"),
    )
    op.create_index("ix_dataset_shares_with", "dataset_shares", ["kind", "name"])


def _contents() -> None:
    op.create_table(
        "dataset_files",
        Column("version", String(32), nullable=False),
        Column("path", PathText(), nullable=False),
        Column("folder", PathText(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        Column("sha256", String(64)),
        Column("claimed_sha256", String(64)),
        Column("etag", String(128), server_default="", nullable=False),
        Column("added_by", String(255), nullable=False),
        Column("added_at", UtcDateTime(), nullable=False),
        ForeignKeyConstraint(
            ["version"], ["dataset_versions.id"], name="fk_dataset_files_version_dataset_versions"
        ),
        PrimaryKeyConstraint("version", "path", name="pk_dataset_files"),
    )
    op.create_index("ix_dataset_files_folder", "dataset_files", ["version", "folder", "path"])
    op.create_table(
        "dataset_folders",
        Column("version", String(32), nullable=False),
        Column("path", PathText(), nullable=False),
        Column("parent", PathText(), nullable=False),
        Column("files", Integer(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        ForeignKeyConstraint(
            ["version"], ["dataset_versions.id"], name="fk_dataset_folders_version_dataset_versions"
        ),
        PrimaryKeyConstraint("version", "path", name="pk_dataset_folders"),
    )
    op.create_index("ix_dataset_folders_parent", "dataset_folders", ["version", "parent", "path"])


def _work() -> None:
    op.create_table(
        "dataset_uploads",
        Column("id", String(32), nullable=False),
        Column("version", String(32), nullable=False),
        Column("path", PathText(), nullable=False),
        Column("size_bytes", BigInteger(), nullable=False),
        Column("modified_ms", BigInteger()),
        Column("part_bytes", BigInteger(), nullable=False),
        Column("storage_upload", AnyText(), nullable=False),
        Column("state", String(12), server_default="open", nullable=False),
        Column("by", String(255), nullable=False),
        Column("created_at", UtcDateTime(), nullable=False),
        Column("touched_at", UtcDateTime(), nullable=False),
        ForeignKeyConstraint(
            ["version"], ["dataset_versions.id"], name="fk_dataset_uploads_version_dataset_versions"
        ),
        PrimaryKeyConstraint("id", name="pk_dataset_uploads"),
        UniqueConstraint("version", "path", name="uq_dataset_uploads_path"),
    )
    op.create_index("ix_dataset_uploads_touched_at", "dataset_uploads", ["touched_at"])
    op.create_table(
        "dataset_jobs",
        Column("id", String(32), nullable=False),
        Column("dataset", String(32), nullable=False),
        Column("version", String(32)),
        Column("kind", String(16), nullable=False),
        Column("state", String(12), nullable=False),
        Column("order", JSON(), nullable=False),
        Column("done_bytes", BigInteger(), server_default="0", nullable=False),
        Column("total_bytes", BigInteger()),
        Column("done_files", Integer(), server_default="0", nullable=False),
        Column("total_files", Integer()),
        Column("message", AnyText(), server_default="", nullable=False),
        Column("by", String(255), nullable=False),
        Column("created_at", UtcDateTime(), nullable=False),
        Column("started_at", UtcDateTime()),
        Column("ended_at", UtcDateTime()),
        PrimaryKeyConstraint("id", name="pk_dataset_jobs"),
    )
    op.create_index("ix_dataset_jobs_dataset", "dataset_jobs", ["dataset"])
    op.create_index("ix_dataset_jobs_state", "dataset_jobs", ["state", "created_at"])


def _use() -> None:
    op.create_table(
        "workload_datasets",
        Column("workload", String(32), nullable=False),
        Column("name", String(128), nullable=False),
        Column("dataset", String(32), nullable=False),
        Column("version", String(32), nullable=False),
        Column("mode", String(8), nullable=False),
        Column("state", String(12), nullable=False),
        Column("message", AnyText(), server_default="", nullable=False),
        Column("changed_at", UtcDateTime(), nullable=False),
        ForeignKeyConstraint(
            ["workload"], ["workloads.id"], name="fk_workload_datasets_workload_workloads"
        ),
        PrimaryKeyConstraint("workload", "name", name="pk_workload_datasets"),
    )
    op.create_index("ix_workload_datasets_dataset", "workload_datasets", ["dataset"])
    op.create_index("ix_workload_datasets_version", "workload_datasets", ["version"])
    op.create_table(
        "dataset_copies",
        Column("node", String(255), nullable=False),
        Column("version", String(32), nullable=False),
        Column("state", String(12), nullable=False),
        Column("done_bytes", BigInteger(), server_default="0", nullable=False),
        Column("total_bytes", BigInteger(), nullable=False),
        Column("message", AnyText(), server_default="", nullable=False),
        Column("created_at", UtcDateTime(), nullable=False),
        Column("used_at", UtcDateTime(), nullable=False),
        PrimaryKeyConstraint("node", "version", name="pk_dataset_copies"),
    )
    op.create_table(
        "storage_credentials",
        Column("access_key", String(128), nullable=False),
        Column("user", String(255), nullable=False),
        Column("workload", String(32)),
        Column("datasets", JSON(), nullable=False),
        Column("issued_at", UtcDateTime(), nullable=False),
        Column("expires_at", UtcDateTime(), nullable=False),
        PrimaryKeyConstraint("access_key", name="pk_storage_credentials"),
    )
    op.create_index("ix_storage_credentials_expires_at", "storage_credentials", ["expires_at"])
    op.create_index("ix_storage_credentials_user", "storage_credentials", ["user"])
