"""The errors that the core raises."""

from __future__ import annotations

import difflib
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
