"""Settings: what a wrong one says."""

from __future__ import annotations

import pytest

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.settings import load_settings


def test_a_wrong_setting_is_named_with_its_value() -> None:
    with pytest.raises(ConfigurationError, match=r"port: .*less than or equal.*got 99999"):
        load_settings(port=99999)


def test_a_password_in_a_misspelt_setting_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(databse_url="postgresql://dcloud:hunter2@db/dcloud")
    assert "databse_url" in str(caught.value)
    assert "hunter2" not in str(caught.value)
