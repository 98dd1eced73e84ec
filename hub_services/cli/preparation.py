"""Which images are not ready yet, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.images import ImageState, ImageStore
from dcloud_spawner.profiles import load_profiles
from dcloud_spawner.settings import Settings


@dataclass(frozen=True)
class ImageProgress:
    """An image of a profile that is not ready: how far it is, from 0 to 1, and what happens."""

    image: str
    state: str
    progress: float
    message: str


def images_in_preparation(settings: Settings) -> Sequence[ImageProgress]:
    """Images that profiles name and that are not ready, by their builder's own word."""
    try:
        profiles = load_profiles(settings.profiles_dir).values()
    except ConfigurationError:
        return ()  # the doctor says it
    store = ImageStore(settings)
    known = [store.status(image) for image in dict.fromkeys(each.image for each in profiles)]
    return [
        ImageProgress(each.image, each.state.value, each.progress, each.message)
        for each in known
        if each is not None and each.state is not ImageState.READY
    ]
