"""pytest in a network of its own that has nothing but loopback.

python -m tests.offline [...]      the arguments are pytest's

Where this needs more rights than we have, pytest runs in the machine's network.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
"""<sched.h>; ``os.unshare`` comes with Python 3.12."""

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
"""<linux/sockios.h> and <linux/if.h>."""


def leave_the_network() -> bool:
    """Whether this process, with what it starts, now has a network of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    return True


if __name__ == "__main__":
    if not leave_the_network():
        print("tests: no network of our own here; a busy machine may disturb the browser")
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
