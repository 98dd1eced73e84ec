"""Two people at once on a real hub with the real queue: what one does, the other sees."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner import accounting, granting, queueing
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import dataset_shares, events, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests.browser import signing_in
from tests.browser.staged import QueueHub
from tests.browser.story import A100
from tests.dataset_rows import publish
from tests.docker.people import until
from tests.memory_engine import MemoryEngine
from tests.no_limits import NO_LIMITS
from tests.patience import patient_ms

pytestmark = pytest.mark.browser

CHOICE = {"profile": "pytorch", "memory_gib": 32, "cpus": 4, "hours": 4, "gpu_model": A100}
FREE = f"[data-model='{A100}'] [data-free]"
SOON = 8000
"""Milliseconds on a machine that is busy with other tests; the 2 s of the promise are measured."""

NOTE_CHANGE = """selector => {
  const shown = document.querySelector(selector);
  new MutationObserver(() => { window.changedAt ??= Date.now(); }).observe(
    shown, { childList: true, characterData: true, subtree: true });
}"""

Window = Callable[[str], Page]


@pytest.fixture(scope="module")
def queue_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueHub]:
    with QueueHub(tmp_path_factory.mktemp("queue")) as hub:
        yield hub


@pytest.fixture
def window(browser: Browser, queue_hub: QueueHub) -> Iterator[Window]:
    """Windows of users; afterwards they hold and want nothing any more."""
    contexts, errors, users = [], [], []

    def open_window(name: str) -> Page:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900},
            timezone_id="Europe/Berlin",
            reduced_motion="reduce",
        )
        contexts.append(context)
        users.append(name)
        page = context.new_page()
        page.set_default_timeout(patient_ms(8))
        page.on("pageerror", lambda error: errors.append(str(error)))
        signing_in.sign_in(context, queue_hub.url, name, queue_hub.password)
        page.goto(f"{queue_hub.url}/hub/")
        page.wait_for_url("**/hub/*spawn*")
        return page

    yield open_window
    for context in contexts:
        context.close()
    with queue_hub.api() as api:
        for user in [model["name"] for model in api.get("/users").json()]:
            for server in api.get(f"/users/{user}").json().get("servers") or {}:
                queue_hub.leave(user, server)
    until(lambda: at_rest(queue_hub), 60, "the end of all servers")
    assert not errors


def open_workloads(hub: QueueHub) -> dict[str, State]:
    """States of everything that has not ended, by user."""
    database = Database(Settings(state=hub.folder / "state").store_url)
    with database.reading() as connection:
        found = {each.user: each.state for each in workloads.open_workloads(connection)}
    database.close()
    return found


def at_rest(hub: QueueHub) -> bool:
    """Whether nobody holds or wants anything, for the store and for the hub."""
    with hub.api() as api:
        users = api.get("/users").json()
    servers = [server for user in users for server in (user.get("servers") or {}).values()]
    active = any(server["pending"] or server["ready"] for server in servers)
    return not active and not open_workloads(hub)


def hold(hub: QueueHub, user: str, gpus: int) -> None:
    """Somebody whose server runs: the hub may answer before it does."""
    hub.ask(user, {**CHOICE, "gpus": gpus})
    until(lambda: open_workloads(hub).get(user) is State.RUNNING, 60, f"the server of {user}")


def give_project(hub: QueueHub, name: str, owner: str, credits: int) -> None:
    """A project with a hard budget and so many credits."""
    platform = Platform(Settings(state=hub.folder / "state"), engine=MemoryEngine())
    made = accounting.create_project(platform, name, [owner], Actor("boss"))
    granting.grant(platform, made.id, credits * MICRO, Actor("boss"), reason="for the class")
    platform.close()


def admitted_at(hub: QueueHub, user: str) -> float:
    """When the action log says that the last request of a user was admitted."""
    database = Database(Settings(state=hub.folder / "state").store_url)
    with database.reading() as connection:
        admitted = [
            line.at.timestamp()
            for line in events.read(connection)
            if line.action == "workload.admit"
            and workloads.get(connection, line.target).user == user
        ]
    database.close()
    return admitted[-1]


def choose(page: Page, gpus: int) -> None:
    page.get_by_role("radio", name="PyTorch").check(force=True)
    page.locator("#pytorch-model").select_option(A100)
    page.locator("[name='pytorch.memory_gib'][value='32']").check(force=True)
    page.locator("[name='pytorch.cpus'][value='4']").check(force=True)
    page.locator(f"[name='pytorch.gpus'][value='{gpus}']").check(force=True)


def mark(page: Page, gpus: int) -> str:
    return f"label:has([name='pytorch.gpus'][value='{gpus}']) [data-mark]"


def wait_for(page: Page, hub: QueueHub, gpus: int) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    choose(page, gpus)
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    expect(page.locator("#w-place")).not_to_be_empty()


def test_what_is_free_falls_while_the_other_one_starts_and_is_offered_no_more(
    window: Window, queue_hub: QueueHub
) -> None:
    one, two = window("ada"), window("bob")
    for page in (one, two):
        page.goto(f"{queue_hub.url}/hub/spawn")
        choose(page, 2)
        expect(page.locator(FREE)).to_have_text("4 of 4 free")
        expect(page.locator("#o-note b")).to_have_text("Starts now")
        expect(page.locator("[data-live]")).to_have_text("Live")
    choose(two, 3)
    one.evaluate(NOTE_CHANGE, FREE)
    two.evaluate("document.querySelector('#spawn_form').requestSubmit()")
    expect(one.locator(FREE)).to_have_text("1 of 4 free", timeout=SOON)
    seen_at = float(one.evaluate("window.changedAt")) / 1000
    expect(one.locator(mark(one, 1))).to_have_text("now")
    expect(one.locator(mark(one, 2))).to_have_text(re.compile("waits|–"))
    expect(one.locator("#o-note b")).to_have_text(re.compile("Joins the queue"))
    expect(one.locator("#o-go")).to_have_text("Join the queue")
    two.wait_for_url("**/user/bob/**")
    queue_hub.leave("bob")
    expect(one.locator(FREE)).to_have_text("4 of 4 free", timeout=SOON)
    expect(one.locator("#o-note b")).to_have_text("Starts now")
    assert seen_at - admitted_at(queue_hub, "bob") < 2


def test_the_place_moves_the_reason_is_right_and_leaving_makes_way(
    window: Window, queue_hub: QueueHub
) -> None:
    hold(queue_hub, "carol", 3)
    ada, bob = window("ada"), window("bob")
    wait_for(ada, queue_hub, 3)
    expect(ada.locator("#w-place")).to_have_text("1")
    expect(ada.locator("#w-list")).to_contain_text(f"You asked for 3 {A100} GPUs and 1 is free.")
    expect(ada).to_have_title("Place 1 · DCloud")
    wait_for(bob, queue_hub, 4)
    expect(bob.locator("#w-place")).to_have_text("2")
    expect(bob.locator("#w-of")).to_have_text("of 2 in the queue")
    expect(bob.locator("#w-list")).to_contain_text("1 request is ahead of you, asking for 3 GPUs.")
    expect(ada.locator("#w-of")).to_have_text("of 2 in the queue", timeout=SOON)
    ada.click("#w-leave")
    ada.click("#w-sure")
    expect(bob.locator("#w-place")).to_have_text("1", timeout=SOON)
    expect(bob.locator("#w-list")).not_to_contain_text("ahead of you")
    queue_hub.leave("carol")
    bob.wait_for_url("**/user/bob/**")
    expect(bob.get_by_role("heading")).to_have_text("The server")


def test_something_smaller_starts_at_once_instead(window: Window, queue_hub: QueueHub) -> None:
    hold(queue_hub, "carol", 2)
    ada = window("ada")
    wait_for(ada, queue_hub, 4)
    expect(ada.locator("#w-instead li b")).to_have_text(
        ["2 GPUs of this model", "1 GPU of this model"]
    )
    ada.get_by_role("button", name="Start 2 GPUs").click()
    dialog = ada.get_by_role("dialog")
    expect(dialog).to_contain_text("You give up place 1 in the queue.")
    ada.click("#w-sure")
    ada.wait_for_url("**/user/ada/**")
    other = window("bob")
    other.goto(f"{queue_hub.url}/hub/spawn")
    expect(other.locator(FREE)).to_have_text("0 of 4 free")


def test_work_goes_on_without_gpus_and_the_place_is_kept(
    window: Window, queue_hub: QueueHub
) -> None:
    hold(queue_hub, "carol", 2)
    ada = window("ada")
    wait_for(ada, queue_hub, 4)
    ada.get_by_role("button", name="Start on CPU").click()
    ada.wait_for_url(re.compile("/user/ada/cpu/"))  # it opens by itself, over any other page
    ada.goto(f"{queue_hub.url}/hub/spawn-pending/ada")
    expect(ada.locator("#w-place")).to_have_text("1")
    expect(ada.locator("#w-on-cpu")).to_contain_text("You work on CPU meanwhile")
    expect(ada.locator("#w-cpu")).to_be_hidden()


def test_a_hold_by_another_process_is_shown_with_its_reason(
    window: Window, queue_hub: QueueHub
) -> None:
    hold(queue_hub, "carol", 2)
    ada = window("ada")
    wait_for(ada, queue_hub, 4)
    settings = Settings(state=queue_hub.folder / "state", simulated_gpus=True, roles=NO_LIMITS)
    other = Platform(settings, engine=MemoryEngine())
    with other.database.reading() as connection:
        waiting = workloads.find_open(connection, "ada", "")
    assert waiting is not None
    queueing.hold(other, waiting.id, "maintenance at noon", Actor("admin-a"))
    expect(ada).to_have_title("On hold · DCloud", timeout=SOON)
    expect(ada.locator("#w-list")).to_contain_text("holds this request back: maintenance at noon.")
    expect(ada.locator("#w-place-box")).to_be_hidden()
    queueing.release_hold(other, waiting.id, Actor("admin-a"))
    expect(ada).to_have_title("Place 1 · DCloud", timeout=SOON)
    other.close()


def test_a_hub_that_dies_is_noticed_and_the_figures_come_back_by_themselves(
    window: Window, queue_hub: QueueHub
) -> None:
    page = window("ada")
    page.goto(f"{queue_hub.url}/hub/spawn")
    expect(page.locator("[data-live]")).to_have_text("Live")
    queue_hub.kill("hub")
    expect(page.locator("[data-live]")).to_have_text("Not live, as of", timeout=patient_ms(8))
    queue_hub.start_hub()
    expect(page.locator("[data-live]")).to_have_text("Live", timeout=patient_ms(8))
    hold(queue_hub, "carol", 3)
    expect(page.locator(FREE)).to_have_text("1 of 4 free", timeout=SOON)


def test_a_project_pays_and_what_it_cannot_pay_yet_waits_without_a_place(
    window: Window, queue_hub: QueueHub
) -> None:
    give_project(queue_hub, "vision-lab", "ada", 3)
    ada = window("ada")
    lab = ada.locator("[name=account][value='vision-lab']")
    for _ in range(10):  # the hub reads the accounts anew every few seconds
        ada.goto(f"{queue_hub.url}/hub/spawn")
        if lab.count():
            break
        time.sleep(1)
    choose(ada, 2)
    expect(lab.locator("xpath=..")).to_contain_text("3.00 credits", timeout=SOON)
    lab.check(force=True)
    expect(ada.locator("#o-price")).to_have_text("2.00")
    expect(ada.locator("#o-total")).to_have_text("8.00 at most")
    expect(ada.locator("#o-note")).to_contain_text("The credits last for about 1 h 30 min")
    ada.click("#o-go")
    ada.wait_for_url("**/user/ada/**")
    ada.goto(f"{queue_hub.url}/hub/home")
    expect(ada.locator("[data-server='']")).to_contain_text("2.00 an hour", timeout=SOON)
    expect(ada.locator("#balance")).to_contain_text("Balance of vision-lab")
    ada.goto(f"{queue_hub.url}/hub/spawn/ada/second")
    choose(ada, 2)
    expect(ada.locator("[name=account][value='vision-lab']")).to_be_checked()  # as the last time
    expect(ada.locator("#o-note b")).to_have_text("Waits for credits", timeout=SOON)
    ada.click("#o-go")
    ada.wait_for_url("**/spawn-pending/**")
    expect(ada).to_have_title("Blocked · DCloud")
    expect(ada.locator("#w-blocked")).to_have_text("by its budget")
    expect(ada.locator("#w-place-box")).to_be_hidden()
    queue_hub.leave("ada")
    ada.wait_for_url("**/user/ada/second/**")


def test_what_was_entered_is_kept_when_a_dataset_is_refused_at_submission(
    window: Window, queue_hub: QueueHub
) -> None:
    database = Database(Settings(state=queue_hub.folder / "state").store_url)
    with database.transaction() as connection:
        words = publish(connection, "zoe", "words", shared=(("user", "yann"),))
    page = window("yann")
    page.goto(f"{queue_hub.url}/hub/spawn")
    page.get_by_role("searchbox", name="Search datasets").fill("words")
    expect(page.locator("#ds-note")).to_have_text("1 found.")
    page.get_by_role("checkbox", name="words v1").check()
    page.locator("[name='cpu.hours']").fill("3")
    with database.transaction() as connection:
        dataset_shares.remove_all(connection, words.id)
    database.close()
    page.click("#o-go")
    expect(page.locator("#w-why")).to_contain_text("There is no dataset 'zoe/words'")
    page.get_by_role("link", name="Change the request").click()
    expect(page.locator("#datasets")).to_have_class(re.compile("dc-wrong"))
    expect(page.locator("#ds-list")).to_contain_text("not there, or not shared with you")
    expect(page.locator("[name='cpu.hours']")).to_have_value("3")
    page.click("#o-go")
    page.wait_for_url("**/user/yann/**")
    page.goto(f"{queue_hub.url}/hub/spawn/yann/other")
    expect(page.locator("#ds-list")).to_be_hidden()  # nothing is left that they may read
