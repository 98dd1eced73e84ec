"""What can go wrong at the object storage.

StorageAway       503  it does not answer, or says that it cannot now: the same call may work later
StorageRefused    it answers and refuses: keys, policy, something it cannot do. Only for the log
StorageCannot     409  it is of a kind that cannot do this at all; says what to do instead
ObjectMissing     no such object
UploadGone        no such multipart upload: completed, aborted, or forgotten by the storage
"""

from __future__ import annotations

from dcloud_spawner.errors import Conflict, DCloudError, Unavailable


class StorageAway(Unavailable):
    """The storage does not answer, or cannot now."""

    code = "storage_away"

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "The storage of datasets does not answer.", hint="Try again in a few minutes."
        )
        self.detail = detail
        """For the log: what was seen."""


class StorageCannot(Conflict):
    """The kind of storage that this deployment has cannot do it."""

    code = "storage_cannot"


class StorageRefused(DCloudError):
    """The storage answered and refused; ``code`` is its own word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ObjectMissing(DCloudError):
    """There is no such object."""


class UploadGone(DCloudError):
    """There is no such multipart upload any more."""
