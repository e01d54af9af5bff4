"""Reads ``.pth`` files without PyTorch, and without executing anything in them.

Both formats of ``torch.save`` are read: the zip archive (PyTorch 1.6 and later) and the
legacy stream of pickles before it. The file is mapped, not read: the arrays are read-only
views of it, so that a large checkpoint is never held twice.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxplain.weights_convert import safe_pickle
from jaxplain.weights_convert.archive import Archive
from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import check_shape, mapped, naming
from jaxplain.weights_convert.torch_objects import Tensor

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number 0x1950a86a20f9469cfc6c, pickled
_LEGACY_PROTOCOL = 1001
_SMALL = 1000  # work that the pickles of a few numbers take, see `safe_pickle`
_NESTED = ("state_dict", "model_state_dict", "model", "net", "params")
# Elements that a tensor may have beyond its storage's (by strides of 0): a view of them
# costs nothing, but a copy would.
_EXPANDED_LIMIT = 1 << 24

_Locate = Callable[[str], np.ndarray]  # the key of a storage -> its bytes, as a view of the file


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that ``torch.save`` wrote.

    A state dictionary nested under ``state_dict``, ``model_state_dict``, ``model``, ``net`` or
    ``params`` is found, and the prefix ``module.`` of data-parallel training is removed.
    What is not a tensor (epoch number, optimizer state ...) is left out.

    Args:
        path: the file, of the zip or the legacy format.

    Returns:
        name -> array. The arrays are read-only views of the mapped file, of the
        shape, strides and dtype that they were saved with (bfloat16 as ``ml_dtypes.bfloat16``).

    Raises:
        UnsafeCheckpointError: the file asks for anything but tensors and plain containers.
        CheckpointError: it is no PyTorch file, is cut short, or holds no tensors.
        FileNotFoundError: there is no such file.

    Reference: the format is described in PyTorch's notes on serialization semantics.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxplain.weights_convert import read_torch
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.pth")
        >>> _ = file.write_text("<html>not found</html>")
        >>> read_torch(file)
        Traceback (most recent call last):
        ...
        jaxplain.weights_convert.errors.CheckpointError: ...x.pth is not a PyTorch file.
    """
    with naming(path) as path:
        return _read(mapped(path))


def _read(data: np.ndarray) -> dict[str, np.ndarray]:
    head = bytes(data[:512])
    if head[:2] == b"PK":
        tree, locate, big = _open_zip(data)
    elif head[:1] == b"\x80" and head[2:15] == _LEGACY_MAGIC:
        tree, locate, big = _open_legacy(data)
    elif head[257:262] == b"ustar":
        raise CheckpointError(
            "is in the tar format of PyTorch before 0.1.10, which is not supported; "
            "load and save it with a newer PyTorch"
        )
    else:
        raise CheckpointError("is not a PyTorch file")
    tensors = _tensors(tree)
    return {name: _view(name, tensor, locate, big) for name, tensor in tensors.items()}


def _open_zip(data: np.ndarray) -> tuple[Any, _Locate, bool]:
    archive = Archive(data)
    roots = [n[: -len("data.pkl")] for n in archive.names if n.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise CheckpointError("is not a PyTorch file: its archive has no single data.pkl")
    root = roots[0]

    def locate(key: str) -> np.ndarray:
        name = f"{root}data/{key}"
        if name not in archive.names:
            raise CheckpointError(f"the data of storage {key!r:.40} is missing")
        return archive.stored(name)

    order = b"little"
    if f"{root}byteorder" in archive.names:
        order = bytes(archive.stored(f"{root}byteorder")[:16]).strip()
    if order not in (b"little", b"big"):
        raise CheckpointError(f"its byte order {order!r} is unknown")
    tree = safe_pickle.load(archive.stored(f"{root}data.pkl"))[0]
    return tree, locate, order == b"big"


def _open_legacy(data: np.ndarray) -> tuple[Any, _Locate, bool]:
    protocol, position = safe_pickle.load(data, 2 + len(_LEGACY_MAGIC), _SMALL)
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise CheckpointError("its format version is unknown")
    system, position = safe_pickle.load(data, position, _SMALL)
    big = isinstance(system, dict) and system.get("little_endian") is False
    tree, position = safe_pickle.load(data, position)
    keys, position = safe_pickle.load(data, position, 500_000)
    if not isinstance(keys, (list, tuple)) or any(type(key) not in (str, int) for key in keys):
        raise CheckpointError("its list of storages is damaged")
    # Each storage is its number of elements (8 bytes) and the elements; how many bytes one
    # element has is known from the tensors alone.
    widths: dict[str, int] = {}
    for tensor in _all_tensors(tree):
        dtype = tensor.storage.dtype
        widths[tensor.storage.key] = 1 if dtype is None else dtype.itemsize
    places: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        if position + 8 > data.size:
            raise CheckpointError("is cut short: the data of some tensors is missing")
        (count,) = struct.unpack(">q" if big else "<q", bytes(data[position : position + 8]))
        if key not in widths:
            if key == str(keys[-1]):
                break
            raise CheckpointError(f"storage {key!r:.40} belongs to no tensor")
        size = count * widths[key]
        if count < 0 or position + 8 + size > data.size:
            raise CheckpointError("is cut short: the data of some tensors is missing")
        places[key] = (position + 8, size)
        position += 8 + size

    def locate(key: str) -> np.ndarray:
        if key not in places:
            raise CheckpointError(f"the data of storage {key!r:.40} is missing")
        begin, size = places[key]
        return data[begin : begin + size]

    return tree, locate, big


def _all_tensors(tree: Any) -> list[Tensor]:
    """Every tensor in nested containers, without recursion (the pickle may be deep)."""
    found, stack, seen = [], [tree], set()
    while stack:
        node = stack.pop()
        if isinstance(node, Tensor):
            found.append(node)
        elif isinstance(node, (dict, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            stack.extend(node.values() if isinstance(node, dict) else node)
    return found


def _tensors(tree: Any) -> Mapping[str, Tensor]:
    for _ in range(4):  # a wrapper in a wrapper is seen, a cycle ends
        if not isinstance(tree, dict):
            break
        named = [(k, v) for k, v in tree.items() if isinstance(k, (str, int))]
        tensors = {str(k): v for k, v in named if isinstance(v, Tensor)}
        inner = next((tree[k] for k in _NESTED if isinstance(tree.get(k), dict)), None)
        if inner is None:
            if not tensors:
                break
            if all(k.startswith("module.") for k in tensors):
                tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
            return tensors
        tree = inner
    raise CheckpointError("it holds no dictionary of named tensors")


def _view(name: str, tensor: Tensor, locate: _Locate, big: bool) -> np.ndarray:
    storage, width = tensor.storage, tensor.dtype.itemsize
    unit = 1 if storage.dtype is None else storage.dtype.itemsize
    count = math.prod(tensor.shape)
    begin = storage.start * unit + tensor.offset * width
    reach = 0
    if count:
        reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset * width + reach * width > storage.size * unit:
        raise CheckpointError(f"the tensor {name!r:.80} reaches beyond its storage")
    if count > max(reach, _EXPANDED_LIMIT):
        raise CheckpointError(f"the tensor {name!r:.80} is larger than its storage")
    check_shape(name, tensor.shape, width)
    if count == 0:
        return np.zeros(tensor.shape, tensor.dtype)
    raw = locate(storage.key)
    if begin + reach * width > raw.size:
        raise CheckpointError("is cut short: the data of some tensors is missing")
    dtype = tensor.dtype
    flat = np.frombuffer(raw, np.uint8, count=reach * width, offset=begin)
    if big and width > 1:
        part = width // 2 if dtype.kind == "c" else width
        flat = flat.reshape(-1, part)[:, ::-1].reshape(-1)  # a copy; such files are rare
    # The stride of an axis of length 1 is never used, and may be anything.
    strides = [s * width if n > 1 else 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(flat.view(dtype), tensor.shape, strides, writeable=False)
