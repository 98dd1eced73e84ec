"""One simulated person: thinks, asks, watches the waiting page, works, stops, begins again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus

from hub_services.loadtest.hub import HubApi
from hub_services.loadtest.journal import Doing, Journal
from hub_services.loadtest.script import Round

LOOK_SECONDS = 5.0
"""How often somebody who works opens a page of the hub."""

STOP_SECONDS = 60.0
"""After which a server that does not go away counts as a failure."""


class End(StrEnum):
    """How waiting ended."""

    READY = "ready"
    FAILED = "failed"
    IMPATIENT = "impatient"
    CLOSING = "closing"


@dataclass
class Shared:
    """What all people of a run have in common."""

    hub: HubApi
    journal: Journal
    cpu_places: asyncio.Semaphore
    """How many CPU-only servers may be open at once: nothing else would limit them."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the time is up; everybody lets go of what they do and does not tidy up."""

    async def pause(self, seconds: float) -> bool:
        """Let time pass; False as soon as the run closes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
        return not self.closing.is_set()


class Person:
    """A user with a token of their own and a script."""

    def __init__(self, shared: Shared, name: str, token: str, script: Sequence[Round]) -> None:
        self._shared, self._name, self._token, self._script = shared, name, token, script
        self._hub, self._journal = shared.hub, shared.journal

    async def live(self) -> None:
        """Go through the script until the run closes."""
        for turn in self._script:
            self._journal.note(self._name, Doing.THINKING)
            if not await self._shared.pause(turn.think_seconds):
                break
            if turn.wish.gpus == 0:
                async with self._shared.cpu_places:
                    await self._take(turn)
            else:
                await self._take(turn)
            if self._shared.closing.is_set():
                break
        self._journal.note(self._name, Doing.GONE)

    async def _take(self, turn: Round) -> None:
        """One server from the question to its end."""
        if self._shared.closing.is_set():
            return
        self._journal.note(self._name, Doing.ASKING)
        self._journal.asked += 1
        status, text = await self._hub.ask(self._name, self._token, turn.wish)
        if status not in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            self._journal.fail(self._name, "ask", f"{status or 'no answer'}: {_message(text)}")
            return
        self._journal.note(self._name, Doing.WAITING)
        end, reason = await self._wait(turn.patience_seconds)
        if end is End.READY:
            await self._work(turn.work_seconds)
        elif end is End.FAILED:
            self._journal.fail(self._name, "start", reason)
        if end is End.IMPATIENT:
            self._journal.cancelled += 1
        if end in (End.READY, End.IMPATIENT) and not self._shared.closing.is_set():
            await self._stop("cancel" if end is End.IMPATIENT else "stop")

    async def _wait(self, patience_seconds: float | None) -> tuple[End, str]:
        """Watch the waiting page until the server is ready, or one has enough of it."""
        watching = asyncio.ensure_future(self._watch())
        closing = asyncio.ensure_future(self._shared.closing.wait())
        try:
            await asyncio.wait(
                (watching, closing), timeout=patience_seconds, return_when="FIRST_COMPLETED"
            )
            if watching.done():
                return watching.result()
            return (End.CLOSING if closing.done() else End.IMPATIENT), ""
        finally:
            for task in (watching, closing):
                task.cancel()
            await asyncio.gather(watching, closing, return_exceptions=True)

    async def _watch(self) -> tuple[End, str]:
        """Follow the progress stream, again when it breaks off, until the hub says how it ended."""
        while True:
            async for event in self._hub.progress(self._name, self._token):
                if event.get("ready"):
                    return End.READY, ""
                if event.get("failed"):
                    return End.FAILED, str(event.get("message") or "the hub does not say why")
            # The stream ends without a word when the hub restarts, or when nothing starts.
            found = await self._hub.server(self._name, self._token)
            if found is not None and not found:
                return End.FAILED, "the request is gone and the hub does not say why"
            if found and found.get("ready"):
                return End.READY, ""
            await asyncio.sleep(1)

    async def _work(self, seconds: float) -> None:
        self._journal.note(self._name, Doing.WORKING)
        if await self._hub.server_answers(self._name, self._token):
            self._journal.served += 1
        else:
            self._journal.fail(self._name, "work", "the server that was ready did not answer")
        until = self._journal.now() + seconds
        while (left := until - self._journal.now()) > 0:
            if not await self._shared.pause(min(left, LOOK_SECONDS)):
                return
            if left > LOOK_SECONDS:
                await self._hub.server(self._name, self._token)

    async def _stop(self, kind: str) -> None:
        self._journal.note(self._name, Doing.STOPPING)
        status, text = await self._hub.stop(self._name, self._token, kind)
        if status not in (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
            self._journal.fail(self._name, kind, f"{status or 'no answer'}: {_message(text)}")
        until = self._journal.now() + STOP_SECONDS
        while await self._hub.server(self._name, self._token) != {}:
            if self._journal.now() > until:
                self._journal.fail(self._name, kind, f"it was not gone after {STOP_SECONDS:g} s")
                return
            if not await self._shared.pause(0.5):
                return


def _message(text: str) -> str:
    """What the hub says in an error's JSON, else its first words."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
