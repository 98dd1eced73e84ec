"""What the command line says of the storage: asked once, with little patience."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from dcloud_spawner.errors import ConfigurationError, DCloudError
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage import telling
from dcloud_spawner.storage.access import access_of, is_default, storage_address
from dcloud_spawner.storage.capabilities import CapabilityBook
from dcloud_spawner.storage.errors import ObjectMissing, StorageAway, StorageRefused
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.telling import Silence


@dataclass(frozen=True)
class StorageStatus:
    """One look. ``problem`` is empty when the storage is as it should be."""

    url: str
    small_default: bool
    bucket: str
    answers: bool
    sts: bool = False
    """Users get short-lived keys."""
    events: bool = False
    """The storage tells of accesses."""
    quotas: bool = False
    """It refuses what own spaces have no room for."""
    silence: Silence | None = None
    """Why what it tells does not arrive."""
    unsigned: bool = False
    """It was seen to write what nobody had signed."""
    problem: str = ""
    mend: str = ""

    @property
    def words(self) -> str:
        """What it is, in a line."""
        kind = "the small default (rclone)" if self.small_default else self.url
        if self.problem:
            return f"{kind}: {self.problem}"
        has = "short-lived keys" if self.sts else "no short-lived keys"
        told = "no events"
        if self.events:
            told = "events that do not arrive" if self.silence else "events"
        return f"{kind}, bucket {self.bucket}, {has}, {told}"


def look(settings: Settings) -> StorageStatus:
    """Ask the storage what it is; what is wrong is said, not raised."""
    url, default, bucket = storage_address(settings), is_default(settings), settings.storage_bucket
    try:
        store = ObjectStore(access_of(settings), connect_seconds=2.0, read_seconds=5.0, again=0)
    except ConfigurationError as error:
        return StorageStatus(url, default, bucket, False, problem=str(error), mend="dcloud up")
    try:
        store.require_bucket()
        can = CapabilityBook(store, default=default).get()
        unsigned = can.sts and not store.looks_at_signatures()
        return StorageStatus(
            url,
            default,
            bucket,
            True,
            sts=can.sts,
            events=can.events,
            quotas=can.quotas,
            silence=None if default else telling.silence(settings),
            unsigned=unsigned,
        )
    except ObjectMissing:
        return StorageStatus(
            url, default, bucket, True, problem=f"no bucket {bucket} yet", mend="dcloud up"
        )
    except StorageAway as error:
        mend = "dcloud up" if default else "start it, or mend storage_url"
        return StorageStatus(
            url, default, bucket, False, problem=f"does not answer ({error.detail})", mend=mend
        )
    except StorageRefused as error:
        return StorageStatus(url, default, bucket, True, problem=str(error), mend=_mend(error))
    except DCloudError as error:
        return StorageStatus(url, default, bucket, False, problem=str(error), mend="dcloud up")
    finally:
        store.close()


def _mend(error: StorageRefused) -> str:
    if error.code == "RequestTimeTooSkewed":
        return "set the clocks of this host and of the storage"
    return "write the right keys into secrets/storage_access_key and secrets/storage_secret_key"


def remarks(settings: Settings, seen: StorageStatus) -> list[tuple[str, str]]:
    """What somebody should look at though it works, each with its mend."""
    found = []
    plain = urlsplit(seen.url).scheme == "http"
    if plain and urlsplit(seen.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        found.append(("data goes to and from the storage in the clear", "storage_url by https"))
    if seen.sts and not settings.storage_public_url:
        found.append(
            (
                "notebooks do not reach the storage, so boto3 and others do not work in them",
                "set storage_public_url to an address that containers reach",
            )
        )
    if settings.bind_url.startswith("https:") and settings.storage_public_url.startswith("http:"):
        found.append(
            (
                "browsers send nothing from pages by https to a storage by http",
                "storage_public_url by https, or leave it empty",
            )
        )
    if seen.unsigned:
        found.append(
            (
                "the storage writes, unsigned, for whoever knows the name of an access key",
                "a newer server; until then storage_access_key is as secret as storage_secret_key",
            )
        )
    if seen.silence is not None:
        found.append((seen.silence.problem, seen.silence.mend))
    if seen.sts and not seen.quotas:
        found.append(
            (
                "the storage takes no quota of an own space: what is written there counts within "
                "minutes",
                "MinIO, with keys that may set quotas (admin:SetBucketQuota)",
            )
        )
    if settings.storage_public_url and not seen.sts:
        found.append(
            (
                "without short-lived keys storage_public_url is not used",
                "a storage with STS, or leave it empty",
            )
        )
    return found
