"""Advance reservations inside a pass: GPUs kept for some people from a time to a time.

One that has begun holds what its people do not use yet, as work would. One that is still to come
has a guard at its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from dcloud_spawner.scheduler.guard import Guard
from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.placement import Placer
from dcloud_spawner.scheduler.pool import Grant, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Request, Reservation, Shape


def unit_of(reservation: Reservation) -> Shape:
    """One GPU of a reservation, with its memory and cores."""
    return Shape(
        1,
        WHOLE,
        reservation.gpu_model,
        reservation.memory_bytes,
        reservation.cpu_millicores,
        1,
        frozenset(),
    )


def covers(reservation: Reservation, at: float) -> bool:
    """Whether a reservation holds its GPUs at a time."""
    return reservation.starts_at <= at < reservation.ends_at


class Reserved:
    """The GPUs of a reservation that has begun which nobody uses yet."""

    def __init__(self, reservation: Reservation, pieces: list[Running]) -> None:
        self.reservation = reservation
        self._pieces = pieces

    def place(self, occupancy: Occupancy, request: Request) -> tuple[Grant, ...] | None:
        """Where somebody whom it is for may start on it; None when that is not so."""
        shape = request.shape
        if (
            request.user not in self.reservation.users
            or not 0 < request.gpus <= len(self._pieces)
            or shape.milli != WHOLE
        ):
            return None
        before = list(self._pieces)
        self.release(occupancy)
        grants = occupancy.placer.place(shape)
        if grants is not None:
            for grant in grants:
                occupancy.pool.take(grant)
            rest = len(before) - request.gpus
            self._pieces = hold(occupancy, self.reservation, rest)
            for grant in grants:
                occupancy.pool.give(grant)
            if len(self._pieces) == rest:
                return grants
            self.release(occupancy)
        for piece in before:
            occupancy.begin(piece)
        self._pieces = before
        return None

    def release(self, occupancy: Occupancy) -> None:
        """Give everything back."""
        for piece in self._pieces:
            occupancy.end(piece)
        self._pieces = []


def hold(occupancy: Occupancy, reservation: Reservation, count: int) -> list[Running]:
    """Take up to so many GPUs of a reservation out of what is free."""
    pieces: list[Running] = []
    for _ in range(count):
        grants = occupancy.placer.place(unit_of(reservation))
        if grants is None:
            break
        piece = Running(f"reservation {reservation.id}", reservation.ends_at, grants)
        occupancy.begin(piece)
        pieces.append(piece)
    return pieces


def hold_active(
    occupancy: Occupancy, reservations: Sequence[Reservation], now: float
) -> list[Reserved]:
    """Hold what is unused of every reservation that has begun."""
    held = []
    for reservation in _in_order(reservations):
        if covers(reservation, now):
            used = sum(
                len(grant.gpus)
                for running in occupancy.running
                if running.reservation == reservation.id
                for grant in running.grants
            )
            pieces = hold(occupancy, reservation, max(0, reservation.gpus - used))
            held.append(Reserved(reservation, pieces))
    return held


def guards_of(occupancy: Occupancy, reservations: Sequence[Reservation], now: float) -> list[Guard]:
    """A guard for each reservation still to come."""
    return [
        Guard(
            reservation.starts_at,
            pool_at(occupancy, reservations, reservation.starts_at, now, leaving=reservation),
            unit_of(reservation),
            reservation.gpus,
            one_on_each_node=False,
        )
        for reservation in _in_order(reservations)
        if reservation.starts_at > now
    ]


def pool_at(
    occupancy: Occupancy,
    reservations: Sequence[Reservation],
    at: float,
    now: float,
    *,
    leaving: Reservation | None = None,
) -> Pool:
    """What is free at a later time if everybody uses up the limit, and nobody new starts.

    Reservations that begin until then hold their GPUs, but for the one that is left out. (One
    that has begun already is among what runs.)
    """
    pool = occupancy.pool.copy()
    pool.give_all(
        [
            grant
            for running in occupancy.running
            if max(running.ends_at, now) <= at
            for grant in running.grants
        ]
    )
    placer = Placer(pool, occupancy.placer.usual)
    for reservation in _in_order(reservations):
        if reservation is not leaving and reservation.starts_at > now and covers(reservation, at):
            for _ in range(reservation.gpus):
                grants = placer.place(unit_of(reservation))
                if grants is None:
                    break
                pool.take(grants[0])
    return pool


def _in_order(reservations: Sequence[Reservation]) -> list[Reservation]:
    return sorted(reservations, key=lambda reservation: (reservation.starts_at, reservation.id))
