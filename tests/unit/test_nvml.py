"""What the driver says of GPUs, asked of a simulated NVML library, and of a real one if there.

The library is the simulated part: no machine of ours can lose a GPU on command.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.engines.base import AcceleratorFacts, AcceleratorKind, Health
from dcloud_spawner.engines.local_node import LocalNode
from dcloud_spawner.engines.nvml import (
    NvmlUnavailable,
    driver_version,
    fatal_xids,
    gpu_health,
    read_accelerators,
    read_use,
)
from tests import services
from tests.patience import patient
from tests.simgpu import simgpu
from tests.simgpu.simgpu import Gpu, Mig, Simulation


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simgpu.build(tmp_path_factory.mktemp("simgpu"), 4)


@pytest.fixture
def gpus(built: Simulation) -> Iterator[Simulation]:
    yield simgpu.build(built.folder, 4)


def read(simulation: Simulation, **more: object) -> dict[str, AcceleratorFacts]:
    found = read_accelerators(str(simulation.library), **more)  # type: ignore[arg-type]
    return {facts.uuid: facts for facts in found}


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "real":
        return ""
    return str(request.getfixturevalue("gpus").library)


def test_every_gpu_is_told_with_what_placement_needs(library: str) -> None:
    found = read_accelerators(library)
    assert found
    assert len({facts.uuid for facts in found}) == len(found)
    for facts in found:
        assert facts.uuid.startswith(("GPU-", "MIG-"))
        assert facts.model
        assert facts.memory_bytes > 2**30
        assert facts.device_minor >= 0
        assert facts.kind is AcceleratorKind.GPU or facts.parent_uuid.startswith("GPU-")
        assert (facts.health is Health.OK) == (not facts.health_reason)


def test_the_driver_tells_its_version(library: str) -> None:
    version = driver_version(library)
    assert version.driver[0].isdigit()
    assert float(version.cuda) >= 11


@pytest.mark.gpu
def test_asking_a_real_driver_takes_well_under_the_time_out() -> None:
    start = time.monotonic()
    read_accelerators()
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("health", ["ecc", "remap-pending", "remap-failed", "retire-pending"])
def test_a_gpu_with_bad_memory_is_unhealthy_with_a_reason(gpus: Simulation, health: str) -> None:
    sick, well, *_ = gpus.uuids()
    simgpu.set_health(gpus, sick, health)
    found = read(gpus)
    assert found[sick].health is Health.UNHEALTHY
    assert "emory" in found[sick].health_reason
    assert found[well].health is Health.OK
    simgpu.set_health(gpus, sick, "ok")
    assert read(gpus)[sick].health is Health.OK


def test_a_gpu_that_stops_answering_is_lost(gpus: Simulation) -> None:
    before = read(gpus)
    sick = gpus.uuids()[1]
    simgpu.set_health(gpus, sick, "dying")
    found = read(gpus, known=tuple(before.values()))
    assert found[sick].health is Health.LOST
    assert "restart" in found[sick].health_reason
    assert found[sick].model == before[sick].model
    assert found[sick].memory_bytes == before[sick].memory_bytes
    assert len(found) == 4


def test_a_lost_gpu_that_the_driver_cannot_name_is_told_from_memory(gpus: Simulation) -> None:
    before = tuple(read(gpus).values())
    sick = gpus.uuids()[2]
    simgpu.set_health(gpus, sick, "lost")
    assert sick not in read(gpus)
    found = read(gpus, known=before)
    assert found[sick].health is Health.LOST
    assert sum(facts.health is Health.OK for facts in found.values()) == 3


def test_an_engines_node_remembers_what_it_lost(gpus: Simulation) -> None:
    node = LocalNode(str(gpus.library))
    assert {facts.health for facts in node.facts().accelerators} == {Health.OK}
    sick = gpus.uuids()[0]
    simgpu.set_health(gpus, sick, "lost")
    for _ in range(2):
        found = {facts.uuid: facts.health for facts in node.facts().accelerators}
        assert found.pop(sick) is Health.LOST
        assert set(found.values()) == {Health.OK}
    simgpu.set_driver(gpus, init=999)
    assert not node.facts().accelerators_known
    simgpu.set_driver(gpus, init=0)
    simgpu.set_health(gpus, sick, "ok")
    assert {facts.health for facts in node.facts().accelerators} == {Health.OK}


def test_a_gpu_in_mig_mode_offers_its_instances_and_not_itself(built: Simulation) -> None:
    cut = Gpu("GPU-cut", mig=(Mig("MIG-a"), Mig("MIG-b")))
    simulation = simgpu.build(built.folder, [Gpu("GPU-whole"), cut, Gpu("GPU-empty", mig=())])
    found = read(simulation)
    assert set(found) == {"GPU-whole", "MIG-a", "MIG-b"}
    assert found["MIG-a"].kind is AcceleratorKind.MIG
    assert found["MIG-a"].parent_uuid == "GPU-cut"
    assert found["MIG-a"].device_minor == 1
    assert found["MIG-a"].memory_bytes == 10 * 2**30


@pytest.mark.parametrize("health", ["lost", "dying"])
def test_instances_are_lost_with_their_gpu(built: Simulation, health: str) -> None:
    cut = Gpu("GPU-cut", mig=(Mig("MIG-a"), Mig("MIG-b")))
    simulation = simgpu.build(built.folder, [cut])
    before = tuple(read(simulation).values())
    simgpu.set_health(simulation, "GPU-cut", health)
    found = read(simulation, known=before)
    assert {uuid: facts.health for uuid, facts in found.items()} == {
        "MIG-a": Health.LOST,
        "MIG-b": Health.LOST,
    }


def test_a_gpu_that_changes_its_mig_mode_is_not_lost(built: Simulation) -> None:
    whole = read(simgpu.build(built.folder, [Gpu("GPU-a")]))
    cut = read(
        simgpu.build(built.folder, [Gpu("GPU-a", mig=(Mig("MIG-a"),))]),
        known=tuple(whole.values()),
    )
    assert set(cut) == {"MIG-a"}
    again = read(simgpu.build(built.folder, [Gpu("GPU-a")]), known=tuple(cut.values()))
    assert set(again) == {"GPU-a"}


def test_a_driver_that_hangs_is_unknown_and_blocks_nobody(gpus: Simulation) -> None:
    simgpu.set_driver(gpus, hang=True)
    start = time.monotonic()
    with pytest.raises(NvmlUnavailable, match="did not answer within"):
        read_accelerators(str(gpus.library), timeout_seconds=0.6)
    assert time.monotonic() - start < patient(2)
    simgpu.set_driver(gpus, hang=False)
    assert len(read(gpus)) == 4


def test_a_driver_that_fails_is_unknown_and_not_without_gpus(gpus: Simulation) -> None:
    simgpu.set_driver(gpus, init=9)
    with pytest.raises(NvmlUnavailable, match="Driver Not Loaded"):
        read_accelerators(str(gpus.library))


def test_a_library_that_is_set_but_missing_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(NvmlUnavailable, match="cannot open shared object"):
        read_accelerators(str(tmp_path / "libnvidia-ml.so.1"))


def test_no_driver_and_no_device_means_no_gpus() -> None:
    if services.has_nvidia_gpu():
        assert read_accelerators()
    else:
        assert read_accelerators() == ()
        assert driver_version().driver == ""


def test_the_kernel_log_names_the_gpu_that_needs_a_reset() -> None:
    log = [
        "NVRM: Xid (PCI:0000:65:00): 13, pid=77, name=python, Graphics Exception",
        "NVRM: Xid (PCI:0000:65:00): 119, pid=77, name=python, Timeout waiting for RPC from GSP!",
        "NVRM: Xid (PCI:0000:CA:00): 79, GPU has fallen off the bus.",
        "usb 1-1: new device",
    ]
    assert fatal_xids(log) == {"0000:65:00": 119, "0000:ca:00": 79}
    assert gpu_health({}, 119)[0] is Health.UNHEALTHY
    assert "119" in gpu_health({}, 119)[1]
    assert gpu_health({}, 79)[0] is Health.LOST


# ---------------------------------------------------------------------------- what they do


def test_what_every_gpu_does_is_told(library: str) -> None:
    found = read_use(library)
    assert {use.uuid for use in found} == {facts.uuid for facts in read_accelerators(library)}
    for use in found:
        assert use.utilisation_percent is not None and 0 <= use.utilisation_percent <= 100
        assert use.memory_bytes is not None and use.memory_bytes >= 0
        assert use.power_milliwatts is not None and 10_000 < use.power_milliwatts < 2_000_000
        assert use.temperature_celsius is not None and 10 < use.temperature_celsius < 110
        assert use.energy_millijoules is None or use.energy_millijoules > 0


def test_the_energy_of_a_gpu_is_its_power_over_time(gpus: Simulation) -> None:
    simgpu.build(gpus.folder, 4, busy=True)
    library = str(gpus.library)
    before, begun = read_use(library), time.monotonic()
    time.sleep(1)
    after, ended = read_use(library), time.monotonic()
    for first, second in zip(before, after, strict=True):
        assert first.energy_millijoules and second.energy_millijoules
        assert first.power_milliwatts and second.power_milliwatts
        used = (second.energy_millijoules - first.energy_millijoules) / (ended - begun)
        low, high = sorted((first.power_milliwatts, second.power_milliwatts))
        assert 0.6 * low < used < 1.4 * high


def test_what_the_driver_does_not_tell_is_unknown_and_not_zero(gpus: Simulation) -> None:
    silent, dead, *_ = gpus.uuids()
    simgpu.set_usage(gpus, silent, power_milliwatts=None, energy_millijoules=None)
    simgpu.set_health(gpus, dead, "dying")
    found = {use.uuid: use for use in read_use(str(gpus.library))}
    assert dead not in found and len(found) == 3
    assert found[silent].power_milliwatts is None
    assert found[silent].energy_millijoules is None
    assert found[silent].utilisation_percent == 0
    simgpu.set_driver(gpus, init=999)
    with pytest.raises(NvmlUnavailable):
        read_use(str(gpus.library))
    assert LocalNode(str(gpus.library)).use() == ()


def test_of_a_mig_instance_memory_is_told_and_no_load(gpus: Simulation) -> None:
    cut = Gpu("GPU-cut", mig=(Mig("MIG-a"), Mig("MIG-b")))
    simgpu.build(gpus.folder, [cut, Gpu("GPU-whole")])
    found = {use.uuid: use for use in read_use(str(gpus.library))}
    assert set(found) == {"MIG-a", "MIG-b", "GPU-whole"}
    assert found["MIG-a"].memory_bytes == 0
    assert found["MIG-a"].temperature_celsius == 34
    assert found["MIG-a"].utilisation_percent is None
    assert found["MIG-a"].power_milliwatts is None
