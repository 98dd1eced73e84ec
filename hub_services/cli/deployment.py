"""One deployment on this machine: its settings, its folders, and what the last ``up`` was told.

``dcloud status`` must speak of the same deployment as the ``dcloud up`` before it, even from
another shell. So ``up`` writes the ``DCLOUD_*`` variables it saw into the state folder, and
every command reads them back; a variable set in the present shell wins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.settings import Settings, config_file, load_settings
from hub_services.cli.files import write_private

CHECKOUT = Path(__file__).resolve().parents[2]
"""Where jupyterhub_config.py, profiles/ and images/ are."""

_NOT_REMEMBERED = {"DCLOUD_STATE", "DCLOUD_PROGRAM", "DCLOUD_CI", "DCLOUD_TEST_DATABASE"}
_SOCKET_PATH_LIMIT = 100
"""Linux allows 107 bytes for the path of a Unix socket; supervisord adds a suffix of its own."""


@dataclass(frozen=True)
class Deployment:
    """Settings and paths."""

    settings: Settings
    remembered: Mapping[str, str]
    """Variables of the last ``up``."""
    recalled: frozenset[str] = frozenset()
    """Those of them that the present shell did not set itself."""

    @property
    def state(self) -> Path:
        """The state folder, absolute."""
        return self.settings.state.absolute()

    @property
    def run_dir(self) -> Path:
        """Sockets, process ids and the generated supervisord configuration."""
        return self.state / "run"

    @property
    def socket(self) -> Path:
        """supervisord's socket; in /tmp when the state folder's path is too long for one."""
        usual = self.run_dir / "supervisor.sock"
        if len(str(usual)) <= _SOCKET_PATH_LIMIT:
            return usual
        name = hashlib.sha256(str(self.state).encode()).hexdigest()[:16]
        return Path(f"/tmp/dcloud-{os.getuid()}") / f"{name}.sock"

    @property
    def cache(self) -> Path:
        """Folder for what can be made again: node modules and builds."""
        return cache_dir()

    @property
    def engine_was_chosen(self) -> bool:
        """Whether ``up`` chose the engine, and nobody named it."""
        return "DCLOUD_ENGINE" in self.recalled and not self.remembered.get(ENGINE_WISH)

    @property
    def simulated_gpus(self) -> int:
        """How many GPUs ``up --simulated-gpus`` asked for; 0 for real ones."""
        return int(self.remembered.get(SIMULATED, "0") or 0)

    def make_folders(self) -> None:
        """State, secrets, logs and run folders, each 0700 from its first moment."""
        for folder in (
            self.state,
            self.settings.secrets_dir,
            self.settings.logs_dir,
            self.run_dir,
            self.socket.parent,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            in_tmp = folder.parent == Path("/tmp")  # where others may have been first
            if folder.stat().st_uid != os.getuid() or (in_tmp and folder.is_symlink()):
                raise ConfigurationError(f"{folder} belongs to another user.")
            folder.chmod(0o700)


SIMULATED = "DCLOUD_UP_SIMULATED_GPUS"
ENGINE_WISH = "DCLOUD_UP_ENGINE"
"""Remembered with the settings, but read by ``dcloud up`` alone: how many simulated GPUs, and
which engine the shell asked for before one was chosen."""


def cache_dir() -> Path:
    """``$DCLOUD_CACHE``, else ``.cache`` in the checkout."""
    return Path(os.environ.get("DCLOUD_CACHE") or CHECKOUT / ".cache").expanduser().absolute()


def anchor() -> None:
    """Make relative paths mean the same from everywhere, and go to the checkout.

    ``DCLOUD_STATE`` and ``DCLOUD_CONFIG`` are relative to where one stands, paths in
    ``dcloud.toml`` and the defaults to the checkout.
    """
    for name in ("DCLOUD_STATE", "DCLOUD_CONFIG", "DCLOUD_CACHE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    os.chdir(CHECKOUT)


def open_deployment(*, forget: bool = False) -> Deployment:
    """Read settings with what the last ``up`` was told; raises ConfigurationError.

    ``forget`` leaves out what was remembered.
    """
    state = load_settings().state.absolute()
    remembered = {} if forget else recall(state)
    recalled = frozenset(remembered) - set(os.environ)
    os.environ.update({name: remembered[name] for name in recalled})
    os.environ["DCLOUD_STATE"] = str(state)
    return Deployment(load_settings(state=state), remembered, recalled)


def present_variables() -> dict[str, str]:
    """The ``DCLOUD_*`` variables of this shell that programs and later commands need."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("DCLOUD_") and name not in _NOT_REMEMBERED
    }
    if config_file().exists():
        found["DCLOUD_CONFIG"] = str(config_file().absolute())
    return found


def recall(state: Path) -> dict[str, str]:
    """The variables of the last ``up`` on this state folder; empty before the first."""
    path = state / "run" / "environment.json"
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        stored = json.loads(text)
        return {str(name): str(value) for name, value in stored.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(f"{path} is damaged; remove it and run `dcloud up`.") from error


def remember(state: Path, variables: Mapping[str, str]) -> None:
    """Write the variables for later commands; 0600, as a URL may hold a password."""
    write_private(state / "run" / "environment.json", json.dumps(dict(variables), indent=1))
