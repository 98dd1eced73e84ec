"""Uploads into a dataset's draft: begun many at once, sent straight to storage, completed."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from dcloud_spawner.datasets import uploading, uploads
from dcloud_spawner.datasets.uploading import Claim, Completed
from dcloud_spawner.datasets.uploads import Begun, Outcome, Wanted
from dcloud_spawner.errors import UserError
from dcloud_spawner.storage.store import ObjectStore, Part
from dcloud_spawner.store.dataset_uploads import Upload
from hub_services.web.api.datasets import asker_of
from hub_services.web.api.models import Problem
from hub_services.web.api.operation import Call, Nothing, Operation, View, Wire

MOST_FILES = 100
MOST_NUMBERS = 100
SIGNED_AT_ONCE = 4
"""A file of so few parts needs no second call for their addresses."""

Origin = Annotated[
    str,
    StringConstraints(pattern=r"^(https?://[A-Za-z0-9.:\[\]-]{1,255})?$"),
    Field(
        description="Scheme and host by which the sender reaches the hub: addresses of parts lead "
        "there unless the storage has a public address of its own."
    ),
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


# ---------------------------------------------------------------------------- taken


class FileWish(Wire):
    """A file to add to the draft."""

    path: str = Field(max_length=2000, description="Relative to the dataset, with / between.")
    size_bytes: int = Field(ge=0, le=2**60, strict=True)
    modified_ms: int | None = Field(
        None,
        ge=-(2**52),
        le=2**52,
        strict=True,
        description="When it was last changed, milliseconds since 1970: with it and the size a "
        "half-done upload is gone on with.",
    )
    replace: bool = Field(
        False, description="Send it even if the draft has a file of this path and size."
    )


class BeginUploadsBody(Wire):
    """Files to add."""

    files: tuple[FileWish, ...] = Field(min_length=1, max_length=MOST_FILES)
    total_bytes: int | None = Field(
        None,
        ge=0,
        le=2**60,
        description="Of this and all that is going to follow: refused now if there is no room.",
    )
    origin: Origin = ""


class SignPartsBody(Wire):
    """Which parts, from 1."""

    numbers: tuple[Annotated[int, Field(strict=True, ge=1, le=10_000)], ...] = Field(
        min_length=1, max_length=MOST_NUMBERS
    )
    origin: Origin = ""


class CompleteBody(Wire):
    """One upload."""

    id: Identifier
    sha256: Sha256 | None = Field(
        None, description="As the sender counted it; publishing compares it with what is stored."
    )


class CompleteUploadsBody(Wire):
    """Uploads of which everything was sent."""

    uploads: tuple[CompleteBody, ...] = Field(min_length=1, max_length=MOST_FILES)


# ---------------------------------------------------------------------------- given


class PartView(View):
    """A part that the storage has."""

    number: int
    size_bytes: int
    etag: str


class SignedPart(View):
    """Where a part is to be sent by PUT, with exactly its size as Content-Length."""

    number: int
    size_bytes: int
    url: str


class UploadView(View):
    """An upload that is under way."""

    id: str
    path: str
    size_bytes: int
    modified_ms: int | None
    part_bytes: int
    parts: int
    by: str


class BegunView(View):
    """What became of a wish."""

    path: str
    outcome: Literal["open", "stored", "there", "refused"] = Field(
        description="open: send the parts that are missing; stored: it was empty and is in the "
        "draft; there: the draft has a file of this path and size; refused: see problem."
    )
    upload: UploadView | None = None
    done: tuple[PartView, ...] = ()
    urls: tuple[SignedPart, ...] = Field(
        (), description="Of the parts that are missing, where there are few."
    )
    sha256: str | None = Field(None, description="Of the file that is there, if known.")
    problem: Problem | None = None


class BegunListView(View):
    """In the order of the files."""

    items: tuple[BegunView, ...]


class UploadPartsView(View):
    """How far an upload is."""

    upload: UploadView
    done: tuple[PartView, ...]


class SignedPartsView(View):
    """Good for an hour."""

    items: tuple[SignedPart, ...]


class UploadListView(View):
    """Uploads into the draft that are not complete, by path."""

    items: tuple[UploadView, ...]


class CompletedView(View):
    """What became of one; without a problem it is a file of the draft now."""

    id: str
    path: str
    problem: Problem | None = None


class CompletedListView(View):
    """In the order of the uploads."""

    items: tuple[CompletedView, ...]


# ---------------------------------------------------------------------------- done


async def begin_uploads(call: Call[Nothing, BeginUploadsBody]) -> BegunListView:
    """Begin uploads, or go on with earlier ones of the same files. The owner's room is kept for
    them; what does not fit is refused before anything is sent."""
    body, platform = call.body, call.service.platform
    wanted = [
        Wanted(each.path, each.size_bytes, each.modified_ms, each.replace) for each in body.files
    ]
    begun = await uploading.begin(
        platform, platform.storage, asker_of(call), call.path["id"], wanted, body.total_bytes
    )
    dataset = await platform.in_reading_thread(
        uploads.dataset_id, platform, asker_of(call), call.path["id"]
    )
    urls = await platform.in_storage_thread(
        _few_urls, platform.storage, dataset, begun, body.origin
    )
    return BegunListView(items=tuple(map(_begun, begun, urls)))


def _few_urls(
    store: ObjectStore, dataset: str, begun: Sequence[Begun], origin: str
) -> list[tuple[SignedPart, ...]]:
    """Addresses of what is missing of each file, where it has few parts."""
    found: list[tuple[SignedPart, ...]] = []
    for each in begun:
        upload, done = each.upload, {part.number for part in each.parts}
        if upload is None or upload.parts > SIGNED_AT_ONCE:
            found.append(())
            continue
        missing = [number for number in range(1, upload.parts + 1) if number not in done]
        signed = uploading.signed(store, dataset, upload, missing, origin)
        found.append(_signed(upload, signed))
    return found


def _begun(begun: Begun, urls: tuple[SignedPart, ...]) -> BegunView:
    upload = begun.upload
    return BegunView(
        path=begun.path,
        outcome=begun.outcome.value,
        upload=upload_view(upload) if upload and begun.outcome is Outcome.OPEN else None,
        done=_parts(begun.parts),
        urls=urls,
        sha256=begun.sha256,
        problem=_problem(begun.problem),
    )


async def list_uploads(call: Call[Nothing, Nothing]) -> UploadListView:
    """What is half-done: the same files, dropped again, go on."""
    platform = call.service.platform
    found = await platform.in_reading_thread(
        uploads.open_uploads, platform, asker_of(call), call.path["id"]
    )
    return UploadListView(items=tuple(map(upload_view, found)))


async def get_upload(call: Call[Nothing, Nothing]) -> UploadPartsView:
    """How far one is, as the storage says."""
    platform = call.service.platform
    upload, parts = await uploading.parts(
        platform, platform.storage, asker_of(call), call.path["id"], call.path["upload"]
    )
    return UploadPartsView(upload=upload_view(upload), done=_parts(parts))


async def sign_upload_parts(call: Call[Nothing, SignPartsBody]) -> SignedPartsView:
    """Addresses for parts."""
    platform = call.service.platform
    upload, signed = await uploading.sign(
        platform,
        platform.storage,
        asker_of(call),
        call.path["id"],
        call.path["upload"],
        call.body.numbers,
        call.body.origin,
    )
    return SignedPartsView(items=_signed(upload, signed))


async def complete_uploads(call: Call[Nothing, CompleteUploadsBody]) -> CompletedListView:
    """Make files of uploads. What is wrong with one is its own problem; the others are done."""
    platform = call.service.platform
    claims = [Claim(each.id, each.sha256) for each in call.body.uploads]
    done = await uploading.complete(
        platform, platform.storage, asker_of(call), call.path["id"], claims
    )
    return CompletedListView(items=tuple(map(_completed, done)))


async def cancel_upload(call: Call[Nothing, Nothing]) -> UploadView:
    """Give an upload up; what was sent of it is removed."""
    platform = call.service.platform
    gone = await uploading.abort(
        platform, platform.storage, asker_of(call), call.path["id"], call.path["upload"]
    )
    return upload_view(gone)


def upload_view(upload: Upload) -> UploadView:
    """An upload as the API writes it."""
    return UploadView(
        id=upload.id,
        path=upload.path,
        size_bytes=upload.size_bytes,
        modified_ms=upload.modified_ms,
        part_bytes=upload.part_bytes,
        parts=upload.parts,
        by=upload.by,
    )


def _parts(parts: Sequence[Part]) -> tuple[PartView, ...]:
    return tuple(
        PartView(number=part.number, size_bytes=part.size_bytes, etag=part.etag) for part in parts
    )


def _signed(upload: Upload, signed: dict[int, str]) -> tuple[SignedPart, ...]:
    return tuple(
        SignedPart(number=number, size_bytes=upload.bytes_of(number), url=url)
        for number, url in signed.items()
    )


def _completed(done: Completed) -> CompletedView:
    return CompletedView(id=done.upload, path=done.path, problem=_problem(done.problem))


def _problem(error: UserError | None) -> Problem | None:
    if error is None:
        return None
    return Problem(
        code=error.code, message=error.message, hint=error.hint, field=error.field or None
    )


_REFUSALS = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
_ROOT = "datasets/{id}/uploads"

UPLOAD_OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    Operation(
        "GET",
        _ROOT,
        "Uploads that are not complete",
        list_uploads,
        Nothing,
        Nothing,
        UploadListView,
        refusals=_REFUSALS,
    ),
    Operation(
        "POST",
        _ROOT,
        "Begin uploads",
        begin_uploads,
        Nothing,
        BeginUploadsBody,
        BegunListView,
        refusals=_REFUSALS,
    ),
    Operation(
        "POST",
        f"{_ROOT}/complete",
        "Complete uploads",
        complete_uploads,
        Nothing,
        CompleteUploadsBody,
        CompletedListView,
        refusals=_REFUSALS,
    ),
    Operation(
        "GET",
        f"{_ROOT}/{{upload}}",
        "How far an upload is",
        get_upload,
        Nothing,
        Nothing,
        UploadPartsView,
        refusals=_REFUSALS,
    ),
    Operation(
        "POST",
        f"{_ROOT}/{{upload}}/parts",
        "Addresses for parts",
        sign_upload_parts,
        Nothing,
        SignPartsBody,
        SignedPartsView,
        refusals=_REFUSALS,
    ),
    Operation(
        "DELETE",
        f"{_ROOT}/{{upload}}",
        "Cancel an upload",
        cancel_upload,
        Nothing,
        Nothing,
        UploadView,
        refusals=_REFUSALS,
    ),
)
