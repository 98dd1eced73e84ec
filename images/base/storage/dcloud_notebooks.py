"""Notebooks that survive a lost host: the user's own space in storage as a folder beside the home.

Only the single-user server's Python reads this, where the profile says ``notebooks: storage``.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import dcloud_storage

FOLDER = "storage"
"""Its name in JupyterLab's browser."""


def keep_in_storage(config: Any, home: str) -> None:
    """Show home and storage side by side. Raises StorageError while there is no own space; then
    nothing was changed."""
    given = dcloud_storage.credentials()
    if not given["own_bucket"]:
        raise dcloud_storage.StorageError("You have no space of your own in storage.")
    # s3contents asks whether a file system is Google's, whose 100 MB are not in the image.
    google = types.ModuleType("gcsfs")
    google.GCSFileSystem = type("GCSFileSystem", (), {})  # type: ignore[attr-defined]
    sys.modules.setdefault("gcsfs", google)
    from hybridcontents import HybridContentsManager
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from s3contents import S3ContentsManager

    config.ServerApp.contents_manager_class = HybridContentsManager
    config.HybridContentsManager.manager_classes = {
        "": LargeFileManager,
        FOLDER: S3ContentsManager,
    }
    config.HybridContentsManager.manager_kwargs = {
        "": {"root_dir": home, "delete_to_trash": False},
        # No keys: botocore asks the credential process for them, again and again.
        FOLDER: {
            "endpoint_url": given["endpoint"],
            "region_name": given["region"],
            "bucket": given["own_bucket"],
        },
    }
