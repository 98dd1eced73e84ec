"""What the tests on a real Docker engine share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def base_image(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of the base image, built from images/base; nothing is done when it is up to date."""
    settings = Settings(state=tmp_path_factory.mktemp("images"), images_dir=ROOT / "images")
    status = ImageStore(settings).prepare("base")
    assert status.state is ImageState.READY, status.message
    return status.image
