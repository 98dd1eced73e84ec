"""What the client library and the network say, in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError

from dcloud_spawner.storage.errors import ObjectMissing, StorageAway, StorageRefused, UploadGone

_BUSY = {
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "XMinioServerNotInitialized",
    "XMinioReadQuorum",
    "XMinioWriteQuorum",
}


def in_short(error: Exception) -> str:
    """Why there was no answer, for a log, without the address that was asked."""
    cause = getattr(error, "reason", None) or error
    text = str(cause)
    return f"{type(cause).__name__}: {text.partition('): ')[2] or text}"


@contextmanager
def told(key: str, *, gone_is_fine: bool = False) -> Iterator[None]:
    """Turn what is raised inside into one of our errors about ``key``."""
    try:
        yield
    except S3Error as error:
        code = error.code or "error"
        if code in ("NoSuchKey", "NoSuchBucket"):
            raise ObjectMissing(f"{key} is not there ({code})") from error
        if code == "NoSuchUpload":
            if not gone_is_fine:
                raise UploadGone(f"the upload of {key} is gone") from error
            return
        if code in _BUSY:
            raise StorageAway(f"{code}: {error.message}") from error
        raise StorageRefused(code, f"{error.message} ({key})") from error
    except (HTTPError, OSError, ServerError) as error:
        raise StorageAway(in_short(error)) from error
    except (InvalidResponseError, ParseError) as error:
        # A proxy in between, or no S3 at all.
        raise StorageAway(f"no answer of an S3 server: {error}"[:300]) from error
