"""How far a long run has come, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """A bar with rate and time left on a terminal; elsewhere a line every ``every`` seconds.

    >>> import io
    >>> seen = io.StringIO()
    >>> progress = Progress("images", seen)
    >>> progress(10, 10)
    >>> seen.getvalue()
    '10 of 10 images (100 %)\\n'
    """

    def __init__(self, what: str, stream: TextIO | None = None, every: float = 30.0):
        self.what, self.stream = what, stream or sys.stderr
        self.live = self.stream.isatty()
        self.every = 0.1 if self.live else every
        self._start = self._shown = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` are done; call it as often as you like."""
        now = time.monotonic()
        if self._first is None:  # what an earlier run did, or came with the first call, has no rate
            self._first, self._start = done, now
        if done < total and now - self._shown < self.every:
            return
        self._shown = now
        text = f"{done} of {total} {self.what} ({100 * done // max(total, 1)} %)"
        if done > self._first and now > self._start:
            rate = (done - self._first) / (now - self._start)
            text += f", {rate:.3g} a second, {_duration((total - done) / rate)} left"
        if self.live:
            filled = 20 * done // max(total, 1)
            end = "\n" if done >= total else ""
            print(
                f"\r\033[K[{'#' * filled}{'.' * (20 - filled)}] {text}",
                end=end,
                file=self.stream,
                flush=True,
            )
        else:
            print(text, file=self.stream, flush=True)


def _duration(seconds: float) -> str:
    """
    >>> _duration(7), _duration(125), _duration(7300)
    ('7 s', '2 min 5 s', '2 h 1 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
