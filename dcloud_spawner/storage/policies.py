"""What a short-lived key may do, as an S3 policy. Pure.

One statement for each kind of act and no spaces, for Ceph refuses those, and MinIO and AWS refuse
a policy of more than 2,048 characters: that is room for about eight versions of datasets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 2048
"""Characters of a session policy."""

_PLAIN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)+")

_WRITE = [
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
]


@dataclass(frozen=True)
class OwnBucket:
    """A bucket that is one person's alone: to list, read, delete, and write while there is room."""

    name: str
    writable: bool = True


def session_policy(
    bucket: str,
    *,
    read: Sequence[str] = (),
    put: Sequence[str] = (),
    objects: Sequence[str] = (),
    lists: bool = True,
    own: OwnBucket | None = None,
) -> str:
    """Read under some prefixes of a bucket, ``put`` without reading under others, and nothing else.
    ``objects`` are read by their whole keys.

    Prefixes end in ``/`` and hold no wildcard (ValueError): they come from :mod:`keys`.
    ``lists``: whether the prefixes may be listed; only where the storage keeps such a list to
    its prefix (``capabilities``). A bucket of one's own is listed anyway.
    """
    for prefix in (*read, *put, *(f"{key}/" for key in objects)):
        if not _PLAIN.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is no prefix of ours")
    readable = sorted({*read})
    statements: list[dict[str, object]] = [
        # Who holds a key must not make another, longer-lived one of it.
        {"Effect": "Deny", "Action": ["admin:*"]},
    ]
    if readable and lists:
        statements.append(_allow(["s3:ListBucket"], [_arn(bucket)], prefixes=readable))
    if readable or objects:
        whole = [f"{_arn(bucket)}/{key}" for key in objects]
        given = [_arn(bucket, prefix) for prefix in readable]
        statements.append(_allow(["s3:GetObject"], [*given, *whole]))
    if put:
        statements.append(_allow(["s3:PutObject"], [_arn(bucket, prefix) for prefix in put]))
    if own is not None:
        acts = [act for act in _WRITE if own.writable or act != "s3:PutObject"]
        resources = [_arn(own.name), f"{_arn(own.name)}/*"]
        statements.append(_allow(["s3:ListBucket", "s3:GetObject", *acts], resources))
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _allow(
    actions: Sequence[str], resources: Sequence[str], prefixes: Sequence[str] = ()
) -> dict[str, object]:
    statement: dict[str, object] = {"Effect": "Allow"}
    statement |= {"Action": list(actions), "Resource": list(resources)}
    if prefixes:
        asked = [f"{prefix}*" for prefix in prefixes]
        statement["Condition"] = {"StringLike": {"s3:prefix": asked}}
    return statement


def _arn(bucket: str, prefix: str = "") -> str:
    return f"arn:aws:s3:::{bucket}/{prefix}*" if prefix else f"arn:aws:s3:::{bucket}"
