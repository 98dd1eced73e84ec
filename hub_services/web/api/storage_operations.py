"""Operations of direct access to the storage. A part of ``operations``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from hub_services.web.api import storage
from hub_services.web.api.ledger_operations import read
from hub_services.web.api.operation import Nothing, Operation

STORAGE_OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    Operation(
        "POST",
        "storage/credentials",
        "Short-lived keys for S3",
        storage.create_credentials,
        Nothing,
        storage.CredentialsBody,
        storage.CredentialsView,
        refusals=(HTTPStatus.CONFLICT,),
        by_server=True,
    ),
    read(
        "datasets/{id}/log",
        "Who did what with a dataset",
        storage.dataset_log_of,
        storage.LogPage,
        storage.LogView,
    ),
)
