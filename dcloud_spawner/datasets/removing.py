"""The objects of files that a draft has no longer: removed after their rows, while others go on."""

from __future__ import annotations

from dcloud_spawner.datasets.versions import Removed
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, dataset_uploads, datasets
from dcloud_spawner.store.datasets import VersionState

AT_ONCE = 500


def remove_objects(platform: Platform, gone: Removed) -> None:
    """Remove what belongs to nothing any more. It may take long, and meanwhile the same files may
    come again and be published: so it is looked anew before each part, and as soon as the draft is
    none any more all is left to its publication, or to its end. Blocks; raises StorageAway."""
    for first in range(0, len(gone.paths), AT_ONCE):
        part = list(gone.paths[first : first + AT_ONCE])
        with platform.database.reading() as connection:
            draft = datasets.find_version(connection, gone.version)
            if draft is None or draft.state is not VersionState.DRAFT:
                return
            kept = set(dataset_files.sizes_of(connection, gone.version, part))
            kept |= {each.path for each in dataset_uploads.of_version(connection, gone.version)}
        platform.storage.remove_many(
            file_key(gone.dataset, gone.version, path) for path in part if path not in kept
        )
