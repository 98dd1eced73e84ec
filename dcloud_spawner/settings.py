"""The one typed settings model.

Sources, strongest first: ``DCLOUD_*`` environment variables, ``dcloud.toml``
in the working directory (or the file that ``DCLOUD_CONFIG`` names), defaults.
Every field is documented in ``docs/settings.md``; a test fails on one that is not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, IPvAnyNetwork, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.roles import DEFAULT_ROLES, STANDARD, RoleLimits, with_defaults

EngineName = Literal["auto", "docker", "sandbox"]
GpuPassing = Literal["device-request", "cdi", "runtime"]


def config_file() -> Path:
    """The TOML file that settings are read from; it need not exist."""
    return Path(os.environ.get("DCLOUD_CONFIG", "dcloud.toml"))


class Settings(BaseSettings):
    """All settings of a deployment. Field descriptions are the documentation."""

    model_config = SettingsConfigDict(env_prefix="DCLOUD_", extra="forbid", frozen=True)

    deployment: str = Field(
        "dcloud",
        pattern=r"^[a-z0-9][a-z0-9-]{0,30}$",
        description="Name of this deployment; on every container, network and volume it makes.",
    )
    state: Path = Field(
        Path(".dcloud"), description="State folder: database, secrets, homes, logs."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL; empty means SQLite in the state folder."
    )
    hub_database_url: str = Field(
        "", description="URL of JupyterHub's own database; empty means SQLite in the state folder."
    )
    profiles_dir: Path = Field(Path("profiles"), description="Folder of profile files.")
    images_dir: Path = Field(Path("images"), description="Folder of image recipes.")

    engine: EngineName = Field(
        "auto", description="docker, sandbox, or auto: docker when an engine answers."
    )
    engine_timeout_seconds: float = Field(
        60.0, gt=0, description="How long one call to the engine may take."
    )
    engine_workers: int = Field(
        16, ge=2, description="Threads for engine calls, so that one slow call blocks no other."
    )
    gpu_passing: GpuPassing = Field(
        "device-request",
        description="How GPUs reach a container: device request by UUID, CDI names, or the "
        "nvidia runtime.",
    )
    gpu_runtime: str = Field(
        "nvidia", description="OCI runtime to use when gpu_passing is runtime."
    )
    nvml_library: str = Field(
        "", description="Path of libnvidia-ml.so.1; empty means the loader's own search."
    )
    simulated_gpus: bool = Field(
        False, description="True when the NVML library is simulated; every page then says so."
    )

    host: str = Field("127.0.0.1", description="Address the proxy listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the proxy listens on.")
    hub_port: int = Field(8081, ge=1, le=65535, description="Port of the hub's own API.")
    proxy_api_port: int = Field(
        8001, ge=1, le=65535, description="Loopback port of the proxy's API."
    )
    web_port: int = Field(
        8082, ge=1, le=65535, description="Loopback port of the queue page and the API."
    )
    public_url: str = Field("", description="Address users see, if not http://HOST:PORT/.")

    storage_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@]+/?)?$",
        description="Address of an S3 server for datasets, without a path; empty means the small "
        "default that `dcloud up` starts on this machine.",
    )
    storage_bucket: str = Field(
        "dcloud",
        pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
        description="Bucket that holds everything; made when it is not there.",
    )
    storage_region: str = Field(
        "us-east-1", pattern=r"^[a-z0-9-]{1,32}$", description="Region of the S3 server."
    )
    storage_public_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@]+/?)?$",
        description="Where browsers and notebooks reach the same S3 server, without a path; empty "
        "means that uploads go through the hub's own address.",
    )
    storage_events_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where MinIO reaches the web service's /services/dcloud/storage/events to tell "
        "of every request; empty means by loopback, or by public_url when it is not on this host.",
    )
    storage_port: int = Field(
        8083, ge=1, le=65535, description="Loopback port of the small default storage."
    )
    storage_gate_port: int = Field(
        8084, ge=1, le=65535, description="Loopback port that lets uploads, and nothing else, in."
    )
    storage_gate_host: str = Field(
        "127.0.0.1", description="Address on which the gate for uploads listens."
    )
    storage_gate_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@]+/?)?$",
        description="Where browsers reach the gate itself, past the hub's proxy, without a path; "
        "empty means by the hub's own address.",
    )
    cache_gib: float = Field(
        100.0,
        ge=0,
        description="GiB of each host for copies of datasets that servers use; a larger dataset is "
        "read by stream.",
    )
    stream_cache_gib: float = Field(
        10.0, gt=0, description="GiB of a host for what was read of one dataset by stream."
    )
    project_storage_gib: float | None = Field(
        500.0,
        ge=0,
        description="GiB of datasets that each project may store; none: as much as there is.",
    )
    import_gib: float = Field(
        500.0, gt=0, description="GiB that one import of a dataset's files may bring at the most."
    )
    import_networks: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Networks inside, such as 10.1.2.0/24, from which files may be imported; else "
        "imports reach the public internet alone.",
    )
    dataset_bin_days: int = Field(
        30, ge=0, description="Days for which a deleted dataset can be brought back."
    )

    reserve_memory_gib: float = Field(
        2.0, ge=0, description="Memory of each node that is kept for the platform itself, GiB."
    )
    cpu_overcommit: float = Field(
        2.0, ge=1, le=64, description="CPU cores offered for each real core of a node."
    )
    concurrent_launches: int = Field(
        8, ge=1, description="Admitted workloads that may be starting at the same time."
    )
    launch_timeout_seconds: float = Field(
        120.0, gt=0, description="From admission to an answering server; waiting does not count."
    )
    stop_grace_seconds: int = Field(
        10, ge=0, description="Between the polite stop of a container and the kill."
    )
    servers_per_user: int = Field(
        5, ge=1, description="Named servers a user may have besides the default one."
    )
    pids_limit: int = Field(4096, ge=64, description="Processes and threads in one container.")
    shm_fraction: float = Field(
        0.5, gt=0, le=1, description="Share of a container's memory that /dev/shm may use."
    )
    disk_limit_gib: float = Field(
        0.0,
        ge=0,
        description="Writable layer of a container, GiB, where the storage driver can limit it; "
        "0 means measured and shown only.",
    )

    slack_cap_hours: float = Field(
        28.0, ge=0, description="The most that a request is due later because of its size."
    )
    slack_gpus: float = Field(
        6.0, gt=0, description="Size is asked hours x GPUs / this: the slack of a request in hours."
    )
    slack_bend_hours: float = Field(
        20.0, ge=0, description="Above this size the slack grows only each time the size doubles."
    )
    slack_doubling_hours: float = Field(
        1.0, ge=0, description="By so much the slack grows when a size above the bend doubles."
    )
    fair_cap_hours: float = Field(
        24.0,
        ge=0,
        description="The most that a request is due later because its user had much lately.",
    )
    share_half_life_days: float = Field(
        7.0, gt=0, description="After so many days, what somebody had counts half."
    )
    tiers: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: {"gold": 0.25, "silver": 0.5, "bronze": 1.0},
        description="Factor of the slack by tier; bronze is everybody's.",
    )
    tier_groups: dict[str, str] = Field(
        default_factory=dict, description="Tier by group; somebody in several has the best."
    )
    group_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Weight of a fair share by group, 1 otherwise; the largest of one's groups.",
    )
    reservation_unused_minutes: float = Field(
        15.0, gt=0, description="How long a reservation waits for the first of its people."
    )

    preemptible_tiers: tuple[str, ...] = Field(
        (),
        description="Tiers whose work may be stopped, with notice, when a request of a higher tier "
        "cannot start otherwise; none by default.",
    )
    preemption_notice_seconds: float = Field(
        120.0, ge=0, description="Between the notice and the stop of preempted work."
    )
    unused_minutes: float = Field(
        15.0,
        gt=0,
        description="A server that nobody has opened so long after it was ready is given back, "
        "and not charged beyond that.",
    )

    roles: Annotated[dict[str, RoleLimits], BeforeValidator(with_defaults)] = Field(
        default_factory=lambda: dict(DEFAULT_ROLES),
        description="Limits by role; one that is given here replaces the built-in one of its name, "
        "and what it leaves out has no limit.",
    )
    default_role: str = Field(STANDARD, description="Role of whoever is in no group that is one.")
    starts_per_minute: int = Field(
        30, ge=1, description="Servers that one user may start within a minute."
    )
    api_calls_per_minute: int = Field(
        600, ge=1, description="Calls of the API that one user may make within a minute."
    )

    personal_budget: Literal["none", "soft", "hard"] = Field(
        "none",
        description="What happens when a person's own account has nothing left: none only counts, "
        "soft lets servers go on last in line, hard stops them.",
    )
    personal_grant_credits: float = Field(
        0.0, ge=0, le=1e9, description="Credits that every new person gets; 0 means none."
    )
    personal_grant_every: Literal["once", "week", "month"] = Field(
        "once", description="How often everybody gets them."
    )
    personal_grant_carry_over: bool = Field(
        False, description="Whether what is left of a week or month is kept for the next."
    )
    budget_hold: Literal["hour", "asked"] = Field(
        "hour",
        description="What a start sets aside of its account's credits: what its first hour costs, "
        "or all of the time asked for.",
    )
    meter_seconds: float = Field(
        60.0, gt=0, description="Period in which running servers are charged."
    )

    schedule_seconds: float = Field(5.0, gt=0, description="Timer of the scheduling pass.")
    reconcile_seconds: float = Field(
        30.0, gt=0, description="Period of the comparison of containers with rows."
    )
    homes_seconds: float = Field(
        600.0, gt=0, description="Period in which the sizes of homes are measured."
    )
    measure_seconds: float = Field(
        10.0, gt=0, description="Period in which is measured what every session uses."
    )
    measures_samples_days: float = Field(
        1.0, gt=0, description="How long measures of 10 seconds are kept."
    )
    measures_minutes_days: float = Field(
        30.0, gt=0, description="How long measures of a minute are kept."
    )
    measures_hours_days: float = Field(
        400.0,
        gt=0,
        description="How long measures of an hour are kept; what a session used in all stays.",
    )
    inventory_seconds: float = Field(10.0, gt=0, description="Period of the GPU health check.")
    resume_seconds: float = Field(
        1.0, gt=0, description="Period in which waiting requests are taken up after a hub restart."
    )

    authenticator: str = Field(
        "dcloud", description="dcloud, or an import path of an oauthenticator class."
    )
    authenticator_config: dict[str, object] = Field(
        default_factory=dict,
        description="Traits of the authenticator class, as JSON or a TOML table.",
    )
    admins: tuple[str, ...] = Field(
        (), description="Names that are administrators once an administrator let them in."
    )
    trusted_group: str = Field("trusted", description="Group that may name its own image.")
    password_min_length: int = Field(10, ge=8, description="Shortest password at sign-up.")
    lockout_attempts: int = Field(5, ge=1, description="Failed sign-ins before a name is locked.")
    lockout_minutes: float = Field(15.0, gt=0, description="How long a name stays locked.")
    reset_link_hours: float = Field(24.0, gt=0, description="Life of a one-time reset link.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Level of the logs."
    )

    @model_validator(mode="after")
    def _bucket_is_no_page(self) -> Self:
        # Uploads go to /BUCKET/ at the hub's own address.
        if self.storage_bucket in {"hub", "user", "services", "api", "static"}:
            raise ValueError(f"storage_bucket: {self.storage_bucket!r} is a place of the hub's")
        return self

    @model_validator(mode="after")
    def _named_tiers_exist(self) -> Self:
        for group, tier in self.tier_groups.items():
            if tier not in self.tiers:
                raise ValueError(
                    f"tier_groups: {group} has the tier {tier!r}; there are {', '.join(self.tiers)}"
                )
        for name, role in self.roles.items():
            if role.tier is not None and role.tier not in self.tiers:
                raise ValueError(
                    f"roles: {name} has the tier {role.tier!r}; there are {', '.join(self.tiers)}"
                )
        if self.default_role not in self.roles:
            raise ValueError(
                f"default_role: there is no {self.default_role!r}; "
                f"there are {', '.join(self.roles)}"
            )
        for tier in self.preemptible_tiers:
            if tier not in self.tiers:
                raise ValueError(
                    f"preemptible_tiers: there is no {tier!r}; there are {', '.join(self.tiers)}"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=config_file()),
        )

    @property
    def secrets_dir(self) -> Path:
        """Folder of secret files, mode 0700, each file 0600."""
        return self.state / "secrets"

    @property
    def assets_dir(self) -> Path:
        """Folder of what pages use and others have written: the library for charts."""
        return self.state / "assets"

    @property
    def logs_dir(self) -> Path:
        """Folder of the logs of every process that ``dcloud up`` starts."""
        return self.state / "logs"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of DCloud's own database."""
        return self.database_url or f"sqlite:///{(self.state / 'dcloud.sqlite').absolute()}"

    @property
    def hub_store_url(self) -> str:
        """SQLAlchemy URL of JupyterHub's database."""
        return self.hub_database_url or f"sqlite:///{(self.state / 'jupyterhub.sqlite').absolute()}"

    @property
    def activity_seconds(self) -> int:
        """How often a server says when it was last used: often enough that one which nobody
        opens is given back soon after its time, and not so often that the hub is kept busy."""
        return max(1, min(300, int(self.unused_minutes * 60 / 10)))

    @property
    def bind_url(self) -> str:
        """The proxy's public address."""
        return self.public_url or f"http://{self.host}:{self.port}/"


def load_settings(**overrides: object) -> Settings:
    """Read the settings; raises ConfigurationError that names each wrong field and its value."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg']} "
            f"(got {_shown(item.get('input'))})"
            for item in error.errors()
        ]
        raise ConfigurationError(
            f"Settings are wrong (from {config_file()} or DCLOUD_* variables):\n" + "\n".join(lines)
        ) from error


def _shown(value: object) -> str:
    """A wrong value as the error shows it: an address may carry a password, so never that."""
    text = repr(value)
    return "an address" if "://" in text else text
