#!/usr/bin/python3 -SEI
"""A simulated nvidia-container-runtime-hook: device requests (`docker run --gpus`) on Docker.

dockerd offers device requests only where it finds a program of this name on its PATH when it
starts; runc then runs it before each such container, with the container's state on stdin. It
does what runtime.py does, but from outside: by entering the container's mount namespace. Which
simulation a GPU belongs to is in REGISTRY, where simgpu.py puts a link for each registered one.
"""

import json
import os
import subprocess
import sys

REGISTRY = "/run/dcloud-simgpu.d"
SCRIPT = """set -e
for node in $NODES; do test -e "$ROOT/dev/$node" || mknod -m 666 "$ROOT/dev/$node" c 1 3; done
mkdir -p "$ROOT$(dirname "$LIBRARY")" "$ROOT/run/dcloud-simgpu"
touch "$ROOT$LIBRARY"
mount --bind -o ro "$HOME_FOLDER/container/libnvidia-ml.so.1" "$ROOT$LIBRARY"
mount --bind -o ro "$STATE" "$ROOT/run/dcloud-simgpu"
"""


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


def homes():
    try:
        names = sorted(os.listdir(REGISTRY))
    except FileNotFoundError:
        return []
    return [os.path.realpath(os.path.join(REGISTRY, name)) for name in names]


def main():
    state = json.load(sys.stdin)
    with open(os.path.join(state["bundle"], "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    answer = "initialization error: nvml error: driver not loaded"
    for home in homes():
        sys.path.insert(0, home)
        import runtime

        sys.path.pop(0)
        visible = runtime.environment(config).get("NVIDIA_VISIBLE_DEVICES", "")
        if visible in ("", "void"):
            return
        try:
            folder, minors = runtime.prepare(home, visible, state["id"])
        except runtime.Refused as error:
            answer = str(error)
            continue
        except OSError:
            continue
        enter(home, folder, minors, config["root"]["path"], state, runtime.LIBRARY)
        return
    fail(f"nvidia-container-cli: {answer.removeprefix('nvidia-container-cli: ')}")


def enter(home, folder, minors, root, state, library):
    root = os.path.join(state["bundle"], root)
    nodes = [*(f"nvidia{minor}" for minor in minors), "nvidiactl", "nvidia-uvm"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "NODES": " ".join(nodes),
        "ROOT": root,
        "LIBRARY": library,
        "HOME_FOLDER": home,
        "STATE": folder,
    }
    command = ["nsenter", "-t", str(state["pid"]), "-m", "sh", "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        fail(f"nvidia-container-cli: mount error: {done.stderr.strip()}")


main()
