"""Bodies that sign themselves (aws-chunked) are a way round a signature: MinIO lets them in
unsigned from whoever shows an access key and its session token (much as in CVE-2025-31489).
By what a presigned part shows, nothing gets in."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.signature_probe import PROBES
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.upload_keys import UploadKeys

MINE, THEIRS = file_key("d1", "v1", "mine"), file_key("d2", "v1", "theirs")
CHECKSUM = base64.b64encode(zlib.crc32(b"evil").to_bytes(4, "big"))
BODY = b"4\r\nevil\r\n0\r\nx-amz-checksum-crc32:" + CHECKSUM + b"\r\n\r\n"


@pytest.mark.parametrize(
    "kind",
    [
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "UNSIGNED-PAYLOAD",
    ],
)
def test_no_body_gets_in_without_a_signature_of_its_own(store: ObjectStore, kind: str) -> None:
    store.put(THEIRS, b"theirs")
    upload = store.create_upload(MINE)
    part = ObjectStore(store.access).presign_part(MINE, upload, 1, 4)
    shown = {name: values[0] for name, values in parse_qs(urlsplit(part).query).items()}
    headers = {
        "x-amz-content-sha256": kind,
        "x-amz-decoded-content-length": "4",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
        "x-amz-date": shown["X-Amz-Date"],
    }
    if "X-Amz-Security-Token" in shown:
        headers["x-amz-security-token"] = shown["X-Amz-Security-Token"]
    forged = (
        f"AWS4-HMAC-SHA256 Credential={shown['X-Amz-Credential']}, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}"
    )
    target = part.partition("?")[0].replace("/d1/v1/mine", "/d2/v1/theirs")
    assert target.endswith("/d2/v1/theirs")
    query = urlsplit(part).query
    bare = urlencode({name: shown[name] for name in shown if name.startswith("X-")})
    attempts = {
        "a forged signature": (target, headers | {"authorization": forged}),
        "none": (target, headers),
        "that of the part, elsewhere": (f"{target}?{query}", headers),
        "that of the part, for an object": (f"{target}?{bare}", headers),
        "that of the part, for another length": (part, headers),
    }
    for name, (url, sent) in attempts.items():
        answer = httpx.put(url, content=BODY, headers=sent)
        assert answer.status_code in (400, 403), name
        assert store.read(THEIRS) == b"theirs", name
    assert store.list_parts(MINE, upload) == []


def test_the_probe_tells_a_storage_that_looks_at_every_signature(store: ObjectStore) -> None:
    keys = UploadKeys(store.access, store.remove)
    found = keys.get()
    if found is None:
        return  # rclone has no such keys; its own signatures are tried above
    assert not keys.may_be_shown  # true of a MinIO that is mended: then parts go straight to it
    assert list(store.list(PROBES)) == []
