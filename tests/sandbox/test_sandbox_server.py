"""Whole servers in sandboxes: a real hub, proxy and controller, JupyterLab and its kernels."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from dcloud_spawner.engines.sandbox import SandboxEngine
from tests.docker.people import People, Person, gpu, held, until
from tests.live import Deployment
from tests.simgpu.simgpu import Simulation

pytestmark = [pytest.mark.sandbox, pytest.mark.sqlite_suffices]

UUIDS = """
import pynvml
pynvml.nvmlInit()
handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
print(*map(pynvml.nvmlDeviceGetUUID, handles))
"""


@pytest.fixture(scope="module")
def running(
    sandbox_parts: None,
    sandbox_gpus: Simulation,
    module_databases: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A deployment that was told to use sandboxes, with four simulated GPUs."""
    with Deployment(
        tmp_path_factory.mktemp("deployment"),
        engine="sandbox",
        simulated_gpus=True,
        nvml_library=str(sandbox_gpus.library),
        **module_databases,
    ) as deployment:
        yield deployment
        settings = deployment.settings
    SandboxEngine(settings).remove_groups()


@pytest.fixture
def people(running: Deployment) -> Iterator[People]:
    made = People(running)
    yield made
    made.end_everything()


def cell(person: Person, code: str, seconds: float = 60) -> str:
    """Run a cell in a new kernel of the person's server, as JupyterLab does; its output."""
    headers = {"Authorization": f"token {person.token}"}
    base = f"{person.deployment.url}/user/{person.name}/api/kernels"
    kernel = httpx.post(base, headers=headers, trust_env=False, timeout=30).json()["id"]
    message = {
        "header": {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": person.name,
            "session": uuid.uuid4().hex,
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "channel": "shell",
        "content": {"code": code, "silent": False},
    }
    address = base.replace("http://", "ws://") + f"/{kernel}/channels"
    with connect(address, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps(message))
        output, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = json.loads(socket.recv(timeout=seconds))
            content = answer["content"]
            if answer["msg_type"] == "stream":
                output += content["text"]
            if answer["msg_type"] == "error":
                raise AssertionError("\n".join(content["traceback"]))
            if answer["msg_type"] == "execute_reply":
                return output
    raise AssertionError("the cell did not end")


def test_two_users_see_exactly_their_own_gpus_in_a_cell(people: People) -> None:
    ada, bob = people.many(2)
    ada.run(gpu(2))
    bob.run(gpu(1))
    seen = {person.name: set(cell(person, UUIDS).split()) for person in (ada, bob)}
    assert len(seen[ada.name]) == 2 and len(seen[bob.name]) == 1
    assert not seen[ada.name] & seen[bob.name]
    assert set(held(ada.platform)) == seen[ada.name] | seen[bob.name]
    assert seen[ada.name] == set(ada.container().devices)
    assert_jupyterlab_tells_notices(ada)


def assert_jupyterlab_tells_notices(person: Person) -> None:
    """The extension of the images is there too, and the page has what it asks the hub with."""
    headers = {"Authorization": f"token {person.token}"}
    base = f"{person.deployment.url}/user/{person.name}"
    with httpx.Client(headers=headers, trust_env=False, timeout=30) as client:
        page = client.get(f"{base}/lab").text
        assert '"load": "static/remoteEntry.dcloud-notices.js"' in page
        assert f'"hubServerUser": "{person.name}"' in page and '"hubPrefix": "/hub/"' in page
        script = f"{base}/lab/extensions/dcloud-notices/static/remoteEntry.dcloud-notices.js"
        assert "dcloud/notices" in client.get(script).text


def test_a_home_outlives_the_server(people: People) -> None:
    person = people()
    person.run(gpu(0))
    cell(person, "open('/home/dcloud/note', 'w').write('kept')")
    person.end()
    assert person.platform.engine.observe() == ()
    person.run(gpu(1))
    assert cell(person, "print(open('/home/dcloud/note').read())").strip() == "kept"


def test_a_server_lives_through_a_hub_that_is_killed(running: Deployment, people: People) -> None:
    person = people()
    person.run(gpu(1))
    before = person.container()
    running.restart("hub")
    until(person.answers, 30, "the server's answer")
    assert person.container() == before
    assert cell(person, UUIDS).split() == list(before.devices)


def test_a_sandbox_that_is_killed_gives_its_gpus_back(people: People) -> None:
    person = people()
    workload = person.run(gpu(4))
    assert len(held(person.platform)) == 4
    engine = person.platform.engine
    assert isinstance(engine, SandboxEngine) and engine.owns_its_port(workload.id)
    assert engine.stop(workload.id, 0) is not None
    until(lambda: not held(person.platform), 30, "the release")
    until(lambda: person.workload() is None, 30, "the end of the workload")
