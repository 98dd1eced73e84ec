"""One question of a what-if: as a command line, a form and an API ask it, and its two worlds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.scheduler.order import Policy
from hub_services.planning.constants import DUE, changed
from hub_services.planning.hardware import Change, Hardware, apply
from hub_services.planning.whatif import Rules, World

LONGEST_DAYS = 3650.0


@dataclass(frozen=True)
class Question:
    """What to change, and how much of the past to replay."""

    gpus: int = 0
    model: str = ""
    nodes: int = 0
    constants: str = ""
    policy: str = DUE
    days: float = 30.0

    @property
    def command(self) -> str:
        """The same question at a shell."""
        parts = ["dcloud", "plan"]
        parts += ["--gpus", f"{self.gpus:+d}"] if self.gpus else []
        parts += ["--model", self.model] if self.model else []
        parts += ["--nodes", f"{self.nodes:+d}"] if self.nodes else []
        parts += ["--constants", self.constants] if self.constants else []
        parts += ["--policy", self.policy] if self.policy != DUE else []
        parts += ["--days", f"{self.days:g}"]
        return shlex.join(parts)

    @property
    def words(self) -> str:
        """The change in few words, as the name of its column."""
        said = []
        if self.gpus:
            said.append(f"{self.gpus:+d} {self.model or 'GPUs'}")
        if self.nodes:
            said.append(f"{self.nodes:+d} node{'' if abs(self.nodes) == 1 else 's'}")
        if self.policy != DUE:
            said.append(self.policy)
        if self.constants:
            said.append(self.constants.replace(",", ", "))
        return ", ".join(said)


def worlds(
    question: Question, hardware: Hardware, policy: Policy
) -> tuple[World, World, tuple[str, ...]]:
    """Today's world and the changed one, with what was assumed. Raises InvalidChoice, also for
    a question that changes nothing."""
    if not question.words:
        raise InvalidChoice(
            "Nothing would be different.",
            hint="Change GPUs, nodes, constants or the policy.",
            code="no_change",
        )
    if not 0 < question.days <= LONGEST_DAYS:
        raise InvalidChoice(
            f"days: {question.days:g} is not possible.",
            hint=f"Choose up to {LONGEST_DAYS:g}.",
            field="days",
        )
    other, said = apply(hardware, Change(question.gpus, question.model, question.nodes))
    cap = policy.fair_cap_seconds
    rules = Rules(changed(policy, question.constants, question.policy), cap)
    today = World("today", hardware, Rules(policy, cap))
    return today, World(question.words, other, rules), said
