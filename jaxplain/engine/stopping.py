"""Ending in time: what a process does when it is told to stop.

Python looks at signals between two instructions of the main thread. While that thread waits for a
compiler, or for other processes, nothing happens; and `jax.distributed` takes SIGTERM for a notice
that somebody else will heed. Schedulers kill a process that has not ended after a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

#: Seconds after a signal until the process ends, however it is occupied.
GRACE = 3.0


@contextlib.contextmanager
def ends_in_time(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """While it lasts, each of the signals ends the process with status 128 + its number.

    SIGINT is raised in the main thread as `KeyboardInterrupt`, others as `SystemExit`, so that
    what is open is closed. If that takes more than ``GRACE`` seconds, the process ends as it is:
    whatever it writes, it must put in place atomically. Elsewhere than in the main thread, where
    Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    watched = frozenset(int(number) for number in signals)
    threading.Thread(
        target=_watch, args=(reading, watched), name="ends-in-time", daemon=True
    ).start()
    before_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in signals:
        if number != signal.SIGINT or before[number] is not signal.default_int_handler:
            signal.signal(number, _raise)
    try:
        yield
    finally:
        # After a signal they stay as they are: closing down is bounded too.
        if signal.set_wakeup_fd(before_fd) == writing.fileno():
            writing.close()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _raise(number: int, _: Any) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _watch(reading: socket.socket, watched: frozenset[int]) -> None:
    with reading:
        while caught := reading.recv(1):
            if caught[0] in watched:
                time.sleep(GRACE)
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    sys.stderr.flush()
                os._exit(128 + caught[0])
