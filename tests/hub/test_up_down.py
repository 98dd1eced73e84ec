"""``dcloud up`` and its companions as a person uses them: real processes, a state folder of
their own, the sandbox engine (it needs no images and leaves nothing behind)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, datasets
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.events import Actor
from tests.conftest import fresh_database
from tests.memory_engine import MemoryEngine
from tests.patience import patient
from tests.services import free_port
from tests.storage.urls import download_url

pytestmark = pytest.mark.database

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "plum orbit lantern"


class Shell:
    """A person's shell with the settings of one deployment."""

    def __init__(self, state: Path, **variables: str) -> None:
        self.state = state
        self.port = free_port()
        self.environment = {
            **os.environ,
            "DCLOUD_STATE": str(state),
            "DCLOUD_CONFIG": os.devnull,
            "DCLOUD_DEPLOYMENT": f"up{os.getpid()}",
            "DCLOUD_PORT": str(self.port),
            "DCLOUD_HUB_PORT": str(free_port()),
            "DCLOUD_PROXY_API_PORT": str(free_port()),
            "DCLOUD_WEB_PORT": str(free_port()),
            "DCLOUD_STORAGE_PORT": str(free_port()),
            "DCLOUD_STORAGE_GATE_PORT": str(free_port()),
            "DCLOUD_PROFILES_DIR": str(ROOT / "tests" / "config" / "profiles"),
            "DCLOUD_ENGINE": "sandbox",
            "DCLOUD_STOP_GRACE_SECONDS": "1",
            "COLUMNS": "200",
            **variables,
        }
        self.url = f"http://127.0.0.1:{self.port}"

    def dcloud(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run the command and return what it printed; it must end with ``code``."""
        done = subprocess.run(
            [sys.executable, "-m", "hub_services.cli.main", *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == code, done.stdout + done.stderr + self.logs()
        return done.stdout + done.stderr

    def pid(self, program: str) -> int:
        """The process id of a program, or of supervisord."""
        text = (self.state / "run" / f"{program}.pid").read_text()
        return int(text) if program == "supervisord" else int(json.loads(text)["pid"])

    def logs(self) -> str:
        """The ends of all logs, for a failing test."""
        return "".join(
            f"\n--- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for path in sorted((self.state / "logs").glob("*.log"))
        )

    def answers(self) -> bool:
        """Whether the hub answers through the proxy."""
        try:
            return httpx.get(f"{self.url}/hub/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def shell(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_parts: None,
) -> Iterator[Shell]:
    """A deployment that is up, for the tests of this file; each leaves it up."""
    folder = tmp_path_factory.mktemp("up")
    with (
        fresh_database(request, folder, "dcloud") as url,
        fresh_database(request, folder, "jupyterhub") as hub_url,
    ):
        shell = Shell(folder / "state", DCLOUD_DATABASE_URL=url, DCLOUD_HUB_DATABASE_URL=hub_url)
        try:
            shell.first_words = shell.dcloud("up")  # type: ignore[attr-defined]
            yield shell
        finally:
            assert "stopped storage, gate, proxy, hub" in shell.dcloud("down", "--servers")
            left = [p for p in psutil.process_iter() if _belongs(p, shell.state)]
            assert not left, [p.cmdline() for p in left]


def _belongs(process: psutil.Process, state: Path) -> bool:
    try:
        return process.environ().get("DCLOUD_STATE") == str(state) and process.pid != os.getpid()
    except psutil.Error:
        return False


def wait(condition: object, seconds: float = 30) -> None:
    """Until a callable is true."""
    assert callable(condition)
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def form_client(url: str) -> httpx.Client:
    """A browser with cookies, without scripts."""
    return httpx.Client(base_url=url, follow_redirects=True, trust_env=False, timeout=30)


def post(browser: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Fill the form of a page and send it, with the page's XSRF token."""
    page = browser.get(path)
    found = re.search(r'name="_xsrf" value="([^"]*)"', page.text)
    assert found, page.text[:2000]
    return browser.post(
        path, data={"_xsrf": found[1], **fields}, headers={"Referer": str(page.url)}
    )


def test_up_prints_a_one_time_way_in_for_the_first_administrator(shell: Shell) -> None:
    words: str = shell.first_words  # type: ignore[attr-defined]
    assert f"DCloud is up: {shell.url}/" in words
    found = re.search(r"/hub/reset#name=admin&token=(\S+)", shell.dcloud("up"))
    assert found, words
    with form_client(shell.url) as browser:
        fields = {"username": "admin", "token": found[1]}
        post(browser, "/hub/reset", **fields, password=PASSWORD, password_again=PASSWORD)
        post(browser, "/hub/login", username="admin", password=PASSWORD)
        page = browser.get("/hub/admin")
        assert (page.status_code, page.url.path) == (200, "/hub/admin")
    assert "/hub/reset" not in shell.dcloud("up"), "somebody got in: no link any more"


@pytest.fixture(scope="module")
def hub(shell: Shell) -> Iterator[httpx.Client]:
    """The hub's REST API with the administrator's token, got as a person would."""
    link = re.search(r"token=(\S+)", shell.dcloud("admin-link"))
    assert link
    with form_client(shell.url) as browser:
        fields = {"username": "admin", "token": link[1], "password": PASSWORD}
        post(browser, "/hub/reset", **fields, password_again=PASSWORD)
        post(browser, "/hub/login", username="admin", password=PASSWORD)
        browser.get("/hub/token")
        made = browser.post(
            "/hub/api/users/admin/tokens",
            json={"note": "test"},
            headers={"X-XSRFToken": browser.cookies.get("_xsrf", path="/hub/") or ""},
        )
        made.raise_for_status()
    headers = {"Authorization": f"token {made.json()['token']}"}
    with httpx.Client(base_url=shell.url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


def server_answers(hub: httpx.Client) -> bool:
    """Whether the administrator's server answers through the proxy."""
    try:
        return hub.get("/user/admin/api/status").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_users_server_outlives_hub_and_platform_until_it_is_stopped(
    shell: Shell, hub: httpx.Client
) -> None:
    choice = {"profile": "cpu", "memory_gib": 1, "cpus": 0.5}
    answer = hub.post("/hub/api/users/admin/server", json=choice)
    assert answer.status_code in {201, 202}, answer.text + shell.logs()
    wait(lambda: server_answers(hub))
    started = hub.get("/user/admin/api/status").json()["started"]

    os.kill(shell.pid("hub"), signal.SIGKILL)
    assert server_answers(hub), "the proxy and the server do not need the hub"
    assert "admin now has 2 GiB and 1 cores" in shell.dcloud(
        "resize", "admin", "--memory-gib", "2", "--cpus", "1"
    )
    assert "1 users' servers keep running" in shell.dcloud("down")
    words = shell.dcloud("purge-home", "admin", "--yes", code=1)
    assert "still runs or waits" in words
    shell.dcloud("up")
    wait(lambda: server_answers(hub))
    assert hub.get("/user/admin/api/status").json()["started"] == started

    status = json.loads(shell.dcloud("status", "--json"))
    assert [(s["server"], s["state"]) for s in status["servers"]] == [("admin", "running")]
    assert "admin does not wait" in shell.dcloud("cancel", "admin", code=1)
    shell.dcloud("stop", "admin")
    assert not json.loads(shell.dcloud("status", "--json"))["servers"]
    assert not server_answers(hub)
    wait(lambda: not hub.get("/hub/api/users/admin").json()["servers"], seconds=15)


def test_a_home_stays_until_it_is_purged(shell: Shell, hub: httpx.Client) -> None:
    assert re.search(r"^admin +\S+admin", shell.dcloud("homes"), re.MULTILINE)
    shell.dcloud("purge-home", "admin", code=1)  # asks, and nobody answers
    assert "deleted the home of admin" in shell.dcloud("purge-home", "admin", "--yes")
    assert "No homes yet" in shell.dcloud("homes")
    assert "There is no home of admin" in shell.dcloud("purge-home", "admin", "--yes", code=1)


def test_no_secret_is_on_a_command_line_or_in_a_log_or_open_to_others(shell: Shell) -> None:
    secrets = {path.name: path.read_text() for path in (shell.state / "secrets").iterdir()}
    assert {"cookie_secret", "proxy.token", "controller.token", "web.token"} <= set(secrets)
    lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    logs = [path.read_text(errors="replace") for path in (shell.state / "logs").iterdir()]
    configuration = (shell.state / "run" / "supervisord.conf").read_text()
    for name, secret in secrets.items():
        assert len(secret) == 64, name
        assert not any(secret in text for text in [*lines, *logs, configuration]), name
    for path in [*(shell.state / "secrets").iterdir(), *(shell.state / "run").glob("*.json")]:
        assert path.stat().st_mode & 0o077 == 0, path
    for name in (".", "secrets", "logs", "run"):
        assert (shell.state / name).stat().st_mode & 0o077 == 0, name


def test_the_web_service_is_there_and_asks_who_it_is(shell: Shell) -> None:
    with httpx.Client(base_url=f"{shell.url}/services/dcloud", trust_env=False) as visitor:
        page = visitor.get("/queue")
        assert page.status_code == 302
        assert page.headers["location"].startswith("/hub/api/oauth2/authorize")
        refused = visitor.get("/api/v1/queue")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "not_signed_in"


@pytest.mark.sqlite_suffices
def test_a_part_goes_in_by_the_hubs_address_and_no_object_comes_out(shell: Shell) -> None:
    settings = Settings(
        state=shell.state, storage_port=int(shell.environment["DCLOUD_STORAGE_PORT"])
    )
    store = ObjectStore.of(settings)
    key = file_key("up", "down", "page.html")
    upload = store.create_upload(key)
    url = store.presign_part(key, upload, 1, 14, origin=shell.url)
    answer = httpx.put(url, content=b"<script></html", trust_env=False)
    assert answer.status_code == 200, answer.text
    store.complete_upload(key, upload, store.list_parts(key, upload))
    assert store.read(key) == b"<script></html"
    download = download_url(store, key).replace(store.access.url, shell.url)
    answer = httpx.get(download, trust_env=False)
    assert answer.status_code == 403 and "script" not in answer.text
    folder = shell.state / "storage"
    assert folder.stat().st_mode & 0o077 == 0
    (kept,) = folder.rglob("page.html")
    assert kept.stat().st_mode & 0o077 == 0
    store.remove(key)


@pytest.mark.sqlite_suffices
def test_a_killed_process_data_comes_back_and_publishes(shell: Shell) -> None:
    settings = Settings(
        state=shell.state,
        storage_port=int(shell.environment["DCLOUD_STORAGE_PORT"]),
        database_url=shell.environment["DCLOUD_DATABASE_URL"],
    )
    ann = Asker(Actor("ann"))
    platform = Platform(settings, engine=MemoryEngine())
    try:
        made = catalog.create(platform, ann, "cars", catalog.Description())
        with platform.database.transaction() as connection:
            draft = datasets.draft_of(connection, made.id)
            assert draft is not None
            new = [NewFile(f"{number}.bin", 1 << 20) for number in range(8)]
            dataset_files.put(connection, draft.id, new, "ann", utc_now())
        for file in new:
            platform.storage.put(file_key(made.id, draft.id, file.path), bytes(file.size_bytes))
        before = shell.pid("data")
        versions.begin_publish(platform, ann, made.id)
        os.kill(before, signal.SIGKILL)

        def published() -> bool:
            with platform.database.reading() as connection:
                return datasets.get(connection, made.id).latest_number == 1

        wait(published)
        assert shell.pid("data") != before
        assert "Traceback" not in (shell.state / "logs" / "data.log").read_text()
    finally:
        platform.close()


def test_up_again_changes_nothing_and_says_so(shell: Shell) -> None:
    before = {
        name: shell.pid(name)
        for name in ("supervisord", "storage", "gate", "proxy", "hub", "controller", "web", "data")
    }
    assert "already running" in shell.dcloud("up")
    assert before == {name: shell.pid(name) for name in before}


def test_status_speaks_of_the_same_deployment_without_its_settings(shell: Shell) -> None:
    bare = {k: v for k, v in shell.environment.items() if not k.startswith("DCLOUD_")}
    done = subprocess.run(
        [sys.executable, "-m", "hub_services.cli.main", "status", "--json"],
        env={**bare, "DCLOUD_STATE": str(shell.state), "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["url"] == f"{shell.url}/"
    assert status["hub_answers"] is True
    assert status["engine"] == "sandbox"
    assert {p["name"]: p["state"] for p in status["programs"]}["controller"] == "running"


def test_doctor_finds_nothing_broken_in_a_running_deployment(shell: Shell) -> None:
    findings = json.loads(shell.dcloud("doctor", "--json"))
    assert not [f for f in findings if f["level"] == "broken"]
    subjects = {f["subject"] for f in findings}
    assert {"engine", "cgroups", "secrets", "database", "programs", "disk"} <= subjects


@pytest.mark.sqlite_suffices
def test_doctor_names_an_open_secret_and_the_command_that_mends_it(shell: Shell) -> None:
    path = shell.state / "secrets" / "cookie_secret"
    path.chmod(0o644)
    try:
        findings = json.loads(shell.dcloud("doctor", "--json", code=1))
    finally:
        path.chmod(0o600)
    broken = [f for f in findings if f["level"] == "broken"]
    assert [f["subject"] for f in broken] == ["secrets"]
    assert broken[0]["mend"] == f"chmod 600 {path}"


def test_a_killed_hub_comes_back_by_itself(shell: Shell) -> None:
    before = shell.pid("hub")
    os.kill(before, signal.SIGKILL)
    wait(lambda: shell.pid("hub") != before)
    wait(shell.answers)


@pytest.mark.sqlite_suffices
def test_restart_renews_the_hub_and_leaves_the_proxy(shell: Shell) -> None:
    proxy, hub = shell.pid("proxy"), shell.pid("hub")
    shell.dcloud("restart", "hub")
    wait(lambda: shell.pid("hub") != hub)
    wait(shell.answers)
    assert shell.pid("proxy") == proxy


@pytest.mark.sqlite_suffices
def test_up_after_a_killed_supervisord_ends_its_orphans_and_starts_anew(shell: Shell) -> None:
    orphans = [shell.pid(name) for name in ("proxy", "hub", "controller", "web", "data")]
    os.kill(shell.pid("supervisord"), signal.SIGKILL)
    (shell.state / "run" / "proxy.pid").unlink()  # then it is known by its marker alone
    words = shell.dcloud("up")
    assert all(str(pid) in words for pid in orphans), words
    assert not [pid for pid in orphans if psutil.pid_exists(pid) and _alive(pid)]
    assert shell.answers()


@pytest.mark.sqlite_suffices
def test_changed_settings_restart_the_programs_and_nothing_else(shell: Shell) -> None:
    supervisord, hub = shell.pid("supervisord"), shell.pid("hub")
    words = shell.dcloud("up", DCLOUD_PASSWORD_MIN_LENGTH="12")
    assert "restarted hub with changed settings" in words
    assert shell.pid("supervisord") == supervisord
    assert shell.pid("hub") != hub
    environment = psutil.Process(shell.pid("hub")).environ()
    assert environment["DCLOUD_PASSWORD_MIN_LENGTH"] == "12"
    assert shell.answers()


@pytest.mark.sqlite_suffices
def test_a_taken_port_is_named_with_its_holder(shell: Shell, tmp_path: Path) -> None:
    second = Shell(tmp_path / "state", DCLOUD_PORT=str(shell.port))
    words = second.dcloud("up", code=1)
    assert f"Port {shell.port} (the address users see) is taken by node" in words
    assert "Traceback" not in words


@pytest.mark.sqlite_suffices
def test_a_wrong_setting_is_named_without_a_traceback(shell: Shell, tmp_path: Path) -> None:
    words = Shell(tmp_path / "state").dcloud("up", DCLOUD_PORT="eighty", code=1)
    assert "port:" in words
    assert "eighty" in words
    assert "Traceback" not in words


def test_a_command_on_an_unknown_server_says_what_there_is(shell: Shell) -> None:
    words = shell.dcloud("stop", "nobody/here", code=1)
    assert "nobody/here neither runs nor waits" in words
    shell.dcloud("stop", code=2)


def _alive(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
