"""Which device nodes a sandbox gets for its GPUs.

The one place of the sandbox that knows of simulated GPUs: they have no driver, so harmless nodes
stand under the real names, and the simulated library and its own state file are bound in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcloud_spawner.engines.base import AcceleratorFacts, AcceleratorKind, Health
from dcloud_spawner.engines.nvml import NvmlUnavailable, read_accelerators
from dcloud_spawner.errors import LaunchFailed
from dcloud_spawner.settings import Settings

ExtraBinds = Callable[[tuple[str, ...]], Sequence[tuple[str, str]]]
"""From the UUIDs of a sandbox to (path of the host, path inside), bound read-only."""

CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
SIMULATED = "simgpu"
SIMULATION_FOLDER = "/run/dcloud-simgpu"
"""Where tests/simgpu's library looks for its state inside a container."""


@dataclass(frozen=True)
class GpuPassage:
    """What a sandbox gets for its GPUs."""

    nodes: tuple[tuple[str, str], ...] = ()
    """(node of the host, path inside)."""
    files: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] | None = None


def offered(accelerators: Sequence[AcceleratorFacts]) -> tuple[AcceleratorFacts, ...]:
    """Without MIG instances: a sandbox has no way to hide the other instances of the same GPU."""
    return tuple(facts for facts in accelerators if facts.kind is AcceleratorKind.GPU)


def pass_gpus(settings: Settings, uuids: tuple[str, ...], draft: Path, folder: Path) -> GpuPassage:
    """The passage for exactly these UUIDs.

    Files go into ``draft``, which becomes ``folder`` before the sandbox starts.

    Raises LaunchFailed on an unknown or lost GPU, in the words of NVIDIA's container runtime.
    """
    if not uuids:
        return GpuPassage(environment={"NVIDIA_VISIBLE_DEVICES": "void"})
    try:
        known = {facts.uuid: facts for facts in offered(read_accelerators(settings.nvml_library))}
    except NvmlUnavailable as error:
        raise LaunchFailed(f"initialization error: nvml error: {error}") from error
    for uuid in uuids:
        if uuid not in known:
            raise LaunchFailed(f"device error: {uuid}: unknown device")
        if known[uuid].health is Health.LOST or known[uuid].device_minor < 0:
            raise LaunchFailed(f"detection error: nvml error: {uuid}: gpu is lost")
    nodes = [f"/dev/nvidia{known[uuid].device_minor}" for uuid in uuids]
    environment = {
        "NVIDIA_VISIBLE_DEVICES": ",".join(uuids),
        "CUDA_VISIBLE_DEVICES": ",".join(uuids),
    }
    if settings.simulated_gpus:
        _simulate_state(settings, uuids, draft / SIMULATED)
        return _simulated(settings, nodes, environment, folder / SIMULATED)
    for node in nodes:
        if not Path(node).is_char_device():
            raise LaunchFailed(f"device error: {node} is missing on this host")
    present = [node for node in CONTROL_NODES if Path(node).is_char_device()]
    return GpuPassage(tuple((node, node) for node in (*nodes, *present)), (), environment)


def device_rules(nodes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Rules of the v1 device controller for these nodes."""
    rules = []
    for source, _ in nodes:
        number = Path(source).stat().st_rdev
        rules.append(f"c {number >> 8 & 0xFFF}:{number & 0xFF | number >> 12 & 0xFFF00} rwm")
    return tuple(dict.fromkeys(rules))


def _simulate_state(settings: Settings, uuids: tuple[str, ...], own: Path) -> None:
    """Write a state file that lists only these GPUs."""
    own.mkdir(mode=0o755)
    state = Path(settings.nvml_library).resolve().parent.parent / "state"
    lines = state.read_text(encoding="utf-8").splitlines()
    kept = [
        line
        for line in lines
        if line.startswith("driver\t") or any(f"={uuid}\t" in f"{line}\t" for uuid in uuids)
    ]
    (own / "state").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (own / "state").chmod(0o644)


def _simulated(
    settings: Settings, nodes: Sequence[str], environment: dict[str, str], own: Path
) -> GpuPassage:
    library = Path(settings.nvml_library).resolve()
    return GpuPassage(
        nodes=tuple(("/dev/null", node) for node in (*nodes, *CONTROL_NODES[:2])),
        files=((str(own), SIMULATION_FOLDER), (str(library.parent), "/run/nvidia/lib")),
        environment={
            **environment,
            # /usr is the host's and read-only, so the library cannot stand where a real one does.
            "LD_LIBRARY_PATH": "/run/nvidia/lib",
            "DCLOUD_SIMGPU_STATE": f"{SIMULATION_FOLDER}/state",
        },
    )
