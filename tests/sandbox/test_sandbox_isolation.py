"""What can be seen and reached from inside a sandbox, beyond the common contract."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.patience import patient

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.base import LABEL_WORKLOAD, Mount, Phase  # noqa: E402
from dcloud_spawner.engines.cgroups import CgroupTree  # noqa: E402
from dcloud_spawner.engines.sandbox import SandboxEngine  # noqa: E402
from dcloud_spawner.engines.sandbox_records import SandboxFolder  # noqa: E402
from dcloud_spawner.engines.sandbox_supervisor import LOG_PART_BYTES  # noqa: E402
from dcloud_spawner.errors import LaunchFailed  # noqa: E402
from dcloud_spawner.settings import Settings  # noqa: E402
from tests.engine_contract import GPUS, MIB, SLEEP, Bench, ContractHost, python, until  # noqa: E402

pytestmark = pytest.mark.sandbox
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(sandbox_engine: SandboxEngine, deployment: str) -> Iterator[Bench]:
    with bench_of(sandbox_engine, deployment) as bench:
        yield bench


@contextmanager
def bench_of(engine: SandboxEngine, deployment: str) -> Iterator[Bench]:
    bench = Bench(engine, ContractHost(deployment, "host", 0), [])
    try:
        yield bench
    finally:
        for workload in bench.workloads:
            engine.stop(workload, 0)


def test_the_token_of_a_user_is_in_no_file_and_on_no_command_line(bench: Bench) -> None:
    spec = bench.spec(*SLEEP, environment={"JUPYTERHUB_API_TOKEN": "s3cret-of-ada"})
    folder = Path(bench.engine.launch(spec).ref)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"s3cret-of-ada" not in command.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    for file in folder.rglob("*"):
        assert not file.is_file() or b"s3cret-of-ada" not in file.read_bytes()
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert (folder / "plan.json").stat().st_mode & 0o077 == 0
    record = SandboxFolder(folder).read_record()
    assert record is not None
    environment = Path(f"/proc/{record.supervisor.pid}/environ").read_bytes()
    assert b"s3cret-of-ada" not in environment


def test_a_library_preloaded_by_the_user_is_loaded_by_the_command_alone(bench: Bench) -> None:
    # bwrap and setpriv still are root; a missing library makes each program that tries complain.
    spec = bench.spec("/bin/true", environment={"LD_PRELOAD": "/home/dcloud/evil.so"})
    _, output = bench.run(spec)
    assert output.count("cannot be preloaded") == 1


def test_of_the_host_only_system_folders_and_the_hubs_python_are_there(
    bench: Bench, sandbox_settings: Settings
) -> None:
    look = (
        "import os, json; print(json.dumps({path: sorted(os.listdir(path))"
        " if os.path.isdir(path) else None for path in "
        f"{['/', '/run', '/home', '/var/lib', '/mnt', str(sandbox_settings.state)]!r}"
        " if os.path.exists(path)}))"
    )
    home = bench.engine.ensure_home("look")
    _, output = bench.run(bench.spec(*python(look), mounts=[home]))
    seen = json.loads(output)
    assert seen["/run"] == [] and seen["/var/lib"] == [] and seen["/home"] == ["dcloud"]
    assert "/mnt" not in seen and str(sandbox_settings.state) not in seen
    assert not {"boot", "media", "opt", "srv", "mnt"} & set(seen["/"])


def test_nothing_outside_the_users_folders_can_be_written(bench: Bench) -> None:
    tries = (
        "for d in / /usr /etc /run /var /sys/fs/cgroup /home /dev; do touch $d/x && echo $d; done"
    )
    _, output = bench.run(bench.spec("sh", "-c", f"({tries}) 2>/dev/null; touch /tmp/x && echo ok"))
    assert output.split() == ["ok"]


def test_a_state_folder_inside_a_visible_one_is_hidden(
    sandbox_settings: Settings, deployment: str
) -> None:
    state = Path(f"/etc/{deployment}-state")
    state.mkdir()
    (state / "secret").write_text("of the hub")
    try:
        engine = SandboxEngine(sandbox_settings.model_copy(update={"state": state}))
        with bench_of(engine, deployment) as bench:
            _, output = bench.run(bench.spec("sh", "-c", f"ls -A {state}; id -un"))
            assert output.split() == ["dcloud"]
    finally:
        shutil.rmtree(state)


def test_other_peoples_processes_are_not_there(bench: Bench) -> None:
    bench.engine.launch(bench.spec(*SLEEP))
    _, output = bench.run(bench.spec("sh", "-c", "ls -d /proc/[0-9]* | wc -l"))
    assert int(output) <= 5  # bwrap's first process, the shell, ls and wc


@pytest.mark.parametrize(
    "program",
    [
        "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10000000) == 0)",
        "import ctypes; raise SystemExit(ctypes.CDLL(None).syscall(250, 0, -4, 1) >= 0)",
        "import os; os.setuid(0)",
        "import os; os.mknod('/tmp/sda', 0o60600, os.makedev(8, 0))",
    ],
    ids=["user namespace", "keys of uid 1000", "become root", "make a device"],
)
def test_ways_back_to_rights_are_closed(bench: Bench, program: str) -> None:
    guarded = f"try:\n  {program}\nexcept PermissionError:\n  print('refused')"
    facts, output = bench.run(bench.spec(*python(guarded)))
    assert facts.exit_code == 0, output
    assert "ctypes" in program or output.strip() == "refused"


def test_programs_see_their_own_limits(bench: Bench) -> None:
    spec = bench.spec("sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/*limit_in*")
    _, output = bench.run(replace(spec, memory_bytes=300 * MIB))
    assert str(300 * MIB) in output


def test_a_mount_below_a_writable_one_is_refused(bench: Bench, tmp_path: Path) -> None:
    home = bench.engine.ensure_home("nested")
    below = Mount(str(tmp_path), f"{home.target}/data")
    with pytest.raises(LaunchFailed, match="lies below"):
        bench.engine.launch(bench.spec(*SLEEP, mounts=[home, below]))
    with pytest.raises(LaunchFailed, match="not on this host"):
        bench.engine.launch(bench.spec(*SLEEP, mounts=[Mount("/does/not/exist", "/data")]))


def test_data_can_be_mounted_read_only(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("shared")
    tmp_path.chmod(0o755)
    mount = Mount(str(tmp_path), "/datasets/one", read_only=True)
    command = "cat /datasets/one/set; touch /datasets/one/new"
    facts, output = bench.run(bench.spec("sh", "-c", command, mounts=[mount]))
    assert output.startswith("shared") and facts.exit_code != 0


def test_a_flood_of_output_does_not_fill_the_disk(bench: Bench) -> None:
    flood = f"head -c {4 * LOG_PART_BYTES} /dev/zero | tr '\\0' 'y'; echo; echo last"
    spec = bench.spec("sh", "-c", flood)
    facts, _ = bench.run(spec, seconds=60)
    folder = SandboxFolder(Path(facts.ref))
    kept = sum(file.stat().st_size for file in (folder.log, folder.old_log))
    assert kept <= 2 * (LOG_PART_BYTES + 65536)
    assert bench.engine.logs(spec.labels[LABEL_WORKLOAD], 1) == "last"


# -- network --------------------------------------------------------------------------------------


def test_a_port_that_is_taken_fails_the_launch(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LaunchFailed, match=str(port)):
            bench.engine.launch(replace(bench.spec(*SLEEP), port=port))


def test_the_server_is_told_its_port_and_keeps_its_path(bench: Bench) -> None:
    given = {"JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888/user/ada/"}
    spec = bench.spec("sh", "-c", "echo $JUPYTERHUB_SERVICE_URL; sleep 600", environment=given)
    url = bench.engine.launch(spec).url
    assert bench.output(spec, "/user/").strip() == f"{url}/user/ada/"
    assert url.startswith("http://127.0.0.1:")


def test_a_server_of_somebody_else_on_my_port_is_found_out(
    bench: Bench, sandbox_engine: SandboxEngine
) -> None:
    serve = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={}, bind='127.0.0.1')"
    own = "import os; p = os.environ['JUPYTERHUB_SERVICE_URL'].split(':')[2].split('/')[0]; "
    given = {"JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888/"}
    victim = bench.spec(*SLEEP)
    port = int(bench.engine.launch(victim).url.rpartition(":")[2])
    thief = bench.spec(*python(serve.format(port)))
    honest = bench.spec(*python(own + serve.format("int(p)")), environment=given)
    for spec in (thief, honest):
        bench.engine.launch(spec)
        bench.output(spec, "Serving HTTP")
    assert not sandbox_engine.owns_its_port(victim.labels[LABEL_WORKLOAD])
    assert sandbox_engine.owns_its_port(honest.labels[LABEL_WORKLOAD])
    assert not sandbox_engine.owns_its_port("never-was")


class HubApi(BaseHTTPRequestHandler):
    """Stands in for the hub's API: a single-user server asks it for its version at start."""

    def do_GET(self) -> None:
        body = b'{"version": "6.1.1"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_without_a_command_the_single_user_server_runs(
    bench: Bench, sandbox_engine: SandboxEngine
) -> None:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), HubApi)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    environment = {
        "JUPYTERHUB_API_TOKEN": "token",
        "JUPYTERHUB_API_URL": f"http://127.0.0.1:{hub.server_port}/hub/api",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
        "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888/user/ada/",
        "JUPYTERHUB_USER": "ada",
    }
    home = bench.engine.ensure_home("server")
    spec = bench.spec(environment=environment, mounts=[home], memory_bytes=1024 * MIB)
    try:
        url = bench.engine.launch(spec).url
        answered = b""
        deadline = time.monotonic() + patient(60)
        while not answered and time.monotonic() < deadline:
            try:
                answered = urlopen(f"{url}/user/ada/api").read()
            except URLError:
                time.sleep(0.2)
        assert b"version" in answered, bench.engine.logs(spec.labels[LABEL_WORKLOAD])
        assert sandbox_engine.owns_its_port(spec.labels[LABEL_WORKLOAD])
        last = bench.stop(spec, 10)
        assert last is not None and last.exit_code == 0
    finally:
        hub.shutdown()
        bench.engine.purge_home("server")


# -- weaker hosts and real GPUs -------------------------------------------------------------------


def test_without_control_groups_sandboxes_run_and_say_what_is_missing(
    sandbox_settings: Settings, deployment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = CgroupTree(2, {}, "not delegated to us")
    monkeypatch.setattr("dcloud_spawner.engines.sandbox.find_tree", lambda deployment: nothing)
    engine = SandboxEngine(sandbox_settings)
    assert engine.limits_enforced == frozenset()
    assert "memory" in engine.limits_note and "not delegated" in engine.limits_note
    with bench_of(engine, deployment) as bench:
        spec = bench.spec("sh", "-c", "trap '' TERM; setsid sleep 600 & echo up; sleep 600")
        bench.engine.launch(spec)
        bench.output(spec, "up")
        record = SandboxFolder(Path(bench.facts(spec).ref)).read_record()
        assert record is not None and record.init is not None
        last = bench.stop(spec, 1)
        assert last is not None and last.phase is Phase.ENDED
        assert not record.init.alive()


def test_a_user_who_is_not_root_gets_a_user_namespace(
    sandbox_settings: Settings, deployment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # We are root, so the user mapped to uid 1000 inside is root here; all else is as for a user.
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    engine = SandboxEngine(sandbox_settings.model_copy(update={"state": tmp_path}))
    with bench_of(engine, deployment) as bench:
        home = engine.ensure_home("own")
        look = "id -u; grep -E '^Cap|NoNew' /proc/self/status; touch ~/x && unshare -U true"
        facts, output = bench.run(bench.spec("sh", "-c", look, mounts=[home]))
        lines = output.splitlines()
        assert lines[0] == "1000"
        assert {int(line.split()[1], 16) for line in lines if line.startswith("Cap")} == {0}
        assert "NoNewPrivs:\t1" in lines and facts.exit_code != 0


@pytest.mark.gpu
def test_a_real_gpu_is_seen_by_the_sandbox_that_leases_it_and_by_no_other(
    sandbox_parts: None, deployment: str, tmp_path: Path
) -> None:
    engine = SandboxEngine(Settings(deployment=deployment, state=tmp_path, engine="sandbox"))
    (node,) = engine.inventory()
    uuid = node.accelerators[0].uuid
    with bench_of(engine, deployment) as bench:
        spec = bench.spec(*python(GPUS), accelerators=[uuid], memory_bytes=1024 * MIB)
        _, output = bench.run(spec)
        assert [line.split()[1] for line in output.splitlines() if "uuid" in line] == [uuid]
        _, output = bench.run(bench.spec(*python(GPUS)))
        assert "nodes []" in output and "uuid" not in output
    until(lambda: engine.observe() == (), 5)
