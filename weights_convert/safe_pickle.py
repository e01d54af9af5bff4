"""A pickle reader that knows the tensors and plain containers of PyTorch, and nothing else.

A pickle is a program: it names functions ("globals") and has them called. Here each of the
few names that a state dictionary needs is answered with an inert stand-in of our own; no
module is ever imported, and every other name is refused by ``UnsafeCheckpointError``.
"""

from __future__ import annotations

import dataclasses
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np

from jaxplain.weights_convert.errors import CheckpointError, UnsafeCheckpointError


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file: which one, of which type, and where it begins.

    ``dtype`` is None for an untyped storage, whose ``size`` then counts bytes.
    """

    key: str
    dtype: np.dtype | None
    size: int
    start: int = 0

    def __setstate__(self, state):
        raise UnsafeCheckpointError("it tries to alter a storage")


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage; offset, shape and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state):
        raise UnsafeCheckpointError("it tries to alter a tensor")


class StateDict(dict):
    """Stands in for ``OrderedDict``; the attributes that torch hangs on it are dropped."""

    def __setstate__(self, state):
        pass


class _Known:
    """What a known global resolves to: may be called, cannot be altered by the pickle.

    A plain function or class would do, were it not for the BUILD instruction, which
    can set attributes on whatever lies on the stack.
    """

    __slots__ = ("_call", "_value")

    def __init__(self, call: Callable | None = None, value: Any = None):
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_value", value)

    def __setattr__(self, name, value):
        raise UnsafeCheckpointError("it tries to alter one of the reader's own objects")

    def __setstate__(self, state):
        raise UnsafeCheckpointError("it tries to alter one of the reader's own objects")

    def __call__(self, *args):
        if self._call is None:
            raise UnsafeCheckpointError("it tries to call a type name")
        return self._call(*args)

    @property
    def value(self):
        return self._value


def _integers(values, what: str) -> tuple[int, ...]:
    values = tuple(values)
    if not all(type(v) is int and v >= 0 for v in values):
        raise CheckpointError(f"a tensor has {what} {values}, which are not counts")
    return values


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
    (offset,) = _integers((offset,), "the offset")
    shape, strides = _integers(shape, "the sizes"), _integers(strides, "the strides")
    if len(shape) != len(strides):
        raise CheckpointError(f"a tensor has {len(shape)} sizes but {len(strides)} strides")
    return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_v2(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
    return _tensor(storage, offset, shape, strides, metadata=metadata)


def _rebuild_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    if not isinstance(dtype, _Known) or not isinstance(dtype.value, np.dtype):
        raise CheckpointError("a tensor has an unknown dtype")
    return _tensor(storage, offset, shape, strides, dtype.value, metadata)


def _parameter(tensor, *_):
    if not isinstance(tensor, Tensor):
        raise CheckpointError("a parameter holds no tensor")
    return tensor


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


class _StorageType(_Known):
    """A storage class: may stand in a persistent id, and may not be called."""

    __slots__ = ()


_KNOWN: dict[tuple[str, str], _Known] = {
    ("collections", "OrderedDict"): _Known(StateDict),
    ("torch", "Size"): _Known(tuple),
    ("torch._utils", "_rebuild_tensor"): _Known(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v3"): _Known(_rebuild_v3),
    ("torch._utils", "_rebuild_parameter"): _Known(_parameter),
    ("torch", "UntypedStorage"): _StorageType(),
    ("torch.storage", "UntypedStorage"): _StorageType(),
    **{("torch", name): _Known(value=np.dtype(d)) for name, d in _DTYPES.items()},
    **{("torch", name): _StorageType(value=np.dtype(_DTYPES[d])) for name, d in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Known:
        known = _KNOWN.get((module, name))
        if known is None:
            raise UnsafeCheckpointError(
                f"it asks for {module}.{name}, which is neither a tensor nor a plain container; "
                "save the state_dict() alone"
            )
        return known

    def persistent_load(self, pid) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise UnsafeCheckpointError(f"it refers to an unknown kind of object ({pid!r:.60})")
        kind, key, _location, size = pid[1:5]
        if not isinstance(kind, _StorageType) or not isinstance(key, (str, int)):
            raise CheckpointError("a storage is of unknown type")
        start = 0
        if len(pid) > 5 and pid[5] is not None:  # a legacy view: (its key, offset, its size)
            _, start, size = pid[5]
        start, size = _integers((start, size), "the storage size and offset")
        return Storage(str(key), kind.value, size, start)


def load(stream: BinaryIO) -> Any:
    """Reads one pickle from ``stream``, and leaves the stream right behind it.

    Raises:
        UnsafeCheckpointError: it names a global that is not a tensor or a plain container.
        CheckpointError: it is cut short or damaged.
    """
    begin = stream.tell()
    try:
        # The memo of the C unpickler is an array: one forged index would claim gigabytes.
        for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
            if op.name in ("PUT", "BINPUT", "LONG_BINPUT") and cast(int, arg) > count:
                raise CheckpointError("its pickle is damaged")
        end = stream.tell()
        stream.seek(begin)
        result = _Unpickler(stream, encoding="utf-8").load()
        stream.seek(end)
        return result
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError("its pickle is cut short or damaged") from error
