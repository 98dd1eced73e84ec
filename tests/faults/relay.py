"""A socket between the platform and the real Docker engine that a test can pause or break.

The engine behind it goes on working: only its answers are held back or lost, as when dockerd
hangs or is restarted. So other users of the engine are not disturbed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

ENGINE = "/var/run/docker.sock"
CHUNK = 65536


class Relay:
    """Listens on a Unix socket and passes every connection on to the engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = threading.Event()
        self._open.set()
        self._failing = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def pause(self) -> None:
        """Hold back every byte in both directions until resume()."""
        self._open.clear()

    def fail(self) -> None:
        """Cut all connections and refuse new ones until resume()."""
        self._failing = True
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        """Be a plain relay again."""
        self._failing = False
        self._open.set()

    def close(self) -> None:
        """End all."""
        self.resume()
        self._listener.close()
        self.fail()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._failing:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(ENGINE)
            pair = (near, far)
            with self._lock:
                self._pairs.add(pair)
            for source, target in (pair, (far, near)):
                threading.Thread(
                    target=self._pump, args=(source, target, pair), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, ...]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._open.wait()
                target.sendall(data)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            last = pair not in self._pairs
            self._pairs.discard(pair)  # type: ignore[arg-type]
        if last:
            for end in pair:
                end.close()
