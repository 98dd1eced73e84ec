"""What of a presigned part nobody but the gate may read: the session token of its keys.

Some servers let a write in without any signature (``signature_probe``) for whoever shows a pair of
access key and session token. There the token is not in the URL that is given out, but sealed, and
the gate puts it in its place.
"""

from __future__ import annotations

import base64
import hmac
import os

from Crypto.Cipher import AES

from dcloud_spawner.storage.access import StorageAccess

PARAMETER = "X-Dcloud-Sealed"
"""Of the URL; the gate knows it by this name (deploy/gate/gate.js)."""


def sealing_key(access: StorageAccess) -> bytes:
    """The gate's key, 32 bytes: made of the storage's secret key, which it does not tell."""
    return hmac.digest(access.secret_key.encode(), b"dcloud gate", "sha256")


def sealed(key: bytes, token: str) -> str:
    """A token as it is given out."""
    nonce = os.urandom(12)
    text, tag = AES.new(key, AES.MODE_GCM, nonce=nonce).encrypt_and_digest(token.encode())
    return base64.urlsafe_b64encode(nonce + tag + text).decode().rstrip("=")
