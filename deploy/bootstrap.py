#!/usr/bin/env python3
"""Bring uv and the locked Python set, with nothing but Python >= 3.11 and its standard library.

    python3 deploy/bootstrap.py [--dev]

uv goes into a folder of its own (``$DCLOUD_CACHE``, else ``.cache`` in the checkout) and the
locked set into ``.venv``; nothing outside these changes. ``--dev`` adds what the tests and the
linters need. Safe to run again: what is there is left alone.

The first lines keep to old syntax, so that an old Python says what is wrong by itself.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
UV = "uv==0.13.9"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def say(text):
    # type: (str) -> None
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def newer_python():
    # type: () -> str | None
    """Another Python on PATH that is new enough."""
    for minor in range(14, OLDEST[1] - 1, -1):
        found = shutil.which("python3.%d" % minor)
        if found:
            return found
    return None


def run_quietly(command):
    # type: (list[str]) -> str | None
    """Run a command; None when it succeeded, else what it said."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    return None if done.returncode == 0 else done.stdout.strip()[-2000:]


def uv_works(uv):
    # type: (str) -> bool
    try:
        answer = subprocess.run([uv, "--version"], stdout=subprocess.PIPE, universal_newlines=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.split()[1:2] == [UV.split("==")[1]]


def install_venv_package():
    # type: () -> bool
    """Debian keeps venv and pip in packages of their own; install them where we may."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    say("dcloud: this Python has neither venv nor pip; installing the package python3-venv")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.call([apt, "-qq", "update"], env=environment, stdout=subprocess.DEVNULL)
    install = [apt, "-qq", "install", "-y", "--no-install-recommends", "python3-venv"]
    return subprocess.call(install, env=environment, stdout=subprocess.DEVNULL) == 0


def bring_uv(place):
    # type: (str) -> str
    """uv in a place of its own: by a venv, else by ``pip --target``."""
    in_venv = os.path.join(place, "venv", "bin", "uv")
    in_target = os.path.join(place, "target", "bin", "uv")
    for uv in (in_venv, in_target):
        if uv_works(uv):
            return uv
    say("dcloud: bringing %s into %s" % (UV, place))
    os.makedirs(place, exist_ok=True)
    venv, target = os.path.join(place, "venv"), os.path.join(place, "target")
    quiet = ["-q", "--disable-pip-version-check", "--no-input"]
    problem = None
    for attempt in range(2):
        problem = run_quietly([sys.executable, "-m", "venv", "--clear", venv])
        if problem is None:
            pip = [os.path.join(venv, "bin", "python"), "-m", "pip", "install"]
            problem = run_quietly(pip + quiet + [UV])
            if problem is None:
                return in_venv
        shutil.rmtree(venv, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--target", target, "--upgrade"]
        problem = run_quietly(pip + quiet + [UV]) and problem
        if problem is None:
            return in_target
        if attempt == 0 and not ("ensurepip" in problem and install_venv_package()):
            break
    say(problem or "")
    if "ensurepip" in (problem or ""):
        say("dcloud: this Python has neither venv nor pip. Run this, then try again:")
        say("  sudo apt-get install -y python3-venv")
    else:
        say("dcloud: uv could not be installed from PyPI. Check the network, the proxy settings")
        say("(HTTPS_PROXY) and PIP_INDEX_URL, then try again. What was tried:")
        say("  %s -m pip install --target %s %s" % (sys.executable, target, UV))
    raise SystemExit(1)


def main(arguments):
    # type: (list[str]) -> int
    if sys.version_info < OLDEST:
        python = newer_python()
        if python is None:
            say(
                "dcloud needs Python >= 3.11; this is %s at %s."
                % (sys.version.split()[0], sys.executable)
            )
            say("Install a newer one (Debian 12: sudo apt-get install -y python3) and try again.")
            return 1
        os.execv(python, [python, os.path.abspath(__file__), *arguments])
    cache = os.environ.get("DCLOUD_CACHE") or os.path.join(ROOT, ".cache")
    uv = bring_uv(os.path.join(os.path.abspath(os.path.expanduser(cache)), "uv"))
    # --inexact: "make up" must not take away what "make test" has added.
    sync = [uv, "sync", "--project", ROOT, "--frozen", "--inexact", "--quiet"]
    if "--dev" not in arguments:
        sync.append("--no-dev")
    if not os.path.exists(os.path.join(ROOT, ".venv", "bin", "python")):
        sync += ["--python", sys.executable]
        say("dcloud: installing the locked Python set into .venv")
    environment = dict(os.environ, UV_PROJECT_ENVIRONMENT=os.path.join(ROOT, ".venv"))
    environment.pop("VIRTUAL_ENV", None)
    code = subprocess.call(sync, env=environment)
    if code:
        say("dcloud: the Python set could not be installed; what uv says is above.")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
