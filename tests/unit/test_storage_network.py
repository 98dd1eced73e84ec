"""Which port of this host the users' network may reach for the storage."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from dcloud_spawner.engines.docker_network import storage_rules
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.settings import Settings, load_settings


def own_address() -> str:
    """An address of this machine that is not loopback."""
    return next(
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family.name == "AF_INET" and not each.address.startswith("127.")
    )


def rules(tmp_path: Path, url: str, public_url: str) -> list[str]:
    return storage_rules(Settings(state=tmp_path, storage_url=url, storage_public_url=public_url))


def test_a_storage_on_this_host_is_reached_at_its_public_port_alone(tmp_path: Path) -> None:
    own = own_address()
    url = f"http://{own}:9000"
    assert rules(tmp_path, url, url) == [f"-p tcp -d {own} --dport 9000 -j RETURN"]


def test_no_port_is_opened_for_a_storage_elsewhere_on_loopback_or_without_keys_for_users(
    tmp_path: Path,
) -> None:
    own = f"http://{own_address()}:9000"
    assert rules(tmp_path, "http://192.0.2.1:9000", "http://192.0.2.1:9000") == []
    assert rules(tmp_path, own, "") == []
    assert rules(tmp_path, "", own) == []
    assert rules(tmp_path, own, "http://127.0.0.1:9000") == []
    assert rules(tmp_path, own, "http://no-such-host.invalid:9000") == []


@pytest.mark.parametrize("name", ["hub", "services", "user", "UPPER", "a", "-a-", "a_b", "a/b"])
def test_a_bucket_that_would_be_a_page_of_the_hub_or_no_bucket_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="storage_bucket"):
        load_settings(storage_bucket=name)


@pytest.mark.parametrize(
    "url", ["ftp://x", "x:9000", "http://x/path", "http://key:secret@x", "http://x?a=b"]
)
def test_an_address_of_storage_with_a_path_or_keys_is_refused(url: str) -> None:
    for name in ("storage_url", "storage_public_url"):
        with pytest.raises(ConfigurationError, match=name) as caught:
            load_settings(**{name: url})
        assert "key:secret" not in str(caught.value)
