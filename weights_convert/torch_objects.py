"""What PyTorch's pickles are about: storages, tensors, and the names that may be asked for.

No module is ever imported: each of the few names that a state dictionary needs stands for an
inert object of our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError
from jaxplain.weights_convert.file import MOST_DIMENSIONS


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file: which one, of which type, and where it begins.

    ``dtype`` is None for an untyped storage, whose ``size`` then counts bytes.
    """

    key: str
    dtype: np.dtype | None
    size: int
    start: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage; offset, shape and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StateDict(dict):
    """Stands in for ``OrderedDict``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What a name stands for: ``call`` makes an object of arguments, ``dtype`` is of a type's name.

    ``is_storage`` marks the types of storages, of which the untyped one has no dtype.
    """

    call: Callable[..., Any] | None = None
    dtype: np.dtype | None = None
    is_storage: bool = False


def storage_of(reference: Any) -> Storage:
    """The storage that a persistent id refers to.

    Raises:
        UnsafeCheckpointError: it refers to something else.
        CheckpointError: the reference is damaged.
    """
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
        raise UnsafeCheckpointError("it refers to an unknown kind of object")
    kind, key, _location, size = reference[1:5]
    if not (isinstance(kind, Known) and kind.is_storage) or type(key) not in (str, int):
        raise CheckpointError("a storage is of unknown type")
    start = 0
    if len(reference) > 5 and reference[5] is not None:  # a legacy view: (key, offset, size)
        view = reference[5]
        if not isinstance(view, tuple) or len(view) != 3:
            raise CheckpointError("a view of a storage is damaged")
        _, start, size = view
    start, size = _counts((start, size), "the storage size and offset")
    return Storage(str(key), kind.dtype, size, start)


def _counts(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MOST_DIMENSIONS:
        raise CheckpointError(f"{what} of a tensor are no list of counts")
    if not all(type(v) is int and 0 <= v < 1 << 63 for v in values):
        raise CheckpointError(f"{what} of a tensor are not counts")
    return tuple(values)


def _tensor(storage, offset, shape, strides, dtype=None, metadata=None) -> Tensor:
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor has no storage")
    if metadata:
        raise CheckpointError(
            "a tensor is marked as conjugated or negated, which is not supported; "
            "save tensor.resolve_conj().resolve_neg() instead"
        )
    dtype = storage.dtype if dtype is None else dtype
    if dtype is None:
        raise CheckpointError("a tensor has an untyped storage and no dtype")
    (offset,) = _counts((offset,), "the offsets")
    shape, strides = _counts(shape, "the sizes"), _counts(strides, "the strides")
    if len(shape) != len(strides):
        raise CheckpointError(f"a tensor has {len(shape)} sizes but {len(strides)} strides")
    return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_v2(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
    return _tensor(storage, offset, shape, strides, metadata=metadata)


def _rebuild_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    if not isinstance(dtype, Known) or dtype.dtype is None or dtype.is_storage:
        raise CheckpointError("a tensor has an unknown dtype")
    return _tensor(storage, offset, shape, strides, dtype.dtype, metadata)


def _parameter(tensor, *_):
    if not isinstance(tensor, Tensor):
        raise CheckpointError("a parameter holds no tensor")
    return tensor


def _size(values=()):
    return _counts(values, "the sizes")


_DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

#: ``OrderedDict``; the unpickler fills it, for its arguments may be pairs to be filled in.
ORDERED_DICT = Known(StateDict)

#: (module, name) -> what it stands for. Every other name is refused.
KNOWN: dict[tuple[str, str], Known] = {
    ("collections", "OrderedDict"): ORDERED_DICT,
    ("torch", "Size"): Known(_size),
    ("torch._utils", "_rebuild_tensor"): Known(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v2"): Known(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Known(_rebuild_v3),
    ("torch._utils", "_rebuild_parameter"): Known(_parameter),
    ("torch", "UntypedStorage"): Known(is_storage=True),
    ("torch.storage", "UntypedStorage"): Known(is_storage=True),
    **{("torch", name): Known(dtype=np.dtype(d)) for name, d in _DTYPES.items()},
    **{
        ("torch", name): Known(dtype=np.dtype(_DTYPES[d]), is_storage=True)
        for name, d in _STORAGES.items()
    },
}
