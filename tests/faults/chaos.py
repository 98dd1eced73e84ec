"""Random work and random faults on one deployment, and a watch that never looks away."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from dcloud_spawner.engines.base import Phase
from dcloud_spawner.store import leases, workloads
from dcloud_spawner.store.schema import HOLDING, State
from tests.faults.relay import Relay
from tests.live import Deployment
from tests.patience import patient

GPUS = 4


@dataclass
class Findings:
    """What went wrong, in sentences; empty is good."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    """What the hub said when it refused."""

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


class Watch(threading.Thread):
    """Compares containers with leases many times a second while everything else goes wrong."""

    def __init__(self, deployment: Deployment, findings: Findings) -> None:
        super().__init__(daemon=True)
        self._deployment = deployment
        self._findings = findings
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(httpx.HTTPError):
                self.look()
            self._findings.counts["looks"] += 1
            time.sleep(0.1)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def look(self) -> None:
        """No accelerator in two containers that live, none in one that has no lease for it."""
        platform = self._deployment.platform
        assert platform is not None
        alive = [found for found in platform.engine.observe() if found.phase is Phase.ALIVE]
        seen: dict[str, str] = {}
        for container in alive:
            for device in container.devices:
                other = seen.setdefault(device, container.workload_id)
                if other != container.workload_id:
                    self._confirm_double(device, other, container.workload_id)
        with platform.database.reading() as connection:
            holders = leases.holders(connection)
        for container in alive:
            for device in container.devices:
                if holders.get(device) != container.workload_id and self._lives(container.ref):
                    self._findings.problem(
                        f"{device} is in the live container of {container.workload_id}, "
                        f"but leased to {holders.get(device)}"
                    )

    def _confirm_double(self, device: str, one: str, two: str) -> None:
        platform = self._deployment.platform
        assert platform is not None
        now = {
            found.workload_id
            for found in platform.engine.observe()
            if found.phase is Phase.ALIVE and device in found.devices
        }
        if {one, two} <= now:
            self._findings.problem(f"{device} is in the containers of {one} and {two} at once")

    def _lives(self, ref: str) -> bool:
        platform = self._deployment.platform
        assert platform is not None
        return any(
            found.ref == ref and found.phase is Phase.ALIVE for found in platform.engine.observe()
        )


class Chaos:
    """Users who start, stop and leave, a hub that is killed, an engine that hangs or fails."""

    def __init__(self, deployment: Deployment, relay: Relay, seed: int, users: int = 7) -> None:
        self.deployment = deployment
        self.relay = relay
        self.random = random.Random(seed)
        self.users = [f"user{number}" for number in range(users)]
        self.findings = Findings()
        self.cancelled: set[str] = set()
        self._hub_lock = threading.Lock()

    # -- work ----------------------------------------------------------------------------------

    def operate(self, count: int, threads: int = 4) -> None:
        """Do a number of random operations in several threads."""
        left = iter(range(count))
        lock = threading.Lock()

        def work(seed: int) -> None:
            chooser = random.Random(seed)
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                self._one(chooser)

        workers = [
            threading.Thread(target=work, args=(self.random.random(),)) for _ in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _one(self, chooser: random.Random) -> None:
        user = chooser.choice(self.users)
        open_now = self._open_workload(user)
        if open_now is None or chooser.random() < 0.3:
            choice = {"profile": "tiny", "gpus": chooser.randint(1, GPUS)}
            self._call("start", lambda: self.deployment.start_server(user, choice))
            if open_now is not None:
                # Another choice replaces a request; that is the user's own doing.
                self.cancelled.add(open_now)
        else:
            self.cancelled.add(open_now)
            self._call("stop", lambda: self.deployment.stop_server(user))
        time.sleep(chooser.random() * 0.6)

    def _open_workload(self, user: str) -> str | None:
        platform = self.deployment.platform
        assert platform is not None
        with platform.database.reading() as connection:
            found = workloads.find_open(connection, user, "")
        return found.id if found else None

    def _call(self, name: str, call: Callable[[], httpx.Response]) -> None:
        """An operation counts when the hub answered; one that a kill cut off is made again."""
        for _ in range(120):
            try:
                response = call()
            except httpx.HTTPError:
                self.findings.counts["cut off"] += 1
                time.sleep(0.25)
                continue
            if response.status_code >= 500 and not response.text.startswith("{"):
                # The proxy's own answer while the hub is away; the hub's are JSON.
                self.findings.counts["hub away"] += 1
                time.sleep(0.25)
                continue
            self.findings.counts[f"{name} {response.status_code}"] += 1
            if response.status_code >= 400:
                said = re.sub(r"[0-9a-f-]{12,}", "…", response.text)[:200]
                self.findings.answers[f"{response.status_code} {said}"] += 1
            self.findings.counts["operations"] += 1
            return
        self.findings.problem(f"{name}: the hub did not answer for long")

    # -- faults --------------------------------------------------------------------------------

    def kill_hub(self) -> None:
        """kill -9 of the hub, a new one, and nobody in the queue may be lost over it."""
        before = self._queue()
        self.deployment.restart("hub")
        self.findings.counts["hub kills"] += 1
        after = {
            row: state for row, state in self._states(before).items() if row not in self.cancelled
        }
        for identifier, state in after.items():
            if state is State.ENDED:
                self._explain_end(identifier)

    def _explain_end(self, identifier: str) -> None:
        platform = self.deployment.platform
        assert platform is not None
        with platform.database.reading() as connection:
            row = workloads.get(connection, identifier)
        if row.end_reason not in ("stopped", "replaced", "cancelled", "failed"):
            self.findings.problem(
                f"{identifier} lost its place: {row.end_reason} {row.end_detail[:200]}"
            )

    def _queue(self) -> list[str]:
        platform = self.deployment.platform
        assert platform is not None
        with platform.database.reading() as connection:
            return [row.id for row in workloads.queued(connection)]

    def _states(self, identifiers: list[str]) -> dict[str, State]:
        platform = self.deployment.platform
        assert platform is not None
        with platform.database.reading() as connection:
            return dict(workloads.states_of(connection, identifiers))

    def disturb(self, kills: int, done: threading.Event) -> None:
        """Faults until the work is done and at least ``kills`` hubs died."""
        while self.findings.counts["hub kills"] < kills or not done.is_set():
            time.sleep(1.5 + self.random.random() * 2.5)
            fault = self.random.random()
            if fault < 0.6 or done.is_set():
                self.kill_hub()
            elif fault < 0.7:
                self.deployment.restart("controller")
                self.findings.counts["controller kills"] += 1
            elif fault < 0.85:
                self.relay.pause()
                time.sleep(0.5 + self.random.random() * 2)
                self.relay.resume()
                self.findings.counts["engine pauses"] += 1
            else:
                self.relay.fail()
                time.sleep(0.5 + self.random.random() * 2)
                self.relay.resume()
                self.findings.counts["engine failures"] += 1

    # -- the end -------------------------------------------------------------------------------

    def settle(self, seconds: float = 60) -> None:
        """Wait until nothing is on its way: every open workload runs or rightly waits."""
        platform = self.deployment.platform
        assert platform is not None
        deadline = time.monotonic() + patient(seconds)
        moving: list[str] = []
        while time.monotonic() < deadline:
            with platform.database.reading() as connection:
                rows = workloads.open_workloads(connection)
                held = sum(
                    row.gpus for row in rows if row.state in HOLDING and row.state != "queued"
                )
            moving = [
                f"{row.server} {row.state}"
                for row in rows
                if row.state in (State.ADMITTED, State.STARTING, State.STOPPING)
            ]
            queue = [row for row in rows if row.state is State.QUEUED]
            startable = bool(queue) and queue[0].gpus <= GPUS - held
            if not moving and not startable:
                return
            time.sleep(0.2)
        self.findings.problem(f"not settled after {seconds:g} s: {moving}")

    def stop_all(self) -> None:
        """Everybody stops."""
        for user in self.users:
            self._call("last stop", lambda user=user: self.deployment.stop_server(user))  # type: ignore[misc]

    def check_reachable(self) -> int:
        """Every running server answers through the proxy as the workload that it is."""
        platform = self.deployment.platform
        assert platform is not None
        with platform.database.reading() as connection:
            running = workloads.in_states(connection, (State.RUNNING,))
        for row in running:
            response = httpx.get(
                f"{self.deployment.url}/user/{row.user}/api", trust_env=False, timeout=10
            )
            if response.text != row.id:
                self.findings.problem(
                    f"{row.server} is not reachable: {response.status_code} {response.text[:80]}"
                )
        return len(running)
