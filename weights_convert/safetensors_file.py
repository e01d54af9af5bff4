"""Reads ``.safetensors`` files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import mapped, naming

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a ``.safetensors`` file.

    Args:
      path: the file.

    Returns:
      name -> array. The arrays are read-only views of the mapped file.

    Raises:
      CheckpointError: it is no such file, or is cut short or damaged.
      FileNotFoundError: there is no such file.
      ImportError: the package safetensors is not installed.

    Reference: the format is described in the documentation of the package safetensors.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from safetensors.numpy import save_file
      >>> from jaxplain.weights_convert import read_safetensors
      >>> file = pathlib.Path(tempfile.mkdtemp(), "x.safetensors")
      >>> save_file({"a": np.arange(3)}, file)
      >>> read_safetensors(file)
      {'a': array([0, 1, 2])}
    """
    with naming(path) as path:
        data = mapped(path)
        return _views(path, data)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a ``.safetensors`` file carries besides its tensors.

    Raises: as ``read_safetensors``.
    """
    with naming(path) as path, _opened(path) as file:
        return file.metadata() or {}


def _opened(path: Path) -> Any:
    """The file, its header checked by the package: sizes, offsets, no gaps and no overlaps."""
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "Reading .safetensors files needs the package safetensors; install it with "
            'pip install "jaxplain[zoo]".'
        ) from error
    try:
        return safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError("is not a .safetensors file, or is cut short or damaged") from error


def _views(path: Path, data: np.ndarray) -> dict[str, np.ndarray]:
    tensors = {}
    with _opened(path) as file:
        position = 8 + int(data[:8].view("<u8")[0])
        for name in file.offset_keys():  # they lie one behind the other
            piece = file.get_slice(name)
            kind, shape = piece.get_dtype(), tuple(piece.get_shape())
            if kind not in _DTYPES:
                raise CheckpointError(f"the tensor {name!r:.80} is of the unknown type {kind}")
            dtype = np.dtype(_DTYPES[kind])
            end = position + math.prod(shape) * dtype.itemsize
            if end > data.size or len(shape) > 32:
                raise CheckpointError("is cut short or damaged")
            tensors[name] = data[position:end].view(dtype).reshape(shape)
            position = end
    if position != data.size:
        raise CheckpointError("is cut short or damaged")
    return tensors
