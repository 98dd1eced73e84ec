"""In whose name short-lived keys are made on MinIO: a user of the storage for each person.

A session token names its parent in plain text, and MinIO (of February 2026 and before) writes
without a look at the signature for whoever names a key in the query (``signature_probe``). Were
the platform's own key the parent, everybody could write everywhere. So the parent is a user who
may write one bucket, that person's own, and read what any short-lived key may be made for.
"""

from __future__ import annotations

import hmac
import threading
from dataclasses import replace

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.admin import administration

_known: set[tuple[str, str]] = set()
_lock = threading.Lock()


def parent_of(access: StorageAccess, own_bucket: str) -> StorageAccess:
    """The access by which keys for one person are made; "" for somebody without a bucket of their
    own. Blocks. Raises StorageRefused where the platform's key makes no users."""
    whose = own_bucket or f"{access.bucket[:40]}-readers"
    # The name alone would be enough to write that bucket: nobody else can work it out.
    name = f"dcloud-{_derived(access, f'name of the parent {whose}')[:32]}"
    secret = _derived(access, f"parent {whose}")[:40]
    with _lock:
        if (access.url, name) not in _known:
            _make(access, name, secret, own_bucket)
            _known.add((access.url, name))
    return replace(access, access_key=name, secret_key=secret)


def _derived(access: StorageAccess, what: str) -> str:
    return hmac.digest(access.secret_key.encode(), what.encode(), "sha256").hex()


def policy_of(bucket: str, own_bucket: str) -> dict[str, object]:
    """All that keys for this person can ever be made for."""
    arn = "arn:aws:s3:::"
    read = [f"{arn}{bucket}/datasets/*", f"{arn}{bucket}/manifests/*"]
    statements: list[dict[str, object]] = [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": read},
    ]
    if own_bucket:
        acts = ["GetObject", "PutObject", "DeleteObject", "ListBucket", "AbortMultipartUpload"]
        acts.append("ListMultipartUploadParts")
        statements.append(
            {
                "Effect": "Allow",
                "Action": [f"s3:{act}" for act in acts],
                "Resource": [f"{arn}{own_bucket}", f"{arn}{own_bucket}/*"],
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _make(access: StorageAccess, name: str, secret: str, own_bucket: str) -> None:
    with administration(access, "no user is made") as admin:
        admin.user_add(name, secret)
        admin.policy_add(name, policy=policy_of(access.bucket, own_bucket))
        admin.policy_set(name, user=name)
