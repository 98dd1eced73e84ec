"""The secrets of a deployment: made once, 0600, in a 0700 folder; never printed."""

from __future__ import annotations

import secrets
from pathlib import Path

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.storage.access import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY
from hub_services.cli.files import create_private_once

COOKIE_SECRET = "cookie_secret"
"""JupyterHub's cookie secret (its ``cookie_secret_file``), 32 bytes in hex."""
PROXY_TOKEN = "proxy.token"
"""Between the hub and the proxy's API; ``CONFIGPROXY_AUTH_TOKEN``."""
CRYPT_KEY = "crypt.key"
"""Encrypts the sign-in state in the hub's database; ``JUPYTERHUB_CRYPT_KEY``."""
CONTROLLER_TOKEN = "controller.token"
"""The controller's own token for the hub's REST API."""
WEB_TOKEN = "web.token"
"""The web service's own token, by which the hub knows it when it asks who somebody is."""

NAMES = (
    COOKIE_SECRET,
    PROXY_TOKEN,
    CRYPT_KEY,
    CONTROLLER_TOKEN,
    WEB_TOKEN,
    DEFAULT_ACCESS_KEY,
    DEFAULT_SECRET_KEY,
)


def ensure_secrets(folder: Path) -> None:
    """Make every secret that is missing; those that exist stay as they are."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in NAMES:
        if not (folder / name).exists():
            create_private_once(folder / name, secrets.token_hex(32))


def read_secret(folder: Path, name: str) -> str:
    """One secret's text; raises ConfigurationError when it is missing, empty or open to others."""
    path = folder / name
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing; `dcloud up` makes it.") from error
    if mode & 0o077:
        raise ConfigurationError(f"{path} can be read by others. Run: chmod 600 {path}")
    if not text:
        raise ConfigurationError(f"{path} is empty. Remove it; `dcloud up` makes a new one.")
    return text
