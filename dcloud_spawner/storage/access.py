"""Where the storage is and by which keys the platform itself reaches it.

With ``storage_url`` an administrator's own storage, its keys in two secret files; without it the
small default on this machine (``rclone serve s3``), whose keys ``dcloud up`` makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.settings import Settings

ACCESS_KEY = "storage_access_key"
SECRET_KEY = "storage_secret_key"
"""Secret files with the keys for ``storage_url``; the administrator writes them."""

DEFAULT_ACCESS_KEY = "storage_default_access_key"
DEFAULT_SECRET_KEY = "storage_default_secret_key"
"""Secret files with the keys of the small default; ``dcloud up`` makes them."""


@dataclass(frozen=True)
class StorageAccess:
    """Everything a client of the storage needs."""

    url: str
    """Of the S3 API, without a path."""
    bucket: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    public_url: str = ""
    """Where browsers and notebooks reach the same storage; "" through the hub's own proxy."""

    gate_url: str = ""
    """Where browsers reach the gate itself; "" through the hub's own proxy."""

    @property
    def secure(self) -> bool:
        """Whether it is reached by TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc


def is_default(settings: Settings) -> bool:
    """Whether the storage is the small default that ``dcloud up`` starts."""
    return not settings.storage_url


def default_url(settings: Settings) -> str:
    """Where the small default answers."""
    return f"http://127.0.0.1:{settings.storage_port}"


def default_folder(settings: Settings) -> Path:
    """Where the small default keeps its buckets."""
    return settings.state.absolute() / "storage"


def storage_address(settings: Settings) -> str:
    """Where the platform reaches the S3 API."""
    return default_url(settings) if is_default(settings) else settings.storage_url.rstrip("/")


def upload_route(settings: Settings) -> dict[str, str]:
    """The proxy's route by which uploads reach the gate in front of the storage."""
    return {f"/{settings.storage_bucket}/": f"http://127.0.0.1:{settings.storage_gate_port}"}


def access_of(settings: Settings) -> StorageAccess:
    """The platform's own access; raises ConfigurationError when a key cannot be read."""
    default = is_default(settings)
    names = (DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY) if default else (ACCESS_KEY, SECRET_KEY)
    mend = (
        "`dcloud up` makes it"
        if default
        else "write the key for storage_url into it, readable by its owner only"
    )
    access_key, secret_key = (_secret(settings.secrets_dir / name, mend) for name in names)
    return StorageAccess(
        url=storage_address(settings),
        bucket=settings.storage_bucket,
        region=settings.storage_region,
        access_key=access_key,
        secret_key=secret_key,
        public_url=settings.storage_public_url.rstrip("/"),
        gate_url=settings.storage_gate_url.rstrip("/"),
    )


def _secret(path: Path, mend: str) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} can be read by others. Run: chmod 600 {path}")
        text = path.read_text().strip()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing; {mend}.") from error
    if not text:
        raise ConfigurationError(f"{path} is empty; {mend}.")
    return text
