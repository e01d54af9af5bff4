"""Reads Caffe's ``.caffemodel`` files, without Caffe.

A file is one protocol buffer message. The blobs of a large network would be held twice if the
protobuf runtime parsed them, so that only the rest (names, types, shapes) is given to it; the
numbers stay where they are in the mapped file.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxplain.weights_convert.errors import CheckpointError
from jaxplain.weights_convert.file import mapped, naming

# Numbers of the fields, and of the two wire types that matter here.
_NET_V1_LAYERS, _NET_LAYER = 2, 100
_V1_BLOBS, _BLOBS = 6, 7
_DATA, _DIFF, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 8, 9
_BYTES = 2
_FIXED = {1: 8, 5: 4}
_V1_INNER_PRODUCT = 14
_HEADER_LIMIT = 1 << 20  # bytes of a layer or blob besides its numbers


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
      ImportError: the package protobuf is not installed.

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
      jaxplain.weights_convert.errors.CheckpointError: ...x.caffemodel is not a .caffemodel file...
    """
    schema = _schema()
    with naming(path) as path:
        tensors: dict[str, np.ndarray] = {}
        layers = 0
        for number, kind, value in _fields(mapped(path)):
            if kind != _BYTES or number not in (_NET_V1_LAYERS, _NET_LAYER):
                continue
            layers += 1
            old = number == _NET_V1_LAYERS
            for name, array in _layer(value, old, schema):
                if name in tensors:
                    raise CheckpointError(f"it holds the blob {name!r:.80} twice")
                tensors[name] = array
        if not layers:
            raise CheckpointError("is not a .caffemodel file, or holds no layers")
        if not tensors:
            raise CheckpointError("is not a .caffemodel file with weights: no layer has blobs")
        return tensors


def _layer(data: np.ndarray, old: bool, schema) -> Iterator[tuple[str, np.ndarray]]:
    blobs, header = [], []
    for field in _fields(data):
        if field[:2] == ((_V1_BLOBS if old else _BLOBS), _BYTES):
            blobs.append(field[2])
        else:
            header.append(field)
    layer = _parse(schema["V1LayerParameter" if old else "LayerParameter"], header)
    if old and layer.HasField("layer"):
        raise CheckpointError(
            "its layers are of Caffe's first form (V0); upgrade it with Caffe's own tool "
            "upgrade_net_proto_binary"
        )
    if not isinstance(layer.name, str):  # the runtime gives bytes that are not UTF-8 as they are
        raise CheckpointError("is not a .caffemodel file, or is damaged")
    dense = layer.type == (_V1_INNER_PRODUCT if old else "InnerProduct")
    for index, blob in enumerate(blobs):
        yield f"{layer.name}.{index}", _blob(f"{layer.name}.{index}", blob, dense, schema)


def _blob(name: str, data: np.ndarray, dense: bool, schema) -> np.ndarray:
    header, packed = [], {_DATA: [], _DOUBLE_DATA: []}
    for field in _fields(data):
        number, kind, value = field
        if kind == _BYTES and number in packed:
            packed[number].append(value)
        elif number not in (_DIFF, _DOUBLE_DIFF):
            header.append(field)
    message = _parse(schema["BlobProto"], header)
    single, double = packed[_DATA], packed[_DOUBLE_DATA]
    pieces = [_numbers(p, "<f4") for p in single] or [_numbers(p, "<f8") for p in double]
    # Numbers may also come one by one, each with its own tag; those the runtime has read.
    pieces = pieces or [np.array(message.data or message.double_data, np.float32)]
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    if message.HasField("shape"):
        shape = tuple(message.shape.dim)
    else:
        shape = (message.num, message.channels, message.height, message.width)
        if name.endswith(".0") and dense and shape[:2] == (1, 1):
            shape = shape[2:]
        elif shape[:3] == (1, 1, 1):
            shape = shape[3:]
    if len(shape) > 32 or any(n < 0 for n in shape) or math.prod(shape) != values.size:
        raise CheckpointError(
            f"the blob {name!r:.80} of shape {str(shape):.80} holds {values.size} numbers"
        )
    return values.reshape(shape)


def _numbers(data: np.ndarray, dtype: str) -> np.ndarray:
    if data.size % np.dtype(dtype).itemsize:
        raise CheckpointError("is cut short or damaged")
    return data.view(dtype)


def _fields(data: np.ndarray) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message: number, wire type, and value (a view; an int for varints).

    Reference: the encoding is described in the documentation of protocol buffers.
    """
    view, at, end = memoryview(data), 0, data.size

    def varint() -> int:
        nonlocal at
        result = 0
        for shift in range(0, 64, 7):
            if at >= end:
                raise CheckpointError("is not a .caffemodel file, or is cut short or damaged")
            byte = view[at]
            at += 1
            result |= (byte & 127) << shift
            if byte < 128:
                return result & (1 << 64) - 1
        raise CheckpointError("is not a .caffemodel file, or is damaged")

    while at < end:
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, kind, varint()
            continue
        if kind != _BYTES and kind not in _FIXED or not number:
            raise CheckpointError("is not a .caffemodel file, or is damaged")
        size = varint() if kind == _BYTES else _FIXED[kind]
        if size > end - at:
            raise CheckpointError("is not a .caffemodel file, or is cut short or damaged")
        yield number, kind, data[at : at + size]
        at += size


def _parse(message_class, fields) -> Any:
    """Gives fields back to the protobuf runtime."""
    encoded = bytearray()
    for number, kind, value in fields:
        encoded += _varint(number << 3 | kind)
        if kind == 0:
            encoded += _varint(value)
        else:
            encoded += (_varint(value.size) if kind == _BYTES else b"") + value.tobytes()
        if len(encoded) > _HEADER_LIMIT:
            raise CheckpointError("a layer of it has an impossibly long description")
    from google.protobuf.message import DecodeError

    try:
        return message_class.FromString(bytes(encoded))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise CheckpointError("is not a .caffemodel file, or is damaged") from error


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


@functools.cache
def _schema() -> dict[str, Any]:
    """The few messages and fields of Caffe's that weights need, in a pool of their own."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise ImportError(
            "Reading .caffemodel files needs the package protobuf; install it with "
            'pip install "jaxplain[zoo]".'
        ) from error
    field = descriptor_pb2.FieldDescriptorProto
    tables = {
        "BlobShape": [("dim", 1, field.TYPE_INT64, True)],
        "BlobProto": [
            ("num", 1, field.TYPE_INT32, False),
            ("channels", 2, field.TYPE_INT32, False),
            ("height", 3, field.TYPE_INT32, False),
            ("width", 4, field.TYPE_INT32, False),
            ("data", _DATA, field.TYPE_FLOAT, True),
            ("shape", 7, "BlobShape", False),
            ("double_data", _DOUBLE_DATA, field.TYPE_DOUBLE, True),
        ],
        "V1LayerParameter": [
            ("layer", 1, field.TYPE_BYTES, False),
            ("name", 4, field.TYPE_STRING, False),
            ("type", 5, field.TYPE_INT32, False),
        ],
        "LayerParameter": [
            ("name", 1, field.TYPE_STRING, False),
            ("type", 2, field.TYPE_STRING, False),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="jaxplain/caffe_weights", package="jaxplain.caffe_weights", syntax="proto2"
    )
    for message_name, fields in tables.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, repeated in fields:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in tables
    }
