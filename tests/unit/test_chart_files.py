"""The library for charts comes from the npm lock, or its absence is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_charts


def test_what_the_pages_load_is_put_where_the_web_service_finds_it(tmp_path: Path) -> None:
    install_charts(cache_dir(), tmp_path / "assets")
    install_charts(cache_dir(), tmp_path / "assets")
    found = {path.name for path in (tmp_path / "assets").iterdir()}
    assert found == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"}
    script = (tmp_path / "assets" / "uPlot.iife.min.js").read_text()
    assert "eval(" not in script and "new Function" not in script


def test_without_a_registry_it_says_that_npm_could_not_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(ConfigurationError, match="deploy/charts could not be installed"):
        install_charts(tmp_path / "cache", tmp_path / "assets")
    assert not (tmp_path / "assets").exists()
