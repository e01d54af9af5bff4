"""Writes files as ``torch.save`` does, without PyTorch, for the tests of the reader."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
    np.dtype(np.complex64): "ComplexFloatStorage",
}


class Global:
    """Is pickled as the bare name ``module.name``, whether or not there is such a thing."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Is pickled as the call of a global."""

    def __init__(self, module, name, *args):
        self.function, self.args = Global(module, name), args


class View:
    """A tensor: a strided view of a flat array, whose numbers can be forged."""

    def __init__(self, flat, offset, shape, strides, *, untyped=None):
        self.flat, self.offset, self.shape, self.strides = flat, offset, shape, strides
        self.untyped = untyped


def view(array) -> View:
    """A contiguous tensor."""
    array = np.asarray(array)
    strides = tuple(s // array.dtype.itemsize for s in np.ascontiguousarray(array).strides)
    return View(np.ascontiguousarray(array).reshape(-1), 0, array.shape, strides[: array.ndim])


class _Pid:
    def __init__(self, value):
        self.value = value


class _Pickler(pickle._Pickler):
    """The Python pickler, taught to write bare global names."""

    def __init__(self, stream, legacy):
        super().__init__(stream, protocol=2)
        self.storages: dict[str, np.ndarray] = {}
        self.legacy = legacy

    def persistent_id(self, obj):
        return obj.value if isinstance(obj, _Pid) else None

    def save(self, obj, *args, **kwargs):
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.args))
            self.write(pickle.REDUCE)
        elif isinstance(obj, View):
            self.save(self._rebuild(obj))
        else:
            super().save(obj, *args, **kwargs)

    def _rebuild(self, v):
        key = next((k for k, a in self.storages.items() if a is v.flat), None)
        if key is None:
            key = str(len(self.storages))
            self.storages[key] = v.flat
        hooks = collections.OrderedDict()
        if v.untyped is None:
            kind, size = Global("torch", STORAGES[v.flat.dtype]), v.flat.size
            function, tail = "_rebuild_tensor_v2", ()
        else:
            kind, size = Global("torch.storage", "UntypedStorage"), v.flat.nbytes
            function, tail = "_rebuild_tensor_v3", (Global("torch", v.untyped),)
        pid = ("storage", kind, key, "cpu", size)
        pid += (None,) if self.legacy else ()
        args = (_Pid(pid), v.offset, tuple(v.shape), tuple(v.strides), False, hooks, *tail)
        return Call("torch._utils", function, *args)


def dump(obj, *, legacy):
    """The pickle of ``obj``, and the storages that it refers to."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, legacy)
    pickler.dump(obj)
    return stream.getvalue(), pickler.storages


def legacy(obj, *, protocol=PROTOCOL, big=False) -> bytes:
    """The bytes of a legacy file."""
    body, storages = dump(obj, legacy=True)
    order = ">" if big else "<"
    out = [pickle.dumps(v, 2) for v in (MAGIC, protocol, {"little_endian": not big})]
    out += [body, pickle.dumps(list(storages), 2)]
    for flat in storages.values():
        data = flat.astype(flat.dtype.newbyteorder(">")) if big else flat
        out += [struct.pack(order + "q", flat.size), data.tobytes()]
    return b"".join(out)


def zipped(obj, *, root="archive", extra=(), compress=False, big=False) -> bytes:
    """The bytes of a zip file; ``extra`` are further (name, bytes) members."""
    body, storages = dump(obj, legacy=False)
    stream = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr(f"{root}/data.pkl", body)
        archive.writestr(f"{root}/byteorder", b"big" if big else b"little")
        for key, flat in storages.items():
            data = flat.astype(flat.dtype.newbyteorder(">")) if big else flat
            archive.writestr(f"{root}/data/{key}", data.tobytes())
        archive.writestr(f"{root}/version", b"3\n")
        for name, data in extra:
            archive.writestr(name, data)
    return stream.getvalue()


FORMATS = {"legacy": legacy, "zip": zipped}
