"""Users of a deployment under test: what they ask of the hub, and what they can do inside."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.engines.base import ContainerFacts
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import events, leases, workloads
from dcloud_spawner.store.events import Event
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from tests.hub.sign_in import Visitor
from tests.live import Deployment, server_path
from tests.patience import patient, until

_numbers = itertools.count(1)

SMALL: dict[str, Any] = {"profile": "cpu", "memory_gib": 0.5, "cpus": 0.5}
"""The cheapest choice of the tests' profiles."""


QUICK = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"up")
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("", 8888), Answer).serve_forever()
"""
"""Program of a server that answers at once."""


def quick(count: int = 0, **more: Any) -> dict[str, Any]:
    """A choice of a server that answers at once, with some GPUs; see ``quick_profiles``."""
    return {"profile": "quick", "gpus": count, **more}


def gpu(count: int, **more: Any) -> dict[str, Any]:
    """A choice of some GPUs and little else."""
    return {"profile": "gpu", "gpus": count, "memory_gib": 0.5, "cpus": 1, **more}


@dataclass
class Person:
    """One user with a token of their own."""

    deployment: Deployment
    name: str
    token: str = field(repr=False)

    @property
    def platform(self) -> Platform:
        """The test's own view of the deployment."""
        assert self.deployment.platform is not None
        return self.deployment.platform

    # -- asked of the hub, with this user's rights ------------------------------------------------

    def post(self, body: object = None, server: str = "") -> httpx.Response:
        """POST a choice, or anything else, to start a server."""
        content = None if body is None else json.dumps(body)
        with self.deployment.api(self.token) as api:
            return api.post(server_path(self.name, server), content=content)

    def start(self, choice: dict[str, Any], server: str = "") -> Workload:
        """Ask for a server, which must be granted or wait; returns its workload."""
        answer = self.post(choice, server)
        assert answer.status_code in (201, 202), self.explained(answer)
        # A busy engine may be slow to say whether the image is there; the hub does not wait.
        until(lambda: self.workload(server), 20, "the submission")
        workload = self.workload(server)
        assert workload is not None
        return workload

    def run(self, choice: dict[str, Any] = SMALL, server: str = "") -> Workload:
        """Start a server and wait until it is ready."""
        self.start(choice, server)
        self.wait_running(server)
        workload = self.workload(server)
        assert workload is not None and workload.state is State.RUNNING
        return workload

    def explained(self, answer: httpx.Response) -> str:
        """An answer, and for a fault of the hub's the end of its log."""
        fault = answer.status_code >= 500
        return answer.text + ("\n" + self.deployment.log("hub")[-8000:] if fault else "")

    def wait_running(self, server: str = "", seconds: float = 60) -> None:
        """Return when the store says that it runs and the hub that it is ready."""
        until(lambda: self.state(server) in (State.RUNNING, None), seconds, "the start")
        self.deployment.wait_ready(self.name, server)

    def stop(self, server: str = "") -> httpx.Response:
        """Stop a server or leave the queue."""
        with self.deployment.api(self.token) as api:
            return api.delete(server_path(self.name, server))

    def end(self, server: str = "", seconds: float = 30) -> None:
        """Stop a server and wait until the hub and the store agree that it is gone."""
        answer = self.stop(server)
        assert answer.status_code in (202, 204), self.explained(answer)
        until(lambda: self.workload(server) is None, seconds, "the end of the workload")
        until(lambda: not self.deployment.server(self.name, server).get("pending"), seconds)

    def progress(self, server: str = "", seconds: float = 5) -> dict[str, Any]:
        """The first event of the hub's own progress stream that says a stage."""
        path = server_path(self.name, server) + "/progress"
        with self.deployment.api(self.token) as api, api.stream("GET", path) as stream:
            deadline = time.monotonic() + patient(seconds)
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    found: dict[str, Any] = json.loads(line[5:])
                    if "stage" in found:
                        return found
                assert time.monotonic() < deadline, "no progress event"
        raise AssertionError("the progress stream ended without an event")

    def fail_to_start(self, choice: dict[str, Any]) -> str:
        """Ask for a server whose launch fails; returns why, when nothing of it is left.

        The hub answers what fails within a second, and tells the rest by its progress stream.
        """
        answer = self.post(choice)
        if answer.status_code != 202:
            assert answer.status_code == 500, self.explained(answer)
            return str(answer.json()["message"])
        with self.deployment.api(self.token) as api:
            told = api.get(f"{server_path(self.name)}/progress").text
        *_, last = (json.loads(line[5:]) for line in told.splitlines() if line.startswith("data:"))
        assert last.get("failed"), told
        until(lambda: self.workload() is None, 20, "the end of the start")
        return str(last["message"])

    def answers(self, server: str = "") -> bool:
        """Whether the server inside answers through the proxy."""
        part = f"{server}/" if server else ""
        answer = httpx.get(
            f"{self.deployment.url}/user/{self.name}/{part}api/status",
            headers={"Authorization": f"token {self.token}"},
            timeout=10,
            trust_env=False,
        )
        return answer.status_code == 200

    # -- read from the store ----------------------------------------------------------------------

    def workload(self, server: str = "") -> Workload | None:
        """The open workload of a server."""
        with self.platform.database.reading() as connection:
            return workloads.find_open(connection, self.name, server)

    def state(self, server: str = "") -> State | None:
        """State of the open workload, None when there is none."""
        found = self.workload(server)
        return found.state if found else None

    def past(self) -> list[Workload]:
        """Ended workloads of this user, the oldest first."""
        with self.platform.database.reading() as connection:
            ended = workloads.in_states(connection, (State.ENDED,))
        return [found for found in ended if found.user == self.name]

    # -- inside -----------------------------------------------------------------------------------

    def container(self, server: str = "") -> ContainerFacts:
        """The container of a server."""
        workload = self.workload(server)
        assert workload is not None
        (found,) = self.platform.engine.observe(workload.id)
        return found

    def inspect(self, server: str = "") -> dict[str, Any]:
        """What Docker says about the container."""
        command = ["docker", "inspect", self.container(server).ref]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def python(self, program: str, server: str = "") -> subprocess.CompletedProcess[str]:
        """Run a Python program inside, as a notebook's kernel would."""
        command = ["docker", "exec", self.container(server).ref, "/usr/bin/python3", "-c", program]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    def told(self, program: str, server: str = "") -> Any:
        """What a program inside prints as JSON."""
        done = self.python(program, server)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def shell(self, command: str, server: str = "") -> str:
        """Output of a shell command inside."""
        whole = ["docker", "exec", self.container(server).ref, "sh", "-c", command]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=90, check=False)
        return done.stdout


class People:
    """Makes users with names of their own and ends what they have open."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.made: list[Person] = []

    def __call__(self, name: str = "", groups: tuple[str, ...] = ()) -> Person:
        name = name or f"user{next(_numbers)}"
        person = Person(self.deployment, name, self.deployment.user(name, groups))
        self.made.append(person)
        return person

    def many(self, count: int) -> list[Person]:
        """Several users."""
        return [self() for _ in range(count)]

    def end_everything(self) -> None:
        """Stop all servers of these users, waiting ones too, and wait until they are gone."""
        platform = self.deployment.platform
        assert platform is not None
        names = {person.name for person in self.made}

        def still_open() -> list[Workload]:
            with platform.database.reading() as connection:
                return [w for w in workloads.open_workloads(connection) if w.user in names]

        def end(workload: Workload) -> None:
            self.deployment.stop_server(workload.user, workload.server_name)

        with ThreadPoolExecutor(8) as threads:
            # The last in the queue first, so that nobody starts because somebody else ends.
            list(threads.map(end, reversed(still_open())))
        until(lambda: not still_open(), 40, f"the end of {still_open()}")


@contextmanager
def signed_in(deployment: Deployment, name: str) -> Iterator[Visitor]:
    """Somebody who has signed up, was approved, and is signed in with a browser."""
    platform = deployment.platform
    assert platform is not None
    with Visitor(deployment.url, "127.0.0.1") as admin, Visitor(deployment.url, "127.0.0.2") as new:
        link = bootstrap_admin_link(platform.database, deployment.settings)
        assert link is not None
        admin.use_link(link)
        admin.sign_in("admin")
        new.sign_up(name)
        admin.act("approve", name)
        new.sign_in(name)
        assert new.is_in
        yield new


@contextmanager
def built_image(name: str, recipe: str) -> Iterator[str]:
    """An image of a short recipe, for as long as it is needed."""
    command = ["docker", "build", "-q", "-t", name, "-"]
    subprocess.run(command, input=recipe, text=True, check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rmi", name], check=False, capture_output=True)


def action_log(platform: Platform, target: str | None = None) -> list[Event]:
    """Rows of the action log."""
    with platform.database.reading() as connection:
        return list(events.read(connection, target=target, limit=100_000))


def held(platform: Platform) -> dict[str, str]:
    """Workload of each leased accelerator."""
    with platform.database.reading() as connection:
        return dict(leases.holders(connection))
