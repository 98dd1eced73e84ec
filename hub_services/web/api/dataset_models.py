"""What the API takes and gives of datasets. Sizes are bytes, times UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hub_services.web.api.models import Name, Page
from hub_services.web.api.operation import View, Wire

Path = Annotated[str, StringConstraints(max_length=2000)]
Mode = Literal["cached", "stream"]

# ---------------------------------------------------------------------------- taken


class DatasetsPage(Page):
    """Which datasets."""

    cursor: str = Field("", max_length=500, description="next_cursor of the answer before.")
    show: Literal["all", "mine", "shared", "everyone", "bin"] = Field(
        "all", description="bin: deleted ones that one may bring back."
    )
    search: str = Field("", max_length=200, description="Words of name, tags and description.")
    order: Literal["changed", "name", "size", "used"] = Field(
        "changed", description="changed and used: the latest first; size: the largest first."
    )


class NewDatasetBody(Wire):
    """A new dataset; it begins with an empty draft."""

    name: str = Field(max_length=200, description="The folder under ~/datasets.")
    project: str | None = Field(None, max_length=255, description="Whose it is; none: one's own.")
    description: str = Field("", max_length=20_000, description="Markdown.")
    tags: tuple[Annotated[str, StringConstraints(max_length=100)], ...] = Field((), max_length=100)
    licence: str = Field("", max_length=200)
    everyone: bool = Field(False, description="Everyone who is signed in may read it.")
    mount_mode: Mode = "cached"


class ChangeDatasetBody(Wire):
    """What shall be different; what is left out stays."""

    name: str | None = Field(None, max_length=200)
    description: str | None = Field(None, max_length=20_000)
    tags: tuple[Annotated[str, StringConstraints(max_length=100)], ...] | None = Field(
        None, max_length=100
    )
    licence: str | None = Field(None, max_length=200)
    everyone: bool | None = None
    mount_mode: Mode | None = None


class ShareBody(Wire):
    """Whom to share with."""

    kind: Literal["user", "group", "project"]
    name: Name
    right: Literal["read", "write"] = "read"


class UnshareBody(Wire):
    """Whom to share with no longer."""

    kind: Literal["user", "group", "project"]
    name: Name


class NewDraftBody(Wire):
    """What the draft begins with."""

    empty: bool = Field(False, description="Without the files of another version.")
    based_on: int | None = Field(None, ge=1, description="A version; none: the latest.")


class PublishBody(Wire):
    """What is new in it."""

    note: str = Field("", max_length=2000)


class RemoveFilesBody(Wire):
    """What to take out of the draft."""

    paths: tuple[Path, ...] = Field((), max_length=1000)
    folders: tuple[Path, ...] = Field((), max_length=100)


class FilesPage(Page):
    """Which files."""

    cursor: str = Field("", max_length=2000, description="next_cursor of the answer before.")
    folder: str = Field("", max_length=2000, description="Only what lies directly in it.")
    search: str = Field("", max_length=200, description="Anywhere, with this in the path.")
    everything: bool = Field(False, description="All files of all folders below it, no folders.")


# ---------------------------------------------------------------------------- given


class ShareView(View):
    """One share."""

    kind: str
    name: str
    right: str
    by: str
    at: datetime
    known: bool = Field(description="Whether anybody of that name was ever here.")


class VersionView(View):
    """One version."""

    id: str
    number: int | None = Field(description="None: the draft of the next one.")
    state: str
    note: str
    files: int
    size_bytes: int
    manifest_sha256: str | None = Field(description="SHA-256 of the manifest: cite by this.")
    created_by: str
    created_at: datetime
    published_by: str | None
    published_at: datetime | None
    problem: str = Field(description="Why it could not be published the last time.")


class DatasetView(View):
    """One dataset, as lists have it."""

    id: str
    reference: str = Field(description="owner/name: what a choice of a server takes.")
    owner: str
    owner_kind: str
    name: str
    description: str
    tags: tuple[str, ...]
    licence: str
    everyone: bool
    mount_mode: str
    latest: int | None = Field(description="Number of the latest published version.")
    files: int = Field(description="Of the latest version.")
    size_bytes: int = Field(description="Of the latest version.")
    stored_bytes: int = Field(description="Of all versions and the draft.")
    created_at: datetime
    changed_at: datetime
    last_used_at: datetime | None
    deleted_at: datetime | None
    right: str = Field(description="What you may do: read, write or manage.")


class UseView(View):
    """Whose server has it now."""

    user: str
    server: str
    version: int | None
    mode: str
    state: str


class JobView(View):
    """Work in the background."""

    id: str
    kind: str
    state: str
    done_bytes: int
    total_bytes: int | None
    done_files: int
    total_files: int | None
    message: str
    by: str
    created_at: datetime
    ended_at: datetime | None


class DatasetDetailView(DatasetView):
    """One dataset with its versions and, for who may manage it, its shares and users."""

    versions: tuple[VersionView, ...]
    shares: tuple[ShareView, ...]
    mounted_by: tuple[UseView, ...]
    jobs: tuple[JobView, ...]


class DatasetsView(View):
    """One part of the list."""

    items: tuple[DatasetView, ...]
    next_cursor: str | None


class FolderView(View):
    """One folder."""

    path: str
    files: int
    size_bytes: int


class FileView(View):
    """One file."""

    path: str
    size_bytes: int
    sha256: str | None = Field(description="None until the version is published.")


class FilesView(View):
    """One part of the files of a version; folders come before files."""

    folders: tuple[FolderView, ...]
    files: tuple[FileView, ...]
    next_cursor: str | None


class SharesView(View):
    """With whom it is shared."""

    items: tuple[ShareView, ...]


class RemovedView(View):
    """What was taken out."""

    paths: tuple[str, ...]


class QuotaView(View):
    """What one stores and may store."""

    home_bytes: int
    dataset_bytes: int
    most_bytes: int | None = Field(description="None: as much as there is.")


class DoneView(View):
    """It was done."""

    done: bool = True
