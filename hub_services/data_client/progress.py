"""One line that says how far it is: on a terminal again and again, elsewhere once in a while."""

from __future__ import annotations

import shutil
import sys
import threading
import time

WIDTH = 24
DRAWN_SECONDS = 0.2
SAID_SECONDS = 30.0


class Progress:
    """Of bytes and files; thread-safe."""

    def __init__(self, what: str, files: int, total_bytes: int, *, quiet: bool = False) -> None:
        self._what, self._files, self._total = what, files, total_bytes
        self._done_files = self._done = self._fresh = 0
        self._lock = threading.Lock()
        self._begun = self._drawn = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet

    def more(self, count: int) -> None:
        """So many bytes more were sent."""
        with self._lock:
            self._done += count
            self._fresh += count
            self._draw()

    def there(self, count: int) -> None:
        """So many bytes need not be sent."""
        with self._lock:
            self._done += count
            self._draw()

    def file(self) -> None:
        """One file more is done."""
        with self._lock:
            self._done_files += 1
            self._draw()

    def say(self, text: str) -> None:
        """A line of its own."""
        with self._lock:
            self._clear()
            print(text, file=sys.stderr)

    def end(self) -> None:
        """The last state stays."""
        with self._lock:
            if self._terminal and not self._quiet:
                self._draw(now=True)
                sys.stderr.write("\n")

    def _clear(self) -> None:
        if self._terminal and not self._quiet:
            sys.stderr.write("\r\x1b[K")

    def _draw(self, *, now: bool = False) -> None:
        at = time.monotonic()
        if self._quiet or at - self._drawn < (
            0 if now else DRAWN_SECONDS if self._terminal else SAID_SECONDS
        ):
            return
        self._drawn = at
        if self._terminal:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{self.line(at)[:room]}")
            sys.stderr.flush()
        else:
            print(self.line(at), file=sys.stderr)

    def line(self, at: float) -> str:
        """What it says."""
        share = self._done / self._total if self._total else 1.0
        filled = min(WIDTH, int(share * WIDTH))
        rate = self._fresh / max(at - self._begun, 0.001)
        left = f", {clock((self._total - self._done) / rate)} left" if rate > 1 else ""
        return (
            f"{self._what} [{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%} "
            f"{self._done_files}/{self._files} files, {size(self._done)} of {size(self._total)}, "
            f"{size(rate)}/s{left}"
        )


def size(count: float) -> str:
    """Bytes in the largest unit that fits."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    whole = int(max(0, seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
