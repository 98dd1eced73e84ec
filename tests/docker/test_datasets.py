"""Datasets in real containers: chosen on the start page, mounted from a real MinIO, read by pandas.

Real: hub, proxy, the process `data`, Docker, MinIO, rclone, Chromium and JupyterLab. Uploading is
tested in ``tests/storage``; here the files are put as a complete upload leaves them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.mounts import kernel, mountinfo
from dcloud_spawner.mounts.places import Places
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, dataset_mounts, datasets
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests import services
from tests.chromium import chromium
from tests.docker.people import People, Person, quick, signed_in, until
from tests.hub.sign_in import GOOD_PASSWORD
from tests.live import Deployment
from tests.patience import patient_ms
from tests.services import Missing
from tests.storage.servers import StorageServer, minio

pytestmark = [
    pytest.mark.docker,
    pytest.mark.sqlite_suffices,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

ANN = Asker(Actor("ann", "10.0.0.7"))

PRICES = b"city,price\n" + b"".join(b"town-%d,%d\n" % (n, n) for n in range(1000))
FILES = {"prices.csv": PRICES, "deep/raw.bin": secrets.token_bytes(300_000), "empty": b""}

READ = """
import hashlib, json, pathlib
folder = pathlib.Path.home() / "datasets" / {name!r}
files = sorted(path for path in folder.rglob("*") if path.is_file())
print(json.dumps({{
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
}}))
"""

WRITE = """
import json, pathlib
folder, said = pathlib.Path.home() / "datasets" / {name!r}, []
for act in (
    lambda: (folder / "new").write_text("x"),
    lambda: (folder / "prices.csv").open("a"),
    lambda: (folder / "prices.csv").unlink(),
    lambda: (folder / "prices.csv").chmod(0o666),
    lambda: folder.rename(folder.parent / "other"),
    lambda: (folder.parent / "beside").mkdir(),
):
    try:
        act()
        said.append("done")
    except OSError as error:
        said.append(type(error).__name__)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """MinIO for this deployment."""
    try:
        binary = services.minio_binary()
    except Missing as error:
        pytest.skip(str(error))
    with minio(binary, tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    """With servers that answer at once."""
    return quick_profiles


@pytest.fixture(scope="module")
def more_settings(storage: StorageServer) -> dict[str, Any]:
    """The deployment's storage."""
    return {"storage_url": storage.url}


@pytest.fixture(scope="module")
def lab(deployment: Deployment, storage: StorageServer) -> Iterator[Lab]:
    """The deployment with its process `data` and the keys of its storage."""
    for name, key in ((ACCESS_KEY, storage.access_key), (SECRET_KEY, storage.secret_key)):
        path = deployment.settings.secrets_dir / name
        path.write_text(key)
        path.chmod(0o600)
    made = Lab(deployment)
    made.platform.storage.ensure_bucket()
    deployment.start("datasets")
    yield made
    for user in deployment.api().get("/users").json():
        deployment.stop_server(user["name"])
    until(lambda: not made.mounted(), 20, f"the end of {made.mounted()}")
    deployment.kill("datasets")
    if any(mount.point == str(made.places.root) for mount in mountinfo.read()):
        kernel.detach(made.places.root)  # the shared mount itself stays for the next start
    assert not deployment.faults("datasets")


class Lab:
    """What is published in a deployment, and what its host has mounted."""

    def __init__(self, deployment: Deployment) -> None:
        assert deployment.platform is not None
        self.deployment, self.platform = deployment, deployment.platform
        self.places = Places(deployment.settings)

    def publish(self, name: str, files: Mapping[str, bytes]) -> Dataset:
        """A dataset of Ann's, published as by her."""
        made = catalog.create(self.platform, ANN, name, Description())
        with self.platform.database.reading() as connection:
            draft = datasets.draft_of(connection, made.id)
        assert draft is not None
        new = []
        for path, data in files.items():
            etag = self.platform.storage.put(file_key(made.id, draft.id, path), data)
            claim = hashlib.sha256(data).hexdigest()
            new.append(NewFile(path, len(data), claim, etag.strip('"')))
        with self.platform.database.transaction() as connection:
            dataset_files.put(connection, draft.id, new, "ann", utc_now())
        versions.begin_publish(self.platform, ANN, made.id)
        until(lambda: self.now(made).latest_version, 20, "the publication")
        return self.now(made)

    def now(self, dataset: Dataset) -> Dataset:
        """As it is now."""
        with self.platform.database.reading() as connection:
            return datasets.get(connection, dataset.id)

    def share(self, dataset: Dataset, person: str) -> None:
        """Let somebody read it."""
        catalog.share(self.platform, ANN, dataset.id, "user", person, "read")

    def mounted(self) -> list[str]:
        """What is mounted of datasets on this host."""
        return sorted(mountinfo.below(mountinfo.read(), self.places.root))

    def state(self, person: Person, folder: str, server: str = "") -> MountState:
        """How far a dataset of a server is."""
        workload = person.workload(server)
        assert workload is not None
        with self.platform.database.reading() as connection:
            rows = dataset_mounts.of_workload(connection, workload.id)
        return next(row.state for row in rows if row.name == folder)


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def test_a_server_has_exactly_what_was_published_and_cannot_write(lab: Lab, people: People) -> None:
    person, modes = people(), ("cached", "stream")
    made = {mode: lab.publish(f"streets-{mode}", FILES) for mode in modes}
    for dataset in made.values():
        lab.share(dataset, person.name)
    wishes = [{"name": made[mode].reference, "version": 1, "mode": mode} for mode in modes]
    person.run(quick(datasets=wishes))
    told = _of_api(person)["datasets"]
    assert [(one["name"], one["mode"], one["state"]) for one in told] == [
        (made[mode].name, mode, "ready") for mode in modes
    ]
    for dataset in made.values():
        assert person.told(READ.format(name=dataset.name)) == sums(FILES)
        refused = set(person.told(WRITE.format(name=dataset.name)))
        assert refused <= {"OSError", "PermissionError"}
    person.end()
    until(lambda: not lab.mounted(), 15, "the end of its mounts")


def test_what_may_not_be_read_is_refused_and_nothing_is_begun(lab: Lab, people: People) -> None:
    secret, person = lab.publish("secret", {"a": b"a"}), people()
    for name in (secret.reference, "ann/none"):
        answer = person.post(quick(datasets=[name]))
        assert answer.status_code == 404, answer.text
        assert "datasets: There is no dataset" in answer.json()["message"]
    assert person.workload() is None


def test_a_share_that_ends_takes_the_files_out_of_a_running_server(
    lab: Lab, people: People
) -> None:
    one, other, person = lab.publish("one", FILES), lab.publish("other", FILES), people()
    for dataset in (one, other):
        lab.share(dataset, person.name)
    person.run(quick(datasets=[one.reference, other.reference]))
    assert person.told(READ.format(name="one")) == sums(FILES)
    catalog.unshare(lab.platform, ANN, one.id, "user", person.name)
    until(lambda: lab.state(person, "one") is MountState.REVOKED, 5, "the word of it")
    until(lambda: person.told(READ.format(name="one")) == {}, 5, "the end of the files")
    assert person.told(READ.format(name="other")) == sums(FILES)
    assert person.answers()


def test_a_storage_that_is_away_keeps_nobody_from_starting_without_datasets(
    lab: Lab, people: People, storage: StorageServer
) -> None:
    words, person, plain = lab.publish("words", FILES), people(), people()
    lab.share(words, person.name)
    storage.stop()
    try:
        plain.run(quick())
        assert plain.answers()
        person.start(quick(datasets=[words.reference]))
        until(lambda: lab.state(person, "words") is MountState.AWAY, 20, "the word of it")
        until(lambda: _shown(person)["state"] == "away", 10, "the page's word of it")
        assert "storage does not answer" in _shown(person)["message"]
        assert person.state() in (State.QUEUED, State.ADMITTED)
    finally:
        storage.start()
    person.wait_running()
    assert person.told(READ.format(name="words")) == sums(FILES)


def _of_api(person: Person) -> dict[str, Any]:
    """The workload as the API has it."""
    workload = person.workload()
    assert workload is not None
    address = f"{person.deployment.url}/services/dcloud/api/v1/workloads/{workload.id}"
    headers = {"Authorization": f"token {person.token}"}
    answer = httpx.get(address, headers=headers, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _shown(person: Person) -> dict[str, Any]:
    """The dataset as the waiting page has it."""
    (found,) = person.progress()["datasets"]
    return dict(found)


# ---------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with chromium(chromium_path) as opened:
        yield opened


CELL = """
import hashlib, pandas as pd, pathlib
file = pathlib.Path.home() / "datasets/prices/prices.csv"
print("sum", pd.read_csv(file).price.sum(), hashlib.sha256(file.read_bytes()).hexdigest())
try: pd.DataFrame({"a": [1]}).to_csv(file)
except OSError as error: print("refused:", error.strerror)
"""


def _picture(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"datasets-{name}.png"), full_page=True)


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_somebody_ticks_a_shared_dataset_waits_and_reads_it_in_a_cell_with_pandas(
    lab: Lab, browser: Browser
) -> None:
    prices, deployment = lab.publish("prices", FILES), lab.deployment
    with signed_in(deployment, "bob"):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(patient_ms(20))
    page.goto(f"{deployment.url}/hub/login")
    page.fill("[name=username]", "bob")
    page.fill("[name=password]", GOOD_PASSWORD)
    page.click("#login_submit")
    page.wait_for_url("**/hub/**")
    page.goto(f"{deployment.url}/hub/spawn")
    expect(page.locator("#datasets")).to_contain_text("There is none that you may read yet")
    lab.share(prices, "bob")
    page.reload()
    page.get_by_role("checkbox", name="prices v1").check()
    expect(page.locator("#o-datasets")).to_have_text("1, read-only")
    _picture(page, "1-start")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/bob")
    _picture(page, "2-waiting")
    page.wait_for_url("**/user/bob/lab**")
    page.click(".jp-LauncherCard[data-category='Notebook']")
    page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
    page.wait_for_selector("#jp-main-statusbar :text('| Idle')")
    page.click(".jp-Notebook .jp-Cell .cm-content")
    page.keyboard.insert_text(CELL)
    page.keyboard.press("Shift+Enter")
    shown = page.locator(".jp-OutputArea-output").first
    expect(shown).to_contain_text("refused:", timeout=60_000)
    said = shown.inner_text()
    _picture(page, "3-cell")
    assert f"sum 499500 {hashlib.sha256(PRICES).hexdigest()}" in said
    assert "refused: Read-only file system" in said
    page.goto(f"{deployment.url}/hub/home")
    expect(page.locator("[data-server='']")).to_contain_text("prices v1")
    _picture(page, "4-servers")
    context.close()
    deployment.stop_server("bob")
