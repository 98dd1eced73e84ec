"""``dcloud doctor``: look at everything the platform rests on; each complaint with its mend.

A check is a function from a deployment to findings. One that raises is itself a finding: the
doctor never dies of what it came to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table

from dcloud_spawner.errors import DCloudError
from hub_services.cli.deployment import Deployment


class Level(StrEnum):
    """How bad a finding is. Only BROKEN makes the command fail."""

    OK = "ok"
    ATTENTION = "attention"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, what was seen, the command that mends it."""

    subject: str
    level: Level
    seen: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)


Check = Callable[[Deployment], Iterable[Finding]]


def ok(subject: str, seen: str) -> Finding:
    """A finding without a complaint."""
    return Finding(subject, Level.OK, seen)


def attention(subject: str, seen: str, mend: str) -> Finding:
    """It works, but somebody should look."""
    return Finding(subject, Level.ATTENTION, seen, mend)


def broken(subject: str, seen: str, mend: str) -> Finding:
    """It does not work until mended."""
    return Finding(subject, Level.BROKEN, seen, mend)


def examine(deployment: Deployment, checks: Sequence[Check]) -> list[Finding]:
    """Run the checks side by side (several only wait for an answer) and keep their order."""
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return [
            finding
            for findings in pool.map(lambda check: _run(check, deployment), checks)
            for finding in findings
        ]


def _run(check: Check, deployment: Deployment) -> list[Finding]:
    try:
        return list(check(deployment))
    except (DCloudError, OSError) as error:
        subject = check.__name__.removeprefix("check_").replace("_", " ")
        return [broken(subject, str(error), "see the message")]


def any_broken(findings: Iterable[Finding]) -> bool:
    """Whether something has to be mended before the platform works."""
    return any(finding.level is Level.BROKEN for finding in findings)


_STYLES = {Level.OK: "green", Level.ATTENTION: "yellow", Level.BROKEN: "red"}


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print one row a finding, its mend under it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("level", "subject", "seen"):
        table.add_column(column, overflow="fold", no_wrap=column == "level")
    for finding in findings:
        style = _STYLES[finding.level]
        table.add_row(f"[{style}]{finding.level.value}[/{style}]", finding.subject, finding.seen)
        if finding.mend:
            table.add_row("", "", f"→ {finding.mend}")
    console.print(table, highlight=False)
    count = sum(finding.level is Level.BROKEN for finding in findings)
    console.print(f"\n{count} broken" if count else "\nNothing is broken.", highlight=False)
