"""What ``dcloud doctor`` looks at, in the order it is shown."""

from __future__ import annotations

from hub_services.cli import checks_deployment as deployment
from hub_services.cli import checks_machine as machine
from hub_services.cli.doctor import Check

CHECKS: tuple[Check, ...] = (
    machine.check_versions,
    machine.check_engine,
    machine.check_cgroups,
    machine.check_gpus,
    machine.check_gpu_passing,
    machine.check_disk,
    machine.check_mounts,
    deployment.check_state,
    deployment.check_secrets,
    deployment.check_proxy,
    deployment.check_database,
    deployment.check_storage,
    deployment.check_profiles,
    deployment.check_programs,
)
