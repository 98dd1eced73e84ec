"""Operations of datasets. A part of ``operations``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from hub_services.web.api import dataset_models as models
from hub_services.web.api import datasets
from hub_services.web.api.ledger_operations import change, read
from hub_services.web.api.operation import Nothing, Operation

CREATED = HTTPStatus.CREATED

DATASET_OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    read("datasets", "Datasets", datasets.list_datasets, models.DatasetsPage, models.DatasetsView),
    change(
        "POST",
        "datasets",
        "Make a dataset",
        datasets.create_dataset,
        models.NewDatasetBody,
        models.DatasetView,
        status=CREATED,
    ),
    read("datasets/storage", "What one stores", datasets.my_storage, Nothing, models.QuotaView),
    read("datasets/{id}", "One dataset", datasets.get_dataset, Nothing, models.DatasetDetailView),
    change(
        "PATCH",
        "datasets/{id}",
        "Describe a dataset",
        datasets.change_dataset,
        models.ChangeDatasetBody,
        models.DatasetView,
    ),
    change(
        "DELETE",
        "datasets/{id}",
        "Delete a dataset",
        datasets.delete_dataset,
        Nothing,
        models.DatasetView,
    ),
    change(
        "POST",
        "datasets/{id}/restore",
        "Bring a dataset back",
        datasets.restore_dataset,
        Nothing,
        models.DatasetView,
    ),
    change(
        "POST",
        "datasets/{id}/purge",
        "Delete a dataset for good",
        datasets.purge_dataset,
        Nothing,
        models.DoneView,
    ),
    change(
        "POST",
        "datasets/{id}/shares",
        "Share a dataset",
        datasets.share_dataset,
        models.ShareBody,
        models.SharesView,
    ),
    change(
        "POST",
        "datasets/{id}/unshare",
        "Share no longer",
        datasets.unshare_dataset,
        models.UnshareBody,
        models.SharesView,
    ),
    change(
        "POST",
        "datasets/{id}/draft",
        "Begin the next version",
        datasets.open_draft,
        models.NewDraftBody,
        models.VersionView,
        status=CREATED,
    ),
    change(
        "DELETE",
        "datasets/{id}/draft",
        "Discard the draft",
        datasets.discard_draft,
        Nothing,
        models.DoneView,
    ),
    change(
        "POST",
        "datasets/{id}/draft/publish",
        "Publish the draft",
        datasets.publish_draft,
        models.PublishBody,
        models.JobView,
        status=HTTPStatus.ACCEPTED,
    ),
    change(
        "POST",
        "datasets/{id}/draft/remove",
        "Remove files of the draft",
        datasets.remove_files,
        models.RemoveFilesBody,
        models.RemovedView,
    ),
    read(
        "datasets/{id}/versions/{version}/files",
        "Files of a version",
        datasets.list_files,
        models.FilesPage,
        models.FilesView,
    ),
    change(
        "DELETE",
        "datasets/{id}/versions/{version}",
        "Delete an old version",
        datasets.delete_version,
        Nothing,
        models.DoneView,
    ),
    change(
        "POST",
        "datasets/{id}/jobs/{job}/cancel",
        "Give up work in the background",
        datasets.cancel_job,
        Nothing,
        models.JobView,
    ),
)
