"""The whole way of a new person in a real browser, as an issue tells it: sign up, be approved,
sign in, pick two GPUs, and find exactly those in a JupyterLab cell. And the same by REST alone.

Real: everything but the GPUs, which are simulated at the driver's library and the OCI runtime.
With ``SCREENSHOTS=FOLDER`` every station leaves a picture there.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
import websockets.sync.client
from playwright.sync_api import Browser, Page

from dcloud_spawner import accounting
from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.store import accounts, leases, workloads
from dcloud_spawner.store.accounts import Budget
from dcloud_spawner.store.events import Actor
from tests.chromium import chromium
from tests.docker.people import until
from tests.live import Deployment
from tests.patience import patient, patient_ms

pytestmark = [pytest.mark.docker, pytest.mark.browser, pytest.mark.sqlite_suffices]

PASSWORD = "a fairly long pass phrase"
UUIDS = re.compile(r"GPU-[0-9a-f-]{36}")
CELL = (
    "import pynvml as n; n.nvmlInit(); "
    "[n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())]"
)


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with chromium(chromium_path) as opened:
        yield opened


def _window(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(patient_ms(20))
    return page


def _picture(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def _sign_up(page: Page, deployment: Deployment, name: str) -> None:
    page.goto(f"{deployment.url}/hub/signup")
    page.fill("[name=username]", name)
    for field in page.locator("input[type=password]").all():
        field.fill(PASSWORD)
    _picture(page, "1-sign-up")
    page.click("button:has-text('Sign up')")
    page.wait_for_load_state()
    _picture(page, "2-signed-up")


def _sign_in(page: Page, deployment: Deployment, name: str) -> None:
    page.goto(f"{deployment.url}/hub/login")
    page.fill("[name=username]", name)
    page.fill("[name=password]", PASSWORD)
    _picture(page, "3-sign-in")
    page.click("#login_submit")
    page.wait_for_load_state()


def _administrator(browser: Browser, deployment: Deployment) -> Page:
    """The first administrator comes in by the one-time link that ``dcloud up`` prints."""
    platform = deployment.platform
    assert platform is not None
    link = bootstrap_admin_link(platform.database, deployment.settings)
    assert link is not None
    page = _window(browser)
    page.goto(link)
    for field in page.locator("input[type=password]").all():
        field.fill(PASSWORD)
    page.click("button:has-text('Set the password')")
    page.wait_for_load_state()
    _sign_in(page, deployment, "admin")
    return page


def _approve(admin: Page, deployment: Deployment, name: str) -> None:
    admin.goto(f"{deployment.url}/hub/approvals")
    _picture(admin, "4-approvals")
    admin.click(f"button[value=approve]:has-text('{name}')")
    admin.wait_for_load_state()


def _start_with_two_gpus(page: Page, deployment: Deployment) -> None:
    page.goto(f"{deployment.url}/hub/spawn")
    page.check("[name=profile][value=gpu]", force=True)
    page.check("[name='gpu.gpus'][value='2']", force=True)
    _picture(page, "5-start")
    page.click("#o-go")


def _cell_output(page: Page) -> list[str]:
    """Run the cell in JupyterLab's own notebook and read what it shows."""
    page.click(".jp-LauncherCard[data-category='Notebook']")
    page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
    # Typed before the kernel is there, a cell is sent to nobody.
    page.wait_for_selector("#jp-main-statusbar :text('| Idle')")
    page.click(".jp-Notebook .jp-Cell .cm-content")
    page.keyboard.insert_text(CELL)
    page.keyboard.press("Shift+Enter")
    _picture(page, "6-cell")
    page.wait_for_selector(".jp-OutputArea-output:has-text('[')")
    return UUIDS.findall(page.locator(".jp-OutputArea-output").first.inner_text())


def _leased(deployment: Deployment, name: str) -> set[str]:
    platform = deployment.platform
    assert platform is not None
    with platform.database.reading() as connection:
        workload = workloads.find_open(connection, name, "")
        assert workload is not None
        return set(leases.held_by(connection, workload.id))


@pytest.mark.timeout(300)
def test_a_new_user_gets_exactly_two_gpus_in_jupyterlab(
    browser: Browser, deployment: Deployment
) -> None:
    names = [f"new-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    admin = _administrator(browser, deployment)
    seen: dict[str, list[str]] = {}
    for name in names:
        page = _window(browser)
        _sign_up(page, deployment, name)
        _sign_in(page, deployment, name)
        assert "/hub/login" in page.url, "an account that nobody approved must not get in"
        _approve(admin, deployment, name)
        _sign_in(page, deployment, name)
        _start_with_two_gpus(page, deployment)
        page.wait_for_url(f"**/user/{name}/lab**")
        page.wait_for_selector(".jp-LauncherCard[data-category='Notebook']")
        seen[name] = _cell_output(page)
        _picture(page, f"6-lab-{names.index(name)}")
        assert len(seen[name]) == 2
        assert set(seen[name]) == _leased(deployment, name)
    assert not set(seen[names[0]]) & set(seen[names[1]])
    _third_waits_then_starts(browser, deployment, admin, names[0])


def _third_waits_then_starts(
    browser: Browser, deployment: Deployment, admin: Page, leaving: str
) -> None:
    """With 2 + 2 of 4 taken, the third waits with a reason and comes in without a click."""
    name = f"third-{uuid.uuid4().hex[:6]}"
    page = _window(browser)
    _sign_up(page, deployment, name)
    _approve(admin, deployment, name)
    _sign_in(page, deployment, name)
    _start_with_two_gpus(page, deployment)
    page.wait_for_url("**/spawn-pending/**")
    page.wait_for_selector("text=none is free")
    assert page.title().startswith("Place 1")
    _picture(page, "7-waiting")
    admin.goto(f"{deployment.url}/hub/admin")
    admin.wait_for_selector(f"text={name}")
    _picture(admin, "8-administration")
    deployment.stop_server(leaving)
    page.wait_for_url(f"**/user/{name}/lab**")
    page.wait_for_selector(".jp-LauncherCard[data-category='Notebook']")
    assert len(_leased(deployment, name)) == 2
    _is_warned_in_jupyterlab(page, deployment, name)
    page.goto(f"{deployment.url}/hub/home")
    page.wait_for_load_state()
    _picture(page, "9-home")
    _is_told_why_it_ended(page, deployment, name)
    for user in deployment.api().get("/users").json():
        deployment.stop_server(user["name"])


def _is_warned_in_jupyterlab(page: Page, deployment: Deployment, name: str) -> None:
    """What the hub knows of a budget at its end stands in JupyterLab, with a way to ask."""
    platform = deployment.platform
    assert platform is not None
    with platform.database.reading() as connection:
        account = accounts.personal(connection, name)
    assert account is not None
    accounting.change_account(platform, account.id, Actor("admin"), budget=Budget.SOFT)
    token = deployment.user(name)
    until(lambda: _notices(deployment, name, token), 15, "the hub's word of it")
    page.reload()
    toast = page.locator(".jp-Notification-Toast-error")
    toast.wait_for()
    assert "Your account has no credits left." in toast.inner_text()
    _picture(page, "8-warned")
    with page.context.expect_page() as opened:
        toast.locator("button:has-text('Ask for more')").click()
    assert "/services/dcloud/requests" in opened.value.url or "/hub/" in opened.value.url
    opened.value.close()


def _notices(deployment: Deployment, name: str, token: str) -> list[object]:
    """What JupyterLab is told when it asks."""
    address, headers = f"{deployment.url}/hub/dcloud/notices", {"Authorization": f"token {token}"}
    query = {"user": name, "server": ""}
    answer = httpx.get(address, params=query, headers=headers, trust_env=False, timeout=30)
    answer.raise_for_status()
    found: list[object] = answer.json()["notices"]
    return found


def _is_told_why_it_ended(page: Page, deployment: Deployment, name: str) -> None:
    platform = deployment.platform
    assert platform is not None
    (container,) = (found for found in platform.engine.observe() if found.user == name)
    docker.from_env().containers.get(container.ref).kill()
    deadline = time.monotonic() + patient(30)
    while not page.locator("text=Your default server ended at").count():
        assert time.monotonic() < deadline, "nobody was told"
        page.wait_for_timeout(500)
        page.goto(f"{deployment.url}/hub/home")
    assert "exit code 137" in page.inner_text("#h-live")
    _picture(page, "10-ended")


def _run_by_rest(deployment: Deployment, name: str, token: str) -> list[str]:
    """Run the cell through the server's own kernel API, with the user's token alone."""
    base = f"{deployment.url}/user/{name}/api"
    headers = {"Authorization": f"token {token}"}
    kernel = httpx.post(f"{base}/kernels", headers=headers, trust_env=False, timeout=30).json()[
        "id"
    ]
    address = base.replace("http://", "ws://") + f"/kernels/{kernel}/channels"
    with websockets.sync.client.connect(address, additional_headers=headers, proxy=None) as channel:
        message = {
            "header": {
                "msg_id": uuid.uuid4().hex,
                "msg_type": "execute_request",
                "session": uuid.uuid4().hex,
                "username": "",
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": {"code": CELL, "silent": False, "store_history": True},
            "channel": "shell",
        }
        channel.send(json.dumps(message))
        deadline = time.monotonic() + patient(30)
        while time.monotonic() < deadline:
            answer = json.loads(channel.recv(timeout=30))
            if answer["msg_type"] == "execute_result":
                return UUIDS.findall(answer["content"]["data"]["text/plain"])
            assert answer["msg_type"] != "error", answer["content"]
    raise AssertionError("the kernel did not answer")


def test_the_same_by_rest_alone(deployment: Deployment) -> None:
    seen = {}
    for name in ("rest-one", "rest-two"):
        token = deployment.user(name)
        with deployment.api(token) as api:
            answer = api.post(f"/users/{name}/server", json={"profile": "gpu", "gpus": 2})
            assert answer.status_code in (201, 202), answer.text
        deployment.wait_ready(name)
        seen[name] = _run_by_rest(deployment, name, token)
        assert len(seen[name]) == 2
        assert set(seen[name]) == _leased(deployment, name)
    assert not set(seen["rest-one"]) & set(seen["rest-two"])
    for name in seen:
        assert deployment.stop_server(name).status_code in (202, 204)
