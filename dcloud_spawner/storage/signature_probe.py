"""Whether the storage looks at every signature.

MinIO (of February 2026 and before) does not, much as in CVE-2025-31489: with a body that says
``STREAMING-UNSIGNED-PAYLOAD-TRAILER`` and keys named in the query it writes whatever those keys
may write, signed or not. Asked of the server itself, by doing it with keys that write nothing else.
"""

from __future__ import annotations

import base64
import secrets
import zlib
from datetime import UTC, datetime
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.storage.failures import in_short

PROBES = "datasets/probe-of-signatures/"


def signatures_hold(keys: StorageAccess) -> tuple[bool, str]:
    """Whether a write without a signature is refused, and the key of what was written if not.

    ``keys`` may write below ``datasets/``. Blocks; raises StorageAway.
    """
    key, data = f"{PROBES}{secrets.token_hex(8)}", b"probe"
    checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    body = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (
        len(data),
        data,
        checksum.encode(),
    )
    date = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access_key}/{date[:8]}/{keys.region}/s3/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": "60",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
        "X-Amz-Security-Token": keys.session_token,
    }
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
        "x-amz-date": date,
        "x-amz-security-token": keys.session_token,
    }
    try:
        with urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=20)) as pool:
            answer = pool.request(
                "PUT",
                f"{keys.url}/{keys.bucket}/{key}?{urlencode(query)}",
                body=body,
                headers=headers,
                retries=False,
            )
    except (HTTPError, OSError) as error:
        raise StorageAway(in_short(error)) from error
    return answer.status not in (200, 204), key
