"""Addresses such as ``gs://bucket/maps``, told apart from paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter would be a drive of Windows


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether a folder or file is named by an address, and not by a path.

    Example:
        >>> is_address("gs://bucket/maps"), is_address("maps")
        (True, False)
    """
    return _ADDRESS.match(os.fspath(text)) is not None


def local(path: str | os.PathLike[str]) -> Path:
    """The path of what is to be written on this machine.

    Raises:
        ValueError: it is an address, of which a path would make a local folder called ``gs:``.
    """
    if is_address(path):
        raise ValueError(
            f"{os.fspath(path)} is an address, and maps of explain_dataset alone are written to "
            "one; name a path of this machine."
        )
    return Path(path)
