"""Sandboxes when something dies: the supervisor, the hub, the machine. All processes are real."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.engine_contract")

from dcloud_spawner.engines.base import LABEL_WORKLOAD, ContainerSpec, Phase  # noqa: E402
from dcloud_spawner.engines.sandbox import SandboxEngine  # noqa: E402
from dcloud_spawner.engines.sandbox_records import (  # noqa: E402
    Plan,
    ProcessIdentity,
    Record,
    SandboxFolder,
    plan_cgroup,
)
from dcloud_spawner.errors import EngineError, LaunchFailed  # noqa: E402
from dcloud_spawner.settings import Settings  # noqa: E402
from tests.engine_contract import SLEEP, Bench, ContractHost, until  # noqa: E402

pytestmark = pytest.mark.sandbox


@pytest.fixture
def bench(sandbox_engine: SandboxEngine, deployment: str) -> Iterator[Bench]:
    bench = Bench(sandbox_engine, ContractHost(deployment, "host", 0), [])
    yield bench
    for workload in bench.workloads:
        sandbox_engine.stop(workload, 0)


def folder_of(bench: Bench, spec: ContainerSpec) -> SandboxFolder:
    return SandboxFolder(Path(bench.facts(spec).ref))


def record_of(bench: Bench, spec: ContainerSpec) -> Record:
    record = folder_of(bench, spec).read_record()
    assert record is not None
    return record


def group_pids(plan: Plan) -> tuple[int, ...]:
    group = plan_cgroup(plan)
    assert group is not None
    return group.pids()


def test_killing_the_supervisor_kills_the_sandbox(bench: Bench) -> None:
    spec = bench.spec("sh", "-c", "setsid sleep 600 & sleep 600")
    bench.engine.launch(spec)
    plan, record = folder_of(bench, spec).read_plan(), record_of(bench, spec)
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: bench.facts(spec).phase is Phase.ENDED, 5)
    assert group_pids(plan) == ()
    facts = bench.facts(spec)
    # Nobody wrote its end: the last moment known alive stands for it.
    assert facts.finished_at is not None and facts.exit_code is None
    assert facts.started_at is not None and facts.finished_at >= facts.started_at
    last = bench.stop(spec)
    assert last is not None and last.finished_at == facts.finished_at
    assert bench.stop(spec) is None


def test_what_outlives_its_supervisor_is_alive_until_the_group_is_empty(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    plan = folder_of(bench, spec).read_plan()
    group = plan_cgroup(plan)
    assert group is not None
    # Stands in for a process that the kernel does not end with its namespace (a driver's wait).
    left_over = subprocess.Popen(["sleep", "600"])
    group.add(left_over.pid)
    os.kill(record_of(bench, spec).supervisor.pid, signal.SIGKILL)
    until(lambda: group.pids() == (left_over.pid,), 5)
    assert bench.facts(spec).phase is Phase.ALIVE
    before = datetime.now(UTC)
    last = bench.stop(spec, 1)
    assert left_over.wait(5) == -signal.SIGKILL
    assert last is not None and last.phase is Phase.ENDED
    assert last.finished_at is not None and last.finished_at >= before
    assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()


def test_a_group_that_cannot_be_emptied_is_never_called_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    left_over = subprocess.Popen(["sleep", "600"])
    group = plan_cgroup(folder_of(bench, spec).read_plan())
    assert group is not None
    group.add(left_over.pid)
    os.kill(record_of(bench, spec).supervisor.pid, signal.SIGKILL)
    until(lambda: group.pids() == (left_over.pid,), 5)
    # A process in an uninterruptible wait cannot be had at will: the kill is made to do nothing.
    monkeypatch.setattr("dcloud_spawner.engines.cgroups._kill_each", lambda pids: None)
    monkeypatch.setattr("dcloud_spawner.engines.sandbox.KILL_SECONDS", 0.3)
    with pytest.raises(EngineError, match="cannot be ended"):
        bench.stop(spec, 0)
    assert bench.facts(spec).phase is Phase.ALIVE
    monkeypatch.undo()
    assert bench.stop(spec, 0) is not None
    left_over.wait(5)


def test_a_reused_pid_is_not_mistaken_for_the_sandbox(bench: Bench) -> None:
    spec = bench.spec("true")
    bench.run(spec)
    folder, record = folder_of(bench, spec), record_of(bench, spec)
    me = ProcessIdentity.of(os.getpid())
    assert me is not None and me.alive()
    impostor = ProcessIdentity(me.pid, me.start_ticks - 1)
    assert not impostor.alive() and impostor.open() is None
    folder.write_record(
        Record(**{**vars(record), "supervisor": impostor, "init": impostor, "finished_at": None})
    )
    assert bench.facts(spec).phase is Phase.ENDED
    assert bench.stop(spec) is not None  # and this process was not killed


def test_a_dead_process_nobody_reaped_is_dead() -> None:
    child = subprocess.Popen(["true"])
    until(lambda: "State:\tZ" in Path(f"/proc/{child.pid}/status").read_text(), 5)
    assert ProcessIdentity.of(child.pid) is None
    child.wait()


def test_after_a_reboot_every_sandbox_has_ended_when_it_was_last_alive(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    folder = folder_of(bench, spec)
    plan = folder.read_plan()
    last_alive = datetime.now(UTC) - timedelta(minutes=3)
    try:
        folder.write_plan(Plan(**{**vars(plan), "boot_id": "of-an-earlier-boot"}))
        os.utime(folder.heartbeat_file, (last_alive.timestamp(), last_alive.timestamp()))
        facts = bench.facts(spec)
        assert facts.phase is Phase.ENDED
        assert facts.finished_at is not None
        assert abs(facts.finished_at - last_alive) < timedelta(seconds=1)
    finally:
        folder.write_plan(plan)


def test_processes_that_hide_from_their_parent_end_with_the_command(bench: Bench) -> None:
    hide = "for n in 1 2 3; do (setsid nohup sleep 600 &) ; done; sleep 0.3; echo over"
    spec = bench.spec("sh", "-c", hide)
    bench.run(spec)
    assert group_pids(folder_of(bench, spec).read_plan()) == ()


def test_a_group_frozen_from_outside_can_be_stopped(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    group = plan_cgroup(folder_of(bench, spec).read_plan())
    assert group is not None
    if group.version == 1:
        (group.folders["freezer"] / "freezer.state").write_text("FROZEN")
    else:
        (group.paths[0] / "cgroup.freeze").write_text("1")
    assert bench.stop(spec, 1) is not None
    assert not any(path.exists() for path in group.paths)


def test_a_stopped_supervisor_does_not_hold_up_the_stop_for_ever(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    supervisor = record_of(bench, spec).supervisor
    supervisor.send(signal.SIGSTOP)
    last = bench.stop(spec, 1)
    assert last is not None and last.finished_at is not None
    assert not supervisor.alive()


# -- the hub --------------------------------------------------------------------------------------

LAUNCH_ELSEWHERE = """
import json, sys
from dcloud_spawner.engines.base import ContainerSpec
from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.settings import Settings
given = json.load(sys.stdin)
engine = SandboxEngine(Settings(**given["settings"]))
engine.ping()
print("ready", flush=True)
engine.launch(ContainerSpec(**given["spec"]))
print("launched", flush=True)
import time; time.sleep(600)
"""


def start_hub(settings: Settings, spec: ContainerSpec) -> subprocess.Popen[str]:
    """Another process that launches a sandbox, as a hub does."""
    hub = subprocess.Popen(
        [sys.executable, "-c", LAUNCH_ELSEWHERE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hub.stdin is not None and hub.stdout is not None
    wanted = settings.model_dump(mode="json", exclude_defaults=True)
    json.dump({"settings": wanted, "spec": asdict(spec)}, hub.stdin)
    hub.stdin.close()
    assert hub.stdout.readline() == "ready\n"
    return hub


def test_a_sandbox_outlives_a_hub_that_is_killed(bench: Bench, sandbox_settings: Settings) -> None:
    spec = bench.spec("sh", "-c", "while :; do date +%s%N; sleep 0.1; done")
    hub = start_hub(sandbox_settings, spec)
    assert hub.stdout is not None and hub.stdout.readline() == "launched\n"
    hub.kill()
    hub.wait()
    time.sleep(0.3)
    workload = spec.labels[LABEL_WORKLOAD]
    before = bench.engine.logs(workload)
    until(lambda: len(bench.engine.logs(workload)) > len(before), 5)
    assert bench.facts(spec).phase is Phase.ALIVE
    supervisor = record_of(bench, spec).supervisor
    assert os.getsid(supervisor.pid) != os.getsid(0)


def test_a_hub_killed_in_mid_launch_leaves_a_sandbox_or_nothing(
    bench: Bench, sandbox_settings: Settings
) -> None:
    """What is once seen as ended must never come alive afterwards: its GPUs may be leased again."""
    chance = random.Random(4)
    outcomes = set()
    for _ in range(12):
        spec = bench.spec(*SLEEP)
        hub = start_hub(sandbox_settings, spec)
        time.sleep(chance.uniform(0, 0.15))
        hub.kill()
        hub.wait()
        seen = []
        for _ in range(15):
            seen.append(tuple(f.phase for f in bench.engine.observe(spec.labels[LABEL_WORKLOAD])))
            time.sleep(0.02)
        settled = seen[-1]
        assert settled in ((), (Phase.ALIVE,), (Phase.ENDED,)), seen
        gone = [n for n, phases in enumerate(seen) if phases == (Phase.ENDED,)]
        assert not gone or (Phase.ALIVE,) not in seen[gone[0] :], seen
        outcomes.add(settled)
        bench.stop(spec, 0)
        assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()
    assert len(outcomes) > 1, "the kills all came at the same point of a launch"


def test_a_stop_during_a_launch_waits_for_it(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    launch = threading.Thread(target=bench.engine.launch, args=[spec])
    launch.start()
    until(lambda: bench.engine.observe(spec.labels[LABEL_WORKLOAD]) != (), 5)
    last = bench.stop(spec, 0)
    launch.join()
    assert last is not None and last.started_at is not None
    assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()


def test_two_stops_at_once_both_succeed_and_one_tells_the_end(bench: Bench) -> None:
    spec = bench.spec(*SLEEP)
    bench.engine.launch(spec)
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(bench.stop(spec, 1))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2 and answers.count(None) == 1


def test_a_launch_that_cannot_run_says_why_and_leaves_nothing(bench: Bench) -> None:
    spec = bench.spec("/no/such/program")
    with pytest.raises(LaunchFailed, match="/no/such/program: No such file"):
        bench.engine.launch(spec)
    assert bench.engine.observe(spec.labels[LABEL_WORKLOAD]) == ()
    root = Path(bench.engine.ensure_home("x").source).parent.parent / "sandboxes"
    bench.engine.purge_home("x")
    assert not [path for path in root.iterdir() if spec.name in path.name]
