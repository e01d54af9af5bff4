"""Reads Caffe's ``.caffemodel`` files, without Caffe.

A file is one protocol buffer message. It is read here and not by a library: the weights of a large
network would be held twice, while here they stay where they are in the mapped file, and of the
schema only the few fields that weights need have to be known.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import MOST_DIMENSIONS, check_shape, mapped, naming

# Numbers of the fields: of the network, of a layer in its old (V1) and its present form, of a blob.
_NET_V1_LAYERS, _NET_LAYER = 2, 100
_V1_V0_LAYER, _V1_NAME, _V1_TYPE, _V1_BLOBS = 1, 4, 5, 6
_NAME, _TYPE, _BLOBS = 1, 2, 7
_LEGACY_SHAPE = (1, 2, 3, 4)  # num, channels, height, width
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8
_SHAPE_DIM = 1
# Wire types.
_VARINT, _8_BYTES, _BYTES, _4_BYTES = 0, 1, 2, 5
_FIXED = {_8_BYTES: 8, _4_BYTES: 4}
_V1_INNER_PRODUCT = 14
_LONGEST_NAME = 1 << 8  # bytes
_MOST_BLOBS = 64  # of a layer
# Tags in a file, at all depths. Each takes a microsecond or two; the largest networks have ten
# thousands, for their numbers are packed.
_MOST_FIELDS = 500_000


def read_caffemodel(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the blobs of a ``.caffemodel`` file, of the V1 (``layers``) or V2 (``layer``) form.

    Args:
        path: the file.

    Returns:
        ``"layer.0"``, ``"layer.1"`` ... -> array, for every layer with blobs: of a convolution
        the kernel ``(out, in, h, w)`` and the bias ``(out,)``, of a dense layer ``(out, in)`` and
        ``(out,)``, of BatchNorm mean, variance and the factor that both are to be divided by. The
        arrays are read-only views of the mapped file. The channels of the image are BGR.
        Blobs of the old form (num, channels, height, width) come in the shape of the new one.

    Raises:
        CheckpointError: it is no such file, or is cut short or damaged.
        FileNotFoundError: there is no such file.

    Reference: Y. Jia et al., Caffe: Convolutional Architecture for Fast Feature Embedding, ACM
    Multimedia 2014.

    Example:
        >>> import pathlib, tempfile
        >>> from jaxplain.weights_convert import read_caffemodel
        >>> file = pathlib.Path(tempfile.mkdtemp(), "x.caffemodel")
        >>> _ = file.write_text("<html>not found</html>")
        >>> read_caffemodel(file)
        Traceback (most recent call last):
        ...
        jaxplain.weights_convert.errors.CheckpointError: ...x.caffemodel is not a .caffemodel...
    """
    with naming(path) as path:
        tensors: dict[str, np.ndarray] = {}
        layers = 0
        fields = _Fields()
        for number, wire, value in fields(mapped(path)):
            if wire != _BYTES or number not in (_NET_V1_LAYERS, _NET_LAYER):
                continue
            layers += 1
            old = number == _NET_V1_LAYERS
            for name, array in _layer(value, old, fields):
                if name in tensors:
                    raise CheckpointError(f"it holds the blob {name!r:.80} twice")
                tensors[name] = array
        if not layers:
            raise CheckpointError("is not a .caffemodel file, or holds no layers")
        if not tensors:
            raise CheckpointError("is not a .caffemodel file with weights: no layer has blobs")
        return tensors


def _layer(data: np.ndarray, old: bool, fields: _Fields) -> Iterator[tuple[str, np.ndarray]]:
    name, kind, blobs = "", None, []
    for number, wire, value in fields(data):
        if wire == _BYTES and number == (_V1_BLOBS if old else _BLOBS):
            blobs.append(value)
        elif wire == _BYTES and number == (_V1_NAME if old else _NAME):
            name = _text(value)
        elif wire == _VARINT and old and number == _V1_TYPE:
            kind = value
        elif wire == _BYTES and not old and number == _TYPE:
            kind = _text(value)
        elif wire == _BYTES and old and number == _V1_V0_LAYER:
            raise CheckpointError(
                "its layers are of Caffe's first form (V0); upgrade it with Caffe's own tool "
                "upgrade_net_proto_binary"
            )
    dense = kind == (_V1_INNER_PRODUCT if old else "InnerProduct")
    if len(blobs) > _MOST_BLOBS:
        raise CheckpointError(f"the layer {name!r:.80} has {len(blobs)} blobs")
    for index, blob in enumerate(blobs):
        yield f"{name}.{index}", _blob(f"{name}.{index}", blob, dense, fields)


def _blob(name: str, data: np.ndarray, dense: bool, fields: _Fields) -> np.ndarray:
    # Numbers come packed, in one piece or several, or one by one, each with its own tag.
    packed: dict[int, list[np.ndarray]] = {_DATA: [], _DOUBLE_DATA: []}
    single = {_DATA: bytearray(), _DOUBLE_DATA: bytearray()}
    legacy = dict.fromkeys(_LEGACY_SHAPE, 0)
    dimensions: list[int] | None = None
    for number, wire, value in fields(data):
        if wire == _BYTES and number in packed:
            packed[number].append(value)
        elif (number, wire) in ((_DATA, _4_BYTES), (_DOUBLE_DATA, _8_BYTES)):
            single[number] += value.tobytes()
        elif wire == _BYTES and number == _SHAPE:
            dimensions = [] if dimensions is None else dimensions
            dimensions += itertools.islice(_dimensions(value, fields), MOST_DIMENSIONS + 1)
            if len(dimensions) > MOST_DIMENSIONS:
                raise CheckpointError(f"the blob {name!r:.80} has an impossible shape")
        elif wire == _VARINT and number in legacy:
            legacy[number] = _signed(value)
    values = np.zeros(0, np.float32)
    for number, dtype in ((_DOUBLE_DATA, "<f8"), (_DATA, "<f4")):  # floats count, if there are both
        if single[number]:
            packed[number].append(np.frombuffer(bytes(single[number]), np.uint8))
        pieces = [_numbers(piece, dtype) for piece in packed[number]]
        if pieces:
            values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    shape = tuple(legacy.values()) if dimensions is None else tuple(dimensions)
    if dimensions is None:
        if name.endswith(".0") and dense and shape[:2] == (1, 1):
            shape = shape[2:]
        elif shape[:3] == (1, 1, 1):
            shape = shape[3:]
    if any(n < 0 for n in shape) or math.prod(shape) != values.size:
        raise CheckpointError(
            f"the blob {name!r:.80} of shape {str(shape):.80} holds {values.size} numbers"
        )
    check_shape(name, shape, values.itemsize)
    return values.reshape(shape)


def _dimensions(data: np.ndarray, fields: _Fields) -> Iterator[int]:
    for number, wire, value in fields(data):
        if number == _SHAPE_DIM and wire == _VARINT:
            yield _signed(value)
        elif number == _SHAPE_DIM and wire == _BYTES:
            at = 0
            while at < value.size:
                size, at = _varint(memoryview(value), at)
                yield _signed(size)


def _signed(number: int) -> int:
    """A varint as the signed number of 64 bits that it stands for."""
    return number - (1 << 64) if number >> 63 else number


def _text(data: np.ndarray) -> str:
    if data.size > _LONGEST_NAME:
        raise CheckpointError("a layer of it has an impossibly long name")
    try:
        return data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("is not a .caffemodel file, or is damaged") from error


def _numbers(data: np.ndarray, dtype: str) -> np.ndarray:
    if data.size % np.dtype(dtype).itemsize:
        raise CheckpointError("is cut short or damaged")
    return data.view(dtype)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise CheckpointError("is not a .caffemodel file, or is cut short or damaged")
        byte = view[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result & (1 << 64) - 1, at
    raise CheckpointError("is not a .caffemodel file, or is damaged")


class _Fields:
    """Reads the fields of messages, and counts them over the whole file."""

    def __init__(self):
        self._left = _MOST_FIELDS

    def __call__(self, data: np.ndarray) -> Iterator[tuple[int, int, Any]]:
        """The fields of a message: number, wire type, and value (a view; an int for varints).

        Reference: the encoding is described in the documentation of protocol buffers.
        """
        view, at, end = memoryview(data), 0, data.size
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise CheckpointError(f"it holds more than {_MOST_FIELDS} fields")
            tag, at = _varint(view, at)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                size, at = _varint(view, at)
                yield number, wire, size
                continue
            if wire != _BYTES and wire not in _FIXED or not number:
                raise CheckpointError("is not a .caffemodel file, or is damaged")
            size, at = _varint(view, at) if wire == _BYTES else (_FIXED[wire], at)
            if size > end - at:
                raise CheckpointError("is not a .caffemodel file, or is cut short or damaged")
            yield number, wire, data[at : at + size]
            at += size
