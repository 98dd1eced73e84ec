"""A bound on password hashing: 64 MiB and some 50 ms of a core each, asked for by strangers.

A few at a time, taken in turn from each source address, so that a flood from one address
delays those at that address and nobody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dcloud_spawner.errors import Unavailable

T = TypeVar("T")


class HashGate:
    """Runs blocking functions in ``slots`` threads of its own, round robin over the addresses."""

    def __init__(self, slots: int = 2, waiting_per_address: int = 64) -> None:
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="hash")
        self._free = slots
        self._limit = waiting_per_address
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, address: str, function: Callable[..., T], *args: object) -> T:
        """``function(*args)`` in a thread; Unavailable when the address has too many waiting."""
        await self._enter(address)
        loop = asyncio.get_running_loop()
        work: Awaitable[T] = loop.run_in_executor(self._executor, function, *args)
        # A caller that is cancelled must not free the slot of a thread that still computes.
        return await asyncio.shield(self._leaving(work))

    async def _leaving(self, work: Awaitable[T]) -> T:
        try:
            return await work
        finally:
            self._leave()

    async def _enter(self, address: str) -> None:
        if self._free:
            self._free -= 1
            return
        queue = self._waiting.setdefault(address, deque())
        if len(queue) >= self._limit:
            raise Unavailable("Too many sign-ins from your address at once.", hint="Try again.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            address, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[address] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
