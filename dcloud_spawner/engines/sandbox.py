"""The sandbox: bubblewrap and control groups on this host, for machines without Docker.

No daemon: every sandbox has a small supervisor of its own (sandbox_supervisor.py) that outlives
the hub, and a folder of files (sandbox_records.py) that says what was asked and what happened.
docs/sandbox.md tells what this isolates and what it does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dcloud_spawner.engines.base import (
    LABEL_ACCELERATORS,
    LABEL_KIND,
    LABEL_USER,
    LABEL_WORKLOAD,
    BeforeRemoval,
    ContainerFacts,
    ContainerSpec,
    Engine,
    Mount,
    NodeFacts,
    Phase,
)
from dcloud_spawner.engines.cgroups import Cgroup, CgroupTree, find_tree
from dcloud_spawner.engines.local_node import LocalNode
from dcloud_spawner.engines.sandbox_command import (
    default_command,
    default_environment,
    look_at_host,
)
from dcloud_spawner.engines.sandbox_folders import SandboxFolders
from dcloud_spawner.engines.sandbox_gpus import ExtraBinds, offered, pass_gpus
from dcloud_spawner.engines.sandbox_homes import SandboxHomes
from dcloud_spawner.engines.sandbox_plan import furnish, make_plan
from dcloud_spawner.engines.sandbox_ports import (
    ADDRESS,
    choose_port,
    listens_alone,
    port_lock,
    with_port,
)
from dcloud_spawner.engines.sandbox_records import (
    Plan,
    Record,
    SandboxFolder,
    plan_cgroup,
    still_running,
    wait_until_gone,
)
from dcloud_spawner.engines.sandbox_start import start_supervisor
from dcloud_spawner.engines.sandbox_use import SandboxUse
from dcloud_spawner.engines.use import Use
from dcloud_spawner.errors import EngineError, EngineUnreachable
from dcloud_spawner.settings import Settings, config_file

log = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""How long killed processes may take to go; longer means one hangs in the kernel."""
LOG_TAIL_BYTES = 1 << 20


class SandboxEngine(Engine):
    """Sandboxes on this host. ``extra_binds`` says what else, by GPU UUIDs, is bound read-only."""

    name = "sandbox"
    weaker_isolation = (
        "Sandboxes share this host's kernel and network: other users' servers on this machine "
        "can be reached and are guarded by their tokens alone. Files, processes, memory and GPUs "
        "are kept apart."
    )

    def __init__(self, settings: Settings, extra_binds: ExtraBinds | None = None) -> None:
        self._settings = settings
        self._node = LocalNode(settings.nvml_library)
        self._extra_binds = extra_binds
        self._state = settings.state.absolute()
        self._folders = SandboxFolders(self._state / "sandboxes")
        self._homes = SandboxHomes(self._state / "homes")
        self._use = SandboxUse(self._folders)
        self._tree: CgroupTree | None = None
        self._tried = False

    # -- the host --------------------------------------------------------------------------------

    def ping(self) -> None:
        if self._tried:
            return
        needed = ["bwrap", "setpriv"] if os.geteuid() == 0 else ["bwrap"]
        for program in needed:
            if shutil.which(program) is None:
                raise EngineUnreachable(
                    f"{program} is missing: apt-get install bubblewrap util-linux"
                )
        command = ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "true"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        except subprocess.CalledProcessError as error:
            raise EngineUnreachable(
                f"bubblewrap cannot make namespaces here: {error.stderr.decode().strip()}"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineUnreachable(f"bubblewrap does not run: {error}") from error
        self._tried = True

    @property
    def limits_enforced(self) -> frozenset[str]:
        """Which of memory, cpu, pids, devices the kernel enforces for sandboxes made now."""
        group = self._cgroups().group("any")
        return group.enforced if group else frozenset()

    @property
    def limits_note(self) -> str:
        """What is weaker because a limit is missing, for ``dcloud doctor``; empty when all hold."""
        tree = self._cgroups()
        missing = sorted({"memory", "cpu", "pids"} - self.limits_enforced)
        if not missing:
            return ""
        return f"Sandboxes run without a limit of {', '.join(missing)} ({tree.reason})."

    def remove_groups(self) -> None:
        """Remove the deployment's own control groups, once it has no sandboxes any more."""
        self._cgroups().remove()
        self._tree = None

    def _cgroups(self) -> CgroupTree:
        # A tree without groups is asked again: an administrator may just be delegating one.
        if self._tree is None or not self._tree.parents:
            self._tree = find_tree(self._settings.deployment)
        return self._tree

    def inventory(self) -> tuple[NodeFacts, ...]:
        self.ping()
        node = self._node.facts()
        return (replace(node, accelerators=offered(node.accelerators)),)

    def has_image(self, image: str) -> bool:
        """Any image is accepted: a sandbox has one, this host's own programs and Python."""
        return True

    def hub_address(self) -> str:
        return ADDRESS

    # -- sandboxes -------------------------------------------------------------------------------

    def observe(self, workload_id: str | None = None) -> tuple[ContainerFacts, ...]:
        found = []
        for folder in self._folders.all():
            # Another process may remove a sandbox while we read it: then it is gone.
            with contextlib.suppress(FileNotFoundError):
                plan = folder.read_plan()
                if workload_id in (None, plan.labels.get(LABEL_WORKLOAD)):
                    found.append(self._facts(folder, plan))
        return tuple(found)

    def launch(self, spec: ContainerSpec) -> ContainerFacts:
        self.ping()
        folder = self._folders.named(spec.name)
        self._end(folder, 0)
        host = look_at_host(self._state, (config_file(),))
        mounts = self._homes.checked(self._homes.linked(spec.mounts))
        with self._folders.draft() as draft:
            self._homes.give(furnish(draft))
            gpus = pass_gpus(self._settings, spec.accelerators, draft.path, folder.path)
            extra = self._extra_binds(spec.accelerators) if self._extra_binds else ()
            tree = self._cgroups()
            with port_lock(self._folders.root):
                port = choose_port(spec.port, self._taken_ports())
                plan = make_plan(
                    replace(spec, mounts=mounts, port=port), host, gpus, extra, tree, folder
                )
                draft.write_plan(plan)
                self._folders.publish(draft, folder)
            environment = {
                **default_environment(host, mounts),
                **with_port(spec.environment, port),
                **(gpus.environment or {}),
            }
            try:
                start_supervisor(
                    folder,
                    spec.command or default_command(host),
                    environment,
                    self._settings.engine_timeout_seconds,
                )
                return self._facts(folder, plan)
            except BaseException:
                self._end_locked(folder, 0)
                raise

    def stop(
        self, workload_id: str, grace_seconds: int, before_removal: BeforeRemoval | None = None
    ) -> ContainerFacts | None:
        last: ContainerFacts | None = None
        for folder in self._folders.all():
            try:
                wanted = folder.read_plan().labels.get(LABEL_WORKLOAD) == workload_id
            except FileNotFoundError:
                continue
            facts = self._end(folder, grace_seconds, before_removal) if wanted else None
            if facts is not None and (last is None or facts.started_at):
                last = facts
        return last

    def _end(
        self,
        folder: SandboxFolder,
        grace_seconds: float,
        before_removal: BeforeRemoval | None = None,
    ) -> ContainerFacts | None:
        """End a sandbox and remove all of it; None when there is none."""
        patience_seconds = self._settings.engine_timeout_seconds + grace_seconds
        with self._folders.locked(folder, patience_seconds) as present:
            return self._end_locked(folder, grace_seconds, before_removal) if present else None

    def _end_locked(
        self,
        folder: SandboxFolder,
        grace_seconds: float,
        before_removal: BeforeRemoval | None = None,
    ) -> ContainerFacts:
        plan, cgroup = folder.read_plan(), plan_cgroup(folder.read_plan())
        record = folder.read_record()
        ran = still_running(plan, record, cgroup)
        if ran and record is not None:
            _terminate(record, cgroup, grace_seconds)
            if still_running(plan, record, cgroup):
                raise EngineError(f"Processes of {plan.name} cannot be ended.")
        facts = self._facts(folder, plan)
        if ran and (record := folder.read_record()) is not None and record.finished_at is None:
            facts = replace(facts, finished_at=datetime.now(UTC))  # we ended it, just now
        facts = replace(facts, phase=Phase.ENDED)
        if before_removal is not None:
            before_removal(facts)
        if cgroup is not None:
            try:
                cgroup.remove()
            except OSError as error:
                raise EngineError(f"The group of {plan.name} stays: {error}") from error
        self._folders.remove(folder)
        return facts

    def measure(self) -> Use:
        return Use(self._use.sandboxes(), self._node.use())

    def logs(self, workload_id: str, lines: int = 200) -> str:
        for folder in self._folders.all():
            with contextlib.suppress(FileNotFoundError):
                if folder.read_plan().labels.get(LABEL_WORKLOAD) == workload_id:
                    text = _tail(folder.old_log) + _tail(folder.log)
                    return "\n".join(text.decode("utf-8", "replace").splitlines()[-lines:])
        return ""

    def update_limits(self, workload_id: str, *, memory_bytes: int, cpu_millicores: int) -> None:
        for facts in self.observe(workload_id):
            cgroup = plan_cgroup(self._folders.named(facts.name).read_plan())
            if facts.phase is Phase.ALIVE and cgroup is not None:
                try:
                    cgroup.update(memory_bytes, cpu_millicores)
                except OSError as error:
                    raise EngineError(f"The limits cannot be changed: {error}") from error

    def owns_its_port(self, workload_id: str) -> bool:
        """Whether the server that answers at a workload's address is the workload's own.

        Sandboxes share the host's network, so another user's program may have taken the port
        between its choice and the server's start. Ask once the server answers, before any
        user is sent there.
        """
        for facts in self.observe(workload_id):
            folder = self._folders.named(facts.name)
            record = folder.read_record()
            if facts.phase is Phase.ALIVE and record is not None and record.init is not None:
                return listens_alone(record.init.pid, folder.read_plan().port)
        return False

    # -- homes -----------------------------------------------------------------------------------

    def ensure_home(self, home: str) -> Mount:
        return self._homes.ensure(home)

    def homes(self) -> Mapping[str, int]:
        return self._homes.sizes(self._settings.engine_timeout_seconds)

    def purge_home(self, home: str) -> None:
        path = str(self._homes.path(home))
        for folder in self._folders.all():
            with contextlib.suppress(FileNotFoundError):
                plan = folder.read_plan()
                if path in plan.writable_folders and self._phase(folder, plan) is not Phase.ENDED:
                    raise EngineError(f"{home} is in use by {plan.name}.")
        self._homes.purge(home)

    # -- what is ---------------------------------------------------------------------------------

    def _facts(self, folder: SandboxFolder, plan: Plan) -> ContainerFacts:
        phase = self._phase(folder, plan)
        record = folder.read_record()
        cgroup = plan_cgroup(plan)
        ended = record if phase is Phase.ENDED else None
        finished_at = ended.finished_at if ended else None
        if ended is not None and finished_at is None:
            # Its supervisor was killed, or the machine went down: the last moment known alive.
            finished_at = folder.last_beat() or ended.started_at
        labels = plan.labels
        return ContainerFacts(
            ref=str(folder.path),
            name=plan.name,
            workload_id=labels.get(LABEL_WORKLOAD, ""),
            user=labels.get(LABEL_USER, ""),
            kind=labels.get(LABEL_KIND, ""),
            accelerators=tuple(filter(None, labels.get(LABEL_ACCELERATORS, "").split(","))),
            phase=phase,
            devices=plan.devices,
            started_at=record.started_at if record else None,
            finished_at=finished_at,
            exit_code=ended.exit_code if ended else None,
            oom_killed=bool((record and record.oom_killed) or (cgroup and cgroup.oom_kills() > 0)),
            url=plan.url if phase is Phase.ALIVE else "",
        )

    def _phase(self, folder: SandboxFolder, plan: Plan) -> Phase:
        record = folder.read_record()
        if record is None:
            return Phase.CREATED if self._folders.is_locked(folder) else Phase.ENDED
        if not still_running(plan, record, plan_cgroup(plan)):
            return Phase.ENDED
        if not record.supervisor.alive():
            folder.beat()  # nobody else does: what is left over was alive now
        return Phase.ALIVE if record.started_at else Phase.CREATED

    def _taken_ports(self) -> set[int]:
        taken = set()
        for folder in self._folders.all():
            with contextlib.suppress(FileNotFoundError):
                taken.add(folder.read_plan().port)
        return taken


def _terminate(record: Record, cgroup: Cgroup | None, grace_seconds: float) -> None:
    """Ask, wait, kill. The caller looks whether anything is left."""
    if grace_seconds > 0:
        record.supervisor.send(signal.SIGTERM)  # which passes it on to the user's command
        wait_until_gone(record.supervisor, grace_seconds)
    if cgroup is not None:
        cgroup.kill(KILL_SECONDS)
    if record.init is not None:
        record.init.send(signal.SIGKILL)
    # The supervisor now writes how it ended; one that does not (stopped, say) must go as well.
    if not wait_until_gone(record.supervisor, 5.0):
        record.supervisor.send(signal.SIGKILL)
        wait_until_gone(record.supervisor, KILL_SECONDS)
    if record.init is not None:
        wait_until_gone(record.init, KILL_SECONDS)


def _tail(file: Path) -> bytes:
    try:
        with open(file, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_TAIL_BYTES))
            return stream.read()
    except FileNotFoundError:
        return b""
