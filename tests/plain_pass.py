"""A pass with no short cuts around reservations, as a second opinion: every guard is made when the
pass begins, what fits together is found by all sums, and who runs longer than one for
whom there was no room is tried all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from dcloud_spawner.scheduler import guard, plan
from dcloud_spawner.scheduler.joint import Kind, Mix, Together
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.pool import Grant
from dcloud_spawner.scheduler.reserved import Guards
from dcloud_spawner.scheduler.snapshot import NEVER, Reservation, Shape


class EveryGuard(Guards):
    """All of them at once."""

    def __init__(
        self, occupancy: Occupancy, reservations: Sequence[Reservation], now: float
    ) -> None:
        super().__init__(occupancy, reservations, now)
        self.before(NEVER)


class AllSums(Together):
    """Nothing is remembered but what a node can take."""

    def fits(self, numbers: Sequence[int], wanted: Sequence[int]) -> bool:
        return self.first_enough(numbers, wanted) is not None

    def first_enough(self, numbers: Sequence[int], wanted: Sequence[int]) -> int | None:
        reached: set[Mix] = {(0,) * len(wanted)}
        for count, number in enumerate([None, *numbers]):
            if number is not None:
                reached = {
                    tuple(min(a + b, most) for a, b, most in zip(x, y, wanted, strict=True))
                    for x in reached
                    for y in self._mixes[number]
                }
            if tuple(wanted) in reached:
                return count
        return None


class EveryPlace(plan._Pass):
    """Who runs longer is tried anew."""

    def _place(self, shape: Shape, ends_at: float) -> tuple[Grant, ...] | None:
        self._no_room_beyond.clear()
        return super()._place(shape, ends_at)


@contextmanager
def plainly() -> Iterator[None]:
    """Every pass is made so."""

    def together(kinds: tuple[Kind, ...], most: tuple[int, ...]) -> Together:
        return AllSums(kinds, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "Guards", EveryGuard)
        patch.setattr(plan, "_Pass", EveryPlace)
        patch.setattr(guard, "together", together)
        yield
