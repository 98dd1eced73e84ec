"""Simulated GPUs for a trial without hardware: which settings make the platform use them.

They exist only at the NVML library and the OCI runtime (``tests/simgpu``), built on this machine.
"""

from __future__ import annotations

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli import machine
from hub_services.cli.deployment import Deployment
from hub_services.cli.machine import Say

FORGOTTEN = (
    "DCLOUD_NVML_LIBRARY",
    "DCLOUD_SIMULATED_GPUS",
    "DCLOUD_GPU_PASSING",
    "DCLOUD_GPU_RUNTIME",
)


def simulated_variables(
    deployment: Deployment, engine: str, count: int, say: Say
) -> dict[str, str]:
    """Build and register ``count`` simulated GPUs; the variables that make programs use them.

    An empty value is a variable to forget: with 0, after simulated ones, the real driver is
    asked again. Raises ConfigurationError when they cannot be built.
    """
    if not count:
        return dict.fromkeys(FORGOTTEN, "") if deployment.simulated_gpus else {}
    try:
        from tests.simgpu import simgpu
    except ImportError as error:
        raise ConfigurationError("Simulated GPUs need the checkout, with tests/simgpu.") from error
    if machine.missing(["gcc"]):
        machine.install(["gcc", "libc6-dev"], say)
    if engine == "docker" and not machine.is_root():
        raise ConfigurationError(
            "Simulated GPUs on Docker are a runtime of the engine, which only root may register. "
            "Run: sudo make up ARGS='--simulated-gpus N', or use the sandbox: DCLOUD_ENGINE=sandbox"
        )
    folder = deployment.state / "simgpu"
    simulation = simgpu.Simulation(folder)
    try:
        if not simulation.state.exists() or len(simulation.uuids()) != count:
            say(f"building {count} simulated GPUs")
            simulation = simgpu.build(folder, count, busy=True)
        if engine == "docker":
            simgpu.register_docker_runtime(simulation)
    except simgpu.SimulationError as error:
        raise ConfigurationError(str(error)) from error
    return simgpu.settings_environment(simulation)
