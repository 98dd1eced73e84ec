"""What every engine must do, as one suite of tests that each engine's own test module runs.

A test module subclasses :class:`EngineContract` and gives it three fixtures: ``engine``,
``host`` (a :class:`ContractHost`: what to put into a spec on that engine) and ``simulation``
(GPUs simulated at the NVML library and the runtime, the only simulated part). Everything else
is real: real processes, real limits, measured from inside and read through the engine.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcloud_spawner.engines.base import (
    LABEL_ACCELERATORS,
    LABEL_DEPLOYMENT,
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
    ContainerFacts,
    ContainerSpec,
    Engine,
    Mount,
    Phase,
)
from dcloud_spawner.engines.use import ContainerUse
from dcloud_spawner.errors import EngineError, LaunchFailed
from dcloud_spawner.mounts import kernel, mountinfo
from tests.cpu_share import BURN, check_share
from tests.patience import patient, until
from tests.simgpu.simgpu import Simulation, set_driver, set_health, set_usage

MIB = 2**20
SLEEP = ("sleep", "600")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class ContractHost:
    """What a spec needs on one engine."""

    deployment: str
    image: str
    port: int


@dataclass(frozen=True)
class Bench:
    """One engine and a way to make specs for it; ends what it launched."""

    engine: Engine
    host: ContractHost
    workloads: list[str]

    def spec(
        self,
        *command: str,
        accelerators: Sequence[str] = (),
        mounts: Sequence[Mount] = (),
        environment: dict[str, str] | None = None,
        memory_bytes: int = 256 * MIB,
        cpu_millicores: int = 1000,
        pids_limit: int = 256,
        shm_bytes: int = 32 * MIB,
    ) -> ContainerSpec:
        """A small spec with all labels and a name of its own."""
        workload = f"w{next(_numbers)}-{uuid.uuid4().hex[:8]}"
        self.workloads.append(workload)
        return ContainerSpec(
            name=f"{self.host.deployment}-{workload}",
            image=self.host.image,
            command=command,
            environment=environment or {},
            labels={
                LABEL_DEPLOYMENT: self.host.deployment,
                LABEL_WORKLOAD: workload,
                LABEL_USER: "ada",
                LABEL_KIND: "notebook",
                LABEL_ACCELERATORS: ",".join(accelerators),
            },
            mounts=tuple(mounts),
            accelerators=tuple(accelerators),
            memory_bytes=memory_bytes,
            cpu_millicores=cpu_millicores,
            pids_limit=pids_limit,
            shm_bytes=shm_bytes,
            port=self.host.port,
        )

    def facts(self, spec: ContainerSpec) -> ContainerFacts:
        """The one container of a spec."""
        (found,) = self.engine.observe(spec.labels[LABEL_WORKLOAD])
        return found

    def use(self, spec: ContainerSpec) -> ContainerUse | None:
        """What the one container of a spec uses; None when it does not run."""
        workload = spec.labels[LABEL_WORKLOAD]
        found = [use for use in self.engine.measure().containers if use.workload_id == workload]
        assert len(found) < 2
        return found[0] if found else None

    def run(self, spec: ContainerSpec, seconds: float = 30) -> tuple[ContainerFacts, str]:
        """Launch, wait for the end, and give the facts and the output."""
        self.engine.launch(spec)
        until(lambda: self.facts(spec).phase is Phase.ENDED, seconds)
        return self.facts(spec), self.engine.logs(spec.labels[LABEL_WORKLOAD], 2000)

    def output(self, spec: ContainerSpec, text: str, seconds: float = 20) -> str:
        """Wait until a running container has written a text."""
        workload = spec.labels[LABEL_WORKLOAD]
        until(lambda: text in self.engine.logs(workload, 2000), seconds)
        return self.engine.logs(workload, 2000)

    def stop(self, spec: ContainerSpec, grace_seconds: int = 5) -> ContainerFacts | None:
        return self.engine.stop(spec.labels[LABEL_WORKLOAD], grace_seconds)


def python(program: str) -> tuple[str, ...]:
    """A command that runs a Python program, with its output unbuffered."""
    return ("python3", "-u", "-c", program)


WATCH_MOUNT = """
import os, time
folder = os.path.expanduser("~/datasets/one")
def wait(condition, word):
    while not condition():
        time.sleep(0.02)
    print(word, flush=True)
wait(lambda: os.listdir(folder) == [], "empty")
wait(lambda: os.path.exists(folder + "/file"), "there")
print(open(folder + "/file").read(), end=" ")
try:
    open(folder + "/new", "w")
    print("WRITTEN", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
wait(lambda: not os.path.exists(folder), "gone")
"""

FILL_MEMORY = """
held = []
while True:
    held.append(bytearray(b"x") * 2**20)
    with open("/proc/self/statm") as file:
        print(int(file.read().split()[1]) * 4096)
"""

FORK_UNTIL_REFUSED = """
import os, time
children = 0
try:
    while children < 500:
        if os.fork() == 0:
            time.sleep(600)
        children += 1
except BlockingIOError:
    print("refused after", children)
time.sleep(600)
"""

LIMITS = """
import time
def read(*names):
    for name in names:
        try:
            return open("/sys/fs/cgroup/" + name).read().split()[0]
        except OSError:
            pass
while True:
    memory = read("memory.max", "memory/memory.limit_in_bytes")
    print("limits", memory, read("cpu.max", "cpu/cpu.cfs_quota_us"), "end")
    time.sleep(0.1)
"""

USE = """
import time
held = bytearray(b"x") * (200 * 2**20)
while time.process_time() < 1.5:
    pass
print("used", int(time.process_time() * 1e6))
time.sleep(600)
"""

GPUS = """
import glob, os, pynvml
print("nodes", sorted(name for name in glob.glob("/dev/nvidia*") if name[-1].isdigit()))
print("visible", os.environ.get("NVIDIA_VISIBLE_DEVICES"))
try:
    pynvml.nvmlInit()
    for index in range(pynvml.nvmlDeviceGetCount()):
        print("uuid", pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
except pynvml.NVMLError as error:
    print("error", error)
"""


class EngineContract:
    """Subclass it as ``class TestX(EngineContract)`` beside the three fixtures."""

    @pytest.fixture
    def bench(self, engine: Engine, host: ContractHost) -> Iterator[Bench]:
        bench = Bench(engine, host, [])
        yield bench
        for workload in bench.workloads:
            engine.stop(workload, 0)

    # -- life ------------------------------------------------------------------------------------

    def test_a_launched_container_is_alive_and_carries_who_and_what(self, bench: Bench) -> None:
        spec = bench.spec(*SLEEP)
        before = datetime.now(UTC)
        launched = bench.engine.launch(spec)
        seen = bench.facts(spec)
        assert launched.phase is seen.phase is Phase.ALIVE
        assert seen.name == spec.name
        assert seen.workload_id == spec.labels[LABEL_WORKLOAD]
        assert (seen.user, seen.kind, seen.accelerators) == ("ada", "notebook", ())
        assert seen.devices == ()
        assert seen.started_at is not None and seen.started_at.tzinfo is not None
        assert abs(seen.started_at - before) < timedelta(seconds=10)
        assert seen.finished_at is None and seen.exit_code is None and not seen.oom_killed
        assert seen.url.startswith("http://")
        assert seen in bench.engine.observe()

    def test_the_end_of_a_command_is_told_with_its_times_and_exit_code(self, bench: Bench) -> None:
        facts, output = bench.run(bench.spec("sh", "-c", "echo said; sleep 0.5; exit 7"))
        assert output.strip() == "said"
        assert facts.exit_code == 7 and not facts.oom_killed
        assert facts.started_at is not None and facts.finished_at is not None
        length_seconds = (facts.finished_at - facts.started_at).total_seconds()
        # Docker takes its start time a little after the process began.
        assert 0.4 <= length_seconds < 3

    def test_stop_removes_everything_and_returns_the_last_facts(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")
        bench.engine.launch(spec)
        bench.output(spec, "up")
        last = bench.stop(spec)
        assert last is not None and last.phase is Phase.ENDED
        assert last.exit_code == 3  # it was asked politely first
        assert last.started_at and last.finished_at and last.started_at < last.finished_at
        assert bench.engine.observe(last.workload_id) == ()
        assert bench.engine.logs(last.workload_id) == ""

    def test_stopping_what_is_already_gone_is_success(self, bench: Bench) -> None:
        assert bench.engine.stop("never-was", 1) is None
        spec = bench.spec(*SLEEP)
        bench.engine.launch(spec)
        assert bench.stop(spec, 0) is not None
        assert bench.stop(spec, 0) is None

    def test_how_it_ended_is_told_before_it_is_removed(self, bench: Bench) -> None:
        spec = bench.spec(*SLEEP)
        workload = spec.labels[LABEL_WORKLOAD]
        bench.engine.launch(spec)
        told: list[ContainerFacts] = []

        def cannot_be_written(facts: ContainerFacts) -> None:
            told.append(facts)
            raise OSError("no space left")

        with pytest.raises(OSError, match="no space"):
            bench.engine.stop(workload, 0, cannot_be_written)
        assert bench.facts(spec).phase is Phase.ENDED  # and it is still there
        last = bench.engine.stop(workload, 0, told.append)
        assert last is not None and told == [last, last]
        assert last.phase is Phase.ENDED and last.started_at and last.finished_at
        assert bench.engine.observe(workload) == ()
        bench.engine.stop(workload, 0, told.append)
        assert len(told) == 2

    def test_stopping_an_ended_container_keeps_how_it_ended(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "exit 9")
        ended, _ = bench.run(spec)
        last = bench.stop(spec)
        assert last is not None and last.exit_code == 9
        assert last.finished_at == ended.finished_at

    def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        bench.engine.launch(spec)
        bench.output(spec, "up")
        began = time.monotonic()
        last = bench.stop(spec, 1)
        assert 1 <= time.monotonic() - began < patient(8)
        assert last is not None and last.exit_code == 137
        assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()

    def test_a_frozen_process_can_be_stopped(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "echo up; kill -STOP $$")
        bench.engine.launch(spec)
        bench.output(spec, "up")
        assert bench.stop(spec, 1) is not None
        assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()

    def test_launching_a_name_again_replaces_what_was_there(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "echo first; sleep 600")
        bench.engine.launch(spec)
        bench.engine.launch(replace(spec, command=("sh", "-c", "echo second; sleep 600")))
        assert "first" not in bench.output(spec, "second")
        assert bench.facts(spec).phase is Phase.ALIVE

    def test_a_command_that_does_not_exist_never_looks_alive(self, bench: Bench) -> None:
        spec = bench.spec("/no/such/program")
        try:
            bench.engine.launch(spec)
        except LaunchFailed:
            assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()
        else:  # an image's own init takes any command, and ends when it cannot run it
            until(lambda: bench.facts(spec).phase is Phase.ENDED, 10)
            assert bench.facts(spec).exit_code in (126, 127)

    def test_many_launches_at_once_do_not_disturb_each_other(self, bench: Bench) -> None:
        specs = [bench.spec("sh", "-c", f"echo mine-{n}; sleep 600") for n in range(6)]
        with ThreadPoolExecutor(6) as threads:
            launched = list(threads.map(bench.engine.launch, specs))
        assert len({facts.url for facts in launched}) == 6
        for number, spec in enumerate(specs):
            assert bench.output(spec, f"mine-{number}").count("mine-") == 1

    def test_logs_give_the_last_lines(self, bench: Bench) -> None:
        spec = bench.spec("sh", "-c", "for n in 1 2 3 4 5; do echo line $n; done")
        bench.run(spec)
        text = bench.engine.logs(spec.labels[LABEL_WORKLOAD], 2)
        assert text.splitlines() == ["line 4", "line 5"]

    def test_the_environment_is_the_specs_and_not_the_hubs(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "of-the-hub")
        spec = bench.spec("env", environment={"GIVEN": "a b\nc=$d"})
        _, output = bench.run(spec)
        assert "GIVEN=a b\nc=$d" in output
        assert "of-the-hub" not in output

    # -- limits ----------------------------------------------------------------------------------

    def test_memory_ends_at_the_limit_and_is_told_as_such(self, bench: Bench) -> None:
        limit = 512 * MIB
        facts, output = bench.run(bench.spec(*python(FILL_MEMORY), memory_bytes=limit))
        reached = max(int(line) for line in output.split() if line.isdigit())
        assert facts.oom_killed and facts.exit_code == 137
        assert 0.95 * limit <= reached <= 1.05 * limit

    def test_the_cpu_share_is_held(self, bench: Bench) -> None:
        def burn() -> list[float]:
            _, output = bench.run(bench.spec(*python(BURN), cpu_millicores=300))
            found: list[float] = json.loads(output)
            return found

        check_share(burn, 0.3)

    def test_the_number_of_processes_is_limited(self, bench: Bench) -> None:
        spec = bench.spec(*python(FORK_UNTIL_REFUSED), pids_limit=64)
        bench.engine.launch(spec)
        output = bench.output(spec, "refused after")
        assert 50 <= int(output.split()[-1]) <= 64
        assert bench.stop(spec, 1) is not None

    def test_a_fork_bomb_is_contained_and_can_be_stopped(self, bench: Bench) -> None:
        spec = bench.spec(
            *("bash", "-c", "echo lit; bomb() { bomb | bomb & }; bomb; sleep 600"),
            pids_limit=100,
            cpu_millicores=200,
        )
        bench.engine.launch(spec)
        bench.output(spec, "lit")
        time.sleep(1)
        others = bench.spec("true")
        assert bench.run(others)[0].exit_code == 0
        began = time.monotonic()
        assert bench.stop(spec, 1) is not None
        assert time.monotonic() - began < patient(15)
        assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()

    def test_shared_memory_has_the_size_of_the_spec(self, bench: Bench) -> None:
        program = "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)"
        _, output = bench.run(bench.spec(*python(program), shm_bytes=48 * MIB))
        assert int(output) == 48 * MIB

    def test_limits_change_while_it_runs(self, bench: Bench) -> None:
        spec = bench.spec(*python(LIMITS), memory_bytes=256 * MIB, cpu_millicores=500)
        bench.engine.launch(spec)
        bench.output(spec, f"limits {256 * MIB} 50000 end")
        workload = spec.labels[LABEL_WORKLOAD]
        bench.engine.update_limits(workload, memory_bytes=384 * MIB, cpu_millicores=250)
        bench.output(spec, f"limits {384 * MIB} 25000 end")
        bench.engine.update_limits(workload, memory_bytes=128 * MIB, cpu_millicores=1000)
        bench.output(spec, f"limits {128 * MIB} 100000 end")

    def test_less_memory_than_is_in_use_is_refused(self, bench: Bench) -> None:
        program = "x = bytearray(b'x') * (150 * 2**20); print('full'); import time; time.sleep(600)"
        spec = bench.spec(*python(program))
        bench.engine.launch(spec)
        bench.output(spec, "full")
        workload = spec.labels[LABEL_WORKLOAD]
        with pytest.raises(EngineError):
            bench.engine.update_limits(workload, memory_bytes=64 * MIB, cpu_millicores=500)
        assert bench.facts(spec).phase is Phase.ALIVE

    # -- measures --------------------------------------------------------------------------------

    def test_what_a_busy_container_uses_is_told(self, bench: Bench) -> None:
        spec = bench.spec(*python(USE), memory_bytes=512 * MIB)
        launched = bench.engine.launch(spec)
        used = int(bench.output(spec, "used", 40).split()[-1])
        first, second = bench.use(spec), bench.use(spec)
        assert first is not None and second is not None
        assert first.ref == second.ref and launched.started_at is not None
        assert launched.started_at < first.at <= second.at
        assert first.cpu_microseconds is not None and second.cpu_microseconds is not None
        assert 0.95 * used <= first.cpu_microseconds <= 1.15 * used
        assert second.cpu_microseconds - first.cpu_microseconds < 100_000  # it sleeps now
        assert first.memory_bytes is not None
        assert 200 * MIB <= first.memory_bytes <= 230 * MIB
        bench.stop(spec, 0)
        assert bench.use(spec) is None

    def test_what_gpus_do_is_told_and_a_dead_one_tells_nothing(
        self, bench: Bench, simulation: Simulation
    ) -> None:
        busy, dead, well, _ = simulation.uuids()
        spec = bench.spec(*SLEEP, accelerators=(busy,))
        bench.engine.launch(spec)
        set_usage(simulation, busy, utilization_percent=73, used_bytes=9 * MIB)
        set_health(simulation, dead, "dying")
        try:
            found = {use.uuid: use for use in bench.engine.measure().accelerators}
            assert dead not in found and well in found
            assert found[busy].utilisation_percent == 73
            assert found[busy].memory_bytes == 9 * MIB
            assert found[busy].power_milliwatts == 70_000
            assert found[busy].temperature_celsius == 34
            assert (found[busy].energy_millijoules or 0) > 0
            set_driver(simulation, init=999)
            silent = bench.engine.measure()
            assert silent.accelerators == ()
            assert spec.labels[LABEL_WORKLOAD] in {use.workload_id for use in silent.containers}
        finally:
            set_driver(simulation)
            set_health(simulation, dead, "ok")
            set_usage(simulation, busy)

    # -- isolation -------------------------------------------------------------------------------

    def test_the_user_has_uid_1000_and_no_rights(self, bench: Bench) -> None:
        _, output = bench.run(bench.spec("sh", "-c", "id -u; id -g; cat /proc/self/status"))
        lines = output.splitlines()
        assert lines[:2] == ["1000", "1000"]
        status = dict(line.split(":\t", 1) for line in lines[2:] if ":\t" in line)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"

    def test_a_user_namespace_does_not_give_rights_back(self, bench: Bench) -> None:
        facts, _ = bench.run(bench.spec("unshare", "--user", "--map-root-user", "true"))
        assert facts.exit_code != 0

    def test_a_home_is_the_users_own_and_outlives_the_container(self, bench: Bench) -> None:
        home = bench.engine.ensure_home(f"{bench.host.deployment}-home-ada")
        try:
            write = "stat -c %u ~ && echo kept > ~/note"
            facts, output = bench.run(bench.spec("sh", "-c", write, mounts=[home]))
            assert (facts.exit_code, output.strip()) == (0, "1000")
            _, output = bench.run(bench.spec("cat", f"{home.target}/note", mounts=[home]))
            assert output.strip() == "kept"
            assert bench.engine.homes()[f"{bench.host.deployment}-home-ada"] != 0
        finally:
            for workload in bench.workloads:
                bench.engine.stop(workload, 0)
            bench.engine.purge_home(f"{bench.host.deployment}-home-ada")
        assert f"{bench.host.deployment}-home-ada" not in bench.engine.homes()
        bench.engine.purge_home(f"{bench.host.deployment}-home-ada")

    def test_another_users_home_cannot_be_found(self, bench: Bench) -> None:
        names = [f"{bench.host.deployment}-home-{user}" for user in ("eve", "bob")]
        eve, bob = (bench.engine.ensure_home(name) for name in names)
        try:
            bench.run(bench.spec("sh", "-c", "touch ~/secret-of-bob", mounts=[bob]))
            search = "find / -name 'secret-of-*' 2>/dev/null; ls /home; echo done"
            _, output = bench.run(bench.spec("sh", "-c", search, mounts=[eve]), seconds=60)
            assert "secret-of" not in output
            assert output.split() == [os.path.basename(eve.target), "done"]
        finally:
            for workload in bench.workloads:
                bench.engine.stop(workload, 0)
            for name in names:
                bench.engine.purge_home(name)

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
    def test_what_the_host_mounts_later_shows_inside_read_only_until_it_is_taken_away(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        for name in ("copy", "mounts", "mounts/source", "mounts/w", "mounts/w/one"):
            (tmp_path / name).mkdir(mode=0o755)
        (tmp_path / "copy").chmod(0o777)  # so that nothing but the mount forbids to write
        (tmp_path / "copy" / "file").write_text("published")
        source, point = tmp_path / "mounts" / "source", tmp_path / "mounts" / "w" / "one"
        home = bench.engine.ensure_home(f"{bench.host.deployment}-home-data")
        data = Mount(
            str(point.parent), f"{home.target}/datasets", read_only=True, propagation="rslave"
        )
        kernel.make_shared(tmp_path / "mounts")
        try:
            spec = bench.spec(*python(WATCH_MOUNT), mounts=[home, data])
            bench.engine.launch(spec)
            bench.output(spec, "empty")
            kernel.bind_read_only(tmp_path / "copy", source)
            kernel.bind(source, point)
            bench.output(spec, "published Read-only file system")
            kernel.detach(point)
            point.rmdir()
            bench.output(spec, "gone")
            assert [path.name for path in (tmp_path / "copy").iterdir()] == ["file"]
        finally:
            for workload in bench.workloads:
                bench.engine.stop(workload, 0)
            bench.engine.purge_home(f"{bench.host.deployment}-home-data")
            for mount in reversed(mountinfo.read()):
                if mount.point.startswith(str(tmp_path)):
                    kernel.detach(Path(mount.point))

    def test_a_home_in_use_is_not_purged(self, bench: Bench) -> None:
        name = f"{bench.host.deployment}-home-busy"
        spec = bench.spec(*SLEEP, mounts=[bench.engine.ensure_home(name)])
        bench.engine.launch(spec)
        with pytest.raises(EngineError):
            bench.engine.purge_home(name)
        bench.stop(spec, 0)
        bench.engine.purge_home(name)
        assert name not in bench.engine.homes()

    def test_no_engine_socket_is_in_reach(self, bench: Bench) -> None:
        search = (
            "find / -xdev \\( -name docker.sock -o -name 'containerd*.sock' \\) 2>/dev/null;"
            "ls -d /var/run/docker.sock /run/docker.sock /run/containerd 2>/dev/null; echo done"
        )
        _, output = bench.run(bench.spec("sh", "-c", search), seconds=60)
        assert output.split() == ["done"]

    # -- GPUs ------------------------------------------------------------------------------------

    def test_the_inventory_is_this_host_with_its_gpus(
        self, bench: Bench, simulation: Simulation
    ) -> None:
        (node,) = bench.engine.inventory()
        assert node.cpu_millicores == (os.cpu_count() or 1) * 1000
        assert node.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert node.accelerators_known
        assert tuple(facts.uuid for facts in node.accelerators) == simulation.uuids()

    def test_without_a_gpu_there_is_no_device(self, bench: Bench) -> None:
        _, output = bench.run(bench.spec(*python(GPUS)))
        assert output.splitlines()[:2] == ["nodes []", "visible void"]
        assert "uuid" not in output and "error" in output

    def test_exactly_the_leased_gpus_are_there(self, bench: Bench, simulation: Simulation) -> None:
        known = simulation.uuids()
        first, second = (known[2], known[0]), (known[1],)
        outputs = []
        for leased in (first, second):
            spec = bench.spec("sh", "-c", "sleep 600", accelerators=leased)
            assert bench.engine.launch(spec).devices == leased
            assert bench.facts(spec).accelerators == leased
            spec = bench.spec(*python(GPUS), accelerators=leased)
            outputs.append(bench.run(spec)[1])
        assert "nodes ['/dev/nvidia0', '/dev/nvidia2']" in outputs[0]
        assert "nodes ['/dev/nvidia1']" in outputs[1]
        for output, leased in zip(outputs, (first, second), strict=True):
            listed = [line.split()[1] for line in output.splitlines() if line.startswith("uuid")]
            assert sorted(listed) == sorted(leased)
        alive = [facts for facts in bench.engine.observe() if facts.phase is Phase.ALIVE]
        inside = [uuid for facts in alive for uuid in facts.devices]
        assert sorted(inside) == sorted(first + second)

    def test_an_unknown_gpu_fails_the_launch_and_leaves_nothing(self, bench: Bench) -> None:
        spec = bench.spec(*SLEEP, accelerators=["GPU-00000000-0000-0000-0000-000000000000"])
        with pytest.raises(LaunchFailed, match="unknown device"):
            bench.engine.launch(spec)
        assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()
