"""Reads NumPy ``.npz`` files."""

from __future__ import annotations

import io
import math
import os

import numpy as np
from numpy.lib import format as npy

from jaxplain.weights_convert.archive import Archive
from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError
from jaxplain.weights_convert.file import check_shape, mapped, naming

_MOST_ARRAYS = 20_000  # each takes a while, and no network has as many
_LONGEST_HEADER = 1 << 14  # bytes; NumPy reads no longer ones


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a file that ``numpy.savez`` or ``savez_compressed`` wrote.

    Args:
        path: the file.

    Returns:
        name -> array. Of ``savez`` they are read-only views of the mapped file.

    Raises:
        UnsafeCheckpointError: an array holds Python objects (pickles), or the archive is a bomb.
        CheckpointError: it is no such file, or is cut short or damaged.
        FileNotFoundError: there is no such file.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from jaxplain.weights_convert import read_npz
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.npz")
        >>> np.savez(file, a=np.arange(3))
        >>> read_npz(file)
        {'a': array([0, 1, 2])}
    """
    with naming(path) as path:
        data = mapped(path)
        if bytes(data[:2]) != b"PK":
            raise CheckpointError("is not an .npz file")
        archive = Archive(data)
        wrong = [name for name in archive.names if not name.endswith(".npy")]
        if wrong or not archive.names:
            raise CheckpointError("is not an .npz file: its archive holds other things than arrays")
        if len(archive.names) > _MOST_ARRAYS:
            raise CheckpointError(f"it holds {len(archive.names)} arrays, more than {_MOST_ARRAYS}")
        return {
            name.removesuffix(".npy"): _array(name, archive.contents(name))
            for name in archive.names
        }


def _array(name: str, content: np.ndarray) -> np.ndarray:
    stream = io.BytesIO(content[:_LONGEST_HEADER].tobytes())
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise CheckpointError(f"the array {name!r:.80} is of an unknown version")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except CheckpointError:
        raise
    except Exception as error:  # NumPy evaluates the header as a literal; it may hold anything
        raise CheckpointError(f"the header of the array {name!r:.80} is damaged") from error
    if dtype.hasobject:
        raise UnsafeCheckpointError(f"the array {name!r:.80} holds Python objects")
    if dtype.kind not in "biufc":
        raise CheckpointError(f"the array {name!r:.80} holds no numbers")
    values = content[stream.tell() :]
    check_shape(name, shape, dtype.itemsize)
    if math.prod(shape) * dtype.itemsize != values.size:
        raise CheckpointError(f"the size of the array {name!r:.80} is not that of its shape")
    array = values.view(dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
