"""What the storage itself tells of every request (MinIO's audit webhook), as values. Pure.

Its bucket notifications would not do: they name the key's parent, which is the platform for every
short-lived key, and so nobody. The audit entries name the very key.
https://github.com/minio/minio/tree/master/docs/logging
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote

from dcloud_spawner.store.database import storable

Act = Literal["read", "write", "delete", "settings"]

_READS = {"GetObject", "SelectObjectContent"}
_WRITES = {
    "PutObject",
    "PutObjectExtract",
    "CompleteMultipartUpload",
    "PostPolicyBucket",
    "AppendObject",
}
_COPIES = {"CopyObject", "CopyObjectPart"}
_DELETES = {"DeleteObject", "DeleteMultipleObjects"}
_LOOKS = ("Get", "Head", "List", "AssumeRole", "NewMultipartUpload", "PutObjectPart", "Abort")
"""Names of requests that change nothing; what reads an object is in _READS."""

REFUSED_STATUS = (401, 403)


@dataclass(frozen=True)
class Access:
    """One request for one object."""

    request: str
    """The storage's own id of the request."""
    at: datetime
    access_key: str
    parent: str
    """The key that a short-lived one was made with; "" for a key of its own."""
    act: Act
    name: str
    """The storage's word for what was asked."""
    bucket: str
    key: str
    size_bytes: int
    """Bytes that were sent or taken."""
    refused: bool
    source: str
    """Address of who asked."""


def accesses(body: str) -> Iterator[Access]:
    """The requests of one delivery that are worth a line, in order. Raises ValueError when it is
    none of the storage's."""
    for entry in _entries(body):
        yield from _accesses(entry)


def _entries(body: str) -> Iterator[Mapping[str, Any]]:
    """One object after the other, however they are separated."""
    decoder, at = json.JSONDecoder(), 0
    while True:
        while at < len(body) and body[at].isspace():
            at += 1
        if at >= len(body):
            return
        entry, at = decoder.raw_decode(body, at)
        yield from entry if isinstance(entry, list) else [entry]


def _accesses(entry: Mapping[str, Any]) -> Iterator[Access]:
    if not isinstance(entry, dict) or not isinstance(entry.get("api"), dict):
        raise ValueError("no entry of the storage's log")
    api = entry["api"]
    name, status = str(api.get("name", "")), int(api.get("statusCode") or 0)
    refused = status in REFUSED_STATUS
    if not (200 <= status < 300 or refused):
        return
    for act, bucket, key, size in _touched(entry, api, name):
        yield Access(
            request=f"{entry.get('requestID', '')}-{act}",
            at=datetime.fromisoformat(_microseconds(str(entry["time"]))),
            # Who asks chooses the texts: one that no database takes would be told for ever.
            access_key=storable(str(entry.get("accessKey") or "")),
            parent=storable(
                str(
                    entry.get("parentUser")
                    or (entry.get("requestClaims") or {}).get("parent")
                    or ""
                )
            ),
            act=act,
            name=name,
            bucket=storable(bucket),
            key=storable(key),
            size_bytes=0 if refused else size,
            refused=refused,
            source=str(entry.get("remotehost") or ""),
        )


def _touched(
    entry: Mapping[str, Any], api: Mapping[str, Any], name: str
) -> Iterator[tuple[Act, str, str, int]]:
    """What a request did to which objects. Of a copy the entry names the source as its object,
    and the target only by the path of the request."""
    if name in _COPIES:
        source = unquote(str((entry.get("requestHeader") or {}).get("X-Amz-Copy-Source") or ""))
        bucket, _, key = source.lstrip("/").partition("?versionId=")[0].partition("/")
        yield "read", bucket, key, 0
        if name == "CopyObject":
            bucket, _, key = str(entry.get("requestPath") or "").lstrip("/").partition("/")
            yield "write", bucket, key, 0
        return
    act = _act(name)
    if act is not None:
        for key, size in _objects(api, act):
            yield act, str(api.get("bucket") or ""), key, size


def _act(name: str) -> Act | None:
    if name in _READS:
        return "read"
    if name in _WRITES:
        return "write"
    if name in _DELETES:
        return "delete"
    return None if name.startswith(_LOOKS) or not name else "settings"


def _objects(api: Mapping[str, Any], act: Act) -> Sequence[tuple[str, int]]:
    """Keys with the bytes of each."""
    several = api.get("objects") or []
    found = [str(item.get("objectName") or item.get("Key") or "") for item in several]
    if found:
        return [(key, 0) for key in found]
    size = int(api.get("tx" if act == "read" else "rx") or 0)
    return [(str(api.get("object") or ""), size)]


def _microseconds(time: str) -> str:
    """RFC 3339 with at most six digits behind the point."""
    moment, point, rest = time.partition(".")
    digits = rest.rstrip("Z")
    return f"{moment}.{digits[:6]}+00:00" if point else time.replace("Z", "+00:00")
