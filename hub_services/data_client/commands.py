"""``dcloud data``: login, put, get, ls, share, publish."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .getting import Get
from .platform import Access, DataError, Platform, api_of, find_access, inside_api, keep, segment
from .progress import Progress, size
from .putting import Put, local_files

POLL_SECONDS = 0.5
REFERENCE = re.compile(r"(?P<dataset>.+/[^/@]+)(?:@v?(?P<version>[1-9][0-9]*|latest|draft))?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 refused or not all of it, 2 misspelt."""
    chosen = _parser().parse_args(arguments)
    try:
        done: int = chosen.run(chosen)
        return done
    except DataError as error:
        print(f"dcloud data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dcloud data", description="Datasets of DCloud.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(run=run)
        return made

    login = command("login", _login, "Keep the address of a hub and a token for it.")
    login.add_argument("url", metavar="URL")

    put = command("put", _put, "Send files or folders into a dataset's draft.")
    put.add_argument("source", nargs="+", type=Path)
    put.add_argument("dataset", metavar="OWNER/NAME")
    put.add_argument("--into", default="", metavar="FOLDER", help="a folder of the dataset")
    put.add_argument("--new", action="store_true", help="make the dataset if there is none")
    put.add_argument("--empty", action="store_true", help="begin a new version without files")
    put.add_argument("--publish", action="store_true", help="publish when all is sent")
    put.add_argument("--note", default="", help="what is new in the version")
    _common(put)

    get = command("get", _get, "Fetch a version, or some of its files; checksums are checked.")
    get.add_argument("dataset", metavar="OWNER/NAME[@VERSION]")
    get.add_argument("folder", nargs="?", type=Path, help="by default one of the dataset's name")
    get.add_argument("--only", default="", metavar="FOLDER", help="only what lies in it")
    _common(get)

    listed = command("ls", _ls, "List datasets, or the files of one.")
    listed.add_argument("dataset", nargs="?", metavar="OWNER/NAME[@VERSION]")
    listed.add_argument("folder", nargs="?", default="")
    listed.add_argument("--search", default="", help="words of names, tags and descriptions")

    share = command("share", _share, "Say who may read or write a dataset.")
    share.add_argument("dataset", metavar="OWNER/NAME")
    share.add_argument("whom", nargs="?", help="NAME, group:NAME, project:NAME or everyone")
    share.add_argument("--write", action="store_true", help="may add versions, too")
    share.add_argument("--remove", action="store_true", help="share no longer")

    publish = command("publish", _publish, "Check a draft and make it the next version.")
    publish.add_argument("dataset", metavar="OWNER/NAME")
    publish.add_argument("--note", default="", help="what is new in it")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=6, help="connections at the same time")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _split(given: str) -> tuple[str, str]:
    found = REFERENCE.fullmatch(given)
    if found is None:
        raise DataError(f"{given!r} is no dataset: write OWNER/NAME, or OWNER/NAME@3.")
    return found["dataset"], found["version"] or ""


def _login(chosen: argparse.Namespace) -> int:
    api = inside_api() or api_of(chosen.url)
    token = getpass.getpass("A token, from the page Tokens of the hub: ").strip()
    Platform(Access(api, token)).call("GET", "datasets", limit=1)
    path = keep(chosen.url, token)
    print(f"Kept in {path}, readable by you alone.")
    return 0


def _put(chosen: argparse.Namespace) -> int:
    if inside_api() and not os.environ.get("DCLOUD_STORAGE_URL"):
        raise DataError(
            "Servers do not reach the small default storage of this platform. Send from your own "
            "computer, or on the page of the dataset."
        )
    platform = Platform(find_access())
    dataset, _ = _split(chosen.dataset)
    files = local_files(chosen.source, chosen.into.strip("/"))
    if not files:
        raise DataError("There are no files to send.")
    _have_draft(platform, dataset, new=chosen.new, empty=chosen.empty)
    total = sum(file.size_bytes for file in files)
    progress = Progress("Sending", len(files), total, quiet=chosen.quiet)
    put = Put(platform, dataset, progress, max(1, chosen.jobs))
    try:
        put.run(files)
    finally:
        progress.end()
    sent = len(files) - len(put.same) - len(put.failed)
    print(f"{sent} sent, {len(put.same)} there already, {len(put.failed)} failed.")
    if put.failed:
        raise DataError("Run the same command again to go on.")
    return _published(platform, dataset, chosen.note) if chosen.publish else 0


def _have_draft(platform: Platform, dataset: str, *, new: bool, empty: bool) -> None:
    path = f"datasets/{segment(dataset)}"
    try:
        found = platform.call("GET", path)
    except DataError as error:
        if error.code == "not_found" and not new:
            raise DataError(f"{error} With --new it is made.", code=error.code) from error
        if not new or error.code != "not_found":
            raise
        made = platform.call("POST", "datasets", {"name": dataset.rpartition("/")[2]})
        if made["reference"] != dataset:
            raise DataError(f"Made {made['reference']}: that is your own name.") from None
        return
    if all(version["number"] is not None for version in found["versions"]):
        if found["right"] == "read":
            raise DataError(f"You may only read {dataset}. Ask its owner to let you write.")
        platform.call("POST", f"{path}/draft", {"empty": empty or found["latest"] is None})
    _wait(platform, dataset, "copy", "Copying the latest version")


def _get(chosen: argparse.Namespace) -> int:
    platform = Platform(find_access())
    dataset, version = _split(chosen.dataset)
    found = platform.call("GET", f"datasets/{segment(dataset)}")
    version = version if version not in ("", "latest") else str(found["latest"] or "draft")
    path = f"datasets/{segment(found['id'])}/versions/{segment(version)}/files"
    files = list(
        platform.all(path, "files", everything=True, folder=chosen.only.strip("/"), limit=500)
    )
    if not files:
        raise DataError(f"There are no files in {chosen.only or dataset}.")
    folder = chosen.folder or Path(found["name"])
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file["size_bytes"] for file in files)
    progress = Progress("Fetching", len(files), total, quiet=chosen.quiet)
    get = Get(platform, found["reference"], version, folder, progress, max(1, chosen.jobs))
    try:
        get.run(files)
    finally:
        progress.end()
    came = len(files) - len(get.same) - len(get.failed)
    print(f"{came} fetched, {len(get.same)} there already, {len(get.failed)} failed: {folder}")
    if get.failed:
        raise DataError("Run the same command again to go on.")
    return 0


def _ls(chosen: argparse.Namespace) -> int:
    platform = Platform(find_access())
    if not chosen.dataset:
        for each in platform.all("datasets", "items", search=chosen.search, order="name"):
            version = f"v{each['latest']}" if each["latest"] else "draft"
            print(f"{version:>6} {size(each['size_bytes']):>8}  {each['reference']}")
        return 0
    dataset, version = _split(chosen.dataset)
    path = f"datasets/{segment(dataset)}"
    found = platform.call("GET", path)
    version = version or ("latest" if found["latest"] else "draft")
    cursor, listing = "", f"{path}/versions/{segment(version)}/files"
    while True:
        part = platform.call(
            "GET", listing, folder=chosen.folder.strip("/"), cursor=cursor, limit=500
        )
        for each in part["folders"]:
            print(f"{size(each['size_bytes']):>8}  {each['path']}/ ({each['files']} files)")
        for each in part["files"]:
            print(f"{size(each['size_bytes']):>8}  {each['path']}")
        cursor = part["next_cursor"] or ""
        if not cursor:
            return 0


def _share(chosen: argparse.Namespace) -> int:
    platform = Platform(find_access())
    path = f"datasets/{segment(chosen.dataset)}"
    if chosen.whom == "everyone":
        platform.call("PATCH", path, {"everyone": not chosen.remove})
    elif chosen.whom:
        kind, _, name = chosen.whom.rpartition(":")
        body = {"kind": kind or "user", "name": name}
        if chosen.remove:
            platform.call("POST", f"{path}/unshare", body)
        else:
            right = "write" if chosen.write else "read"
            platform.call("POST", f"{path}/shares", {**body, "right": right})
    found = platform.call("GET", path)
    if found["everyone"]:
        print("everyone: read")
    for share in found["shares"]:
        print(f"{share['kind']}:{share['name']}: {share['right']}")
    return 0


def _publish(chosen: argparse.Namespace) -> int:
    return _published(Platform(find_access()), _split(chosen.dataset)[0], chosen.note)


def _published(platform: Platform, dataset: str, note: str) -> int:
    path = f"datasets/{segment(dataset)}"
    platform.call("POST", f"{path}/draft/publish", {"note": note})
    _wait(platform, dataset, "publish", "Checking")
    found = platform.call("GET", path)
    newest = next(each for each in found["versions"] if each["number"] == found["latest"])
    print(f"{found['reference']}@{found['latest']} sha256:{newest['manifest_sha256']}")
    return 0


def _wait(platform: Platform, dataset: str, kind: str, words: str) -> None:
    """Until the latest job of a kind is over; raises DataError when it failed."""
    progress: Progress | None = None
    told = files = 0
    while True:
        jobs = platform.call("GET", f"datasets/{segment(dataset)}")["jobs"]
        job = next((each for each in jobs if each["kind"] == kind), None)
        if job is None or job["state"] in ("done", "failed", "cancelled"):
            break
        if progress is None:
            progress = Progress(words, job["total_files"] or 0, job["total_bytes"] or 0)
        progress.more(job["done_bytes"] - told)
        for _ in range(job["done_files"] - files):
            progress.file()
        told, files = job["done_bytes"], job["done_files"]
        time.sleep(POLL_SECONDS)
    if progress is not None:
        progress.end()
    if job is not None and job["state"] != "done":
        raise DataError(job["message"] or f"It was {job['state']}.")
