"""Reads and writes ``.safetensors`` files.

The format is eight bytes with the header's length, the header in JSON, and the tensors one behind
the other. It is read here so that the tensors can stay where they are in the mapped file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from jaxplain.core.addresses import local
from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import check_shape, mapped, naming

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
_METADATA = "__metadata__"
# Bytes. The format allows 100 MB, which unpacked would take gigabytes; this is the room for tens
# of thousands of tensors.
_LONGEST_HEADER = 8 << 20


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a ``.safetensors`` file.

    Args:
        path: the file.

    Returns:
        name -> array, in the order of the file. The arrays are read-only views of the mapped file.

    Raises:
        CheckpointError: it is no such file, or is cut short or damaged.
        FileNotFoundError: there is no such file.

    Reference: the format is described in the documentation of the package safetensors.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from jaxplain.weights_convert import read_safetensors, write_safetensors
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.safetensors")
        >>> write_safetensors(file, {"a": np.arange(3)})
        >>> read_safetensors(file)
        {'a': array([0, 1, 2])}
    """
    with naming(path) as path:
        data = mapped(path)
        header, position = _header(data)
        found = sorted(
            (_offsets(name, about), name) for name, about in header.items() if name != _METADATA
        )
        tensors = {}
        start = position
        for (begin, end), name in found:
            kind, shape = header[name].get("dtype"), header[name].get("shape")
            if not isinstance(kind, str) or kind not in _DTYPES:
                raise CheckpointError(
                    f"the tensor {name!r:.80} is of the unknown type {kind!s:.80}"
                )
            dtype = np.dtype(_DTYPES[kind])
            if not _sizes(shape) or math.prod(shape) * dtype.itemsize != end - begin:
                raise CheckpointError(
                    f"the size of the tensor {name!r:.80} is not that of its shape"
                )
            if start + begin != position or start + end > data.size:  # a gap, or an overlap
                raise CheckpointError("is cut short or damaged")
            check_shape(name, shape, dtype.itemsize)
            position = start + end
            tensors[name] = data[start + begin : position].view(dtype).reshape(shape)
        if position != data.size:
            raise CheckpointError("is cut short or damaged")
        return tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a ``.safetensors`` file carries besides its tensors.

    Raises:
        CheckpointError: it is no such file, or is cut short or damaged.
        FileNotFoundError: there is no such file.
    """
    with naming(path) as path:
        header, _ = _header(mapped(path))
        metadata = header.get(_METADATA, {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise _damaged()
        return metadata


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a ``.safetensors`` file.

    Args:
        path: the file; one already there is replaced.
        tensors: name -> array.
        metadata: texts that the file carries besides.

    Raises:
        ValueError: the format has no such dtype.
        OSError: the file cannot be written. Nothing half-written remains.
    """
    names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    arrays: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype.newbyteorder("=") not in names:
            raise ValueError(f"The format safetensors has no type for {name!r}, of {array.dtype}.")
        arrays[name] = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    # The widest types come first, so that every tensor is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": names[arrays[name].dtype.newbyteorder("=")],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = local(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                stream.write(arrays[name].reshape(-1).view(np.uint8))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _header(data: np.ndarray) -> tuple[dict[str, dict[str, Any]], int]:
    """What the file says of its tensors, and where they begin."""
    size = int.from_bytes(bytes(data[:8]), "little")
    if data.size < 8 or size > data.size - 8:
        raise _damaged()
    if size > _LONGEST_HEADER:
        raise CheckpointError(f"its header has {size} bytes, more than {_LONGEST_HEADER}")
    try:
        header = json.loads(bytes(data[8 : 8 + size]), object_pairs_hook=_unique)
    except CheckpointError:
        raise
    # ValueError is what is no JSON, or not in UTF-8; brackets may nest too deep.
    except (ValueError, RecursionError) as error:
        raise _damaged() from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise _damaged()
    return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise CheckpointError("its header says one thing twice")
    return unique


def _offsets(name: str, about: Mapping[str, Any]) -> tuple[int, int]:
    offsets = about.get("data_offsets")
    if not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"the place of the tensor {name!r:.80} is not given")
    return offsets[0], offsets[1]


def _sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether a value of the header is a list of sizes that an array can have."""
    return (
        isinstance(value, list)
        and len(value) <= 32
        and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
    )


def _damaged() -> CheckpointError:
    return CheckpointError("is not a .safetensors file, or is cut short or damaged")
