"""The page of one dataset: what it is, its versions and files, who may, and what is going on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.datasets import quota
from dcloud_spawner.datasets.catalog import mounted_by
from dcloud_spawner.datasets.known import is_known
from dcloud_spawner.datasets.snippets import Snippet, snippets
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.capabilities import Capabilities
from dcloud_spawner.store import (
    accounts,
    dataset_jobs,
    dataset_mounts,
    dataset_shares,
    dataset_uploads,
    datasets,
)
from dcloud_spawner.store.dataset_jobs import Job, JobState, Kind
from dcloud_spawner.store.dataset_mounts import Use
from dcloud_spawner.store.dataset_shares import Share
from dcloud_spawner.store.datasets import Dataset, Version, VersionState
from hub_services.preview.markdown import rendered
from hub_services.web.pages.datasets_files import Chosen, Listing, choose, listing
from hub_services.web.pages.datasets_words import (
    Audience,
    audience,
    plural,
    project_names,
    written,
)
from hub_services.web.pages.views import Call

JOBS_SHOWN = 5
LATELY = timedelta(days=1)
USES_SHOWN = 15

DOING: Mapping[Kind, str] = {
    Kind.PUBLISH: "Checking every file",
    Kind.COPY: "Copying files into the draft",
    Kind.IMPORT_URL: "Fetching from a web address",
    Kind.IMPORT_S3: "Fetching from another bucket",
    Kind.PURGE: "Removing for good",
}
DONE: Mapping[Kind, str] = {
    Kind.PUBLISH: "Published",
    Kind.COPY: "Files copied into the draft",
    Kind.IMPORT_URL: "Fetched from a web address",
    Kind.IMPORT_S3: "Fetched from another bucket",
    Kind.PURGE: "Removed for good",
}


@dataclass(frozen=True)
class JobRow:
    """One job in words."""

    job: Job
    words: str
    percent: int | None
    """None while nobody knows how much there is, and at the end."""
    open: bool
    failed: bool
    progress: str


@dataclass(frozen=True)
class VersionRow:
    """One version."""

    version: Version
    query: str
    shown: bool
    used_by: str
    based_on: int | None


@dataclass(frozen=True)
class ShareRow:
    """With whom it is shared."""

    share: Share
    name: str
    kind: str
    known: bool
    """Whether anybody is meant by it yet."""


@dataclass(frozen=True)
class UseRow:
    """A server that has it, or had it."""

    user: str
    server: str
    version: str
    mode: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Work:
    """What is going on in the background."""

    rows: Sequence[JobRow]
    state: str
    """Changes when the rest of the page would be another one."""

    @property
    def busy(self) -> bool:
        """Whether something is still going on."""
        return any(row.open for row in self.rows)


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    chosen: Chosen
    written: str
    description: str
    """HTML that is safe."""
    audience: Audience
    versions: Sequence[VersionRow]
    draft: Version | None
    """Only for whom may change it."""
    listing: Listing
    work: Work
    uploads: int
    """Files that are being uploaded into the draft."""
    shares: Sequence[ShareRow]
    uses: Sequence[Use]
    lately: Sequence[UseRow]
    used: int
    """Servers that had it, of the latest ones."""
    stored: quota.Stored | None
    cite: str
    bin_days: int
    snippets: Sequence[Snippet]
    lacking: str
    """Why there are none."""

    @property
    def dataset(self) -> Dataset:
        """What it is about."""
        return self.chosen.dataset

    @property
    def version(self) -> Version | None:
        """The one whose files are shown."""
        return self.chosen.version

    @property
    def as_files(self) -> str:
        """How a cell reads it."""
        return (
            "from pathlib import Path\n\n"
            f'folder = Path.home() / "datasets" / "{self.dataset.name}"\n'
            'for path in sorted(folder.rglob("*"))[:10]:\n    print(path.relative_to(folder))'
        )

    @property
    def as_command(self) -> str:
        """How a shell fetches it, also outside."""
        number = self.version.number if self.version else None
        return (
            f"dcloud data get {self.written}{f'@{number}' if number else ''} ./{self.dataset.name}"
        )

    @property
    def changes(self) -> bool:
        """Whether the version that is shown is a draft that may be changed now."""
        return (
            self.chosen.writes
            and self.version is not None
            and self.version.state is VersionState.DRAFT
        )

    @property
    def mounted(self) -> str:
        """Who has it mounted, before it is deleted."""
        if not self.uses:
            return "Nobody has it mounted."
        users = sorted({use.user for use in self.uses})
        named = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
        servers = plural(len(self.uses), "server")
        return f"Mounted by {named}, in {servers}: they keep it until those end."


def read_dataset(call: Call) -> Page:
    """One dataset, one version, one part of its files. Blocks."""
    with call.platform.database.reading() as connection:
        chosen = choose(connection, call)
        dataset = chosen.dataset
        shares = dataset_shares.of_dataset(connection, dataset.id)
        projects = project_names(connection, shares)
        every = datasets.versions_of(connection, dataset.id)
        draft = next((each for each in every if each.number is None), None)
        uses = mounted_by(connection, dataset.id)
        lately, used = _lately(connection, chosen, every)
        return Page(
            chosen=chosen,
            written=written(dataset),
            description=rendered(dataset.description),
            audience=audience(dataset, shares, call.viewer.name, projects, manages=chosen.manages),
            versions=_versions(chosen, every, uses),
            draft=draft if chosen.writes else None,
            listing=listing(connection, call, chosen),
            work=work(connection, chosen, draft, call.now),
            uploads=len(dataset_uploads.of_version(connection, draft.id))
            if draft and chosen.writes
            else 0,
            shares=[_share(connection, share, projects) for share in shares]
            if chosen.manages
            else (),
            uses=uses if chosen.manages else (),
            lately=lately if chosen.writes else (),
            used=used,
            stored=quota.stored(
                connection, call.platform.settings, dataset.owner_kind, dataset.owner
            )
            if chosen.writes
            else None,
            cite=cite(chosen),
            bin_days=call.platform.settings.dataset_bin_days,
            snippets=_direct(call.platform.settings, chosen),
            lacking=" ".join(Capabilities().lacking[:1]),
        )


def read_work(call: Call) -> Work:
    """What is going on, for the script that looks again. Blocks."""
    with call.platform.database.reading() as connection:
        chosen = choose(connection, call)
        draft = datasets.draft_of(connection, chosen.dataset.id)
        return work(connection, chosen, draft, call.now)


def work(connection: Connection, chosen: Chosen, draft: Version | None, now: datetime) -> Work:
    """Jobs that are open, and those that ended lately; only for whom may change the dataset."""
    if not chosen.writes:
        return Work((), "")
    jobs = dataset_jobs.of_dataset(connection, chosen.dataset.id, JOBS_SHOWN)
    rows = [_job(job) for job in jobs if job.ended_at is None or now - job.ended_at < LATELY]
    state = [f"{row.job.id}:{row.job.state}" for row in rows]
    if draft is not None:
        state.append(f"{draft.id}:{draft.state}")
    return Work(rows, " ".join(state))


def _job(job: Job) -> JobRow:
    is_open = job.state in dataset_jobs.OPEN
    fraction = job.fraction if is_open else None
    words = DOING[job.kind] if is_open else DONE[job.kind]
    if job.state is JobState.QUEUED:
        words = f"{words}, waits for its turn"
    if job.state is JobState.FAILED:
        words = {
            Kind.PUBLISH: "Not published",
            Kind.COPY: "Not copied",
            Kind.PURGE: "Not removed",
        }.get(job.kind, "Not fetched")
    if job.state is JobState.CANCELLED:
        words = f"Cancelled: {words[0].lower()}{words[1:]}"
    progress = ""
    if is_open and job.state is JobState.RUNNING:
        of = f" of {job.total_files:,}" if job.total_files else ""
        progress = f"{job.done_files:,}{of} files"
    return JobRow(
        job=job,
        words=words,
        percent=None if fraction is None else int(fraction * 100),
        open=is_open,
        failed=job.state is JobState.FAILED,
        progress=progress,
    )


def _versions(
    chosen: Chosen, every: Sequence[Version], uses: Sequence[Use]
) -> Sequence[VersionRow]:
    numbers = {version.id: version.number for version in every}
    rows = []
    for version in every:
        if version.number is None and not chosen.writes:
            continue
        servers = [use for use in uses if use.mount.version == version.id]
        said = "draft" if version.number is None else version.number
        rows.append(
            VersionRow(
                version=version,
                query=f"version={said}",
                shown=chosen.version is not None and chosen.version.id == version.id,
                used_by=plural(len(servers), "server") if servers else "",
                based_on=numbers.get(version.based_on or ""),
            )
        )
    return rows


def _share(connection: Connection, share: Share, projects: Mapping[str, str]) -> ShareRow:
    name, known = projects.get(share.name, share.name), is_known(connection, share)
    return ShareRow(share, name, share.kind, known)


def _lately(
    connection: Connection, chosen: Chosen, every: Sequence[Version]
) -> tuple[Sequence[UseRow], int]:
    """Who had it, and how many servers: names are for those who may change it."""
    rows = dataset_mounts.lately(connection, chosen.dataset.id, USES_SHOWN + 1)
    numbers = {version.id: version.number for version in every}
    named = [
        UseRow(
            user=row.user,
            server=row.server_name or "default server",
            version=f"v{numbers[row.version]}" if numbers.get(row.version) else "",
            mode=row.mode,
            since=row.submitted_at,
            until=row.ended_at,
        )
        for row in rows[:USES_SHOWN]
    ]
    return named, len(rows)


def _direct(settings: Settings, chosen: Chosen) -> Sequence[Snippet]:
    """Lines for libraries that read by S3, where the storage gives keys for that."""
    version = chosen.version
    if not settings.storage_url or version is None or version.number is None:
        return ()
    return snippets(settings.storage_bucket, chosen.dataset.id, version.id)


def cite(chosen: Chosen) -> str:
    """How one names a version in a paper, so that anybody can check that it is the same one."""
    version = chosen.version
    if version is None or version.number is None or not version.manifest_sha256:
        return ""
    day = f"{version.published_at:%Y-%m-%d}" if version.published_at else ""
    return (
        f"{chosen.dataset.reference}, version {version.number} ({day}). "
        f"{plural(version.files, 'file')}, {version.size_bytes:,} bytes. "
        f"Manifest SHA-256 {version.manifest_sha256}"
    )


def read_new(call: Call) -> Sequence[tuple[str, str]]:
    """Projects that a new dataset may belong to, by name and words. Blocks."""
    with call.platform.database.reading() as connection:
        found = accounts.of_user(connection, call.viewer.name) if call.viewer.person else []
        return [
            (account.name, account.shown_name)
            for account, _ in found
            if account.kind == accounts.PROJECT and account.closed_at is None
        ]
