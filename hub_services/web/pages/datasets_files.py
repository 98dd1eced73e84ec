"""The files of a version: by folder or by a word in their paths, and one of them looked into."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from sqlalchemy import Connection

from dcloud_spawner.datasets.paths import clean_folder, clean_path, folders_of, parse_version
from dcloud_spawner.datasets.rights import Right, find, right_of
from dcloud_spawner.datasets.versions import version_of
from dcloud_spawner.errors import NotFound
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.errors import ObjectMissing, StorageRefused
from dcloud_spawner.store import dataset_files, datasets, events
from dcloud_spawner.store.dataset_files import File, Folder
from dcloud_spawner.store.datasets import Dataset, Version
from hub_services.preview import preview as previews
from hub_services.preview.model import Preview, Read
from hub_services.web.pages.datasets_sending import lost
from hub_services.web.pages.datasets_words import asking, link
from hub_services.web.pages.views import Call

log = logging.getLogger(__name__)

SHOWN = 200
DRAFT = "draft"
LONGEST_WORD = 200


@dataclass(frozen=True)
class Chosen:
    """What the address means: a dataset that the viewer may read, and one version of it."""

    dataset: Dataset
    version: Version | None
    """None: nothing is published, and the draft is not for the viewer."""
    right: Right

    @property
    def writes(self) -> bool:
        """Whether the viewer may change the draft."""
        return self.right >= Right.WRITE

    @property
    def manages(self) -> bool:
        """Whether the viewer may share and delete it."""
        return self.right >= Right.MANAGE

    @property
    def said(self) -> str:
        """The version as an address says it."""
        return (
            DRAFT
            if self.version is None or self.version.number is None
            else str(self.version.number)
        )

    @property
    def words(self) -> str:
        """``version 3`` or ``the draft``."""
        return "the draft" if self.said == DRAFT else f"version {self.said}"

    @property
    def link(self) -> str:
        """The dataset's address below the service's."""
        return link(self.dataset)

    def query(self, **more: object) -> str:
        """Of this version, and what is more to say."""
        latest = self.version is not None and self.version.number == self.dataset.latest_number
        base = {} if latest else {"version": self.said}
        return urlencode({**base, **{name: value for name, value in more.items() if value}})

    def file_query(self, path: str) -> str:
        """Of one file; it says the version always, so that a copied address means it for good."""
        return urlencode({"version": self.said, "path": path})


@dataclass(frozen=True)
class Crumb:
    """One folder above what is shown."""

    name: str
    query: str


@dataclass(frozen=True)
class Listing:
    """One part of a folder, or of what a search found."""

    folder: str
    crumbs: Sequence[Crumb]
    folders: Sequence[Folder]
    files: Sequence[File]
    total_files: int
    """Of the folder and all below it."""
    total_bytes: int
    find: str
    first: str
    following: str


@dataclass(frozen=True)
class Look:
    """One file with its preview."""

    chosen: Chosen
    file: File
    crumbs: Sequence[Crumb]
    preview: Preview
    query: str
    """Of this file: version and path."""


def reference(call: Call) -> str:
    """The dataset that the address names."""
    return f"{call.path[0]}/{call.path[1]}"


def choose(connection: Connection, call: Call) -> Chosen:
    """Which dataset and version; raises NotFound for what is not there for the viewer."""
    who = asking(connection, call.viewer)
    dataset = find(connection, who, reference(call))
    right = right_of(connection, who, dataset)
    assert right is not None
    said = call.text("version")
    if said == DRAFT or (not said and dataset.latest_version is None):
        draft = datasets.draft_of(connection, dataset.id) if right >= Right.WRITE else None
        if said and draft is None:
            raise NotFound(f"There is no draft of {dataset.reference} for you.", field="version")
        return Chosen(dataset, draft, right)
    number = parse_version(said) if said else None
    return Chosen(dataset, version_of(connection, dataset, number), right)


def crumbs_of(chosen: Chosen, path: str) -> Sequence[Crumb]:
    """The folders above a path, the top first."""
    return [
        Crumb(folder.rpartition("/")[2] or chosen.dataset.name, chosen.query(folder=folder))
        for folder in folders_of(path)
    ]


def listing(connection: Connection, call: Call, chosen: Chosen) -> Listing:
    """The part of the files that the address asks for: folders first, then files."""
    version = chosen.version
    word = call.text("find")[:LONGEST_WORD]
    folder = clean_folder(call.text("folder"))
    kind, _, after = call.text("after").partition(":")
    if version is None:
        return Listing("", (), (), (), 0, 0, "", "", "")
    if word:
        return _searched(connection, chosen, version, word, after)
    above = dataset_files.find_folder(connection, version.id, folder)
    if above is None and folder:
        raise NotFound(f"There is no such folder in {chosen.words}.", field="folder")
    folders: Sequence[Folder] = ()
    files: Sequence[File] = ()
    if kind != "f":
        folders = dataset_files.folders_in(
            connection, version.id, folder, after=after, limit=SHOWN + 1
        )
    room = SHOWN - min(len(folders), SHOWN)
    if len(folders) <= SHOWN:
        since = after if kind == "f" else ""
        files = dataset_files.files_in(connection, version.id, folder, after=since, limit=room + 1)
    following = ""
    if len(folders) > SHOWN:
        following = f"d:{folders[SHOWN - 1].path}"
    elif len(files) > room:
        following = f"f:{files[room - 1].path if room else ''}"
    return Listing(
        folder=folder,
        crumbs=crumbs_of(chosen, f"{folder}/" if folder else ""),
        folders=folders[:SHOWN],
        files=files[:room],
        total_files=above.files if above else 0,
        total_bytes=above.size_bytes if above else 0,
        find="",
        first=chosen.query(folder=folder) if after else "",
        following=chosen.query(folder=folder, after=following) if following else "",
    )


def _searched(
    connection: Connection, chosen: Chosen, version: Version, word: str, after: str
) -> Listing:
    found = dataset_files.search(connection, version.id, word, after=after, limit=SHOWN + 1)
    more = chosen.query(find=word, after=f"f:{found[SHOWN - 1].path}") if len(found) > SHOWN else ""
    return Listing(
        folder="",
        crumbs=crumbs_of(chosen, ""),
        folders=(),
        files=found[:SHOWN],
        total_files=0,
        total_bytes=0,
        find=word,
        first=chosen.query(find=word) if after else "",
        following=more,
    )


def file_of(connection: Connection, call: Call) -> tuple[Chosen, Version, File]:
    """The file that the address names. Raises NotFound and InvalidChoice."""
    chosen = choose(connection, call)
    path = clean_path(call.text("path"))
    version = chosen.version
    found = dataset_files.find(connection, version.id, path) if version else None
    if version is None or found is None:
        raise NotFound(f"There is no such file in {chosen.words}.", field="path")
    return chosen, version, found


def reader(call: Call, dataset: str, version: str, path: str) -> Read:
    """Reads parts of one file. It raises StorageAway, and Unavailable for what is lost."""
    key = keys.file_key(dataset, version, path)

    def read(offset: int, length: int) -> bytes:
        try:
            return call.platform.storage.read(key, offset, length)
        except (ObjectMissing, StorageRefused) as error:
            log.error("The storage does not give %s: %s", key, error)
            raise lost() from error

    return read


def read_file(call: Call) -> Look:
    """A file and its preview. Blocks on the storage. Raises StorageAway."""
    with call.platform.database.reading() as connection:
        chosen, version, file = file_of(connection, call)
    read = reader(call, chosen.dataset.id, version.id, file.path)
    seen = previews.preview(file.path, file.size_bytes, read)
    if call.actor is not None:
        said = {
            "dataset": chosen.dataset.reference,
            "version": chosen.said,
            "path": file.path,
            "bytes": file.size_bytes,
        }
        with call.platform.database.transaction() as connection:
            events.note(
                connection,
                call.actor,
                "dataset.preview",
                chosen.dataset.id,
                at=call.now,
                detail=said,
            )
    return Look(
        chosen=chosen,
        file=file,
        crumbs=crumbs_of(chosen, file.path),
        preview=seen,
        query=chosen.file_query(file.path),
    )
