"""Bodies that sign themselves (aws-chunked) are another way round a signature; servers have let
them in unsigned before (CVE-2025-31489). By what a presigned part shows, nothing gets in."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore

MINE, THEIRS = file_key("d1", "v1", "mine"), file_key("d2", "v1", "theirs")
BODY = b"4\r\nevil\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"


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
    part = store.presign_part(MINE, upload, 1, 4)
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
    attempts = {
        "a forged signature": (target, headers | {"authorization": forged}),
        "none": (target, headers),
        "that of the part, elsewhere": (f"{target}?{query}", headers),
        "that of the part, for another length": (part, headers),
    }
    for name, (url, sent) in attempts.items():
        answer = httpx.put(url, content=BODY, headers=sent)
        assert answer.status_code in (400, 403), name
    assert store.read(THEIRS) == b"theirs"
    assert store.list_parts(MINE, upload) == []
