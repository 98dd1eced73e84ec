"""Another store's bucket, read by minio-py through connections that go nowhere inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, LocationValueError, SSLError

from dcloud_spawner.datasets.import_orders import target_path
from dcloud_spawner.datasets.paths import shown
from hub_services.datasets.outside import Found, GivenUp, Source, SourceAway
from hub_services.datasets.receiving import Opener
from hub_services.datasets.unpacking import MOST_FILES

_LATER = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout"}


@dataclass(frozen=True)
class Outer:
    """An object of the other store, and where it goes."""

    key: str
    path: str
    size_bytes: int
    etag: str


class Elsewhere:
    """The other store of one import."""

    def __init__(
        self, order: Mapping[str, Any], secret: Mapping[str, str], pool: urllib3.PoolManager
    ) -> None:
        parts = urlsplit(str(order["endpoint"]))
        self._host = parts.netloc
        self._bucket, self._prefix = str(order["bucket"]), str(order.get("prefix") or "")
        self._folder = str(order.get("folder") or "")
        with self._told():
            self._client = Minio(
                parts.netloc,
                access_key=secret.get("access_key") or None,
                secret_key=secret.get("secret_key") or None,
                session_token=secret.get("session_token") or None,
                secure=parts.scheme == "https",
                region=str(order.get("region") or "") or None,
                http_client=pool,
            )

    def objects(self, check: Callable[[], None]) -> Sequence[Outer]:
        """All below the prefix, each with its path; ``check`` is called in between. Raises
        InvalidChoice for a key that is no path, GivenUp, SourceAway."""
        found: dict[str, Outer] = {}
        with self._told():
            for each in self._client.list_objects(self._bucket, self._prefix, recursive=True):
                check()
                key = each.object_name or ""
                path = target_path(self._prefix, self._folder, key)
                if path is None:
                    continue
                if path in found:
                    raise GivenUp(f"{shown(path)} would come twice.")
                found[path] = Outer(key, path, each.size or 0, (each.etag or "").strip('"'))
                if len(found) > MOST_FILES:
                    raise GivenUp(f"More than {MOST_FILES} files; import them in parts.")
        return list(found.values())

    def opener(self, each: Outer) -> Opener:
        """Opens one object, as it was when it was listed."""

        @contextmanager
        def opened(first: int, validator: str) -> Iterator[Source]:
            headers: dict[str, str | list[str] | tuple[str]] = (
                {"If-Match": f'"{each.etag}"'} if each.etag else {}
            )
            with self._told():
                answer = self._client.get_object(
                    self._bucket, each.key, offset=first, request_headers=headers
                )
            begins = first if answer.status == 206 else 0
            with Source(answer, Found(each.size_bytes, begins, each.etag, "")) as source:
                yield source

        return opened

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            words = f"{self._host} says {shown(error.code or '')}: {shown(error.message or '')}."
            if error.code in _LATER:
                raise SourceAway(words, hint="Try again later.") from error
            if error.code == "PreconditionFailed":
                raise GivenUp("A file was changed while it was imported.") from error
            raise GivenUp(words, hint="Look at the bucket, the prefix and the keys.") from error
        except (LocationValueError, SSLError) as error:
            raise GivenUp(f"{self._host} cannot be asked: no name, or no certificate.") from error
        except (HTTPError, OSError, ServerError) as error:
            raise SourceAway(f"{self._host} does not answer.", hint="Try again later.") from error
        except (InvalidResponseError, MinioException, ValueError) as error:
            raise GivenUp(f"{self._host} does not answer as a store does.") from error
