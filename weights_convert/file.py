"""What the readers share: mapping files, shapes that can be, and errors that name the file."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError

#: Of an array, as NumPy before 2 has them.
MOST_DIMENSIONS = 32
_MOST_BYTES = 1 << 62


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a ``CheckpointError`` inside the block one sentence that begins with the file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        yield path
    except CheckpointError as error:
        message = str(error).rstrip(".")
        if not message.startswith("is "):
            message = f"cannot be read: {message}"
        raise type(error)(f"{path} {message}.") from error.__cause__


def mapped(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only array that takes no memory."""
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def check_shape(name: str, shape: Sequence[int], itemsize: int) -> None:
    """Whether an array can have this shape: NumPy refuses some even where they hold no number.

    Raises:
        CheckpointError: it cannot.
    """
    if (
        len(shape) > MOST_DIMENSIONS
        or any(n < 0 for n in shape)
        or math.prod(max(n, 1) for n in shape) * itemsize > _MOST_BYTES
    ):
        raise CheckpointError(f"the array {name!r:.80} has an impossible shape")
