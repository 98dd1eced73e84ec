"""Which way of signing in the settings ask for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from oauthenticator.oauth2 import OAuthenticator

from dcloud_spawner.authenticator.authenticator import DCloudAuthenticator
from dcloud_spawner.authenticator.links import hub_url
from dcloud_spawner.authenticator.oidc import following, read_secret
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings

SECRET_FILE = "oidc_client_secret"
"""In the folder of secrets; used when it is there."""


def configure_authenticator(c: Any, settings: Settings, platform: Platform) -> None:
    """Set the hub's authenticator class and its traits on the hub's configuration ``c``.

    Raises ConfigurationError for a class or trait that does not exist, and for a secret that
    others may read.
    """
    if settings.authenticator == "dcloud":
        c.JupyterHub.authenticator_class = DCloudAuthenticator
        c.DCloudAuthenticator.platform_source = lambda: platform
        c.DCloudAuthenticator.admin_users = set(settings.admins)
        return
    base = _import_class(settings.authenticator)
    traits = dict(settings.authenticator_config)
    secret_file = _secret_file(traits, settings)
    traits.setdefault("oauth_callback_url", f"{hub_url(settings)}/oauth_callback")
    traits.setdefault("manage_groups", True)
    _check_traits(base, traits)
    c.JupyterHub.authenticator_class = following(base, platform, secret_file)
    section = c[base.__name__]
    # allowed_groups and the like are refused unless manage_groups is there before them.
    for name in sorted(traits, key=lambda name: name != "manage_groups"):
        section[name] = _as_trait(base, name, traits[name])
    admins = {*settings.admins, *section.get("admin_users", ())}
    section["admin_users"] = admins


def _import_class(path: str) -> type[OAuthenticator]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"authenticator: cannot import {path!r} ({error}). "
            "It is dcloud or a class such as oauthenticator.generic.GenericOAuthenticator."
        ) from error
    if not (isinstance(found, type) and issubclass(found, OAuthenticator)):
        raise ConfigurationError(f"authenticator: {path} is no class of oauthenticator.")
    return found


def _secret_file(traits: dict[str, object], settings: Settings) -> Path | None:
    if "client_secret" in traits:
        raise ConfigurationError(
            "authenticator_config: client_secret does not belong into settings, which are shown "
            "and copied. Put it into a file of mode 600 and name that in client_secret_file, "
            f"or into {settings.secrets_dir / SECRET_FILE}, or into OAUTH_CLIENT_SECRET."
        )
    named = traits.pop("client_secret_file", None)
    path = Path(str(named)) if named else settings.secrets_dir / SECRET_FILE
    if not named and not path.exists():
        return None
    read_secret(path)
    return path


def _check_traits(base: type[OAuthenticator], traits: dict[str, object]) -> None:
    known = set(base.class_trait_names(config=True)) | {"allow_all", "allow_existing_users"}
    unknown = sorted(set(traits) - known)
    if unknown:
        raise ConfigurationError(
            f"authenticator_config: {base.__name__} has no {', '.join(unknown)}."
        )


def _as_trait(base: type[OAuthenticator], name: str, value: object) -> object:
    """JSON and TOML have lists only; the hub's groups and names are sets."""
    trait = base.class_traits().get(name)
    return set(value) if isinstance(value, list) and type(trait).__name__ == "Set" else value
