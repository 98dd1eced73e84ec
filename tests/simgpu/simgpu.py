"""Simulated GPUs, for tests and for `dcloud up --simulated-gpus N`.

A GPU is simulated at exactly two places, both built on this machine: the driver's library
(nvml.c) and the OCI runtime (runtime.sh, runtime.py). All else, the engine, the scheduler, the
containers and pynvml inside them, is the real thing.

    gpus = build(folder, 4)                      # library, runtime and state file
    register_docker_runtime(gpus)                # dockerd learns the runtime, without a restart
    os.environ.update(settings_environment(gpus))
    set_health(gpus, gpus.uuids()[0], "ecc")     # seen at once, on the host and in containers

Build one with its own folder: its runtime then has its own name, and two simulations on one
engine do not see each other.

The state file has one line a device, fields separated by tabs:

    driver  version=550.54.15  cuda=12040  init=0  hang=0
    gpu     uuid=GPU-..  minor=0  bus=00000000:01:00.0  model=..  memory=BYTES  used=BYTES
            health=ok  utilization=0  temperature=34  power_mw=70000  mig=0  pids=PID:BYTES,..
            busy=0  energy_mj=MILLIJOULES
    mig     uuid=MIG-..  parent=GPU-..  model=..  memory=BYTES  gi=1  ci=0  pids=..

`busy=1`: load, memory, power and temperature move with the time as if a model were trained.
`energy_mj` counts by itself where it is absent; `none`, as of power_mw: not supported.
`init` is what nvmlInit returns (9: driver not loaded), `hang=1` a driver that never returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEALTHS = ("ok", "ecc", "remap-pending", "remap-failed", "retire-pending", "dying", "lost")
"""``dying``: still named by the driver, every other question fails as lost.
``lost``: the driver does not even give a handle, so its UUID cannot be asked."""

MODEL = "NVIDIA H100 80GB HBM3"
MEMORY_BYTES = 80 * 1024**3
STATE_IN_CONTAINER = "/run/dcloud-simgpu/state"
DAEMON_CONFIG = Path("/etc/docker/daemon.json")
RUNTIME_PREFIX = "dcloud-simgpu-"
DOCKER_PID = Path("/var/run/docker.pid")
DOCKER_SOCKET = Path("/var/run/docker.sock")
HOOK = "nvidia-container-runtime-hook"
HOOK_REGISTRY = Path("/run/dcloud-simgpu.d")
"""Links to the simulations that hook.py serves."""


class SimulationError(Exception):
    """The simulation cannot be built or registered; the text says what is missing."""


@dataclass(frozen=True)
class Mig:
    """One MIG instance to simulate."""

    uuid: str
    model: str = MODEL + " MIG 1g.10gb"
    memory_bytes: int = 10 * 1024**3


@dataclass(frozen=True)
class Gpu:
    """One GPU to simulate. With ``mig`` not None it is in MIG mode."""

    uuid: str
    model: str = MODEL
    memory_bytes: int = MEMORY_BYTES
    health: str = "ok"
    mig: tuple[Mig, ...] | None = None


@dataclass(frozen=True)
class Simulation:
    """Where one simulation lives. All paths are absolute."""

    folder: Path

    @property
    def library(self) -> Path:
        """libnvidia-ml.so.1 for processes on the host (DCLOUD_NVML_LIBRARY)."""
        return self.folder / "host" / "libnvidia-ml.so.1"

    @property
    def state(self) -> Path:
        """The state file of the host."""
        return self.folder / "state"

    @property
    def runtime(self) -> Path:
        """The OCI runtime."""
        return self.folder / "nvidia-container-runtime"

    @property
    def runtime_name(self) -> str:
        """The name under which dockerd knows the runtime."""
        return RUNTIME_PREFIX + hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]

    def uuids(self) -> tuple[str, ...]:
        """UUIDs of the GPUs, in the driver's order."""
        return tuple(fields["uuid"] for kind, fields in _read(self.state) if kind == "gpu")


def settings_environment(simulation: Simulation) -> dict[str, str]:
    """The DCLOUD_* variables that make DCloud use a simulation whose runtime is registered."""
    return {
        "DCLOUD_NVML_LIBRARY": str(simulation.library),
        "DCLOUD_SIMULATED_GPUS": "true",
        "DCLOUD_GPU_PASSING": "runtime",
        "DCLOUD_GPU_RUNTIME": simulation.runtime_name,
    }


def build(
    folder: Path | str,
    gpus: int | Sequence[Gpu] = 4,
    *,
    model: str = MODEL,
    busy: bool = False,
) -> Simulation:
    """Compile and write a simulation; done again, it replaces the state and keeps the rest.

    ``busy``: all GPUs look as if somebody trained a model on them. Needs gcc and runc. UUIDs of
    counted GPUs depend on the folder alone.
    """
    simulation = Simulation(Path(folder).resolve())
    if isinstance(gpus, int):
        name = str(simulation.folder)
        gpus = [
            Gpu(f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{name}#{n}')}", model) for n in range(gpus)
        ]
    (simulation.folder / "containers").mkdir(parents=True, exist_ok=True)
    # Containers read their own state as uid 1000.
    for path in (simulation.folder, simulation.folder / "containers"):
        path.chmod(0o755)
    _write_state(simulation, gpus, busy)
    _compile(simulation.library, str(simulation.state))
    _compile(
        simulation.folder / "container" / "libnvidia-ml.so.1", STATE_IN_CONTAINER, "-DNARROWED=1"
    )
    _install_runtime(simulation)
    return simulation


def _compile(target: Path, state_path: str, *more: str) -> None:
    if target.exists() and target.stat().st_mtime > (HERE / "nvml.c").stat().st_mtime:
        return
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_suffix(".new")
    command = [
        "gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        "-fvisibility=hidden", "-Wl,-soname,libnvidia-ml.so.1", f'-DSTATE_PATH="{state_path}"',
        *more, "-o", str(fresh), str(HERE / "nvml.c"),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SimulationError(
            "Simulated GPUs need a C compiler: apt-get install gcc libc6-dev"
        ) from None
    if done.returncode:
        raise SimulationError(f"The simulated NVML library does not compile:\n{done.stderr}")
    fresh.replace(target)


def _install_runtime(simulation: Simulation) -> None:
    runc = shutil.which("runc", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    # The system's own Python: it starts faster than one in a virtual environment, and stays.
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
    shutil.copy(HERE / "runtime.py", simulation.folder / "runtime.py")
    text = (HERE / "runtime.sh").read_text(encoding="utf-8")
    for word, value in (
        ("@PYTHON@", python),
        ("@HOME@", str(simulation.folder)),
        ("@RUNC@", runc or "/usr/sbin/runc"),
    ):
        text = text.replace(word, value)
    _replace(simulation.runtime, text, mode=0o755)


# ---------------------------------------------------------------------------- the state file


def set_health(simulation: Simulation, device: str, health: str) -> None:
    """Change one GPU's health, one of HEALTHS, on the host and in containers that have it."""
    if health not in HEALTHS:
        raise ValueError(f"{health!r} is not one of {HEALTHS}")
    _change(simulation, device, health=health)


def set_usage(
    simulation: Simulation,
    device: str,
    *,
    utilization_percent: int = 0,
    used_bytes: int = 0,
    processes: Sequence[tuple[int, int]] = (),
    power_milliwatts: int | None = 70_000,
    energy_millijoules: int | str | None = "",
) -> None:
    """Change what a GPU is doing; ``processes`` are (pid, bytes). None: the driver does not say;
    an empty energy counts by itself."""
    pids = ",".join(f"{pid}:{size}" for pid, size in processes)
    _change(
        simulation,
        device,
        utilization=str(utilization_percent),
        used=str(used_bytes),
        pids=pids,
        busy="0",
        power_mw="none" if power_milliwatts is None else str(power_milliwatts),
        energy_mj="none" if energy_millijoules is None else str(energy_millijoules),
    )


def set_driver(simulation: Simulation, *, init: int = 0, hang: bool = False) -> None:
    """Make nvmlInit return an NVML error code, or make every call hang for ever."""

    def change(kind: str, fields: dict[str, str]) -> None:
        if kind == "driver":
            fields.update(init=str(init), hang=str(int(hang)))

    _edit(simulation.state, change)


def _change(simulation: Simulation, device: str, **values: str) -> None:
    found = False

    def change(kind: str, fields: dict[str, str]) -> None:
        nonlocal found
        if fields.get("uuid") == device:
            found = True
            fields.update(values)

    _edit(simulation.state, change)
    if not found:
        raise KeyError(device)
    for state in simulation.folder.glob("containers/*/state"):
        try:
            _edit(state, change)
        except FileNotFoundError:
            continue  # the container went away meanwhile


def _write_state(simulation: Simulation, gpus: Sequence[Gpu], busy: bool) -> None:
    lines: list[tuple[str, dict[str, str]]] = [
        ("driver", {"version": "550.54.15", "cuda": "12040", "init": "0", "hang": "0"})
    ]
    for minor, gpu in enumerate(gpus):
        fields = {
            "uuid": gpu.uuid,
            "minor": str(minor),
            "bus": f"00000000:{minor + 1:02X}:00.0",
            "model": gpu.model,
            "memory": str(gpu.memory_bytes),
            "health": gpu.health,
            "temperature": "34",
            "power_mw": "70000",
            "mig": str(int(gpu.mig is not None)),
            "busy": str(int(busy)),
        }
        lines.append(("gpu", fields))
        for number, mig in enumerate(gpu.mig or ()):
            fields = {
                "uuid": mig.uuid,
                "parent": gpu.uuid,
                "model": mig.model,
                "memory": str(mig.memory_bytes),
                "gi": str(number + 1),
                "ci": "0",
            }
            lines.append(("mig", fields))
    _write(simulation.state, lines)


def _read(state: Path) -> list[tuple[str, dict[str, str]]]:
    lines = []
    for line in state.read_text(encoding="utf-8").splitlines():
        kind, *fields = line.split("\t")
        lines.append((kind, dict(field.partition("=")[::2] for field in fields)))
    return lines


def _write(state: Path, lines: Sequence[tuple[str, dict[str, str]]]) -> None:
    text = "".join(
        "\t".join([kind, *(f"{name}={value}" for name, value in fields.items())]) + "\n"
        for kind, fields in lines
    )
    _replace(state, text, mode=0o644)


def _edit(state: Path, change: Callable[[str, dict[str, str]], None]) -> None:
    with _locked(state.parent / "state.lock"):
        lines = _read(state)
        for kind, fields in lines:
            change(kind, fields)
        _write(state, lines)


def _replace(path: Path, text: str, *, mode: int) -> None:
    """Write a file whole or not at all; a reader sees the old or the new one."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(fresh, mode)
    os.replace(fresh, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------- dockerd


def register_docker_runtime(
    simulation: Simulation, name: str = "", *, timeout_seconds: float = 15.0
) -> str:
    """Tell the running dockerd of the runtime and wait until it lists it; returns the name.

    Other keys of daemon.json stay. Needs root. Registering twice is harmless; a name that
    belongs to another program is refused.
    """
    name = name or simulation.runtime_name
    path = str(simulation.runtime)
    with _daemon_config() as config:
        runtimes = config.setdefault("runtimes", {})
        assert isinstance(runtimes, dict)
        present = runtimes.get(name)
        if present is not None and present.get("path") != path:
            raise SimulationError(f"dockerd already has a runtime {name!r}: {present.get('path')}")
        runtimes[name] = {"path": path}
        for other in [key for key in runtimes if key.startswith(RUNTIME_PREFIX)]:
            if not os.path.exists(runtimes[other]["path"]):
                del runtimes[other]  # left by a run that was killed
    _reload(lambda known: name in known, timeout_seconds)
    return name


def unregister_docker_runtime(
    simulation: Simulation, name: str = "", *, timeout_seconds: float = 15.0
) -> None:
    """Take the runtime away again. Remove its containers first: dockerd needs it for that."""
    name = name or simulation.runtime_name
    with _daemon_config() as config:
        runtimes = config.get("runtimes")
        if not isinstance(runtimes, dict) or name not in runtimes:
            return
        del runtimes[name]
    _reload(lambda known: name not in known, timeout_seconds)


def install_docker_hook(simulation: Simulation, folder: Path) -> None:
    """Make device requests (``--gpus``) work on a dockerd whose PATH has ``folder``.

    dockerd looks for the program when it starts and never again. Needs root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / HOOK, (HERE / "hook.py").read_text(encoding="utf-8"), mode=0o755)
    HOOK_REGISTRY.mkdir(exist_ok=True)
    link = HOOK_REGISTRY / simulation.runtime_name
    link.unlink(missing_ok=True)
    link.symlink_to(simulation.folder)


def remove_docker_hook(simulation: Simulation) -> None:
    """The hook, wherever it is installed, knows these GPUs no more."""
    (HOOK_REGISTRY / simulation.runtime_name).unlink(missing_ok=True)


@contextmanager
def docker_gpus(folder: Path | str, gpus: int | Sequence[Gpu] = 4) -> Iterator[Simulation]:
    """A built simulation whose runtime dockerd knows, for the length of a test session."""
    simulation = build(folder, gpus)
    register_docker_runtime(simulation)
    try:
        yield simulation
    finally:
        unregister_docker_runtime(simulation)


@contextmanager
def _daemon_config() -> Iterator[dict[str, object]]:
    """daemon.json under a lock, so that two test runs do not lose each other's runtime."""
    DAEMON_CONFIG.parent.mkdir(parents=True, exist_ok=True)
    with _locked(Path("/run/dcloud-simgpu.lock")):
        text = DAEMON_CONFIG.read_text(encoding="utf-8") if DAEMON_CONFIG.exists() else "{}"
        config = json.loads(text or "{}")
        before = json.dumps(config)
        yield config
        if json.dumps(config) != before:
            _replace(DAEMON_CONFIG, json.dumps(config, indent=2) + "\n", mode=0o644)


def _reload(done: Callable[[Sequence[str]], bool], timeout_seconds: float) -> None:
    if done(docker_runtimes()):
        return
    os.kill(_dockerd(), signal.SIGHUP)
    deadline = time.monotonic() + timeout_seconds
    while not done(docker_runtimes()):
        if time.monotonic() > deadline:
            raise SimulationError("dockerd did not take up the new list of runtimes")
        time.sleep(0.05)


def _dockerd() -> int:
    """Process id of the machine's dockerd, by its pid file or by who listens on its socket."""
    candidates = []
    with contextlib.suppress(OSError, ValueError):
        candidates.append(int(DOCKER_PID.read_text(encoding="utf-8")))
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(DOCKER_SOCKET))
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        candidates.append(struct.unpack("3i", peer)[0])
    for pid in candidates:
        # A pid file can outlive its process and name another one.
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "dockerd":
                return pid
    raise SimulationError("dockerd is not to be found, and so cannot be told of a new runtime")


def docker_runtimes() -> tuple[str, ...]:
    """The runtimes dockerd knows now."""
    command = ["docker", "info", "--format", "{{json .Runtimes}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise SimulationError(f"dockerd does not answer: {done.stderr.strip()}")
    return tuple(json.loads(done.stdout) or ())
