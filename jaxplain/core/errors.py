"""The errors that the core raises, and how it warns."""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Iterable


class UnsupportedOperationError(Exception):
    """An operation on the path from input to output that the rules must handle and cannot."""


class UnsuitableNetworkError(ValueError):
    """A network for which the method is not defined, as CAM for one without a global pool."""


class UnknownLayerError(ValueError):
    """A layer name that the traced function does not have."""


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """The known names most like ``name``, as text for an error message."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, known, count, cutoff=0.4) or known[:count]
    return ", ".join(repr(n) for n in close)


def suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with names alike, or holding the word; otherwise the names, if few."""
    known = list(known)
    near = [k for k in known if name and re.search(rf"\b{re.escape(name)}\b", k)][:4]
    near += difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    near = list(dict.fromkeys(near))[:4] or difflib.get_close_matches(name, known, n=4, cutoff=0.3)
    if near:
        return (
            f"; did you mean {' or '.join([', '.join(near[:-1]), near[-1]] if near[1:] else near)}?"
        )
    return f"; known: {', '.join(known)}" if len(known) <= 30 else ""


def warn_the_caller(message: str) -> None:
    """A UserWarning at the line that called jaxplain."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("jaxplain."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
