"""Datasets: found, made, described, shared, deleted; their versions and files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, not_

from dcloud_spawner.datasets import catalog, quota, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.paths import clean_folder, parse_version
from dcloud_spawner.datasets.removing import remove_objects
from dcloud_spawner.datasets.rights import (
    Asker,
    Right,
    Who,
    find,
    mine,
    right_of,
    rights_of,
    shared_with,
    visible,
)
from dcloud_spawner.errors import DCloudError, InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.store import (
    dataset_files,
    dataset_jobs,
)
from dcloud_spawner.store import datasets as rows
from dcloud_spawner.store.database import storable
from dcloud_spawner.store.datasets import Dataset, Version
from dcloud_spawner.store.datasets_schema import datasets as table
from hub_services.web.api.access import read
from hub_services.web.api.dataset_models import (
    ChangeDatasetBody,
    DatasetDetailView,
    DatasetsPage,
    DatasetsView,
    DatasetView,
    DoneView,
    FilesPage,
    FilesView,
    FileView,
    FolderView,
    JobView,
    NewDatasetBody,
    NewDraftBody,
    PublishBody,
    QuotaView,
    RemovedView,
    RemoveFilesBody,
    ShareBody,
    SharesView,
    UnshareBody,
    VersionView,
)
from hub_services.web.api.dataset_views import (
    dataset_view,
    job_view,
    shares_view,
    use_view,
    version_view,
)
from hub_services.web.api.operation import Call, Nothing

T = TypeVar("T")

log = logging.getLogger(__name__)

ORDERS = {
    "changed": ("changed_at", True),
    "name": ("name", False),
    "size": ("size_bytes", True),
    "used": ("last_used_at", True),
}


def asker_of(call: Call[Any, Any]) -> Asker:
    """Whoever sent a request."""
    viewer = call.viewer
    return Asker(call.actor, viewer.groups, viewer.administrator, viewer.person)


async def _act(call: Call[Any, Any], act: Callable[..., T], *arguments: Any, **named: Any) -> T:
    platform = call.service.platform
    return await platform.in_database_thread(act, platform, asker_of(call), *arguments, **named)


# ---------------------------------------------------------------------------- the list


async def list_datasets(call: Call[DatasetsPage, Nothing]) -> DatasetsView:
    """Datasets that one may see."""
    query = call.query

    def reading(connection: Connection) -> DatasetsView:
        asking = asker_of(call).known(connection)
        column, descending = ORDERS[query.order]
        found = rows.page(
            connection,
            shown_to(asking, query.show),
            words=query.search.split()[:10],
            binned=query.show == "bin",
            order=column,
            descending=descending,
            after=_after(query.cursor, column),
            limit=query.limit + 1,
        )
        page = found[: query.limit]
        rights = rights_of(connection, asking, page)
        return DatasetsView(
            items=tuple(dataset_view(each, rights[each.id]) for each in page),
            next_cursor=cursor_of(page[-1], column) if len(found) > len(page) else None,
        )

    return await read(call, reading)


def shown_to(asking: Who, show: str) -> ColumnElement[bool]:
    """The condition of one of the lists; everything in them may be seen by who asks."""
    if show == "mine":
        return mine(asking)
    if show == "shared":
        return and_(shared_with(asking), not_(mine(asking)))
    if show == "everyone":
        return table.c.everyone.is_(True)
    if show == "bin":
        return visible(asking) if asking.administrator else mine(asking)
    return visible(asking)


def cursor_of(dataset: Dataset, column: str) -> str:
    """Where a list goes on after a dataset."""
    value = getattr(dataset, column)
    if value is None:
        value = rows.NEVER
    return json.dumps([value.isoformat() if isinstance(value, datetime) else value, dataset.id])


def _after(cursor: str, column: str) -> tuple[object, str] | None:
    if not cursor:
        return None
    wrong = InvalidChoice(
        "cursor: not one of this list.", hint="Take next_cursor of an answer.", field="cursor"
    )
    try:
        value, identifier = json.loads(cursor)
        if column.endswith("_at"):
            value = datetime.fromisoformat(value)
            if value.tzinfo is None:
                raise wrong
        elif type(value) is not (int if column == "size_bytes" else str):
            raise wrong
    except (ValueError, TypeError) as error:
        raise wrong from error
    if not isinstance(identifier, str) or not all(map(_storable, (value, identifier))):
        raise wrong
    return value, identifier


def _storable(value: object) -> bool:
    """Whether every database takes it, in a question at least."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not isinstance(value, str) or storable(value) == value


async def get_dataset(call: Call[Nothing, Nothing]) -> DatasetDetailView:
    """One dataset, by its id or owner%2Fname."""

    def reading(connection: Connection) -> DatasetDetailView:
        asking = asker_of(call).known(connection)
        return _detail(connection, asking, find(connection, asking, call.path["id"]))

    return await read(call, reading)


def _detail(connection: Connection, asking: Who, found: Dataset) -> DatasetDetailView:
    right = right_of(connection, asking, found)
    assert right is not None
    writes, manages = right >= Right.WRITE, right >= Right.MANAGE
    all_versions = rows.versions_of(connection, found.id)
    numbers = {version.id: version.number for version in all_versions}
    uses = catalog.mounted_by(connection, found.id) if manages else ()
    jobs = dataset_jobs.of_dataset(connection, found.id) if writes else ()
    shares = shares_view(connection, found.id) if manages else ()
    return DatasetDetailView(
        **dataset_view(found, right).model_dump(),
        versions=tuple(
            version_view(version) for version in all_versions if writes or version.number
        ),
        shares=tuple(shares),
        mounted_by=tuple(use_view(use, numbers) for use in uses),
        jobs=tuple(job_view(job) for job in jobs),
    )


# ---------------------------------------------------------------------------- changes


async def create_dataset(call: Call[Nothing, NewDatasetBody]) -> DatasetView:
    """A new dataset of one's own or of a project that one is in."""
    body = call.body
    said = Description(
        description=body.description,
        tags=body.tags,
        licence=body.licence,
        everyone=body.everyone,
        mount_mode=body.mount_mode,
    )
    made = await _act(call, catalog.create, body.name, said, project=body.project)
    return dataset_view(made, Right.MANAGE)


async def change_dataset(call: Call[Nothing, ChangeDatasetBody]) -> DatasetView:
    """Describe a dataset anew; its name and whether everyone sees it is for who manages it."""
    said = Description(**call.body.model_dump())
    made = await _act(call, catalog.change, call.path["id"], said)
    return await _one(call, made)


async def _one(call: Call[Any, Any], dataset: Dataset) -> DatasetView:
    def reading(connection: Connection) -> DatasetView:
        asking = asker_of(call).known(connection)
        return dataset_view(dataset, right_of(connection, asking, dataset))

    return await read(call, reading)


async def share_dataset(call: Call[Nothing, ShareBody]) -> SharesView:
    """Let a user, group or project read or write; sharing again changes the right."""
    body = call.body
    await _act(call, catalog.share, call.path["id"], body.kind, body.name, body.right)
    return await _shares(call)


async def unshare_dataset(call: Call[Nothing, UnshareBody]) -> SharesView:
    """Share no longer. Mounts that this allowed end at once."""
    await _act(call, catalog.unshare, call.path["id"], call.body.kind, call.body.name)
    return await _shares(call)


async def _shares(call: Call[Any, Any]) -> SharesView:
    def reading(connection: Connection) -> SharesView:
        asking = asker_of(call).known(connection)
        found = find(connection, asking, call.path["id"], Right.MANAGE)
        return SharesView(items=shares_view(connection, found.id))

    return await read(call, reading)


async def delete_dataset(call: Call[Nothing, Nothing]) -> DatasetView:
    """Into the bin; servers that have it mounted keep it until they end."""
    return dataset_view(await _act(call, catalog.throw_away, call.path["id"]), Right.MANAGE)


async def restore_dataset(call: Call[Nothing, Nothing]) -> DatasetView:
    """Back from the bin."""
    return dataset_view(await _act(call, catalog.restore, call.path["id"]), Right.MANAGE)


async def purge_dataset(call: Call[Nothing, Nothing]) -> DoneView:
    """Delete a dataset in the bin for good."""
    await _act(call, catalog.empty_bin, call.path["id"])
    return DoneView()


# ---------------------------------------------------------------------------- versions


async def open_draft(call: Call[Nothing, NewDraftBody]) -> VersionView:
    """Begin the next version."""
    body = call.body
    made = await _act(
        call, versions.open_draft, call.path["id"], based_on=body.based_on, empty=body.empty
    )
    return version_view(made)


async def discard_draft(call: Call[Nothing, Nothing]) -> DoneView:
    """Give up the draft and all that was uploaded to it."""
    await _act(call, versions.discard_draft, call.path["id"])
    return DoneView()


async def publish_draft(call: Call[Nothing, PublishBody]) -> JobView:
    """Check every file of the draft and make it the next version."""
    return job_view(await _act(call, versions.begin_publish, call.path["id"], call.body.note))


async def delete_version(call: Call[Nothing, Nothing]) -> DoneView:
    """Delete an old version for good."""
    number = parse_version(call.path["version"])
    if number is None:
        raise InvalidChoice("version: name one by its number.", field="version")
    await _act(call, versions.delete_version, call.path["id"], number)
    return DoneView()


async def remove_files(call: Call[Nothing, RemoveFilesBody]) -> RemovedView:
    """Take files and folders out of the draft."""
    body, platform = call.body, call.service.platform
    gone = await _act(call, versions.remove_files, call.path["id"], body.paths, body.folders)
    try:
        await platform.in_storage_thread(remove_objects, platform, gone)
    except DCloudError as error:
        log.warning("Objects of removed files are left for the sweep: %s", error)
    return RemovedView(paths=tuple(gone.paths))


async def list_files(call: Call[FilesPage, Nothing]) -> FilesView:
    """Files of a version: of one folder, all of them, or those with a word in their path."""
    query = call.query

    def reading(connection: Connection) -> FilesView:
        asking = asker_of(call).known(connection)
        found = find(connection, asking, call.path["id"])
        version = version_seen(connection, asking, found, call.path["version"])
        return _files(connection, version, query)

    return await read(call, reading)


def version_seen(connection: Connection, asking: Who, dataset: Dataset, given: str) -> Version:
    """``3``, ``latest`` or ``draft`` (for who may write). Raises NotFound."""
    if given != "draft":
        return versions.version_of(connection, dataset, parse_version(given))
    draft = rows.draft_of(connection, dataset.id)
    if draft is None or (right_of(connection, asking, dataset) or 0) < Right.WRITE:
        raise NotFound(f"{dataset.reference} has no draft that you may see.", field="version")
    return draft


def _files(connection: Connection, version: Version, query: FilesPage) -> FilesView:
    folder, most = clean_folder(query.folder), query.limit + 1
    folders: list[Any] = []
    # Folders come first: the cursor says in which of the two lists it is.
    where, _, after = query.cursor.partition(":")
    if query.search:
        files = dataset_files.search(connection, version.id, query.search, after=after, limit=most)
    elif query.everything:
        files = dataset_files.below(connection, version.id, folder, after=after, limit=most)
    else:
        if where != "f":
            found = dataset_files.folders_in(
                connection, version.id, folder, after=after, limit=most
            )
            folders, after = list(found), ""
        room = most - len(folders)
        files = (
            dataset_files.files_in(connection, version.id, folder, after=after, limit=room)
            if room > 0
            else []
        )
    more = len(folders) + len(files) >= most
    folders, files = folders[: query.limit], files[: max(0, query.limit - len(folders))]
    last = f"f:{files[-1].path}" if files else f"d:{folders[-1].path}" if folders else ""
    return FilesView(
        folders=tuple(
            FolderView(path=each.path, files=each.files, size_bytes=each.size_bytes)
            for each in folders
        ),
        files=tuple(
            FileView(path=each.path, size_bytes=each.size_bytes, sha256=each.sha256)
            for each in files
        ),
        next_cursor=last if more else None,
    )


async def cancel_job(call: Call[Nothing, Nothing]) -> JobView:
    """Give up work in the background."""
    return job_view(await _act(call, versions.cancel_job, call.path["id"], call.path["job"]))


async def my_storage(call: Call[Nothing, Nothing]) -> QuotaView:
    """What one stores and may store, homes and datasets together."""
    viewer, settings = call.viewer, call.service.platform.settings
    if not viewer.person:
        raise NotAllowed("A service stores nothing.", hint="Ask with a token of a user.")

    def reading(connection: Connection) -> QuotaView:
        found = quota.stored(connection, settings, rows.USER, viewer.name)
        return QuotaView(
            home_bytes=found.home_bytes,
            dataset_bytes=found.dataset_bytes,
            most_bytes=found.most_bytes,
        )

    return await read(call, reading)
