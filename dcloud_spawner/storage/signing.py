"""Presigned URLs (AWS Signature Version 4, by query). Pure.

Our own, for minio-py signs the host alone: here the length of a part is signed too, so that who
holds the URL can send neither more nor less than was agreed.
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlsplit

from dcloud_spawner.storage.access import StorageAccess

LONGEST_SECONDS = 7 * 86400
"""The longest life that the signature allows."""


def presign(
    access: StorageAccess,
    method: str,
    key: str,
    *,
    base: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    seconds: int,
    now: datetime,
) -> str:
    """A URL at ``base`` (scheme and host) for one method on one object, for ``seconds``.

    ``headers`` must be sent exactly as given, besides the host.
    """
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"a URL cannot live {seconds} seconds")
    origin = urlsplit(base)
    path = quote(f"/{access.bucket}/{key}", safe="/~")
    signed = {"host": origin.netloc} | {name.lower(): value for name, value in headers.items()}
    names = ";".join(sorted(signed))
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{access.region}/s3/aws4_request"
    parameters = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{access.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": names,
    }
    if access.session_token:
        parameters["X-Amz-Security-Token"] = access.session_token
    written = "&".join(
        f"{quote(name, safe='~')}={quote(value, safe='~')}"
        for name, value in sorted(parameters.items())
    )
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    canonical = "\n".join([method, path, written, lines, names, "UNSIGNED-PAYLOAD"])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])
    signing_key = f"AWS4{access.secret_key}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    signature = hmac.digest(signing_key, text.encode(), "sha256").hex()
    return f"{origin.scheme}://{origin.netloc}{path}?{written}&X-Amz-Signature={signature}"
