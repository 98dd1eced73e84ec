"""Pages of datasets, and what is sent of their files: one as it is, a folder as zip, a picture."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

from tornado.iostream import StreamClosedError
from zipstream import ZIP_STORED, ZipStream

from dcloud_spawner.datasets.paths import clean_folder
from dcloud_spawner.datasets.rights import find
from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.store import dataset_files, events
from dcloud_spawner.store.dataset_files import File
from hub_services.preview import picture as pictures
from hub_services.preview.model import Kind
from hub_services.preview.preview import preview
from hub_services.web.pages.datasets_catalogue import read_bin, read_catalogue
from hub_services.web.pages.datasets_files import (
    Chosen,
    choose,
    file_of,
    read_file,
    reader,
)
from hub_services.web.pages.datasets_log import read_log
from hub_services.web.pages.datasets_page import read_dataset, read_new, read_work
from hub_services.web.pages.datasets_sending import opened, stored
from hub_services.web.pages.datasets_words import asking, link
from hub_services.web.pages.views import DataHandler, DataPage, ShowData

log = logging.getLogger(__name__)

LONGEST_ARGUMENT = 4096
"""Of a path; ``clean_path`` says how long it may really be."""
MOST_IN_ZIP = 50_000
"""Files: their list is kept in memory, and stands at the end of the zip."""

ONE = "datasets/([^/]+)/([^/]+)"

_PAGES = (
    DataPage("datasets", "Datasets", read_catalogue, "datasets/catalogue.html"),
    DataPage("datasets/new", "New dataset", read_new, "datasets/new.html", listed=False),
    DataPage("datasets/bin", "Bin", read_bin, "datasets/bin.html"),
    DataPage("dataset", "Dataset", read_dataset, "datasets/dataset.html", path=ONE, listed=False),
    DataPage("dataset/log", "Log", read_log, "datasets/log.html", path=f"{ONE}/log", listed=False),
    DataPage(
        "dataset/work", "Work", read_work, "datasets/work.html", path=f"{ONE}/work", listed=False
    ),
    DataPage(
        "dataset/file", "File", read_file, "datasets/file.html", path=f"{ONE}/file", listed=False
    ),
)
DATASET_PAGES: Mapping[str, DataPage] = {page.name: page for page in _PAGES}
SLOW = frozenset(("dataset/file",))
"""Pages that read from the storage."""

ATTACHED = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""Policy of what is somebody's file: whatever a browser makes of it, it may do nothing."""


ANSWER_SECONDS = 25.0
"""So long a reader waits for the first word of the storage. Its own limits are longer: what is
asked of it goes on in its thread."""

T = TypeVar("T")


class DatasetHandler(DataHandler):
    """Paths of files are longer than other arguments."""

    longest_argument = LONGEST_ARGUMENT

    async def begun(self, function: Callable[[], T]) -> T:
        """What the storage says to begin with. Raises StorageAway when that takes too long."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self.service.platform.in_sending_thread(function)
        except TimeoutError as error:
            raise StorageAway(f"nothing within {ANSWER_SECONDS:g} s") from error


class ShowDataset(DatasetHandler, ShowData):
    """One page."""

    nav = "datasets"

    def thread(self) -> Callable[[Callable[[], str]], Awaitable[str]]:
        """Previews wait for the storage, in its own threads: the others must not wait for them."""
        platform = self.service.platform
        slow = self.name in SLOW
        return self.begun if slow else platform.in_reading_thread


class Sent(DatasetHandler):
    """What is sent of somebody's files; never drawn by a browser as a page of ours."""

    def attach(
        self, name: str, size_bytes: int, media_type: str = "application/octet-stream"
    ) -> None:
        """Headers of a file to be kept."""
        self.set_header("Content-Type", media_type)
        self.set_header("Content-Length", str(size_bytes))
        self.set_header(
            "Content-Disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        )
        self.set_header("Content-Security-Policy", ATTACHED)

    async def send(self, parts: Iterator[bytes]) -> None:
        """Part after part as the reader takes them. A storage that fails in between ends the
        connection before the announced length, so that nobody takes a half for the whole."""
        platform = self.service.platform
        try:
            while (part := await platform.in_sending_thread(next, parts, None)) is not None:
                self.write(part)
                await self.flush()
            await self.finish()
        except StreamClosedError:
            log.info("A download was given up by its reader.")
        except Exception as error:
            if not self._headers_written:
                raise
            log.warning("A download was cut: %s", error)
            connection = self.request.connection
            stream = getattr(connection, "stream", None)
            if stream is not None:
                stream.close()
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                await platform.in_sending_thread(close)

    def note(self, chosen: Chosen, action: str, detail: dict[str, object]) -> None:
        """One line of the action log. Blocks."""
        dataset = chosen.dataset
        said = {"dataset": dataset.reference, "version": chosen.said, **detail}
        with self.service.platform.database.transaction() as connection:
            events.note(connection, self.actor, action, dataset.id, at=utc_now(), detail=said)


class Download(Sent):
    """``datasets/OWNER/NAME/download?version=&path=``: one file, or the rest of it from a byte on
    (``Range: bytes=N-``) for who goes on with a download."""

    async def get(self, *parts: str) -> None:
        """From the storage through here, as a file to keep."""
        call = self.call(parts)
        platform = self.service.platform
        wanted = re.fullmatch(r"bytes=([0-9]{1,18})-", self.request.headers.get("Range", ""))
        given = int(wanted[1]) if wanted else 0

        def begin() -> tuple[File, int, Iterator[bytes]]:
            with platform.database.reading() as connection:
                chosen, version, file = file_of(connection, call)
            key = keys.file_key(chosen.dataset.id, version.id, file.path)
            # Asked for before it is written down: what cannot be read is no download.
            first = given if given < file.size_bytes else 0
            body = opened(stored(platform.storage, key, file.size_bytes, begin=first))
            detail: dict[str, object] = {"path": file.path, "bytes": file.size_bytes - first}
            self.note(chosen, "dataset.download", detail)
            return file, first, body

        file, first, body = await self.begun(begin)
        self.attach(file.name, file.size_bytes - first)
        self.set_header("Accept-Ranges", "bytes")
        if first:
            last, size = file.size_bytes - 1, file.size_bytes
            self.set_status(HTTPStatus.PARTIAL_CONTENT)
            self.set_header("Content-Range", f"bytes {first}-{last}/{size}")
        await self.send(body)


class FolderAsZip(Sent):
    """``datasets/OWNER/NAME/zip?version=&folder=``: a folder and all below it."""

    async def get(self, *parts: str) -> None:
        """Made while it is sent; its length is known before."""
        call = self.call(parts)
        platform = self.service.platform

        def begin() -> tuple[str, ZipStream]:
            folder = clean_folder(call.text("folder"))
            with platform.database.reading() as connection:
                chosen = choose(connection, call)
                version = chosen.version
                above = (
                    dataset_files.find_folder(connection, version.id, folder) if version else None
                )
                if version is None or above is None:
                    raise NotFound(f"There is no such folder in {chosen.words}.", field="folder")
                if above.files > MOST_IN_ZIP:
                    raise Conflict(
                        f"{above.files:,} files are too many for one zip.",
                        hint=f"Take a smaller one, or dcloud data get {chosen.dataset.reference}.",
                        code="too_many_files",
                    )
                found = list(dataset_files.walk(connection, version.id, folder))
            self.note(
                chosen,
                "dataset.download",
                {"folder": folder, "files": len(found), "bytes": above.size_bytes},
            )
            name = f"{folder.rpartition('/')[2] or chosen.dataset.name}-{chosen.said}"
            return name, self._zip(chosen, version.id, folder, found)

        name, made = await self.begun(begin)
        self.attach(f"{name}.zip", len(made), "application/zip")
        await self.send(iter(made))

    def _zip(self, chosen: Chosen, version: str, folder: str, found: list[File]) -> ZipStream:
        storage = self.service.platform.storage
        top = folder.rpartition("/")[2] or chosen.dataset.name
        made = ZipStream(compress_type=ZIP_STORED, sized=True)
        for file in found:
            key = keys.file_key(chosen.dataset.id, version, file.path)
            inside = file.path.removeprefix(f"{folder}/") if folder else file.path
            body = stored(storage, key, file.size_bytes, patient=True)
            made.add(body, f"{top}/{inside}", size=file.size_bytes)
        made.comment = f"{chosen.dataset.reference} {chosen.words}"
        return made


class ShowPicture(Sent):
    """``datasets/OWNER/NAME/picture?version=&path=``: a picture, if its bytes are one."""

    async def get(self, *parts: str) -> None:
        """For the ``img`` of the page of a file; nothing else is sent from here."""
        call = self.call(parts)
        platform = self.service.platform

        def look() -> tuple[str, File, Iterator[bytes]]:
            with platform.database.reading() as connection:
                chosen, version, file = file_of(connection, call)
            found = preview(
                file.path,
                min(file.size_bytes, pictures.LARGEST_BYTES + 1),
                reader(call, chosen.dataset.id, version.id, file.path),
            )
            if found.kind is not Kind.PICTURE or found.picture is None:
                raise NotFound("It is no picture.")
            key = keys.file_key(chosen.dataset.id, version.id, file.path)
            body = opened(stored(platform.storage, key, file.size_bytes))
            # The whole file goes out, also to whoever never opened its page.
            detail: dict[str, object] = {"path": file.path, "bytes": file.size_bytes}
            self.note(chosen, "dataset.preview", detail)
            return found.picture.media_type, file, body

        media_type, file, body = await self.begun(look)
        self.attach(file.name, file.size_bytes, media_type)
        self.set_header("Content-Disposition", "inline")
        self.set_header("Cache-Control", "private, max-age=300")
        await self.send(body)


class Manifest(Sent):
    """``datasets/OWNER/NAME/manifest?version=``: the manifest of a published version."""

    async def get(self, *parts: str) -> None:
        """As it was written when it was published."""
        call = self.call(parts)
        platform = self.service.platform

        def begin() -> tuple[str, bytes]:
            with platform.database.reading() as connection:
                chosen = choose(connection, call)
            if chosen.version is None or chosen.version.number is None:
                raise NotFound(f"{chosen.words.capitalize()} has no manifest.", field="version")
            key = keys.manifest_key(chosen.dataset.id, chosen.version.id)
            size = platform.storage.stat(key).size_bytes
            name = f"{chosen.dataset.name}-{chosen.said}.manifest.jsonl"
            return name, b"".join(stored(platform.storage, key, size))

        name, body = await self.begun(begin)
        self.attach(name, len(body))
        await self.send(iter((body,)))


class ById(DatasetHandler):
    """``datasets/ID``, and ``datasets/ID/draft``: to the page under its present name."""

    async def get(self, *parts: str) -> None:
        """Only for whom may see it."""
        viewer = self.viewer
        assert viewer is not None
        platform = self.service.platform

        def look() -> str:
            with platform.database.reading() as connection:
                return link(find(connection, asking(connection, viewer), parts[0]))

        found = await platform.in_reading_thread(look)
        self.redirect(self.service.paths.service + found + ("?version=draft" if parts[1] else ""))


def dataset_routes(root: str) -> list[tuple[str, type[DatasetHandler], dict[str, Any]]]:
    """All addresses below ``root``, which ends with a slash."""
    return [
        (f"{root}datasets/([0-9a-f]{{32}})(/draft)?", ById, {"pages": DATASET_PAGES}),
        *(
            (f"{root}{ONE}/{name}", handler, {"pages": DATASET_PAGES})
            for name, handler in (
                ("download", Download),
                ("zip", FolderAsZip),
                ("picture", ShowPicture),
                ("manifest", Manifest),
            )
        ),
        *(
            (f"{root}{page.pattern}", ShowDataset, {"pages": DATASET_PAGES, "name": name})
            for name, page in DATASET_PAGES.items()
        ),
    ]
