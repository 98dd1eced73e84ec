"""Server-sent events: what a page follows, sent when it changes and at no other time.

What is sent is the present state, never a step of history: who reconnects gets all of it again,
so no ``Last-Event-ID`` is needed, and a browser that reads slowly skips states instead of making
a queue. Silence is no sign of life, so a heartbeat goes out that a script can see: comments it
could not, and a proxy keeps its side open when the hub behind it has died.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping

from tornado import web
from tornado.iostream import StreamClosedError

HEARTBEAT_SECONDS = 5.0

RETRY_MILLISECONDS = 1000
"""After which a browser connects again."""

LIFE_SECONDS = 900.0
"""Then the browser connects again, and who may no longer see it is found out."""

Frames = Mapping[str, bytes]
"""What a page shows, in parts that change on their own: encoded events by a name of the part."""


def frame(event: str, data: object) -> bytes:
    """One event as it goes over the wire; equal data make equal bytes."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


BEAT = frame("beat", 1)


class EventStream(web.RequestHandler):
    """A handler that keeps sending. Mix it in before the handler that knows who is asking."""

    _follower: asyncio.Task[object] | None = None
    _left = False

    def on_connection_close(self) -> None:
        """The page is closed: let go of everything now, not at the next heartbeat."""
        self._left = True
        if self._follower is not None:
            self._follower.cancel()
        super().on_connection_close()

    async def follow(
        self,
        compose: Callable[[], Awaitable[Frames]],
        changed: Callable[[float], Awaitable[object]],
    ) -> None:
        """Send ``compose()`` whenever it gives something else, until the page is closed.

        ``changed(seconds)`` returns when there may be news, or after that many seconds.
        """
        self._follower = asyncio.current_task()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        self.write(f"retry: {RETRY_MILLISECONDS}\n\n")
        try:
            await self._send_changes(compose, changed)
        except StreamClosedError:
            return
        except asyncio.CancelledError:
            if not self._left:
                raise
        finally:
            self._follower = None

    async def _send_changes(
        self,
        compose: Callable[[], Awaitable[Frames]],
        changed: Callable[[float], Awaitable[object]],
    ) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + LIFE_SECONDS * random.uniform(0.8, 1.0)
        sent: Frames = {}
        said = 0.0
        while loop.time() < ends and not self._left:
            frames = await compose()
            news = b"".join(part for name, part in frames.items() if sent.get(name) != part)
            if news or loop.time() - said >= HEARTBEAT_SECONDS:
                self.write(news or BEAT)
                await self.flush()
                sent, said = frames, loop.time()
            await changed(max(0.05, HEARTBEAT_SECONDS - (loop.time() - said)))
