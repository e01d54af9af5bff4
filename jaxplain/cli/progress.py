"""What is seen of a long run on stderr: how far it has come, and what the library says."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

_EVERY = 30.0  # seconds between the lines in a log


class Bar:
    """Draws ``(done, total)`` with tqdm: a bar on a terminal, elsewhere a line now and then.

    Call it as often as you like. Where a function counts several things, one after another, each
    has a bar of its own. Leaving the ``with`` block finishes the bar, so that what is printed next
    has its own line.

    Args:
        unit: what is counted.
    """

    def __init__(self, unit: str):
        self.unit = unit
        self.live = sys.stderr.isatty()
        self._bar: Any = None
        self._last: tuple[int, int] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` are done."""
        if (done, total) == self._last:
            return
        if self._last is not None and (total != self._last[1] or done < self._last[0]):
            self.close()  # the next thing is counted
        if self._bar is None:
            self._bar = self._open(done, total)
        self._last = done, total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Finishes the bar that is being drawn."""
        bar, self._bar = self._bar, None
        if bar is None:
            return
        if not self.live:
            bar.bar_format = "{n_fmt} of {total_fmt} {unit} ({percentage:.0f} %), took {elapsed}"
            bar.refresh()
        bar.close()

    def _open(self, done: int, total: int) -> Any:
        from tqdm.auto import tqdm

        # What an earlier run did, or came with the first call, says nothing about the rate.
        if self.live:
            unit = f" {self.unit}"
            return tqdm(total=total, initial=done, unit=unit, dynamic_ncols=True, file=sys.stderr)
        return tqdm(
            total=total,
            initial=done,
            unit=self.unit,
            file=_Lines(),
            mininterval=_EVERY,
            maxinterval=_EVERY,
            miniters=1,
            delay=1e-9,  # nothing is shown before the first 30 seconds are over
            leave=False,
            bar_format="{n_fmt} of {total_fmt} {unit} ({percentage:.0f} %), {remaining} left",
        )


class _Lines:
    """A file for tqdm that makes a line of each state of the bar, instead of overwriting it."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


class _Handler(logging.Handler):
    """Writes what the library says on the stderr of the moment, above a bar that is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"jaxplain: {self.format(record)}"
            if "tqdm" in sys.modules:
                from tqdm import tqdm

                tqdm.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr, flush=True)
        except Exception:  # as every handler of `logging` does
            self.handleError(record)


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """While it lasts, what the library says is shown, once: packages give the root logger handlers
    of their own."""
    logger, handler = logging.getLogger("jaxplain"), _Handler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
