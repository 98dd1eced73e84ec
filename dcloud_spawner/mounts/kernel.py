"""mount(2) and umount2(2). Root only.

A mount is made read-only in two steps, and the second never reaches mounts that were made of the
first one by propagation. So whatever a container may see is bound from a mount that is read-only
already: such a bind is born read-only, everywhere at once.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_RDONLY, _NOSUID, _NODEV, _REMOUNT = 1, 2, 4, 32
_BIND, _PRIVATE, _SHARED = 1 << 12, 1 << 18, 1 << 20
_DETACH, _NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def bind(source: Path, target: Path) -> None:
    """Show a folder at another place, with the rights of the mount it is taken from."""
    _mount(source, target, _BIND)


def bind_read_only(source: Path, target: Path) -> None:
    """Show a folder read-only; only where no container looks (see above)."""
    bind(source, target)
    try:
        _mount(None, target, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    except OSError:
        detach(target)
        raise


def make_shared(folder: Path) -> None:
    """Make a folder a mount of its own; what is mounted below shows in all binds made of it."""
    bind(folder, folder)
    _mount(None, folder, _PRIVATE)
    _mount(None, folder, _SHARED)


def detach(target: Path) -> None:
    """Take the uppermost mount away from a point, here and everywhere it shows; files that are
    open stay open. Raises OSError (EINVAL) where nothing is mounted."""
    if _libc.umount2(os.fsencode(target), _DETACH | _NOFOLLOW):
        _fail(target)


def _mount(source: Path | None, target: Path, flags: int) -> None:
    given = None if source is None else os.fsencode(source)
    if _libc.mount(given, os.fsencode(target), None, ctypes.c_ulong(flags), None):
        _fail(target)


def _fail(target: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(target))
