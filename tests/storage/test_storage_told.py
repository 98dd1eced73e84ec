"""What ``dcloud doctor`` and ``dcloud status`` say of the storage, on each of the two."""

from __future__ import annotations

from pathlib import Path

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import (
    ACCESS_KEY,
    DEFAULT_ACCESS_KEY,
    DEFAULT_SECRET_KEY,
    SECRET_KEY,
)
from dcloud_spawner.storage.store import ObjectStore
from hub_services.cli.checks_deployment import check_storage
from hub_services.cli.deployment import Deployment
from hub_services.cli.doctor import Finding, Level
from hub_services.cli.storage import look
from tests.storage.servers import StorageServer


def settings_of(
    folder: Path, server: StorageServer, store: ObjectStore, **more: object
) -> Settings:
    """Settings and secret files of a deployment on one of the servers."""
    small = server.kind == "rclone"
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    names = (DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY) if small else (ACCESS_KEY, SECRET_KEY)
    for name, text in zip(names, (server.access_key, server.secret_key), strict=True):
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o600)
    where: dict[str, object] = (
        {"storage_port": server.port} if small else {"storage_url": server.url}
    )
    return Settings(state=folder, storage_bucket=store.bucket, **where, **more)  # type: ignore[arg-type]


def findings(settings: Settings) -> list[Finding]:
    return list(check_storage(Deployment(settings, {})))


def test_what_the_storage_is_and_can_is_said(
    store: ObjectStore, storage_server: StorageServer, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, storage_server, store)
    seen = look(settings)
    assert seen.answers and not seen.problem
    if storage_server.kind == "minio":
        assert (
            seen.words == f"{storage_server.url}, bucket {store.bucket}, short-lived keys, events"
        )
        levels = {finding.level for finding in findings(settings)}
        assert levels == {Level.OK, Level.ATTENTION}  # notebooks do not reach it
    else:
        assert seen.small_default and "no short-lived keys, no events" in seen.words
        assert [finding.level for finding in findings(settings)] == [Level.OK]


def test_addresses_that_will_not_do_are_told(
    minio_store: ObjectStore, minio_server: StorageServer, tmp_path: Path
) -> None:
    settings = settings_of(
        tmp_path,
        minio_server,
        minio_store,
        public_url="https://lab.example/",
        storage_public_url="http://lab.example:9000",
    )
    first, *others = findings(settings)
    assert first.level is Level.OK
    assert [finding.seen for finding in others] == [
        "browsers send nothing from pages by https to a storage by http",
        "the storage writes, unsigned, for whoever knows the name of an access key",
    ]
    # What was tried with is gone again.
    assert list(minio_store.list("datasets/probe-of-signatures/")) == []


def test_wrong_keys_are_told_and_not_shown(
    store: ObjectStore, storage_server: StorageServer, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, storage_server, store)
    for path in settings.secrets_dir.iterdir():
        if path.name.endswith("secret_key"):
            path.write_text("wrong-secret-key-of-nobody")
    (finding,) = findings(settings)
    assert finding.level is Level.BROKEN and "SignatureDoesNotMatch" in finding.seen
    assert "secrets/storage_secret_key" in finding.mend
    assert "wrong-secret" not in finding.seen + finding.mend


def test_a_missing_and_an_open_key_file_are_told(
    store: ObjectStore, storage_server: StorageServer, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, storage_server, store)
    path = next(path for path in settings.secrets_dir.iterdir() if "secret_key" in path.name)
    path.chmod(0o644)
    assert f"chmod 600 {path}" in findings(settings)[0].seen
    path.unlink()
    assert f"{path} is missing" in findings(settings)[0].seen


def test_a_bucket_that_is_not_there_yet_is_told(
    store: ObjectStore, storage_server: StorageServer, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, storage_server, store)
    other = settings.model_copy(update={"storage_bucket": "not-there"})
    (finding,) = findings(other)
    assert finding.level is Level.BROKEN and "no bucket not-there yet" in finding.seen


def test_storage_that_is_away_is_told_at_once(tmp_path: Path, free_port: int) -> None:
    with_keys(tmp_path)
    settings = Settings(state=tmp_path, storage_url=f"http://127.0.0.1:{free_port}")
    (finding,) = findings(settings)
    assert finding.level is Level.BROKEN and "does not answer" in finding.seen


def with_keys(folder: Path) -> None:
    (folder / "secrets").mkdir(mode=0o700)
    for name in (ACCESS_KEY, SECRET_KEY):
        (folder / "secrets" / name).write_text("some-key")
        (folder / "secrets" / name).chmod(0o600)
