"""Tables of datasets: what there is, its versions and files, who may, and what uses it.

Sizes are bytes. Objects of a version lie under one prefix of the store, made from the id of the
version, so that a version can be mounted and read straight from storage
(``dcloud_spawner.storage.keys``).
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

from dcloud_spawner.store.database import AnyText, PathText, UtcDateTime
from dcloud_spawner.store.schema import metadata

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(32), primary_key=True),
    # user: one person's; project: of an account with members. `owner` is the name of the user,
    # or the id of the project's account.
    Column("owner_kind", String(8), nullable=False),
    Column("owner", String(255), nullable=False),
    # As people write it in front of the name: the user's or the project's name.
    Column("owner_name", String(255), nullable=False),
    Column("name", String(64), nullable=False),
    Column("description", AnyText, nullable=False, server_default=""),
    Column("tags", JSON, nullable=False),
    Column("licence", String(64), nullable=False, server_default=""),
    # Lower-case name, owner, tags and description, for searching.
    Column("search_text", AnyText, nullable=False, server_default=""),
    # Everyone who is signed in may read it.
    Column("everyone", Boolean, nullable=False, server_default=text("false")),
    # How it is mounted unless somebody says otherwise: cached or stream.
    Column("mount_mode", String(8), nullable=False, server_default="cached"),
    # Of the latest published version; what lists show without another look.
    Column("latest_number", Integer, nullable=True),
    Column("latest_version", String(32), nullable=True),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("files", Integer, nullable=False, server_default="0"),
    # All versions and the draft together, with what open uploads will bring: what a quota counts.
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Column("created_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime, nullable=True),
    # In the bin since; gone for good when the bin is emptied.
    Column("deleted_at", UtcDateTime, nullable=True),
    Column("deleted_by", String(255), nullable=True),
    Index("ix_datasets_owner", "owner_kind", "owner"),
    # The orders of the catalogue, and what its numbers are counted from: a row itself is long.
    Index("ix_datasets_listed", "deleted_at", "changed_at", "id"),
    Index("ix_datasets_named", "deleted_at", "name", "id"),
    Index("ix_datasets_sized", "deleted_at", "size_bytes", "id"),
    Index("ix_datasets_used", "deleted_at", "last_used_at", "id"),
    Index("ix_datasets_seen", "deleted_at", "everyone", "owner_kind", "owner", "id"),
    Index("ix_datasets_everyone", "everyone", "deleted_at"),
)

# A name is free again once its dataset is in the bin.
Index(
    "uq_datasets_name",
    datasets.c.owner_kind,
    datasets.c.owner,
    datasets.c.name,
    unique=True,
    sqlite_where=text("deleted_at IS NULL"),
    postgresql_where=text("deleted_at IS NULL"),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("dataset", ForeignKey("datasets.id"), nullable=False),
    # From 1, given when it is published.
    Column("number", Integer, nullable=True),
    # draft: may change; publishing: being checked, may not change; published: never changes.
    Column("state", String(12), nullable=False),
    Column("note", AnyText, nullable=False, server_default=""),
    Column("files", Integer, nullable=False, server_default="0"),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    # SHA-256 of the manifest: what one cites and checks.
    Column("manifest_sha256", String(64), nullable=True),
    Column("based_on", String(32), nullable=True),
    Column("created_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("published_by", String(255), nullable=True),
    Column("published_at", UtcDateTime, nullable=True),
    # Why it could not be published the last time.
    Column("problem", AnyText, nullable=False, server_default=""),
    UniqueConstraint("dataset", "number", name="uq_dataset_versions_number"),
)

# One draft at a time.
Index(
    "uq_dataset_versions_draft",
    dataset_versions.c.dataset,
    unique=True,
    sqlite_where=text("number IS NULL"),
    postgresql_where=text("number IS NULL"),
)

dataset_files = Table(
    "dataset_files",
    metadata,
    Column("version", ForeignKey("dataset_versions.id"), primary_key=True),
    # Relative, with "/", normalised (dcloud_spawner.datasets.paths).
    Column("path", PathText, primary_key=True),
    # The folder it lies in, "" at the top.
    Column("folder", PathText, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # As read back from storage; None until that was done.
    Column("sha256", String(64), nullable=True),
    # As the uploader counted it, where it did.
    Column("claimed_sha256", String(64), nullable=True),
    Column("etag", String(128), nullable=False, server_default=""),
    Column("added_by", String(255), nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
    Index("ix_dataset_files_folder", "version", "folder", "path"),
)

# Folders with the sums of all below them, kept in the transaction that adds or removes a file.
dataset_folders = Table(
    "dataset_folders",
    metadata,
    Column("version", ForeignKey("dataset_versions.id"), primary_key=True),
    Column("path", PathText, primary_key=True),
    Column("parent", PathText, nullable=False),
    Column("files", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index("ix_dataset_folders_parent", "version", "parent", "path"),
)

dataset_shares = Table(
    "dataset_shares",
    metadata,
    Column("dataset", ForeignKey("datasets.id"), primary_key=True),
    # user, group (of the hub) or project (its account's id).
    Column("kind", String(8), primary_key=True),
    Column("name", String(255), primary_key=True),
    # read or write.
    Column("right", String(8), nullable=False),
    Column("by", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # Of a group: how often in a row the hub had it no more; nothing before the hub ever had it.
    Column("missing", Integer, nullable=True),
    Index("ix_dataset_shares_with", "kind", "name"),
)

# Multipart uploads that are under way: what a browser that comes back goes on with.
dataset_uploads = Table(
    "dataset_uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("version", ForeignKey("dataset_versions.id"), nullable=False),
    Column("path", PathText, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # When the file was last changed at the uploader's, ms since 1970: the same file again?
    Column("modified_ms", BigInteger, nullable=True),
    Column("part_bytes", BigInteger, nullable=False),
    # The storage's own id of the upload.
    Column("storage_upload", AnyText, nullable=False),
    # open, or completing: the storage is being told, and nobody else may.
    Column("state", String(12), nullable=False, server_default="open"),
    Column("by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("touched_at", UtcDateTime, nullable=False, index=True),
    UniqueConstraint("version", "path", name="uq_dataset_uploads_path"),
)

# Work in the background: import, copy of a version into a draft, publication, purge.
dataset_jobs = Table(
    "dataset_jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("dataset", String(32), nullable=False, index=True),
    Column("version", String(32), nullable=True),
    Column("kind", String(16), nullable=False),
    # queued, running, done, failed, cancelled.
    Column("state", String(12), nullable=False),
    # What to do; never a secret.
    Column("order", JSON, nullable=False),
    Column("done_bytes", BigInteger, nullable=False, server_default="0"),
    Column("total_bytes", BigInteger, nullable=True),
    Column("done_files", Integer, nullable=False, server_default="0"),
    Column("total_files", Integer, nullable=True),
    Column("message", AnyText, nullable=False, server_default=""),
    Column("by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime, nullable=True),
    Column("ended_at", UtcDateTime, nullable=True),
    Index("ix_dataset_jobs_state", "state", "created_at"),
)

# What a workload asked for, and how far its mount is.
workload_datasets = Table(
    "workload_datasets",
    metadata,
    Column("workload", ForeignKey("workloads.id"), primary_key=True),
    # The folder under ~/datasets.
    Column("name", String(128), primary_key=True),
    Column("dataset", String(32), nullable=False, index=True),
    Column("version", String(32), nullable=False, index=True),
    # cached or stream.
    Column("mode", String(8), nullable=False),
    # waiting, preparing, ready, away (the mount died or storage is away), failed, revoked, gone.
    Column("state", String(12), nullable=False),
    Column("message", AnyText, nullable=False, server_default=""),
    Column("changed_at", UtcDateTime, nullable=False),
)

# Copies of versions on a host, shared by all who use them.
dataset_copies = Table(
    "dataset_copies",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("version", String(32), primary_key=True),
    # filling, complete, leaving.
    Column("state", String(12), nullable=False),
    Column("done_bytes", BigInteger, nullable=False, server_default="0"),
    Column("total_bytes", BigInteger, nullable=False),
    Column("message", AnyText, nullable=False, server_default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
)

# Short-lived credentials that were given out: whose a request at the storage was.
storage_credentials = Table(
    "storage_credentials",
    metadata,
    Column("access_key", String(128), primary_key=True),
    Column("user", String(255), nullable=False, index=True),
    Column("workload", String(32), nullable=True),
    # Ids of the datasets that they reach.
    Column("datasets", JSON, nullable=False),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

TABLES = (
    datasets,
    dataset_versions,
    dataset_files,
    dataset_folders,
    dataset_shares,
    dataset_uploads,
    dataset_jobs,
    workload_datasets,
    dataset_copies,
    storage_credentials,
)
"""All of them, in an order in which they can be made."""
