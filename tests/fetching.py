"""What the parts of a run share and a network brings, fetched or built before they begin: several
at once would wait for each other, and one of them has no network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.settings import Settings
from hub_services.cli import machine
from hub_services.cli.deployment import CHECKOUT, cache_dir
from hub_services.cli.node import install_charts, install_uploader
from tests.browser.staged import axe_script
from tests.hub.keycloak import distribution
from tests.services import BASE_IMAGE, Missing, minio_binary, say


def fetch_everything() -> None:
    """All that is not in the cache yet. What cannot be had is said; its tests tell the rest."""
    wanted: list[Callable[[], object]] = [
        _build_base_image,
        minio_binary,
        distribution,
        _fetch_from_npm,
    ]
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(each) for each in wanted]:
            try:
                done.result()
            except (Missing, ConfigurationError, CalledProcessError) as error:
                say(str(error))


def _build_base_image() -> None:
    """What most tests with containers rest on."""
    if not machine.docker_version():
        return
    with tempfile.TemporaryDirectory(prefix="dcloud-tests-") as folder:
        settings = Settings(
            state=Path(folder), images_dir=CHECKOUT / "images", profiles_dir=CHECKOUT / "profiles"
        )
        status = ImageStore(settings).prepare(BASE_IMAGE)
    if status.state is not ImageState.READY:
        say(f"{BASE_IMAGE}: {status.message}")


def _fetch_from_npm() -> None:
    """What pages bring to browsers, and what checks them there."""
    with tempfile.TemporaryDirectory(prefix="dcloud-tests-") as assets:
        install_charts(cache_dir(), Path(assets))
        install_uploader(cache_dir(), Path(assets))
    axe_script()
