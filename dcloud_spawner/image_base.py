"""Images that no recipe makes: pulled, or, for Debian where no registry is in reach, made here.

The Debian made here has the official image's name and, for our recipes' purposes, its content,
so the same Dockerfiles build on either.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

from dcloud_spawner.errors import EngineError

DEBIAN = "debian:bookworm-slim"

_DEBIAN_SOURCES = (
    Path("/etc/apt/sources.list.d/debian.sources"),
    Path("/etc/apt/sources.list"),
)

_MMDEBSTRAP = (
    "mmdebstrap",
    "--variant=minbase",
    "--include=ca-certificates",
    "--aptopt=Acquire::Languages none",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "bookworm",
)


def ensure_image(client: docker.APIClient, image: str, say: Callable[[str], None]) -> None:
    """Have an image that is not ours on this machine; raises EngineError with what to do."""
    try:
        client.inspect_image(image)  # type: ignore[no-untyped-call]
        return
    except ImageNotFound:
        pass
    say(f"Pulling {image}")
    try:
        for line in client.pull(image, stream=True, decode=True):
            if "error" in line:
                raise EngineError(str(line["error"]))
    except (APIError, EngineError) as error:
        reason = getattr(error, "explanation", None) or str(error)
        if image != DEBIAN:
            raise EngineError(f"{image} cannot be pulled: {reason}") from error
        say(f"No registry answers ({reason}); making {DEBIAN} with mmdebstrap")
        _make_debian(client, say)


def _make_debian(client: docker.APIClient, say: Callable[[str], None]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise EngineError(
            f"{DEBIAN} can neither be pulled nor made here: apt-get install mmdebstrap, "
            f"or load the image by hand (docker load)."
        )
    with tempfile.TemporaryDirectory(prefix="dcloud-debian-") as folder:
        archive = Path(folder) / "root.tar"
        command = [*_MMDEBSTRAP, str(archive), *_own_sources()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise EngineError(f"mmdebstrap could not make {DEBIAN}:\n{lines}")
        say(f"Importing {DEBIAN}")
        import_archive(client, archive, DEBIAN)


def import_archive(client: docker.APIClient, archive: Path, image: str) -> None:
    """Make an image of one layer out of a root file system's tar archive."""
    name, _, tag = image.partition(":")
    client.import_image_from_file(
        str(archive),
        repository=name,
        tag=tag,
        changes=['CMD ["bash"]', "LABEL dcloud.made-by=mmdebstrap"],
    )


def _own_sources() -> list[str]:
    """The machine's own package sources where they are this Debian's: its mirror is in reach."""
    for path in _DEBIAN_SOURCES:
        if path.exists() and "bookworm" in path.read_text(encoding="utf-8"):
            return [str(path)]
    return []
