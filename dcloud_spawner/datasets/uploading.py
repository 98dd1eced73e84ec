"""Uploads with the storage: between two transactions stands what the storage is asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcloud_spawner.datasets import upload_ends, uploads
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.upload_ends import Assembled
from dcloud_spawner.datasets.uploads import Begun, Fresh, Outcome, Plans, Wanted
from dcloud_spawner.errors import Conflict, DCloudError, UserError
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.errors import (
    ObjectMissing,
    StorageAway,
    StorageRefused,
    UploadGone,
)
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore, Part
from dcloud_spawner.store.dataset_uploads import Upload
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor

log = logging.getLogger(__name__)

SIGNED_SECONDS = 3600
"""So long an address for a part can be used."""
HELD_SECONDS = 30.0
"""After so long a completion looks whether the upload is still its own before it makes the file:
a call that is sent then is over before anybody may take the upload for given up."""


@dataclass(frozen=True)
class Completed:
    """What became of one upload."""

    upload: str
    path: str = ""
    problem: UserError | None = None


@dataclass(frozen=True)
class Claim:
    """An upload to complete, with the checksum that its uploader counted."""

    upload: str
    sha256: str | None = None


async def begin(
    platform: Platform,
    store: ObjectStore,
    asking: Asker,
    given: str,
    files: Sequence[Wanted],
    total_bytes: int | None = None,
) -> list[Begun]:
    """Begin uploads, or find out how far earlier ones of the same files are; in the order of
    ``files``. Empty files are stored at once."""
    plans = await platform.in_database_thread(
        uploads.plan, platform, asking, given, files, total_bytes
    )
    version = plans.draft.id

    async def prepared(plan: uploads.Plan) -> Begun | Fresh:
        if plan.begun is not None:
            return plan.begun
        key = file_key(plans.dataset.id, version, plan.wanted.path)
        if plan.upload is not None and not plan.upload.size_bytes:
            return Begun(plan.wanted.path, Outcome.OPEN, plan.upload)
        if plan.upload is not None:
            try:
                parts = await platform.in_storage_thread(
                    store.list_parts, key, plan.upload.storage_upload
                )
                return Begun(plan.wanted.path, Outcome.OPEN, plan.upload, parts)
            except UploadGone:
                pass
        if plan.wanted.size_bytes == 0:
            return Fresh(plan.wanted, "")
        return Fresh(plan.wanted, await platform.in_storage_thread(store.create_upload, key))

    asked = await asyncio.gather(*map(prepared, plans.plans))
    fresh = [each for each in asked if isinstance(each, Fresh)]
    noted = await platform.in_database_thread(uploads.note_begun, platform, asking, plans, fresh)
    for path, identifier in noted.obsolete:
        await _forget(platform, store, file_key(plans.dataset.id, version, path), identifier)
    following = iter(noted.begun)
    begun = [each if isinstance(each, Begun) else next(following) for each in asked]
    return await _store_empty(platform, store, asking, plans, begun)


async def _store_empty(
    platform: Platform, store: ObjectStore, asking: Asker, plans: Plans, begun: list[Begun]
) -> list[Begun]:
    empty = [
        each.upload.id for each in begun if each.upload is not None and not each.upload.size_bytes
    ]
    done = await complete(platform, store, asking, plans.dataset.id, list(map(Claim, empty)))
    found = {each.path: each for each in done}
    stored: list[Begun] = []
    for each in begun:
        outcome = found.get(each.path)
        if outcome is None:
            stored.append(each)
        elif outcome.problem is not None:
            stored.append(Begun(each.path, Outcome.REFUSED, problem=outcome.problem))
        else:
            stored.append(Begun(each.path, Outcome.STORED))
    return stored


async def parts(
    platform: Platform, store: ObjectStore, asking: Asker, given: str, identifier: str
) -> tuple[Upload, Sequence[Part]]:
    """An upload and what the storage has of it."""
    dataset, upload = await platform.in_database_thread(
        uploads.to_go_on, platform, asking, given, identifier
    )
    key = file_key(dataset.id, upload.version, upload.path)
    try:
        return upload, await platform.in_storage_thread(
            store.list_parts, key, upload.storage_upload
        )
    except UploadGone as error:
        raise _lost(upload) from error


async def sign(
    platform: Platform,
    store: ObjectStore,
    asking: Asker,
    given: str,
    identifier: str,
    numbers: Sequence[int],
    origin: str,
) -> tuple[Upload, dict[int, str]]:
    """Addresses that take one part each, of exactly its size, by PUT."""
    dataset, upload = await platform.in_database_thread(
        uploads.to_go_on, platform, asking, given, identifier
    )
    urls = await platform.in_storage_thread(signed, store, dataset.id, upload, numbers, origin)
    return upload, urls


def signed(
    store: ObjectStore, dataset: str, upload: Upload, numbers: Sequence[int], origin: str
) -> dict[int, str]:
    """The same for an upload that the asker was just found to go on with. May ask the
    storage for keys: blocks."""
    key = file_key(dataset, upload.version, upload.path)
    made: dict[int, str] = {}
    for number in numbers:
        if not 1 <= number <= upload.parts:
            raise Conflict(
                f"numbers: {number} is no part; there are {upload.parts}.", field="numbers"
            )
        made[number] = store.presign_part(
            key,
            upload.storage_upload,
            number,
            upload.bytes_of(number),
            origin=origin,
            seconds=SIGNED_SECONDS,
        )
    return made


async def complete(
    platform: Platform,
    store: ObjectStore,
    asking: Asker,
    given: str,
    claims: Sequence[Claim],
) -> list[Completed]:
    """Make files of uploads of which all parts are there. What is wrong with one is its own
    ``problem``, and it can be gone on with; the others are complete."""
    if not claims:
        return []
    claimed_at = time.monotonic()
    dataset, claimed = await platform.in_database_thread(
        upload_ends.claim, platform, asking, given, [claim.upload for claim in claims]
    )

    async def assembled(claim: Claim, found: Upload | UserError) -> Assembled | Completed:
        if isinstance(found, UserError):
            return Completed(claim.upload, problem=found)
        try:
            etag = await _assemble(platform, store, dataset, found, claimed_at)
        except DCloudError as error:
            return Completed(claim.upload, found.path, _told(error, found))
        return Assembled(found, etag, claim.sha256)

    taken = [each for each in claimed if isinstance(each, Upload)]
    try:
        # All of them end before one is opened again: none may come late.
        ended = await asyncio.gather(*map(assembled, claims, claimed), return_exceptions=True)
        outcomes: list[Assembled | Completed] = []
        for each in ended:
            if isinstance(each, BaseException):
                raise each
            outcomes.append(each)
        done = [each for each in outcomes if isinstance(each, Assembled)]
        await platform.in_database_thread(upload_ends.finish, platform, asking.actor, dataset, done)
    except BaseException:
        await asyncio.shield(platform.in_database_thread(upload_ends.reopen, platform, taken))
        raise
    finished = {each.upload.id for each in done}
    spoilt = [upload for upload in taken if upload.id not in finished]
    await platform.in_database_thread(upload_ends.reopen, platform, spoilt)
    return [
        Completed(each.upload.id, each.upload.path) if isinstance(each, Assembled) else each
        for each in outcomes
    ]


async def _assemble(
    platform: Platform, store: ObjectStore, dataset: Dataset, upload: Upload, claimed_at: float
) -> str:
    key = file_key(dataset.id, upload.version, upload.path)

    def held(write: Callable[[], str]) -> str:
        if time.monotonic() - claimed_at > HELD_SECONDS:
            upload_ends.hold(platform, upload)
        return write()

    if not upload.size_bytes:
        return await platform.in_storage_thread(held, lambda: store.put(key, b""))
    try:
        found = await platform.in_storage_thread(store.list_parts, key, upload.storage_upload)
        expected = {number: upload.bytes_of(number) for number in range(1, upload.parts + 1)}
        sent = {part.number: part.size_bytes for part in found}
        if sent != expected:
            raise _incomplete(upload, sent, expected)
        return await platform.in_storage_thread(
            held, lambda: store.complete_upload(key, upload.storage_upload, found)
        )
    except UploadGone:
        return await _completed_before(platform, store, key, upload)


async def _completed_before(
    platform: Platform, store: ObjectStore, key: str, upload: Upload
) -> str:
    """Whoever completed it at the storage may have died before it was written down."""
    before = await platform.in_database_thread(upload_ends.old_etag, platform, upload)
    try:
        stored = await platform.in_storage_thread(store.stat, key)
    except ObjectMissing as error:
        raise _lost(upload) from error
    if stored.size_bytes != upload.size_bytes or stored.etag.strip('"') == before:
        raise _lost(upload)
    return stored.etag.strip('"')


async def abort(
    platform: Platform, store: ObjectStore, asking: Asker, given: str, identifier: str
) -> Upload:
    """Cancel an upload; its parts are removed."""
    dataset, upload = await platform.in_database_thread(
        upload_ends.give_up, platform, asking, given, identifier
    )
    key = file_key(dataset.id, upload.version, upload.path)
    await _forget(platform, store, key, upload.storage_upload)
    return upload


async def abort_stale(platform: Platform, store: ObjectStore, actor: Actor) -> int:
    """Cancel what nobody went on with for a week; returns how many."""
    gone = await platform.in_database_thread(upload_ends.give_up_stale, platform, actor)
    for dataset, upload in gone:
        key = file_key(dataset, upload.version, upload.path)
        await _forget(platform, store, key, upload.storage_upload)
    return len(gone)


async def _forget(platform: Platform, store: ObjectStore, key: str, identifier: str) -> None:
    """What cannot be told to the storage now, it forgets by itself or the sweep finds."""
    if not identifier:
        return
    try:
        await platform.in_storage_thread(store.abort_upload, key, identifier)
    except (StorageAway, StorageRefused) as error:
        log.warning("an upload of %s is left at the storage: %s", key, error)


def _told(error: DCloudError, upload: Upload) -> UserError:
    if isinstance(error, UserError):
        return error
    log.error("the upload of %s could not be completed: %s", upload.path, error)
    return Conflict(
        f"The storage refused to put {upload.path!r} together.",
        hint="Cancel this file and send it again.",
        code="refused_by_storage",
    )


def _lost(upload: Upload) -> Conflict:
    return Conflict(
        f"The storage no longer has the parts of {upload.path!r}.",
        hint="Cancel this file and send it again.",
        code="parts_lost",
    )


def _incomplete(upload: Upload, sent: dict[int, int], expected: dict[int, int]) -> Conflict:
    missing = [number for number, size in expected.items() if sent.get(number) != size]
    return Conflict(
        f"{len(missing)} of {upload.parts} parts of {upload.path!r} are missing.",
        hint="Go on with the upload, then complete it.",
        code="incomplete",
    )
