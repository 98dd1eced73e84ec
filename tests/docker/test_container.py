"""What a user can do inside, tried from inside a real container of a running deployment."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from dcloud_spawner import resizing
from dcloud_spawner.engines.base import (
    LABEL_ACCELERATORS,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
)
from dcloud_spawner.errors import EngineError, UserError
from dcloud_spawner.store.events import Actor
from tests.cpu_share import BURN, check_share
from tests.docker.people import SMALL, People, Person, action_log, until

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

GIB = 2**30
LIMIT_BYTES = GIB // 2


@pytest.fixture(scope="module")
def ann(residents: People) -> Person:
    """A user with a running server of 0.5 GiB and half a core."""
    person = residents("ann")
    person.run(SMALL)
    return person


@pytest.fixture(scope="module")
def bob(residents: People) -> Person:
    """Another one."""
    person = residents("bob")
    person.run(SMALL)
    return person


# ---------------------------------------------------------------------------- limits

FILL_MEMORY = """
import sys
held = []
def anonymous():
    for path, name in (("/sys/fs/cgroup/memory/memory.stat", "total_rss"),
                       ("/sys/fs/cgroup/memory.stat", "anon")):
        try:
            return dict(line.split() for line in open(path))[name]
        except OSError:
            pass
def swapped():
    return next(line.split()[1] for line in open("/proc/self/status") if "VmSwap" in line)
for _ in range(2000):
    held.append(bytearray(b"x") * 2**20)
    print(anonymous(), swapped(), flush=True)
"""


def test_memory_ends_at_the_limit_and_the_server_goes_on(ann: Person) -> None:
    before = ann.container()
    done = ann.python(FILL_MEMORY)
    assert done.returncode == 137
    reached, swapped = (int(word) for word in done.stdout.splitlines()[-1].split())
    assert 0.95 * LIMIT_BYTES <= reached <= 1.05 * LIMIT_BYTES
    assert swapped == 0
    assert ann.container().started_at == before.started_at
    assert ann.answers()


def test_swap_is_not_on_offer(ann: Person) -> None:
    host = ann.inspect()["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == LIMIT_BYTES


OOM_THE_SERVER = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        command = open(f"/proc/{pid}/cmdline").read()
        if "singleuser" in command and pid not in ("1", str(os.getpid())):
            open(f"/proc/{pid}/oom_score_adj", "w").write("1000")
    except OSError:
        pass
held = [bytearray(b"x") * 2**20 for _ in range(2000)]
"""


def test_a_server_that_dies_of_memory_is_told_as_such(people: People) -> None:
    person = people()
    workload = person.run(SMALL)
    person.python(OOM_THE_SERVER)
    until(lambda: person.state() is None, 20, "the end of the workload")
    (ended,) = person.past()
    assert (ended.id, ended.end_reason) == (workload.id, "out of memory")
    assert ended.oom_killed and ended.exit_code == 137
    assert action_log(person.platform, workload.id)[-1].action == "workload.release"


def test_a_server_that_ends_after_a_program_ran_out_of_memory_just_ended(people: People) -> None:
    person = people()
    person.run(SMALL)
    assert person.python(FILL_MEMORY).returncode == 137
    person.shell("kill 1")
    until(lambda: person.state() is None, 20, "the end of the workload")
    (ended,) = person.past()
    assert (ended.end_reason, ended.oom_killed) == ("exited", False)


def test_the_cpu_share_is_what_was_chosen(ann: Person) -> None:
    check_share(lambda: ann.told(BURN), 0.5)


BOMB = """
import os, time
deadline, refused = time.monotonic() + 3, 0
while time.monotonic() < deadline:
    try:
        os.fork()
    except OSError:
        refused += 1
        time.sleep(0.05)
os._exit(0)
"""


def test_a_fork_bomb_is_contained(ann: Person, bob: Person) -> None:
    bomb = threading.Thread(target=ann.python, args=(BOMB,))
    bomb.start()
    most = 0
    slowest = 0.0
    while bomb.is_alive():
        most = max(most, _processes(ann))
        began = time.monotonic()
        subprocess.run(["true"], check=True)
        assert bob.answers()
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.1)
    assert 200 < most <= ann.deployment.settings.pids_limit
    assert slowest < 5
    until(lambda: _processes(ann) < 60, 20, "the end of the bomb")
    assert ann.answers()


def _processes(person: Person) -> int:
    """Processes and threads in the container's control group, as the kernel counts them."""
    pid = person.inspect()["State"]["Pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "pids" in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/pids{path}/pids.current").read_text())
    return int(Path(f"/sys/fs/cgroup{path}/pids.current").read_text())


def test_shared_memory_is_half_of_the_memory(ann: Person) -> None:
    program = "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)"
    assert ann.told(program) == LIMIT_BYTES // 2


# ---------------------------------------------------------------------------- rights

STATUS = """
import json
import secrets
found = {}
for pid in ("1", "self"):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    found[pid] = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps(found))
"""


def test_nobody_inside_has_any_rights(ann: Person) -> None:
    for process in ann.told(STATUS).values():
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(process[name], 16) == 0, name
        assert process["NoNewPrivs"] == "1"
        assert process["Uid"].split() == ["1000"] * 4
        assert process["Gid"].split() == ["1000"] * 4
        assert process["Seccomp"] == "2"


SEARCH = """
import json, os
found = {"sockets": [], "hub": [], "homes": os.listdir("/home"), "mounts": []}
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
    for name in files:
        if name.endswith(".sock") or "docker" in name and folder.startswith(("/run", "/var/run")):
            found["sockets"].append(os.path.join(folder, name))
        if name in ("cookie_secret", "controller.token", "dcloud.sqlite", "jupyterhub.sqlite"):
            found["hub"].append(os.path.join(folder, name))
for line in open("/proc/mounts"):
    device, path, kind, *_ = line.split()
    if device.startswith("/dev/"):
        found["mounts"].append(path)
print(json.dumps(found))
"""


def test_neither_engine_nor_hub_nor_other_homes_are_there(ann: Person, bob: Person) -> None:
    bob.shell("echo secret > ~/of-bob")
    found = ann.told(SEARCH)
    assert found["sockets"] == found["hub"] == []
    assert found["homes"] == ["dcloud"]
    assert sorted(found["mounts"]) == [
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/home/dcloud",
    ]
    assert "of-bob" not in ann.shell("ls -a ~")


def test_other_users_processes_and_environments_cannot_be_seen(ann: Person, bob: Person) -> None:
    everything = ann.shell("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert "JUPYTERHUB_USER=ann" in everything
    theirs = dict(entry.split("=", 1) for entry in bob.inspect()["Config"]["Env"])
    for name in ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_USER", "DCLOUD_WORKLOAD"):
        assert theirs[name] not in everything.replace("=", " ").split()


def test_no_secret_of_the_platform_is_in_the_environment(ann: Person) -> None:
    environment = ann.told("import json, os; print(json.dumps(dict(os.environ)))")
    mine = ann.deployment
    secrets = [path.read_text() for path in mine.settings.secrets_dir.iterdir()]
    secrets += [mine.token, mine.proxy_token, mine.settings.store_url]
    for name, value in environment.items():
        assert not any(secret in value for secret in secrets), name
    assert not [name for name in environment if "DATABASE" in name or "CONFIGPROXY" in name]


def test_the_servers_token_opens_only_the_server(ann: Person, bob: Person) -> None:
    environment = ann.told("import json, os; print(json.dumps(dict(os.environ)))")
    with ann.deployment.api(environment["JUPYTERHUB_API_TOKEN"]) as api:
        scopes = set(api.get("/user").json()["scopes"])
        assert {scope.partition("!")[0] for scope in scopes} <= {
            "access:servers",
            "read:users:name",
            "read:users:groups",
            "users:activity",
            "read:users:activity",
            "custom:dcloud:data",  # keys for the datasets that it has, and nothing else
        }
        assert all(scope.partition("!")[2] in ("user=ann", "server=ann/") for scope in scopes)
        assert api.post("/users/ann/servers/more", json=SMALL).status_code in (403, 404)
        assert api.delete("/users/ann/server").status_code in (403, 404)
        assert api.get("/users").status_code == 403
        assert api.get("/users/bob").status_code == 404
        assert api.post("/users/ann/tokens", json={}).status_code in (403, 404)
    assert ann.answers()


def test_another_users_server_is_closed_to_me(ann: Person, bob: Person) -> None:
    answer = httpx.get(
        f"{ann.deployment.url}/user/bob/api/status",
        headers={"Authorization": f"token {ann.token}"},
        trust_env=False,
    )
    assert answer.status_code == 403


START_FROM_INSIDE = """
import json, os, sys, urllib.request
request = urllib.request.Request(
    os.environ["JUPYTERHUB_API_URL"] + "/users/bob/servers/more",
    data=json.dumps({choice}).encode(),
    headers={{"Authorization": "token {token}", "X-Forwarded-For": "6.6.6.6",
             "X-Real-Ip": "6.6.6.6"}},
)
print(urllib.request.urlopen(request).status)
"""


def test_where_a_request_came_from_cannot_be_made_up(bob: Person) -> None:
    program = START_FROM_INSIDE.format(choice=SMALL, token=bob.token)
    assert bob.told(program) in (201, 202)
    until(lambda: bob.workload("more"), 10)
    workload = bob.workload("more")
    assert workload is not None
    bob.end("more")
    submitted = action_log(bob.platform, workload.id)[0]
    networks = bob.inspect()["NetworkSettings"]["Networks"].values()
    assert [submitted.source] == [network["IPAddress"] for network in networks]
    (stop,) = [row for row in action_log(bob.platform, workload.id) if row.actor == "bob"][1:]
    assert stop.source == "127.0.0.1"  # this test, through the proxy


def test_every_label_is_on_the_container(ann: Person) -> None:
    workload = ann.workload()
    assert workload is not None
    labels = ann.inspect()["Config"]["Labels"]
    ours = {name: value for name, value in labels.items() if name.startswith("dcloud.")}
    assert {LABEL_DEPLOYMENT, LABEL_WORKLOAD, LABEL_USER, LABEL_KIND, LABEL_ACCELERATORS} <= set(
        ours
    )
    assert ours[LABEL_DEPLOYMENT] == ann.deployment.settings.deployment
    assert ours[LABEL_WORKLOAD] == workload.id
    assert (ours[LABEL_USER], ours[LABEL_KIND], ours[LABEL_ACCELERATORS]) == ("ann", "notebook", "")


# ---------------------------------------------------------------------------- the network

CONNECT = """
import json, socket, sys
found = {}
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), 2).close()
        found[f"{host}:{port}"] = "open"
    except OSError as error:
        found[f"{host}:{port}"] = type(error).__name__
print(json.dumps(found))
"""


def connects(person: Person, targets: Sequence[tuple[str, int]]) -> dict[str, str]:
    """What a TCP connection from inside to each target comes to: "open" or the error."""
    program = CONNECT.replace("sys.argv[1]", repr(json.dumps(targets)))
    found: dict[str, str] = person.told(program)
    return found


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A service on every address of this host, as a database or a metrics exporter may be."""
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        yield server.getsockname()[1]


def host_addresses() -> list[str]:
    """Every IPv4 address of this host but loopback."""
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET and not address.address.startswith("127.")
    ]


def test_of_this_host_only_hub_and_api_can_be_reached(ann: Person) -> None:
    settings = ann.deployment.settings
    hub = ann.deployment.hub_host
    with listener() as other:
        for address in host_addresses():  # the listener is really there
            socket.create_connection((address, other), 2).close()
        targets = [(address, other) for address in host_addresses()]
        targets += [(hub, settings.proxy_api_port), (hub, settings.port), (hub, 22), (hub, 2375)]
        own = [(hub, settings.hub_port), (hub, settings.web_port)]
        found = connects(ann, [*own, *targets])
    assert [found.pop(f"{host}:{port}") for host, port in own] == ["open", "open"]
    assert len(found) == len(targets)
    assert "open" not in found.values(), found


def test_no_datagram_reaches_this_host(ann: Person) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        server.settimeout(1)
        port = server.getsockname()[1]
        ann.python(
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"for address in {host_addresses()!r}: s.sendto(b'x', (address, {port}))"
        )
        with pytest.raises(TimeoutError):
            server.recv(1)


def test_users_do_not_reach_each_other(ann: Person, bob: Person) -> None:
    inspected = bob.inspect()
    network = f"{bob.deployment.settings.deployment}-users"
    address = inspected["NetworkSettings"]["Networks"][network]["IPAddress"]
    with socket.create_connection((address, 8888), 2):
        pass  # it listens, and this host reaches it
    assert connects(ann, [(address, 8888)]) == {f"{address}:8888": "TimeoutError"}
    assert ann.shell("cat /proc/net/if_inet6") == ""  # nor by a link-local address of IPv6
    raw = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)"
    assert "PermissionError" in ann.python(raw).stderr


def test_containers_of_others_on_this_engine_are_out_of_reach(ann: Person, base_image: str) -> None:
    port = "18080"
    command = ["docker", "run", "-d", "--rm", "-p", port, base_image]
    command += ["python", "-m", "http.server", port]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    other = run.stdout.strip()
    try:
        shown = json.loads(subprocess.check_output(["docker", "inspect", other]))[0]
        address = shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        published = int(shown["NetworkSettings"]["Ports"][f"{port}/tcp"][0]["HostPort"])
        until(lambda: _open(address, int(port)) and _open("127.0.0.1", published), 10)
        targets = [(address, int(port)), *((host, published) for host in host_addresses())]
        assert "open" not in connects(ann, targets).values()
    finally:
        subprocess.run(["docker", "rm", "-f", other], capture_output=True, check=True)


def _open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


LISTENER = """
import socket
server = socket.create_server(("", 80))
while True:
    server.accept()[0].close()
"""
"""Not http.server: that one first looks its own name up, which takes long without a name server."""


@pytest.fixture
def metadata_service() -> Iterator[tuple[str, int]]:
    """A listener at a link-local address behind this host, as a cloud's metadata service is."""
    number = secrets.randbelow(250) + 1  # runs beside each other must not meet
    namespace, outside = f"dcloudtest{number}", f"dcltest{number}"
    address, here = f"169.254.77.{number}", f"169.254.78.{number}"
    commands = [
        f"ip netns add {namespace}",
        f"ip link add {outside} type veth peer name inside netns {namespace}",
        f"ip addr add {here}/32 dev {outside}",
        f"ip link set {outside} up",
        f"ip route add {address}/32 dev {outside}",
        f"ip netns exec {namespace} ip addr add {address}/32 dev inside",
        f"ip netns exec {namespace} ip link set inside up",
        f"ip netns exec {namespace} ip route add default dev inside",
    ]
    server = None
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        inside = ["ip", "netns", "exec", namespace, sys.executable, "-c", LISTENER]
        server = subprocess.Popen(inside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: _open(address, 80), 10, "the metadata service")
        yield address, 80
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["ip", "link", "del", outside], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def test_the_clouds_metadata_service_is_out_of_reach(
    ann: Person, metadata_service: tuple[str, int]
) -> None:
    found = connects(ann, [metadata_service, ("169.254.169.254", 80)])
    assert set(found.values()) == {"ConnectionRefusedError"}


# ---------------------------------------------------------------------------- limits while it runs


READ_LIMITS = """
import json
import secrets
def read(*names):
    for name in names:
        try:
            return open("/sys/fs/cgroup/" + name).read().split()[0]
        except OSError:
            pass
memory = read("memory.max", "memory/memory.limit_in_bytes")
print(json.dumps([int(memory), int(read("cpu.max", "cpu/cpu.cfs_quota_us"))]))
"""

TESTER = Actor("tester", "127.0.0.1")


def test_limits_change_without_a_restart(bob: Person) -> None:
    before, workload = bob.container(), bob.workload()
    assert workload is not None
    assert bob.told(READ_LIMITS) == [LIMIT_BYTES, 50_000]
    resized = resizing.change_limits(bob.platform, workload.id, GIB, 1500, TESTER)
    assert (resized.memory_bytes, resized.cpu_millicores) == (GIB, 1500)
    assert bob.told(READ_LIMITS) == [GIB, 150_000]
    enough = "held = bytearray(b'x') * (700 * 2**20); print(len(held))"
    assert bob.told(enough) == 700 * 2**20
    host = bob.inspect()["HostConfig"]
    assert host["MemorySwap"] == host["Memory"] == GIB
    resizing.change_limits(bob.platform, workload.id, LIMIT_BYTES, 500, TESTER)
    assert bob.told(READ_LIMITS) == [LIMIT_BYTES, 50_000]
    assert bob.container().started_at == before.started_at
    assert bob.answers()
    event = action_log(bob.platform, workload.id)[-1]
    assert (event.action, event.actor, event.source) == ("workload.resize", "tester", "127.0.0.1")


@pytest.mark.parametrize(
    ("memory_bytes", "cpu_millicores"),
    [(4096 * GIB, 500), (LIMIT_BYTES, 1_000_000), (0, 500), (LIMIT_BYTES, 0), (-GIB, -500)],
)
def test_limits_that_cannot_be_are_refused_and_change_nothing(
    bob: Person, memory_bytes: int, cpu_millicores: int
) -> None:
    workload = bob.workload()
    assert workload is not None
    with pytest.raises(UserError):
        resizing.change_limits(bob.platform, workload.id, memory_bytes, cpu_millicores, TESTER)
    assert bob.workload() == workload
    assert bob.told(READ_LIMITS) == [LIMIT_BYTES, 50_000]


def test_less_memory_than_is_in_use_is_refused_and_the_row_stays_right(bob: Person) -> None:
    workload = bob.workload()
    assert workload is not None
    with pytest.raises(EngineError):
        resizing.change_limits(bob.platform, workload.id, 32 * 2**20, 1000, TESTER)
    assert bob.told(READ_LIMITS)[0] == LIMIT_BYTES
    assert bob.workload() == workload


def test_only_a_running_server_can_be_resized(people: People) -> None:
    person = people()
    waiting = person.start({"profile": "cpu", "memory_gib": 0.5, "cpus": 0.5, "hours": 1})
    with pytest.raises(UserError, match="running"):
        resizing.change_limits(person.platform, waiting.id, GIB, 500, TESTER)
