"""The uploader comes from the npm lock as two bundles, or its absence is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_uploader, node_binary

KNOWN = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of "abc", from FIPS 180-2, appendix B.1."""


def test_the_bundles_are_put_where_the_web_service_finds_them(tmp_path: Path) -> None:
    install_uploader(cache_dir(), tmp_path / "assets")
    install_uploader(cache_dir(), tmp_path / "assets")
    found = {path.name for path in (tmp_path / "assets").iterdir()}
    assert found == {"uploader.js", "sha256.js", "UPLOADER-LICENCES"}
    uploader = (tmp_path / "assets" / "uploader.js").read_text()
    assert "eval(" not in uploader and "new Function" not in uploader
    assert "MIT License" in (tmp_path / "assets" / "UPLOADER-LICENCES").read_text()


def test_the_bundle_counts_a_known_checksum(tmp_path: Path) -> None:
    install_uploader(cache_dir(), tmp_path)
    script = (
        f"import {{ createSHA256 }} from '{tmp_path / 'sha256.js'}';"
        "const h = await createSHA256(); h.init(); h.update('a'); h.update('bc');"
        "console.log(h.digest());"
    )
    done = subprocess.run(
        [str(node_binary()), "--input-type=module", "-e", script],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == KNOWN, done.stderr


def test_without_a_registry_it_says_that_npm_could_not_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(ConfigurationError, match="deploy/uploads could not be installed"):
        install_uploader(tmp_path / "cache", tmp_path / "assets")
    assert not (tmp_path / "assets").exists()
