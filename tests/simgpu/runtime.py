"""The `create` half of the simulated nvidia runtime: edits the bundle, then becomes runc.

Run by runtime.sh as `python -S -E -I runtime.py HOME RUNC runc-arguments...`; imports are few
because every container start waits for them. It does to config.json what
nvidia-container-runtime and nvidia-container-cli do between them, from NVIDIA_VISIBLE_DEVICES:
unset, empty or "void": nothing; "none": the library without a GPU; "all"; or a list of UUIDs and
indices. What it does not know fails the start with nvidia-container-cli's words.

The device nodes are /dev/null's (1:3) under the real names: harmless, and countable.
"""

import json
import os
import sys

STATE_FOLDER = "/run/dcloud-simgpu"
LIBRARY = f"/usr/lib/{os.uname().machine}-linux-gnu/libnvidia-ml.so.1"


def environment(config):
    pairs = (item.partition("=") for item in config["process"].get("env") or [])
    return {name: value for name, _, value in pairs}


def read_state(home):
    """The driver line, and (kind, fields, line) for each GPU and MIG instance."""
    driver, devices = "driver", []
    with open(os.path.join(home, "state"), encoding="utf-8") as file:
        for line in file.read().splitlines():
            kind, _, rest = line.partition("\t")
            fields = dict(item.partition("=")[::2] for item in rest.split("\t"))
            if kind == "driver":
                driver = line
            elif kind in ("gpu", "mig"):
                devices.append((kind, fields, line))
    return driver, devices


class Refused(Exception):
    pass


def choose(devices, visible):
    """Lines of the chosen devices (a MIG instance brings its GPU along) and the minors of GPUs."""
    gpus = [fields["uuid"] for kind, fields, _ in devices if kind == "gpu"]
    known = {fields["uuid"] for _, fields, _ in devices}
    if visible == "none":
        wanted = set()
    elif visible == "all":
        wanted = set(known)
    else:
        wanted = set()
        for name in visible.split(","):
            uuid = gpus[int(name)] if name.isdigit() and int(name) < len(gpus) else name
            if uuid not in known:
                raise Refused(f"nvidia-container-cli: device error: {name}: unknown device")
            wanted.add(uuid)
    lines, minors = [], []
    for kind, fields, line in devices:
        if kind == "gpu":
            inside = {
                f["uuid"] for k, f, _ in devices if k == "mig" and f["parent"] == fields["uuid"]
            }
            if fields["uuid"] not in wanted and not inside & wanted:
                continue
            if fields.get("health") in ("lost", "dying"):
                raise Refused("nvidia-container-cli: detection error: nvml error: gpu is lost")
            minors.append(int(fields["minor"]))
        elif fields["uuid"] not in wanted and fields["parent"] not in wanted:
            continue
        lines.append(line)
    return lines, minors


def add_devices(config, minors):
    linux = config.setdefault("linux", {})
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    rules.append({"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"})
    for name in [*(f"nvidia{minor}" for minor in minors), "nvidiactl", "nvidia-uvm"]:
        linux.setdefault("devices", []).append(
            {"path": f"/dev/{name}", "type": "c", "major": 1, "minor": 3,
             "fileMode": 0o666, "uid": 0, "gid": 0}
        )  # fmt: skip


def prepare(home, visible, container):
    """The container's own state folder with what it may see, and the minors of its GPUs."""
    driver, devices = read_state(home)
    lines, minors = choose(devices, visible)
    folder = os.path.join(home, "containers", container)
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)  # whatever the umask: the user inside has uid 1000
    with open(os.path.join(folder, "state"), "w", encoding="utf-8") as file:
        file.write("\n".join([driver, *lines]) + "\n")
    return folder, minors


def edit(home, bundle, container):
    path = os.path.join(bundle, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    visible = environment(config).get("NVIDIA_VISIBLE_DEVICES", "")
    if visible in ("", "void"):
        return
    folder, minors = prepare(home, visible, container)
    add_devices(config, minors)
    options = ["rbind", "ro", "nosuid", "nodev"]
    config["mounts"] += [
        {"destination": LIBRARY, "type": "bind", "options": options,
         "source": os.path.join(home, "container", "libnvidia-ml.so.1")},
        {"destination": STATE_FOLDER, "type": "bind", "source": folder, "options": options},
    ]  # fmt: skip
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


def option(arguments, *names):
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else arguments[at + 1]
    return ""


def main():
    home, runc, *arguments = sys.argv[1:]
    try:
        edit(home, option(arguments, "--bundle", "-b") or ".", arguments[-1])
    except (Refused, OSError, ValueError, KeyError) as error:
        # containerd reads the reason of a failed create from the last line of runc's log.
        log = option(arguments, "--log")
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"level": "error", "msg": str(error)}) + "\n")
        print(error, file=sys.stderr)
        sys.exit(1)
    os.execv(runc, [runc, *arguments])


if __name__ == "__main__":
    main()
