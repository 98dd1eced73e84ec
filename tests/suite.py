"""The run of the whole suite, in parts side by side.

python -m tests.suite prepare      OS packages and the proxy, where we may
python -m tests.suite run [...]    pytest on SQLite in four parts and, beside them, on PostgreSQL
                                   what may come out differently there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest import ExitCode

from hub_services.cli.deployment import CHECKOUT, cache_dir
from hub_services.cli.node import install_proxy
from tests.fetching import fetch_everything
from tests.services import docker_for_the_run, prepare, say


@dataclass(frozen=True)
class Part:
    """One pytest of a run: on a database, some of the tests."""

    name: str
    database: str
    arguments: tuple[str, ...] = ()
    marked: str = ""
    """Of them those that this expression of markers chooses."""
    offline: bool = False
    """In a network of its own, see ``tests/offline.py``."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    part: Part
    code: int
    """pytest's exit status."""
    seconds: float = 0
    passed: int = 0
    skipped: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why, in a line, for each test that failed."""


CONTAINERS, FAULTS = "tests/docker", "tests/faults"
"""Folders of lanes of their own on SQLite: with containers a run takes longest, and with faults it
waits for most of its time."""

IN_A_BROWSER = "browser and not soak"
"""Offline, for a browser gives up what it loads when an address comes or goes on the machine, as
one does with each container that starts or ends beside it."""

NOT_IN_A_BROWSER = "not browser and not soak"

ON_A_DATABASE = "database and not soak"
NOT_THE_SAME_ON_ANY = f"{ON_A_DATABASE} and not sqlite_suffices"

WAITING = tuple(f"tests/{name}/" for name in ("docker", "sandbox", "browser", "hub", "storage"))
"""Folders of tests that wait for real programs. One of them that failed beside two other runs is
tried once more alone, and the run says so; a test of arithmetic, of the store or of faults that
failed once has failed."""

AGAIN = 10
"""With more failures than this, in all parts together, none is tried again."""

HANGS_SECONDS = 600
"""After so long a test hangs, also where others want the cores too."""


def lanes_of(databases: Sequence[str], arguments: Sequence[str]) -> list[list[Part]]:
    """The runs for some databases: those of a lane one after the other, the lanes side by side.
    Those on SQLite are all tests and would take the longest, so they are parted; tests that
    somebody names are not. Beside SQLite the other database gets the tests that may come out
    differently there; alone, or for tests that somebody names, all that touch the database."""
    named = any(not argument.startswith("-") for argument in arguments)
    lanes = []
    for database in databases:
        if database == "sqlite" and not named:
            rest = (f"--ignore={CONTAINERS}", f"--ignore={FAULTS}")
            lanes.append([Part("sqlite-containers", database, (CONTAINERS,))])
            browser = Part("sqlite-browser", database, rest, IN_A_BROWSER, offline=True)
            # In this order, for those on PostgreSQL come early there.
            lanes.append([browser, Part("sqlite-faults", database, (FAULTS,))])
            lanes.append([Part("sqlite-rest", database, rest, NOT_IN_A_BROWSER)])
        elif database == "sqlite":
            lanes.append([Part(database, database)])
        else:
            all_of_them = named or "sqlite" not in databases
            marked = ON_A_DATABASE if all_of_them else NOT_THE_SAME_ON_ANY
            lanes.append([Part(database, database, marked=marked)])
    return lanes


def run(databases: Sequence[str], arguments: Sequence[str]) -> int:
    """All lanes side by side; 0 when all tests passed.

    Tests wait much, so several lanes at once take little longer than the longest. What the
    later ones print is kept and shown when all have ended.
    """
    with docker_for_the_run(), tempfile.TemporaryDirectory(prefix="dcloud-tests-") as name:
        folder, lanes = Path(name), lanes_of(databases, arguments)
        if len(lanes) > 1:
            fetch_everything()
        with ThreadPoolExecutor(len(lanes)) as threads:
            running = [
                threads.submit(_lane, lane, arguments, folder, shown=lane is lanes[0])
                for lane in lanes
            ]
            outcomes = [found for lane in running for found in lane.result()]
        for found in outcomes:
            printed = folder / found.part.name
            if printed.exists():
                say(f"what {found.part.name} printed")
                sys.stdout.write(printed.read_text(errors="replace"))
                sys.stdout.flush()
        red = [found for found in outcomes if found.code]
        again = [_alone(found, folder) for found in red] if may_end_well(red) else []
    for line in summary(outcomes, again):
        say(line)
    ends = again or outcomes
    return next((found.code for found in ends if found.code), 0)


def _lane(
    parts: Sequence[Part], arguments: Sequence[str], folder: Path, *, shown: bool
) -> list[Outcome]:
    """Parts one after the other, until somebody interrupts one."""
    outcomes = []
    for part in parts:
        with _pytest(part, arguments, folder, shown=shown) as process:
            outcomes.append(_outcome(part, process, folder))
        if outcomes[-1].code == ExitCode.INTERRUPTED and not outcomes[-1].failed:
            break
    return outcomes


def may_end_well(red: Sequence[Outcome]) -> bool:
    """Whether all that failed may be tried once more. Where one thing may not, the run stays red
    whatever the rest would do, and the time for it is saved."""
    failed = [name for found in red for name in found.failed]
    return (
        0 < len(failed) <= AGAIN
        and all(found.code == 1 and found.failed for found in red)
        and all(name.startswith(WAITING) for name in failed)
    )


def summary(outcomes: Sequence[Outcome], again: Sequence[Outcome]) -> Iterator[str]:
    """What stands at the end of a run's log: all that one has to know of it."""
    alone = {found.part.name: found for found in again}
    yield "-- summary"
    for found in outcomes:
        skipped = f", {found.skipped} skipped" if found.skipped else ""
        counts = f"{found.passed} passed, {len(found.failed)} failed{skipped}"
        yield f"{found.part.name}: {counts} in {found.seconds:.0f} s"
        second = alone.get(f"{found.part.name}-again")
        if found.code and not found.failed:
            yield f"  FAILED as a whole: pytest ended with {found.code}"
        for name, why in found.failed.items():
            flaky = second is not None and second.code in (0, 1) and name not in second.failed
            yield f"  {'FLAKY, to be mended:' if flaky else 'FAILED'} {name}: {why[:200]}"
    if any(found.code for found in outcomes) and not again:
        yield "nothing was tried once more alone, for the run would have stayed red"


def _outcome(part: Part, process: subprocess.Popen[bytes], folder: Path) -> Outcome:
    """Wait for the end of a part."""
    code = process.wait()
    report = folder / f"{part.name}.json"
    found = json.loads(report.read_text()) if report.exists() else {}
    return Outcome(part, code, **found)


def _alone(found: Outcome, folder: Path) -> Outcome:
    """Try what failed once more with the machine to itself."""
    name = f"{found.part.name}-again"
    part = replace(found.part, name=name, arguments=tuple(found.failed), marked="")
    say(f"{found.part.name}: failed beside other runs, once more alone: {', '.join(found.failed)}")
    with _pytest(part, (), folder, shown=True) as process:
        return _outcome(part, process, folder)


@contextmanager
def _pytest(
    part: Part, arguments: Sequence[str], folder: Path, *, shown: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """One run, ended with its block; it prints into a file, or for everybody to see."""
    path = f"{install_proxy(cache_dir())}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = "tests.offline" if part.offline else "pytest"
    command = [sys.executable, "-m", program, f"--timeout={HANGS_SECONDS}", *part.arguments]
    command += arguments
    if part.marked:
        command += ["-m", part.marked]
    say(f"on {part.database}: {' '.join(command[1:])}")
    report = str(folder / f"{part.name}.json")
    with ExitStack() as stack:
        file = None if shown else stack.enter_context((folder / part.name).open("wb"))
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT if file else None,
            env={
                **os.environ,
                "PATH": path,
                "DCLOUD_TEST_DATABASE": part.database,
                "DCLOUD_TEST_REPORT": report,
            },
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def main() -> int:
    """Entry point of ``python -m tests.suite``."""
    parser = argparse.ArgumentParser(prog="python -m tests.suite")
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options, arguments = parser.parse_known_args()
    if options.what == "prepare":
        prepare()
        return 0
    return run(options.database or ("sqlite", "postgresql"), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
