"""The object storage as the platform sees it: any S3, by minio-py. Thread-safe; every call blocks.

Every error is one of :mod:`dcloud_spawner.storage.errors`. What a short hiccup spoils is tried
again here; what stays away is :class:`StorageAway`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.datatypes import Part as MinioPart
from minio.datatypes import parse_copy_object
from minio.deleteobjects import DeleteObject
from minio.helpers import DictType
from urllib3.response import BaseHTTPResponse

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import StorageAccess, access_of
from dcloud_spawner.storage.errors import ObjectMissing, StorageRefused
from dcloud_spawner.storage.failures import told
from dcloud_spawner.storage.sealing import PARAMETER, sealed, sealing_key
from dcloud_spawner.storage.signing import presign
from dcloud_spawner.storage.upload_keys import RENEWED_BEFORE, UploadKeys

CHUNK_BYTES = 1 << 20
BINARY = "application/octet-stream"
COPY_SECONDS = 3600.0
"""How long a copy inside the storage may take: some answer only when it is done."""
MIN_PART_BYTES = 5 << 20
"""Every part but the last is at least so large: S3's own rule."""
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\r")
MAX_PARTS = 10_000


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing or a look at it shows it."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime | None
    is_folder: bool = False
    """Of a listing that does not go down: what lies below ``key``."""


@dataclass(frozen=True)
class Part:
    """A part of a multipart upload that the storage has."""

    number: int
    size_bytes: int
    etag: str


@dataclass(frozen=True)
class OpenUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload: str
    begun_at: datetime | None


class ObjectStore:
    """One bucket."""

    def __init__(
        self,
        access: StorageAccess,
        *,
        connect_seconds: float = 5.0,
        read_seconds: float = 60.0,
        again: int = 3,
        direct: bool = False,
    ) -> None:
        """``direct``: presigned parts go to people who may know the keys that signed them, and
        straight to the storage, whatever it does about signatures."""
        self.access = access
        self.bucket = access.bucket
        self._upload_keys = UploadKeys(access, self.remove)
        self._direct = direct
        self._http = [
            _Connections(
                timeout=urllib3.Timeout(connect=connect_seconds, read=seconds),
                maxsize=32,
                retries=urllib3.Retry(
                    total=again,
                    backoff_factor=0.2,
                    status_forcelist=[500, 502, 503, 504],
                    redirect=0,
                ),
            )
            for seconds in (read_seconds, max(read_seconds, COPY_SECONDS))
        ]
        self._client, self._patient = (
            Minio(
                access.host,
                access_key=access.access_key,
                secret_key=access.secret_key,
                session_token=access.session_token or None,
                secure=access.secure,
                region=access.region,
                http_client=connections,
            )
            for connections in self._http
        )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The deployment's; raises ConfigurationError when its keys cannot be read."""
        return cls(access_of(settings))

    def close(self) -> None:
        """Let go of the connections."""
        for connections in self._http:
            connections.clear()

    # ------------------------------------------------------------------------ bucket

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        with told(self.bucket):
            if self._client.bucket_exists(self.bucket):
                return
            try:
                self._client.make_bucket(self.bucket, location=self.access.region)
            except Exception:
                # Somebody else was quicker.
                if not self._client.bucket_exists(self.bucket):
                    raise

    def require_bucket(self) -> None:
        """Raise ObjectMissing when there is no bucket, StorageRefused when the keys are wrong."""
        with told(self.bucket):
            list(self._client.list_objects(self.bucket, prefix="no such folder/"))

    def tells_events(self) -> bool:
        """Whether the server knows notifications of a bucket (MinIO and its kin)."""
        try:
            with told(self.bucket):
                answer = self._client._execute(
                    "GET", self.bucket, query_params={"notification": ""}
                )
        except (StorageRefused, ObjectMissing):
            return False
        # rclone knows no such question and lists the bucket.
        return b"<NotificationConfiguration" in answer.data

    # ------------------------------------------------------------------------ objects

    def put(
        self, key: str, data: bytes | BinaryIO, size_bytes: int = -1, content_type: str = BINARY
    ) -> str:
        """Write an object in one go; returns its ETag. A stream is read to its end, or says its
        size."""
        with told(key):
            if isinstance(data, bytes):
                headers = {"Content-Type": content_type}
                written = self._client._put_object(self.bucket, key, data, dict(headers))
            else:
                written = self._client.put_object(
                    self.bucket,
                    key,
                    data,
                    size_bytes,
                    content_type=content_type,
                    part_size=0 if size_bytes >= 0 else 16 << 20,
                )
            return written.etag or ""

    def stat(self, key: str) -> StoredObject:
        """Size and ETag; raises ObjectMissing."""
        with told(key):
            found = self._client.stat_object(self.bucket, key)
            return StoredObject(key, found.size or 0, found.etag or "", found.last_modified)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(key)
        except ObjectMissing:
            return False
        return True

    def open(self, key: str, offset: int = 0, length: int | None = None) -> Reader:
        """Read an object, or ``length`` bytes of it from ``offset``, as they come.

        Use it as a context manager. Raises ObjectMissing; a connection that breaks before the
        last byte is StorageAway, never a short read that looks whole.
        """
        with told(key):
            answer = self._client.get_object(self.bucket, key, offset=offset, length=length or 0)
        return Reader(key, answer)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """An object's bytes, or some of them."""
        if length == 0:
            return b""
        with self.open(key, offset, length) as reader:
            return b"".join(reader)

    def stream(
        self, key: str, offset: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """An object's bytes in chunks."""
        with self.open(key, offset, length) as reader:
            yield from reader.chunks(chunk_bytes)

    def list(
        self, prefix: str, *, after: str = "", recursive: bool = True, limit: int | None = None
    ) -> Iterator[StoredObject]:
        """Objects under a prefix in the order of their keys, those after ``after``.

        Without ``recursive`` what lies deeper shows as one folder.
        """
        with told(prefix):
            found = self._client.list_objects(
                self.bucket, prefix=prefix, recursive=recursive, start_after=after or None
            )
            for item in islice(found, limit):
                yield StoredObject(
                    item.object_name or "",
                    item.size or 0,
                    (item.etag or "").strip('"'),
                    item.last_modified,
                    is_folder=item.is_dir,
                )

    def copy(self, source: str, target: str) -> str:
        """Copy an object inside the storage, of any size; returns the new ETag."""
        given = CopySource(self.bucket, source)
        try:
            with told(source):
                headers: DictType = {**given.gen_copy_headers()}
                answer = self._patient._execute("PUT", self.bucket, target, headers=headers)
                return parse_copy_object(answer)[0]
        except StorageRefused as error:
            # AWS copies at most 5 GiB in one go; rclone copies in one go only.
            if error.code not in ("EntityTooLarge", "InvalidRequest"):
                raise
        with told(source):
            return self._patient.copy_object(self.bucket, target, given).etag or ""

    def remove(self, key: str) -> None:
        """Remove an object; that there is none is success."""
        with told(key):
            self._client.remove_object(self.bucket, key)

    def remove_many(self, keys: Iterable[str]) -> int:
        """Remove objects, a thousand in a call; returns how many. Raises StorageRefused with the
        first that could not be."""
        given = iter(keys)
        removed = 0
        while batch := list(islice(given, 1000)):
            # The list of a call is XML, which cannot name every key that a user may have made.
            strange = [key for key in batch if _NO_XML.search(key)]
            for key in strange:
                self.remove(key)
            named = [key for key in batch if not _NO_XML.search(key)]
            with told(batch[0]):
                result = self._client.remove_objects(self.bucket, map(DeleteObject, named))
                for error in result if named else ():
                    raise StorageRefused(error.code or "error", f"{error.name}: {error.message}")
            removed += len(batch)
        return removed

    def remove_prefix(self, prefix: str) -> int:
        """Remove all under a prefix; returns how many objects there were."""
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is no folder")
        return self.remove_many(found.key for found in list(self.list(prefix)))

    # ------------------------------------------------------------------------ multipart uploads

    def create_upload(self, key: str, content_type: str = BINARY) -> str:
        """Begin a multipart upload; returns the storage's id of it."""
        with told(key):
            headers = {"Content-Type": content_type}
            return self._client._create_multipart_upload(self.bucket, key, dict(headers))

    def put_part(self, key: str, upload: str, number: int, data: bytes) -> Part:
        """Send a part (from 1) from here; raises UploadGone."""
        with told(key):
            etag = self._client._upload_part(self.bucket, key, data, None, upload, number)
            return Part(number, len(data), etag)

    def list_parts(self, key: str, upload: str) -> Sequence[Part]:
        """The parts that the storage has, by number; raises UploadGone."""
        parts: list[Part] = []
        marker: str | None = None
        with told(key):
            while True:
                page = self._client._list_parts(self.bucket, key, upload, part_number_marker=marker)
                parts += [
                    Part(part.part_number, part.size or 0, part.etag.strip('"'))
                    for part in page.parts
                ]
                following = str(page.next_part_number_marker or "")
                if not page.is_truncated or following == marker or not following:
                    return sorted(parts, key=lambda part: part.number)
                marker = following

    def complete_upload(self, key: str, upload: str, parts: Sequence[Part]) -> str:
        """Make the object of its parts; returns its ETag. Raises UploadGone."""
        with told(key):
            given = [MinioPart(part.number, part.etag) for part in parts]
            done = self._client._complete_multipart_upload(self.bucket, key, upload, given)
            return (done.etag or "").strip('"')

    def abort_upload(self, key: str, upload: str) -> None:
        """Forget an upload and its parts; that there is none is success."""
        with told(key, gone_is_fine=True):
            self._client._abort_multipart_upload(self.bucket, key, upload)

    def open_uploads(self, prefix: str = "") -> Iterator[OpenUpload]:
        """Uploads that were begun and not ended. MinIO lists those of one exact key only."""
        key_marker = id_marker = None
        with told(prefix):
            while True:
                page = self._client._list_multipart_uploads(
                    self.bucket,
                    prefix=prefix,
                    key_marker=key_marker,
                    upload_id_marker=id_marker,
                )
                for found in page.uploads:
                    yield OpenUpload(found.object_name, found.upload_id or "", found.initiated_time)
                if not page.is_truncated or not page.next_key_marker:
                    return
                key_marker, id_marker = page.next_key_marker, page.next_upload_id_marker

    # ------------------------------------------------------------------------ presigned URLs

    def looks_at_signatures(self) -> bool:
        """Whether the storage refuses what nobody signed; asked by trying. False where it gives
        out no keys to try with. Blocks."""
        return self._upload_keys.get() is not None and self._upload_keys.may_be_shown

    def presign_part(
        self,
        key: str,
        upload: str,
        number: int,
        size_bytes: int,
        *,
        origin: str = "",
        seconds: int = 3600,
        now: datetime | None = None,
    ) -> str:
        """A URL that takes one part of exactly this size by PUT, for at most three hours.

        ``origin`` (scheme and host that the browser uses for the hub) is where it leads unless
        the storage has a public address of its own. May ask the storage for keys: blocks.
        """
        keys = self._upload_keys.get()
        shown = self._direct or self._upload_keys.may_be_shown
        # Without keys of their own, or with such as must not be seen, parts go through the gate.
        straight = self.access.public_url if keys and shown else ""
        url = presign(
            keys or self.access,
            "PUT",
            key,
            base=straight or self.access.gate_url or origin or self.access.url,
            query={"partNumber": str(number), "uploadId": upload},
            headers={"Content-Length": str(size_bytes)},
            seconds=min(seconds, int(RENEWED_BEFORE.total_seconds())),
            now=now or datetime.now(UTC),
        )
        if not keys or shown:
            return url
        token = f"X-Amz-Security-Token={quote(keys.session_token, safe='~')}"
        hidden = sealed(sealing_key(self.access), keys.session_token)
        assert token in url
        return url.replace(token, f"{PARAMETER}={hidden}")


class _Connections(urllib3.PoolManager):
    """rclone calls its errors text/xml, and minio-py reads application/xml only."""

    def urlopen(self, *args: Any, **more: Any) -> BaseHTTPResponse:
        answer = super().urlopen(*args, **more)
        if answer.status >= 400 and answer.headers.get("Content-Type", "").startswith("text/xml"):
            answer.headers["Content-Type"] = "application/xml"
        return answer


class Reader:
    """The bytes of one object as they come; a context manager, and an iterator of chunks."""

    def __init__(self, key: str, answer: BaseHTTPResponse) -> None:
        self._key = key
        self._answer = answer
        self.size_bytes = int(answer.headers.get("Content-Length", "-1"))
        """How many bytes will come; -1 when the storage does not say."""
        self.etag = answer.headers.get("ETag", "").strip('"')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The rest in chunks of at most so many bytes."""
        while chunk := self.read(chunk_bytes):
            yield chunk

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; b"" at the end. Raises StorageAway when the connection breaks."""
        with told(self._key):
            return self._answer.read(size)

    def close(self) -> None:
        """Give the connection back, or end it when there was more to come."""
        self._answer.close()
        self._answer.release_conn()
