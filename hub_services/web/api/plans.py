"""What-if by the API: ask, then look until the answer is there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hub_services.planning.question import LONGEST_DAYS, Question
from hub_services.planning.whatif import Figures, Side
from hub_services.web.api.operation import Call, Nothing, View, Wire
from hub_services.web.planner import Replay

Constant = Annotated[float, Field(allow_inf_nan=False)]


class PlanBody(Wire):
    """What to change, and how much of the past to replay."""

    gpus: int = Field(0, ge=-100_000, le=100_000, description="More GPUs, or fewer below 0.")
    model: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(
        "", max_length=128, description="Of which model; a part of the name suffices."
    )
    nodes: int = Field(0, ge=-10_000, le=10_000, description="More nodes, or fewer below 0.")
    constants: dict[str, Constant] = Field(
        default_factory=dict,
        max_length=20,
        description="Constants of the order: slack_gpus, slack_*_hours, fair_cap_hours, tier_*.",
    )
    policy: Literal["due", "easy"] = Field("due", description="easy: first come, first served.")
    days: float = Field(30, gt=0, le=LONGEST_DAYS, allow_inf_nan=False)

    def question(self) -> Question:
        """The question in the words of the planner."""
        constants = ",".join(f"{name}={value:.12g}" for name, value in self.constants.items())
        return Question(self.gpus, self.model, self.nodes, constants, self.policy, self.days)


class PlanView(View):
    """One replay. The figures, in seconds, are there when its state is done."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    progress: float = Field(description="From 0 to 1.")
    command: str = Field(description="The same question for a shell.")
    requests: int | None = None
    days: float | None = Field(None, description="How long the replayed past is.")
    today: Side | None = None
    changed: Side | None = None
    really: Figures | None = Field(None, description="How long those requests really waited.")
    notes: tuple[str, ...] = Field((), description="What was assumed and left out.")
    problem: str = Field("", description="Why it failed.")


async def ask_plan(call: Call[Nothing, PlanBody]) -> PlanView:
    """Replay the lab's own history on other hardware or by other rules, beside today's. The
    answer says where it will be."""
    service = call.service
    return _view(await service.planner.ask(service.platform, call.body.question()))


async def get_plan(call: Call[Nothing, Nothing]) -> PlanView:
    """How far a replay is, and its answer once it is there."""
    return _view(call.service.planner.find(call.path["id"]))


def _view(replay: Replay) -> PlanView:
    answer = replay.answer
    return PlanView(
        id=replay.id,
        state=replay.stage.value,
        progress=replay.progress,
        command=replay.question.command,
        requests=answer.requests if answer else None,
        days=answer.days if answer else None,
        today=answer.today if answer else None,
        changed=answer.changed if answer else None,
        really=answer.really if answer else None,
        notes=replay.notes,
        problem=replay.problem,
    )
