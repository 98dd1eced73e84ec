"""Direct access to storage inside a real server: boto3, aws, s3fs, minio-py, and JupyterLab's
folder of the user's own space. Real: hub, web service, Docker with its packet filter, MinIO."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.snippets import snippets
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, dataset_mounts, datasets, homes
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.events import Actor
from tests import services
from tests.docker.people import People, Person, action_log, until
from tests.live import Deployment
from tests.services import Missing
from tests.storage.servers import StorageServer, minio

pytestmark = [
    pytest.mark.docker,
    pytest.mark.sqlite_suffices,
    pytest.mark.skipif(os.geteuid() != 0, reason="the packet filter needs root"),
]

PROGRAM = r"""
import json, subprocess, sys
import boto3, dcloud_storage, pandas, s3fs

places = dcloud_storage.places()
where, own = places["table"], places[""]
bucket, _, prefix = where.removeprefix("s3://").partition("/")
told = {"files": [file["path"] for file in dcloud_storage.files("table")]}
answer = boto3.client("s3").get_object(Bucket=bucket, Key=prefix + "t.csv")
told["boto3"] = answer["Body"].read().decode()
told["pandas"] = int(pandas.read_csv(where + "t.csv").y.sum())
told["s3fs"] = s3fs.S3FileSystem().open(where + "t.csv").read().decode()
told["minio"] = dcloud_storage.minio().get_object(bucket, prefix + "t.csv").read().decode()
def aws(*words):
    done = subprocess.run(["aws", "s3", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
told["aws"] = aws("cp", where + "t.csv", "-")[1]
boto3.client("s3").put_object(Bucket=own.split("/")[2], Key="made/here.txt", Body=b"mine")
told["own"] = aws("ls", "--recursive", own)[1].split()[-1]  # the last by name
told["own by s3fs"] = [name.split("/", 1)[1] for name in s3fs.S3FileSystem().find(own)]
told["write"] = aws("cp", "/etc/hostname", where + "new.txt")[0] != 0
print(json.dumps(told))
"""

TRIED = r"""
import json, subprocess, sys
for name, language, code in json.loads(SNIPPETS):
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    done = subprocess.run(command, cwd="/tmp", capture_output=True, text=True)
    assert done.returncode == 0, (name, done.stderr)
"""

AS_A_KERNEL = r"""
import pathlib, subprocess, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if b"ipykernel_launcher" not in (process / "cmdline").read_bytes():
            continue
        given = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        continue
    environment = dict(item.split(b"=", 1) for item in given if b"=" in item)
    sys.exit(subprocess.run([sys.executable, "-c", PROGRAM], env=environment).returncode)
sys.exit("no kernel")
"""


def own_address() -> str:
    """An address of this machine that is not loopback."""
    for found in psutil.net_if_addrs().values():
        for each in found:
            if each.family is socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    pytest.skip("this machine has loopback only")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """MinIO where containers reach it."""
    try:
        binary = services.minio_binary()
    except Missing as error:
        pytest.skip(str(error))
    with minio(binary, tmp_path_factory.mktemp("minio"), host="") as server:
        yield server


@pytest.fixture(scope="module")
def profiles_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual profiles, and one that keeps notebooks in storage."""
    folder = tmp_path_factory.mktemp("profiles") / "all"
    shutil.copytree(Path(__file__).parents[1] / "config" / "profiles", folder)
    text = (folder / "cpu.yaml").read_text().replace("title: CPU only", "title: In storage")
    (folder / "kept.yaml").write_text(text + "notebooks: storage\n")
    return folder


@pytest.fixture(scope="module")
def more_settings(storage: StorageServer) -> dict[str, Any]:
    """The deployment's storage."""
    return {
        "storage_url": storage.url,
        "storage_public_url": f"http://{own_address()}:{storage.port}",
    }


@pytest.fixture(scope="module")
def lab(deployment: Deployment, storage: StorageServer) -> Platform:
    """The deployment with the keys of its storage."""
    for name, key in ((ACCESS_KEY, storage.access_key), (SECRET_KEY, storage.secret_key)):
        path = deployment.settings.secrets_dir / name
        path.write_text(key)
        path.chmod(0o600)
    deployment.restart("web")  # asks the storage to tell it of requests when it starts
    assert deployment.platform is not None
    deployment.platform.storage.ensure_bucket()
    return deployment.platform


def give(lab: Platform, person: Person, files: dict[str, bytes]) -> tuple[str, str]:
    """Somebody's running server gets a dataset, as if it had been chosen (its mount is tested in
    ``test_datasets``); returns the ids of dataset and version."""
    made = catalog.create(lab, Asker(Actor(person.name)), "table", Description())
    with lab.database.reading() as connection:
        draft = datasets.draft_of(connection, made.id)
    assert draft is not None
    lines = [json.dumps({"path": path, "size": len(data)}) for path, data in files.items()]
    lab.storage.put(keys.manifest_key(made.id, draft.id), "\n".join(lines).encode())
    for path, data in files.items():
        lab.storage.put(keys.file_key(made.id, draft.id, path), data)
    workload = person.workload()
    assert workload is not None
    now = utc_now()
    new = [NewFile(path, len(data)) for path, data in files.items()]
    with lab.database.transaction() as connection:
        dataset_files.put(connection, draft.id, new, person.name, now)
        datasets.change_version(connection, draft.id, number=1, state="published", published_at=now)
        dataset_mounts.insert(connection, workload.id, "table", made.id, draft.id, "cached", now)
    return made.id, draft.id


def contents(person: Person, method: str, path: str, **more: Any) -> Any:
    """JupyterLab's browser of files."""
    address = f"{person.deployment.url}/user/{person.name}/api/contents/{path}"
    headers = {"Authorization": f"token {person.token}"}
    answer = httpx.request(method, address, headers=headers, trust_env=False, timeout=60, **more)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


@pytest.mark.timeout(240)
def test_in_a_notebook_every_library_reaches_the_storage_and_notebooks_are_kept_there(
    lab: Platform, people: People, storage: StorageServer
) -> None:
    person = people()
    person.run({"profile": "kept", "memory_gib": 1, "cpus": 1})
    dataset, version = give(lab, person, {"t.csv": b"x,y\n1,2\n3,4\n"})
    workload = person.workload()
    assert workload is not None
    folders = [item["name"] for item in contents(person, "GET", "")["content"]]
    assert "storage" in folders, lab.engine.logs(workload.id, 100)
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    contents(person, "PUT", "storage/kept.ipynb", json={"type": "notebook", "content": notebook})
    headers = {"Authorization": f"token {person.token}"}
    address = f"{person.deployment.url}/user/{person.name}/api/kernels"
    started = httpx.post(address, headers=headers, json={}, trust_env=False, timeout=60)
    assert started.status_code == 201, started.text
    person.shell("rm /tmp/dcloud-storage-*/credentials.json")  # those of before the dataset
    done = person.python(f"PROGRAM = {PROGRAM!r}\n{AS_A_KERNEL}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    text = "x,y\n1,2\n3,4\n"
    assert told == {
        "files": ["t.csv"],
        "boto3": text,
        "pandas": 6,
        "s3fs": text,
        "minio": text,
        "aws": text,
        "own": "made/here.txt",
        "own by s3fs": [".s3keep", "kept.ipynb", "made/here.txt"],  # the first is s3contents' own
        "write": True,
    }
    shown = [
        (each.name, each.language, each.code.replace("PATH", "t.csv"))
        for each in snippets(lab.settings.storage_bucket, dataset, version)
    ]
    tried = f"SNIPPETS = {json.dumps(shown)!r}\n{TRIED}"
    done = person.python(f"PROGRAM = {tried!r}\n{AS_A_KERNEL}")
    assert done.returncode == 0, done.stderr
    with lab.database.reading() as connection:
        home = homes.of_user(connection, person.name)
    assert home is not None
    own = ObjectStore(storage.access(keys.own_bucket(lab.settings.storage_bucket, home.volume)))
    assert {item.key for item in own.list("")} == {".s3keep", "kept.ipynb", "made/here.txt"}
    own.close()

    def read_by() -> set[tuple[str, str]]:
        lines = action_log(lab, dataset)
        return {(line.actor, str(line.detail["path"])) for line in lines if "read" in line.action}

    until(lambda: (person.name, "t.csv") in read_by(), 15, "the line of the action log")
