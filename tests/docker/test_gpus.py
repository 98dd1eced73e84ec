"""GPUs: who has which, what becomes of a broken one, and how each way of passing them is asked
of Docker. The GPUs are simulated at the driver's library and the OCI runtime (tests/simgpu)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner.engines.base import AcceleratorFacts, Health, NodeFacts
from dcloud_spawner.engines.docker import DockerEngine
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.spec import build_spec
from dcloud_spawner.store import measures, nodes
from dcloud_spawner.store.schema import State
from tests.docker.people import (
    QUICK,
    People,
    Person,
    action_log,
    built_image,
    held,
    quick,
    signed_in,
    until,
)
from tests.live import Deployment
from tests.simgpu import simgpu
from tests.simgpu.simgpu import Simulation

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

PROBE = """
import glob, json, os, pynvml
found = {"nodes": sorted(glob.glob("/dev/nvidia*")), "uuids": [], "error": "",
         "visible": os.environ.get("NVIDIA_VISIBLE_DEVICES")}
try:
    pynvml.nvmlInit()
    for index in range(pynvml.nvmlDeviceGetCount()):
        found["uuids"].append(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
except pynvml.NVMLError as error:
    found["error"] = type(error).__name__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {"inventory_seconds": 0.5, "measure_seconds": 1}


@pytest.fixture
def all_well(simulation: Simulation, deployment: Deployment) -> Iterator[None]:
    """Mends every GPU afterwards, and waits until the platform knows."""
    yield
    simgpu.set_driver(simulation)
    for uuid in simulation.uuids():
        simgpu.set_health(simulation, uuid, "ok")
    known = simulation.uuids()
    until(lambda: all(healths(deployment)[uuid] is Health.OK for uuid in known), 15, "the mending")


def healths(deployment: Deployment) -> dict[str, Health]:
    """Health of every GPU as the store has it."""
    assert deployment.platform is not None
    with deployment.platform.database.reading() as connection:
        return {row.uuid: row.health for row in nodes.all_accelerators(connection)}


def leased(person: Person) -> set[str]:
    """UUIDs that the leases of a user's server name."""
    workload = person.workload()
    assert workload is not None
    return {uuid for uuid, holder in held(person.platform).items() if holder == workload.id}


# ---------------------------------------------------------------------------- who has which


def test_without_a_gpu_there_is_no_device(people: People) -> None:
    person = people()
    person.run(quick(0))
    found = person.told(PROBE)
    assert (found["nodes"], found["uuids"], found["visible"]) == ([], [], "void")
    assert found["error"] == "NVMLError_LibraryNotFound"


def test_exactly_the_leased_gpus_are_inside(people: People, simulation: Simulation) -> None:
    ann, bob, cyd = people.many(3)
    for person, count in ((ann, 2), (bob, 1), (cyd, 1)):
        person.run(quick(count))
    seen = {}
    for person in (ann, bob, cyd):
        found = person.told(PROBE)
        assert set(found["uuids"]) == leased(person) == set(person.container().devices)
        devices = [node for node in found["nodes"] if node[-1].isdigit()]
        indices = [simulation.uuids().index(uuid) for uuid in found["uuids"]]
        assert devices == [f"/dev/nvidia{index}" for index in sorted(indices)]
        seen[person.name] = set(found["uuids"])
    assert sum(len(uuids) for uuids in seen.values()) == 4
    assert set.union(*seen.values()) == set(simulation.uuids())


def test_a_gpu_can_be_chosen_by_its_model(people: People) -> None:
    person = people()
    person.run(quick(1, gpu_model=simgpu.MODEL))
    assert len(leased(person)) == 1


# ---------------------------------------------------------------------------- what they do


@pytest.mark.usefixtures("all_well")
def test_what_gpus_do_is_measured_for_whoever_has_them_and_a_dead_one_is_unknown(
    people: People, simulation: Simulation
) -> None:
    ann, bob = people.many(2)
    loads = {}
    for person, load in ((ann, 35), (bob, 90)):
        workload = person.run(quick(1))
        (uuid,) = leased(person)
        simgpu.set_usage(simulation, uuid, utilization_percent=load, power_milliwatts=400_000)
        loads[workload.id] = (uuid, load)

    def newest(workload: str) -> Figures:
        with ann.platform.database.reading() as connection:
            now = datetime.now(UTC)
            row = measures.of_session(connection, workload)
            points = measures.series(connection, workload, now - timedelta(minutes=1), now, 10)
        assert row is None or row.figures.energy_millijoules is not None
        return points[-1].figures if points else Figures()

    for workload, (_, load) in loads.items():
        seen = f"a load of {load} %"
        until(lambda: newest(workload).gpu_utilisation_percent_max == load, 15, seen)  # noqa: B023
        figures = newest(workload)
        assert figures.gpu_power_milliwatts_max == 400_000
        assert figures.gpu_temperature_celsius_max == 34
        assert figures.memory_bytes is not None and 2**20 < figures.memory_bytes < 2**28
        assert figures.network_sent_bytes is not None
    first, second = loads
    simgpu.set_health(simulation, loads[first][0], "dying")
    until(
        lambda: newest(first).samples and newest(first).gpu_utilisation_percent is None,
        30,
        "a piece of time without a figure",
    )
    assert newest(second).gpu_utilisation_percent == pytest.approx(90)
    for uuid, _ in loads.values():
        simgpu.set_usage(simulation, uuid)


# ---------------------------------------------------------------------------- faults at the start


@pytest.mark.usefixtures("all_well")
def test_a_gpu_that_died_a_moment_ago_fails_the_start_and_is_given_back(
    people: People, simulation: Simulation
) -> None:
    people.deployment.kill("controller")  # so that nobody has noticed yet
    try:
        for uuid in simulation.uuids():
            simgpu.set_health(simulation, uuid, "lost")
        person = people()
        assert "gpu is lost" in person.fail_to_start(quick(1))
        assert person.state() is None
        assert held(person.platform) == {}
        assert person.platform.engine.observe() == ()
        (row,) = person.past()
        assert row.end_reason == "failed" and "gpu is lost" in row.end_detail
    finally:
        people.deployment.start("controller")


@pytest.mark.usefixtures("all_well")
def test_a_gpu_that_the_driver_does_not_know_fails_as_the_real_runtime_does(
    people: People,
) -> None:
    deployment = people.deployment
    platform = deployment.platform
    assert platform is not None
    nobody = "GPU-00000000-0000-0000-0000-000000000000"
    deployment.kill("controller")
    try:
        with platform.database.transaction() as connection:
            facts = AcceleratorFacts(nobody, 9, simgpu.MODEL, simgpu.MEMORY_BYTES)
            node = platform.engine.inventory()[0]
            nodes.record(
                connection,
                NodeFacts(node.name, node.cpu_millicores, node.memory_bytes, (facts,)),
                nodes.all_nodes(connection)[0].seen_at,
            )
        person = people()
        assert f"{nobody}: unknown device" in person.fail_to_start(quick(1))
        assert held(platform) == {}
        assert platform.engine.observe() == ()
    finally:
        deployment.start("controller")
    until(lambda: healths(deployment)[nobody] is Health.LOST, 15)


# ---------------------------------------------------------------------------- faults later on


@pytest.mark.usefixtures("all_well")
@pytest.mark.parametrize(
    ("fault", "health"),
    [("ecc", Health.UNHEALTHY), ("remap-failed", Health.UNHEALTHY), ("lost", Health.LOST)],
)
def test_a_broken_gpu_is_not_offered_until_it_is_well(
    people: People, simulation: Simulation, fault: str, health: Health
) -> None:
    broken = simulation.uuids()[1]
    simgpu.set_health(simulation, broken, fault)
    until(lambda: healths(people.deployment)[broken] is health, 15, "the discovery")
    three, last = people.many(2)
    three.run(quick(3))
    assert leased(three) == set(simulation.uuids()) - {broken}
    last.start(quick(1))
    until(lambda: last.progress()["place"] == 1, 5)
    (reason,) = last.progress()["reasons"]
    assert reason.startswith("You asked for 1 GPU and none is free.")
    assert "cannot be offered" in reason
    simgpu.set_health(simulation, broken, "ok")
    last.wait_running()
    assert leased(last) == {broken}
    changes = [row.action for row in action_log(last.platform, broken)]
    assert changes[-2:] == [f"accelerator.{health.value}", "accelerator.ok"]


@pytest.mark.usefixtures("all_well")
def test_who_holds_a_gpu_that_breaks_is_told_and_keeps_it(
    people: People, simulation: Simulation
) -> None:
    deployment = people.deployment
    with signed_in(deployment, "gil") as browser:
        person = people("gil")
        person.run(quick(1))
        (mine,) = leased(person)
        assert "out of order" not in browser.said(browser.get("/hub/home"))
        simgpu.set_health(simulation, mine, "ecc")

        def told() -> bool:
            said = browser.said(browser.get("/hub/home"))
            return f"GPU {simulation.uuids().index(mine)} is out of order" in said

        until(told, 15, "the news on the home page")
        assert person.state() is State.RUNNING
        assert leased(person) == {mine}
        person.end()
        other = people()
        other.run(quick(3))  # the released one is not among those that are offered
        assert mine not in leased(other)
        simgpu.set_health(simulation, mine, "ok")
        until(lambda: healths(deployment)[mine] is Health.OK, 15)


@pytest.mark.usefixtures("all_well")
def test_a_driver_that_does_not_answer_offers_nothing_and_ends_nobody(
    people: People, simulation: Simulation
) -> None:
    holder, waiting = people.many(2)
    holder.run(quick(2))
    simgpu.set_driver(simulation, init=9)
    known = simulation.uuids()
    until(lambda: all(healths(people.deployment)[uuid] is not Health.OK for uuid in known), 15)
    waiting.start(quick(1))
    without = people()
    without.run(quick(0))
    assert waiting.state() is State.QUEUED
    assert holder.state() is State.RUNNING
    assert len(leased(holder)) == 2
    simgpu.set_driver(simulation)
    waiting.wait_running()
    assert not leased(waiting) & leased(holder)


# ---------------------------------------------------------------------------- ways of passing them


@pytest.mark.parametrize("passing", ["device-request", "cdi", "runtime"])
def test_each_way_of_passing_gpus_is_what_docker_is_told(
    people: People, simulation: Simulation, passing: str
) -> None:
    person = people()
    workload = person.run(quick(1))  # a row to build a container from
    settings = people.deployment.settings.model_copy(update={"gpu_passing": passing})
    engine = DockerEngine(settings)
    engine.hub_address()
    uuids = simulation.uuids()[:2]
    spec = build_spec(settings, workload, None, uuids, environment={}, mounts=())
    client = engine.client()
    arguments = {**engine.create_arguments(spec), "name": f"{spec.name}-{passing}"}
    ref = client.create_container(**arguments)["Id"]
    try:
        inspected = client.inspect_container(ref)
    finally:
        client.remove_container(ref)
    environment = dict(entry.split("=", 1) for entry in inspected["Config"]["Env"])
    host = inspected["HostConfig"]
    # Whatever the image says, and also where the nvidia runtime is the engine's default.
    visible = "void" if passing == "cdi" else ",".join(uuids)
    assert environment["NVIDIA_VISIBLE_DEVICES"] == visible
    assert engine._facts(inspected).devices == uuids
    if passing == "runtime":
        assert host["Runtime"] == simulation.runtime_name
        assert not host["DeviceRequests"]
        return
    assert host["Runtime"] == "runc"
    (request,) = host["DeviceRequests"]
    if passing == "cdi":
        assert request["Driver"] == "cdi"
        assert request["DeviceIDs"] == [f"nvidia.com/gpu={uuid}" for uuid in uuids]
    else:
        assert request["Driver"] == "nvidia"
        assert request["DeviceIDs"] == list(uuids)
        assert ["gpu", "compute", "utility"] in request["Capabilities"]


def test_an_image_cannot_give_itself_gpus(people: People, base_image: str, tag: str) -> None:
    """CUDA images carry NVIDIA_VISIBLE_DEVICES=all, and a user's own image may say anything."""
    recipe = f"FROM {base_image}\nENV NVIDIA_VISIBLE_DEVICES=all\n"
    recipe += f"CMD {json.dumps(['/usr/bin/python3', '-c', QUICK])}\n"
    with built_image(f"dcloud/greedy:{tag}", recipe) as image:
        person = people(groups=("trusted",))
        for count in (0, 1):
            person.run({"profile": "own", "image": image, "gpus": count})
            found = person.told(PROBE)
            assert set(found["uuids"]) == leased(person)
            assert len(found["uuids"]) == count
            person.end()
