"""The token that the storage shows when it tells of its requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.webhook import TOKEN, token_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a deployment with nothing but its folder for secrets."""
    made = Settings(state=tmp_path)
    made.secrets_dir.mkdir(parents=True, exist_ok=True)
    return made


def test_a_token_is_made_once_and_is_its_owners(settings: Settings) -> None:
    token = token_of(settings)
    assert len(token) == 64 and token_of(settings) == token
    assert (settings.secrets_dir / TOKEN).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.secrets_dir.iterdir()] == [TOKEN]


def test_an_empty_file_that_a_killed_process_left_is_no_token(settings: Settings) -> None:
    # Otherwise whoever shows nothing at all would be taken for the storage.
    (settings.secrets_dir / TOKEN).touch(mode=0o600)
    token = token_of(settings)
    assert len(token) == 64 and token_of(settings) == token
