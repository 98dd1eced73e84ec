"""Imports into a dataset's draft, from the web or another store; the process `data` does them."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from pydantic import Field

from dcloud_spawner.datasets import imports
from dcloud_spawner.datasets.import_orders import (
    StoreOrder,
    UrlOrder,
    store_order,
    url_order,
)
from dcloud_spawner.datasets.reach import refuse_inside
from hub_services.web.api.dataset_models import JobView
from hub_services.web.api.dataset_views import job_view
from hub_services.web.api.datasets import asker_of
from hub_services.web.api.operation import Call, Nothing, Operation, Wire

RESOLVE_SECONDS = 2.0
"""So long an answer waits for a name server."""

_names = ThreadPoolExecutor(4, "names")
"""Of its own: name servers that say nothing keep only each other waiting. In the threads of the
event loop itself the hub's address is looked up, for everybody."""


class ImportUrlBody(Wire):
    """A file of the web."""

    url: str = Field(
        max_length=2048,
        repr=False,
        description="http or https, in the public internet; may be a presigned address, of which "
        "what stands behind the ? is kept secret.",
    )
    path: str = Field(
        "",
        max_length=2000,
        description="Where it goes in the dataset: the file's path, or a folder with / at its end; "
        "empty: the name in the address at the top. With unpack a folder.",
    )
    unpack: bool = Field(False, description="It is a zip whose files are wanted.")


class ImportStoreBody(Wire):
    """What lies below a prefix of another S3 store's bucket."""

    endpoint: str = Field(
        "https://s3.amazonaws.com", max_length=300, description="Of the server, without a path."
    )
    bucket: str = Field(max_length=63)
    prefix: str = Field("", max_length=1024, description="Empty: the whole bucket.")
    folder: str = Field("", max_length=2000, description="Where it goes in the dataset.")
    region: str = Field("", max_length=40)
    access_key: str = Field(
        "", max_length=200, repr=False, description="Empty: the bucket is open to everybody."
    )
    secret_key: str = Field(
        "", max_length=200, repr=False, description="Kept until the import ends, and shown nowhere."
    )
    session_token: str = Field("", max_length=4000, repr=False)


async def import_url(call: Call[Nothing, ImportUrlBody]) -> JobView:
    """Fetch a file of the web into the draft, in the background."""
    body = call.body
    order = url_order(body.url, body.path, unpack=body.unpack)
    await _refuse_inside(call, order.url, "url")
    return await _begin(call, order)


async def import_store(call: Call[Nothing, ImportStoreBody]) -> JobView:
    """Fetch what another store has into the draft, in the background."""
    order = store_order(call.body.model_dump())
    await _refuse_inside(call, order.endpoint, "endpoint")
    return await _begin(call, order)


async def _refuse_inside(call: Call[Nothing, Any], url: str, field: str) -> None:
    """For whoever waits for an answer; what guards is the job's own look at each connection. So a
    name server that takes its time is not waited for."""
    settings = call.service.platform.settings
    looked = asyncio.get_running_loop().run_in_executor(_names, refuse_inside, settings, url, field)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(looked, RESOLVE_SECONDS)


async def _begin(call: Call[Nothing, Any], order: UrlOrder | StoreOrder) -> JobView:
    platform = call.service.platform
    job = await platform.in_database_thread(
        imports.begin_import, platform, asker_of(call), call.path["id"], order
    )
    return job_view(job)


_REFUSALS = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)

IMPORT_OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    Operation(
        "POST",
        "datasets/{id}/imports/url",
        "Import a file of the web",
        import_url,
        Nothing,
        ImportUrlBody,
        JobView,
        status=HTTPStatus.ACCEPTED,
        refusals=_REFUSALS,
    ),
    Operation(
        "POST",
        "datasets/{id}/imports/s3",
        "Import from another store",
        import_store,
        Nothing,
        ImportStoreBody,
        JobView,
        status=HTTPStatus.ACCEPTED,
        refusals=_REFUSALS,
    ),
)
