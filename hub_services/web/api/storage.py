"""Direct access to the storage, and what the action log says of a dataset."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from sqlalchemy import Connection

from dcloud_spawner.datasets import credentials
from dcloud_spawner.datasets.credentials import Issued
from dcloud_spawner.datasets.rights import Right, find
from dcloud_spawner.errors import NotAllowed, Unavailable
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.storage.sts import LIFE_SECONDS
from dcloud_spawner.store import dataset_log
from dcloud_spawner.store.events import Event
from hub_services.web.api.access import read
from hub_services.web.api.datasets import asker_of
from hub_services.web.api.models import Page
from hub_services.web.api.operation import Call, Nothing, View, Wire


class CredentialsBody(Wire):
    """For which server, and for which of its datasets."""

    server: str | None = Field(
        None, max_length=64, description="Name of a server of one's own; inside it, its own."
    )
    datasets: tuple[str, ...] = Field(
        (), max_length=20, description="Folder names under ~/datasets; none means all."
    )


class PlaceView(View):
    """Where a dataset lies."""

    name: str
    """Its folder under ~/datasets."""
    dataset: str
    version: int | None
    prefix: str
    manifest: str
    """Key of its list of files: one JSON object (path, size, sha256) a line."""


class CredentialsView(View):
    """Keys for S3 that end soon, and what they reach."""

    access_key: str
    secret_key: str
    session_token: str
    expires_at: datetime
    seconds: int
    """How long they live from now."""
    endpoint: str
    region: str
    bucket: str
    workload: str
    datasets: tuple[PlaceView, ...]
    """Read only."""
    own_bucket: str
    """One's own space, to read and write; "" without one."""
    own_writable: bool
    lists: bool
    """Whether datasets may be listed by S3; one's own space always may."""
    left_out: tuple[str, ...]
    """Datasets for which the policy had no room: ask for them by name."""


async def create_credentials(call: Call[Nothing, CredentialsBody]) -> CredentialsView:
    """Short-lived keys for what one server has."""
    viewer, platform = call.viewer, call.service.platform
    if not viewer.person:
        raise NotAllowed("Services have no servers.", hint="Ask as a person.")
    if viewer.server is not None and call.body.server not in (None, viewer.server):
        raise NotAllowed("This token is that of another server.", hint="Leave server out.")
    server = viewer.server if viewer.server is not None else call.body.server or ""
    asker, seconds = asker_of(call), LIFE_SECONDS

    def issue() -> Issued:
        return credentials.issue(
            platform,
            asker,
            server,
            only=call.body.datasets,
        )

    try:
        issued = await platform.in_storage_thread(issue)
    except StorageRefused as error:
        raise Unavailable(
            "The storage gives no credentials at the moment.",
            hint="Tell an administrator; the log of the web service says why.",
            code="storage_refused",
        ) from error
    return _view(call, issued, seconds)


def _view(call: Call[Nothing, CredentialsBody], issued: Issued, seconds: int) -> CredentialsView:
    access = call.service.platform.storage.access
    places = issued.reach.places
    return CredentialsView(
        access_key=issued.keys.access_key,
        secret_key=issued.keys.secret_key,
        session_token=issued.keys.session_token,
        expires_at=issued.keys.expires_at,
        seconds=seconds,
        endpoint=(access.public_url or access.url).rstrip("/"),
        region=access.region,
        bucket=access.bucket,
        workload=issued.reach.workload,
        datasets=tuple(
            PlaceView(
                name=place.name,
                dataset=place.reference,
                version=place.version,
                prefix=place.prefix,
                manifest=place.manifest,
            )
            for place in places
        ),
        own_bucket=issued.reach.own_bucket,
        own_writable=issued.reach.room,
        lists=issued.lists,
        left_out=issued.left_out,
    )


class LogPage(Page):
    """Which lines."""

    cursor: str = Field(
        "", pattern=r"^(\d{1,18})?$", description="next_cursor of the answer before."
    )


class LogLineView(View):
    """One line of the action log."""

    sequence: int
    at: datetime
    who: str
    source: str
    action: str
    result: str
    detail: dict[str, object]


class LogView(View):
    """The newest first."""

    items: tuple[LogLineView, ...]
    next_cursor: str | None


async def dataset_log_of(call: Call[LogPage, Nothing]) -> LogView:
    """Who did what with a dataset: for those who manage it."""

    def reading(connection: Connection) -> LogView:
        asking = asker_of(call).known(connection)
        found = find(connection, asking, call.path["id"], Right.MANAGE)
        before = int(call.query.cursor) if call.query.cursor else None
        lines = dataset_log.latest(connection, found.id, before=before, limit=call.query.limit + 1)
        page = lines[: call.query.limit]
        return LogView(
            items=tuple(line_view(line) for line in page),
            next_cursor=str(page[-1].sequence) if len(lines) > len(page) else None,
        )

    return await read(call, reading)


def line_view(line: Event) -> LogLineView:
    """A line as the API shows it."""
    return LogLineView(
        sequence=line.sequence,
        at=line.at,
        who=line.actor,
        source=line.source,
        action=line.action,
        result=line.result,
        detail=dict(line.detail),
    )
