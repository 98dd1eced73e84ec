"""Who did what with a dataset: its lines of the action log, for those who manage it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from dcloud_spawner.datasets.rights import Right, find
from dcloud_spawner.form.words import size_words
from dcloud_spawner.store import dataset_log
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Event
from hub_services.web.pages.datasets_files import reference
from hub_services.web.pages.datasets_words import asking, link, plural
from hub_services.web.pages.views import Call

SHOWN = 100
LONGEST = 200

WORDS: Mapping[str, str] = {
    "dataset.cancel": "Gave up work in the background",
    "dataset.change": "Edited",
    "dataset.copy": "Copy into the draft",
    "dataset.create": "Made",
    "dataset.delete": "Deleted, to the bin",
    "dataset.delete_version": "Deleted a version",
    "dataset.discard": "Discarded the draft",
    "dataset.download": "Downloaded",
    "dataset.draft": "Began a draft",
    "dataset.import": "Began an import",
    "dataset.import_s3": "Import from a bucket",
    "dataset.import_url": "Import from a web address",
    "dataset.imported": "Imported",
    "dataset.list": "Listed by S3",
    "dataset.mount": "Mounted",
    "dataset.mount_away": "Mount went away",
    "dataset.mount_back": "Mount came back",
    "dataset.mount_failed": "Mount failed",
    "dataset.orphan": "Its owner was deleted",
    "dataset.preview": "Looked at",
    "dataset.publish": "Published",
    "dataset.publishing": "Asked to publish",
    "dataset.purge": "Asked to remove for good",
    "dataset.purged": "Removed for good",
    "dataset.read": "Read by S3",
    "dataset.remove": "Removed files",
    "dataset.restore": "Brought back",
    "dataset.revoke": "Unmounted, the right was lost",
    "dataset.share": "Shared",
    "dataset.unmount": "Unmounted",
    "dataset.unshare": "Stopped sharing",
    "dataset.upload": "Uploaded",
    "dataset.upload.begin": "Began an upload",
    "dataset.upload.cancel": "Gave up an upload",
}
LEFT_OUT = frozenset(("dataset", "through", "workload"))
"""Of what a line says, what the page says elsewhere or only a program needs."""


@dataclass(frozen=True)
class LogRow:
    """One line."""

    event: Event
    words: str
    detail: str
    flagged: bool
    """Refused, or done past the platform."""


@dataclass(frozen=True)
class Log:
    """One part of the log."""

    dataset: Dataset
    link: str
    rows: Sequence[LogRow]
    newest: str
    older: str


def read_log(call: Call) -> Log:
    """The latest first. Blocks. Raises NotFound and NotAllowed."""
    before = call.whole("before", 0) or None
    with call.platform.database.reading() as connection:
        dataset = find(connection, asking(connection, call.viewer), reference(call), Right.MANAGE)
        lines = dataset_log.latest(connection, dataset.id, before=before, limit=SHOWN + 1)
    shown = lines[:SHOWN]
    return Log(
        dataset=dataset,
        link=link(dataset),
        rows=[_row(line) for line in shown],
        newest="log" if before else "",
        older=f"log?{urlencode({'before': shown[-1].sequence})}" if len(lines) > SHOWN else "",
    )


def _row(line: Event) -> LogRow:
    words = WORDS.get(line.action, line.action.removeprefix("dataset.").replace("_", " "))
    return LogRow(line, words, detail_words(line.detail), line.result != "ok")


RIGHTS = {"read": "can use it", "write": "can add versions"}


def detail_words(detail: Mapping[str, object]) -> str:
    """What a line says beside who and what."""
    said: list[str] = []
    for name, value in detail.items():
        words = _words(name, value)
        if words and name in ("path", "folder"):
            said.insert(0, words)
        elif words:
            said.append(words)
    text = ", ".join(said)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _words(name: str, value: object) -> str:
    """One part of it; empty for what need not be said."""
    if name in LEFT_OUT or value in (None, False, "", [], {}):
        return ""
    if value is True:
        return name.replace("_", " ")
    if isinstance(value, list | tuple):
        return f"{name.replace('_', ' ')}: {', '.join(map(str, value[:5]))}"
    if isinstance(value, int) and name in ("bytes", "files"):
        return size_words(value) if name == "bytes" else plural(value, "file")
    text = str(value)
    if name == "problem":
        return text
    if name == "version":
        return f"v{text}" if text.isdecimal() else text
    if name == "with":
        return text.replace(":", " ", 1)
    if name == "right":
        return RIGHTS.get(text, text)
    return text if name in ("path", "folder") else f"{name.replace('_', ' ')}: {text}"
