"""The bubblewrap command of a sandbox: pure functions of what the host has and what is asked.

Only what is listed is visible inside: the host's system folders and the hub's Python, read-only;
a /tmp, a home and a /dev of its own. Everything else of the host (other homes, /run with the
engine's socket, /var, the state folder, the checkout) simply is not there.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcloud_spawner.engines.base import Mount

UID = 1000
HOME = "/home/dcloud"
"""Where a home is mounted: the same place as in the images."""
USER = "dcloud"
SYSTEM_FOLDERS = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Of the root folder: programs, libraries, and the settings both need. Nobody's data."""

PASSWD = (
    "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
GROUP = f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n"

USUAL_DEVICES = (
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)
"""What the v1 device controller lets through besides the leased GPUs."""


@dataclass(frozen=True)
class HostView:
    """What of this host a sandbox may see."""

    bwrap: str
    setpriv: str
    """Empty when we are not root: bwrap then maps the one user we are."""
    python: str
    system: tuple[tuple[str, str], ...]
    """(path, link target or empty): /usr and /etc are folders, /bin often a link to usr/bin."""
    python_folders: tuple[tuple[str, str], ...]
    """(real folder, path it is seen at): the hub's environment and what it stands on."""
    hidden_folders: tuple[str, ...]
    """Folders that lie inside a visible one and must not be seen."""
    hidden_files: tuple[str, ...]
    resolver: str
    """Where /etc/resolv.conf really is, when that is elsewhere."""


@dataclass(frozen=True)
class SandboxView:
    """What one sandbox sees of its own."""

    tmp: str
    passwd: str
    group: str
    mounts: tuple[Mount, ...]
    device_nodes: tuple[tuple[str, str], ...]
    """(node of the host, path inside)."""
    files: tuple[tuple[str, str], ...]
    """(file or folder of the host, path inside), read-only."""
    cgroup: tuple[tuple[str, str], ...]
    """(own group's folder, path inside), read-only, so that programs see their own limits."""
    shm_bytes: int


def look_at_host(state: Path, secret_files: Iterable[Path]) -> HostView:
    """What this machine has, looked up once per launch because administrators change it."""
    root = os.geteuid() == 0
    system: list[tuple[str, str]] = []
    for name in SYSTEM_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            system.append((str(path), os.readlink(path)))
        elif path.is_dir():
            system.append((str(path), ""))
    pythons = python_folders()
    visible = [Path(path) for path, _ in system] + [Path(path) for _, path in pythons]
    resolver = Path("/etc/resolv.conf").resolve()
    return HostView(
        bwrap=shutil.which("bwrap") or "bwrap",
        setpriv=(shutil.which("setpriv") or "setpriv") if root else "",
        python=sys.executable,
        system=tuple(system),
        python_folders=tuple(pythons),
        hidden_folders=tuple(
            str(path) for path in [state.resolve()] if path.is_dir() and _inside(path, visible)
        ),
        hidden_files=tuple(
            str(path.resolve())
            for path in secret_files
            if path.is_file() and _inside(path.resolve(), visible)
        ),
        resolver=str(resolver) if resolver.is_file() and not _inside(resolver, visible) else "",
    )


def bwrap_arguments(host: HostView, sandbox: SandboxView) -> tuple[str, ...]:
    """The whole command up to the interpreter that loads the user's command."""
    return (
        host.bwrap,
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
        *("--die-with-parent", "--new-session"),
        *_system(host),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(sandbox.shm_bytes), "--perms", "1777", "--tmpfs", "/dev/shm"),
        *_own(sandbox),
        *_interpreter(host),
        *("--remount-ro", "/", "--chdir", _home(sandbox.mounts)),
        *_unprivileged(host),
        host.python,
    )


def default_environment(host: HostView, mounts: Sequence[Mount]) -> dict[str, str]:
    """What an image would set; the spec's own variables win over these."""
    home = _home(mounts)
    return {
        "HOME": home,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PATH": f"{Path(host.python).parent}:{home}/.local/bin:/usr/local/bin:/usr/bin:/bin",
        "JUPYTER_RUNTIME_DIR": "/tmp/jupyter-runtime",
    }


def default_command(host: HostView) -> tuple[str, ...]:
    """What an image would run: the single-user server of the hub's own environment."""
    return (host.python, "-m", "jupyterhub.singleuser")


def _system(host: HostView) -> list[str]:
    arguments: list[str] = []
    for path, link in host.system:
        arguments += ["--symlink", link, path] if link else ["--ro-bind", path, path]
    arguments += ["--ro-bind", "/sys", "/sys", "--tmpfs", "/sys/fs/cgroup"]
    for path in ("/run", "/var/tmp", "/var/lib", "/var/cache", "/var/log"):
        arguments += ["--dir", path]
    arguments += ["--symlink", "/run", "/var/run"]
    for path in host.hidden_folders:
        arguments += ["--tmpfs", path]
    for path in host.hidden_files:
        arguments += ["--ro-bind", "/dev/null", path]
    if host.resolver:
        arguments += _bind("--ro-bind", host.resolver, host.resolver)
    return arguments


def _interpreter(host: HostView) -> list[str]:
    """After /tmp, which a checkout in /tmp would otherwise disappear under."""
    return [
        word
        for source, target in host.python_folders
        for word in _bind("--ro-bind", source, target)
    ]


def _bind(option: str, source: str, target: str) -> list[str]:
    """A bind, and the folders above it: by itself bwrap makes those for root's eyes only."""
    above = [str(folder) for folder in reversed(PurePosixPath(target).parents)]
    return [word for folder in above[1:] for word in ("--dir", folder)] + [option, source, target]


def _own(sandbox: SandboxView) -> list[str]:
    arguments = ["--bind", sandbox.tmp, "/tmp", "--bind", sandbox.tmp, "/var/tmp"]
    arguments += ["--ro-bind", sandbox.passwd, "/etc/passwd"]
    arguments += ["--ro-bind", sandbox.group, "/etc/group"]
    for source, target in sandbox.cgroup:
        arguments += _bind("--ro-bind", source, target)
    arguments += ["--remount-ro", "/sys/fs/cgroup"]
    for mount in sandbox.mounts:
        option = "--ro-bind" if mount.read_only else "--bind"
        arguments += _bind(option, mount.source, mount.target)
    for source, target in sandbox.device_nodes:
        arguments += _bind("--dev-bind", source, target)
    for source, target in sandbox.files:
        arguments += _bind("--ro-bind", source, target)
    return arguments


def _unprivileged(host: HostView) -> list[str]:
    """Lose every right, and the way to any other."""
    if not host.setpriv:
        # A user namespace with the one user we are, under the number users have everywhere.
        return [
            *("--unshare-user", "--uid", str(UID), "--gid", str(UID)),
            *("--disable-userns", "--cap-drop", "ALL", "--"),
        ]
    return [
        *("--", host.setpriv, "--reuid", str(UID), "--regid", str(UID), "--clear-groups"),
        *("--inh-caps", "-all", "--ambient-caps", "-all", "--bounding-set", "-all"),
        *("--no-new-privs", "--"),
    ]


def _home(mounts: Sequence[Mount]) -> str:
    return next((mount.target for mount in mounts if not mount.read_only), "/tmp")


def python_folders() -> list[tuple[str, str]]:
    """The environment we run in, and every link its interpreter is reached through."""
    wanted = [Path(sys.prefix), Path(sys.base_prefix)]
    wanted += [path.resolve() for path in wanted]
    step = Path(sys.executable)
    while step.is_symlink():
        step = Path(os.path.normpath(step.parent / os.readlink(step)))
        wanted.append(step)
    shown = [Path("/", name) for name in SYSTEM_FOLDERS]
    folders: list[tuple[str, str]] = []
    for path in sorted(set(wanted)):
        if path != Path("/") and not _inside(path, shown):
            folders.append((str(path.resolve()), str(path)))
            shown.append(path)
    return folders


def _inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)
