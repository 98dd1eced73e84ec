"""Which authenticator the settings choose, and what of them is refused before the hub starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from traitlets.config import Config

from dcloud_spawner.authenticator.authenticator import DCloudAuthenticator
from dcloud_spawner.authenticator.select import SECRET_FILE, configure_authenticator
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings

GENERIC = "oauthenticator.generic.GenericOAuthenticator"
NO_PLATFORM = cast(Platform, None)


def _configured(tmp_path: Path, **settings: Any) -> Config:
    c = Config()
    configure_authenticator(c, Settings(state=tmp_path, **settings), NO_PLATFORM)
    return c


def _built(c: Config) -> Any:
    return c.JupyterHub.authenticator_class(config=c)


def _secret(path: Path, text: str = "s3cret", mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


def test_accounts_of_our_own_are_the_default(tmp_path: Path) -> None:
    c = _configured(tmp_path, admins=("chief",))
    assert c.JupyterHub.authenticator_class is DCloudAuthenticator
    assert c.DCloudAuthenticator.admin_users == {"chief"}


def test_a_class_of_oauthenticator_gets_its_traits_and_follows_the_provider(tmp_path: Path) -> None:
    _secret(tmp_path / "secrets" / SECRET_FILE)
    config = {"client_id": "dcloud", "allowed_groups": ["lab"], "username_claim": "sub"}
    c = _configured(
        tmp_path,
        authenticator=GENERIC,
        authenticator_config=config,
        admins=("chief",),
        public_url="https://lab.example/hub-of-ours/",
    )
    built = _built(c)
    assert type(built).__name__ == "DCloudGenericOAuthenticator"
    assert (built.client_id, built.allowed_groups, built.username_claim) == (
        "dcloud",
        {"lab"},
        "sub",
    )
    assert built.client_secret == "s3cret"
    assert built.manage_groups and built.enable_pkce and built.admin_users == {"chief"}
    assert built.oauth_callback_url == "https://lab.example/hub-of-ours/hub/oauth_callback"
    assert "s3cret" not in repr(c)


def test_other_classes_work_the_same_way(tmp_path: Path) -> None:
    c = _configured(
        tmp_path,
        authenticator="oauthenticator.github.GitHubOAuthenticator",
        authenticator_config={"client_id": "x", "allowed_organizations": ["lab"]},
    )
    assert _built(c).allowed_organizations == {"lab"}


def test_the_secret_may_also_come_from_a_named_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = _secret(tmp_path / "elsewhere" / "secret", "named")
    c = _configured(
        tmp_path, authenticator=GENERIC, authenticator_config={"client_secret_file": str(named)}
    )
    assert _built(c).client_secret == "named"
    monkeypatch.setenv("OAUTH_CLIENT_SECRET", "from the environment")
    assert _built(_configured(tmp_path, authenticator=GENERIC)).client_secret == (
        "from the environment"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_secret_that_others_may_read_is_refused_and_not_shown(tmp_path: Path, mode: int) -> None:
    path = _secret(tmp_path / "secrets" / SECRET_FILE, mode=mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as refused:
        _configured(tmp_path, authenticator=GENERIC)
    assert str(path) in str(refused.value) and "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"authenticator": "nonsense"}, "cannot import 'nonsense'"),
        ({"authenticator": "oauthenticator.generic.Nothing"}, "cannot import"),
        ({"authenticator": "no.such.module.Class"}, "cannot import"),
        ({"authenticator": "pathlib.Path"}, "no class of oauthenticator"),
        ({"authenticator": "jupyterhub.auth.DummyAuthenticator"}, "no class of oauthenticator"),
        (
            {"authenticator": GENERIC, "authenticator_config": {"clientid": "x", "foo": 1}},
            "has no clientid, foo",
        ),
        (
            {"authenticator": GENERIC, "authenticator_config": {"client_secret": "s3cret"}},
            "does not belong into settings",
        ),
        (
            {"authenticator": GENERIC, "authenticator_config": {"client_secret_file": "/no/such"}},
            "Cannot read the secret in /no/such",
        ),
    ],
)
def test_a_wrong_choice_is_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        _configured(tmp_path, **settings)
    assert "s3cret" not in str(refused.value)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    _secret(tmp_path / "secrets" / SECRET_FILE, "")
    with pytest.raises(ConfigurationError, match="is empty"):
        _configured(tmp_path, authenticator=GENERIC)
