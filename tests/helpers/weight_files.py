"""Writes small files of weights in every format, for the tests of readers and converters."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import torch_writer

RNG = np.random.default_rng(0)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: bytes | int | str) -> bytes:
    """One protocol buffer field: bytes and texts with their length, integers as varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def caffe_blob(array, *, legacy=None, packed=True, double=False, shape=None) -> bytes:
    """A blob of the new form, or of the legacy form with the four sizes ``legacy``."""
    array = np.asarray(array, "<f8" if double else "<f4")
    if legacy is not None:
        out = b"".join(field(i + 1, n) for i, n in enumerate(legacy))
    else:
        dims = b"".join(varint(n) for n in (array.shape if shape is None else shape))
        out = field(7, field(1, dims))
    if packed:
        out += field(8 if double else 5, array.tobytes())
        return out + field(6, array.tobytes())  # diff, which is of no use
    return out + b"".join(varint(5 << 3 | 5) + v.tobytes() for v in array.reshape(-1))


def caffe(layers, *, v1=False, prefix=b"") -> bytes:
    """A model; ``layers`` are (name, type, blobs)."""
    out = field(1, "net") + prefix
    for name, kind, blobs in layers:
        if v1:
            layer = field(4, name) + field(5, kind) + b"".join(field(6, b) for b in blobs)
            out += field(2, field(3, "top") + layer)
        else:
            layer = field(1, name) + field(2, kind) + field(10, 1)
            out += field(100, layer + b"".join(field(7, b) for b in blobs))
    return out


def torch(tensors) -> bytes:
    return torch_writer.zipped({n: torch_writer.view(v) for n, v in tensors.items()})


def safetensors(tensors) -> bytes:
    from safetensors.numpy import save

    return save({n: np.asarray(v, order="C") for n, v in tensors.items()})


def npz(tensors) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **tensors)
    return stream.getvalue()


def caffemodel(tensors) -> bytes:
    """Of tensors that are named ``layer.0``, ``layer.1`` ..."""
    layers: dict[str, list] = {}
    for name in sorted(tensors):  # blob 0 comes first
        layers.setdefault(name.rpartition(".")[0], []).append(caffe_blob(tensors[name]))
    return caffe([(name, "Convolution", blobs) for name, blobs in layers.items()])


def keras_h5(tensors) -> bytes:
    """The legacy layout, of tensors that are named ``layer/kernel`` ..."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        layers: dict[str, list] = {}
        for name in tensors:
            layers.setdefault(name.rpartition("/")[0], []).append(name.rpartition("/")[2])
        file.attrs["layer_names"] = np.array([n.encode() for n in layers])
        for layer, leaves in layers.items():
            group = file.create_group(layer)
            names = [f"{layer}_1/{leaf}:0" for leaf in leaves]
            group.attrs["weight_names"] = np.array([n.encode() for n in names])
            for leaf, name in zip(leaves, names, strict=True):
                group.create_dataset(name, data=tensors[f"{layer}/{leaf}"])
    return stream.getvalue()


def keras_zip(tensors) -> bytes:
    """A ``.keras`` archive, of tensors that are named ``layer/vars/0`` ..."""
    import zipfile

    import h5py

    inner = io.BytesIO()
    with h5py.File(inner, "w") as file:
        for name, value in tensors.items():
            layer, _, leaf = name.split("/")
            group = file.require_group(f"layers/{layer}_of_class/vars")
            group.attrs["name"] = layer
            group[leaf] = value
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", inner.getvalue())
    return stream.getvalue()


def some(*names_and_shapes) -> dict[str, np.ndarray]:
    return {n: RNG.normal(size=s).astype(np.float32) for n, s in names_and_shapes}


DOTTED = some(("conv.weight", (4, 3, 5, 7)), ("conv.bias", (4,)), ("fc.weight", (2, 4)))
BLOBS = some(("conv.0", (4, 3, 5, 7)), ("conv.1", (4,)), ("fc.0", (2, 4)))
LAYERS = some(("conv/kernel", (5, 7, 3, 4)), ("conv/bias", (4,)), ("fc/kernel", (4, 2)))
NUMBERED = some(("conv/vars/0", (5, 7, 3, 4)), ("conv/vars/1", (4,)), ("fc/vars/0", (4, 2)))

#: Format -> (file name, writer, tensors).
FORMATS = {
    "torch": ("x.pth", torch, DOTTED),
    "safetensors": ("x.safetensors", safetensors, DOTTED),
    "npz": ("x.npz", npz, DOTTED),
    "caffe": ("x.caffemodel", caffemodel, BLOBS),
    "keras_h5": ("x.h5", keras_h5, LAYERS),
    "keras_zip": ("x.keras", keras_zip, NUMBERED),
}


def write(folder: Path, name: str, data: bytes) -> Path:
    path = Path(folder) / name
    path.write_bytes(data)
    return path


def long_header(size: int) -> bytes:
    return struct.pack("<Q", size) + b'{"a":' + b" " * 100
