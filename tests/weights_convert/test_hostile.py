"""Hostile files of weights: one documented error, in little time and memory; and unlucky disks."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch_writer as tw
import weight_files as wf
from flax import nnx

from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.weights_convert import store
from jaxplain.weights_convert.name_maps import CAFFE, NameMap, caffe_norm

h5py = pytest.importorskip("h5py", reason="needs the extra zoo")
START = b"\x80\x02"
# t = (t, t), 60 times over: 241 bytes that stand for 2^60 objects, for whoever goes down into them.
SHARED = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
COUNTS = (
    b"(" + b"\x8a\x08" + (2**62 - 1).to_bytes(8, "little") + b"q\x01" + b"h\x01" * 300_000 + b"t"
)


def tensor(shape=b"K\x04\x85", strides=b"K\x01\x85", offset=b"K\x00"):
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x04tQ"
    tail = b"\x89ccollections\nOrderedDict\n)RtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + tail


def state(value, key=b"X\x01\0\0\0w"):
    return START + b"}" + key + value + b"s."


def torch_file(body):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/data/0", bytes(16))
    return stream.getvalue()


def legacy_file(*parts):
    return pickle.dumps(tw.MAGIC, 2) + b"".join(parts)


def nested(depth):
    return b")" + b"\x85" * depth


def archive_of(members, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(shape, dtype="<f4"):
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def hdf5(make):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.create_group("layers/conv/vars")
        make(h5py, group)
    return stream.getvalue()


def null_space(h5, group):
    group["0"] = h5.Empty("f4")


def null_name(h5, group):
    group.attrs["name"] = h5.Empty("S1")
    group.create_dataset("0", (0, 2**40, 2**40), "f4")


def many_attributes(h5, group):
    for i in range(200):
        other = group.create_group(f"g{i}")
        other.attrs["name"] = np.full(60_000, b"x")


def directory(count):
    """A zip archive whose directory holds ``count`` members of no size."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 8) + bytes(16)  # a name of 8 bytes
    body = b"".join(entry + f"{i:08x}".encode() for i in range(count))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, *[min(count, 65535)] * 2, len(body), 0, 0)
    return body + end


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [0, 2**60, 2**60], "data_offsets": [0, 0]}})
VERSION, SYSTEM = pickle.dumps(tw.PROTOCOL, 2), pickle.dumps({"little_endian": True}, 2)
LARGE = b"\x8b" + struct.pack("<i", 4000) + b"\x01" * 4000
ONE_BLOB = wf.field(7, wf.caffe_blob(np.ones(1)))

#: What is tried -> (name of the file, its bytes).
HOSTILE = {
    "a key that is shared a lot": ("x.pth", torch_file(state(b"K\x01", SHARED))),
    "a persistent id likewise": ("x.pth", torch_file(START + SHARED + b"Q.")),
    "sizes likewise": ("x.pth", torch_file(state(tensor(shape=SHARED)))),
    "an offset likewise": ("x.pth", torch_file(state(tensor(offset=SHARED)))),
    "arguments likewise": ("x.pth", torch_file(START + b"ctorch\nSize\n" + SHARED + b"R.")),
    "a set likewise": ("x.pth", torch_file(START + b"(" + SHARED + b"\x91.")),
    "a version likewise": ("x.pth", legacy_file(START + SHARED + b".", SYSTEM, SYSTEM, SYSTEM)),
    "keys likewise": ("x.pth", legacy_file(VERSION, SYSTEM, SYSTEM, START + b"]" + SHARED + b"a.")),
    "a key nested a million times": ("x.pth", torch_file(state(b"K\x01", nested(1_000_000)))),
    "a name nested": ("x.pth", torch_file(state(tensor(), nested(5000)))),
    "a name of many digits": ("x.pth", torch_file(state(tensor(), LARGE))),
    "a version of many digits": ("x.pth", legacy_file(START + LARGE + b".", SYSTEM, SYSTEM)),
    "lists nested": ("x.pth", torch_file(START + b"]" * 100_000 + b"a" * 99_999 + b".")),
    "300 000 sizes": ("x.pth", torch_file(START + b"}X\x01\0\0\0w" + tensor(COUNTS) + b"s.")),
    "keys of one hash": (
        "x.pth",
        torch_file(
            START
            + b"}("
            + b"".join(
                b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N"
                for i in range(50_000)
            )
            + b"u."
        ),
    ),
    "millions of dictionaries": ("x.pth", torch_file(START + b"}" * 3_000_000 + b".")),
    "a text that never ends": ("x.pth", torch_file(START + b"X\xff\xff\xff\x7fabc.")),
    "a code object": ("x.pth", torch_file(START + b"cos\nsystem\n(X\x01\0\0\0ltR.")),
    "an object of a class": ("x.pth", torch_file(START + b"(cos\nsystem\no.")),
    "no number in a huge tensor": (
        "x.pth",
        torch_file(
            state(tensor(b"(K\x00" + b"J\xff\xff\xff\x7f" * 3 + b"t", b"(" + b"K\x01" * 4 + b"t"))
        ),
    ),
    "LZMA": ("x.npz", archive_of({"a.npy": npy((2,)) + bytes(8)}, zipfile.ZIP_LZMA)),
    "BZIP2": ("x.npz", archive_of({"a.npy": npy((2,)) + bytes(8)}, zipfile.ZIP_BZIP2)),
    "a bomb": ("x.npz", archive_of({"a.npy": npy((30_000_000,)) + bytes(120_000_000)})),
    "no number in a huge array": ("x.npz", archive_of({"a.npy": npy((0, 2**40, 2**40))})),
    "an array of no size": ("x.npz", archive_of({"a.npy": npy((2**40,), "V0")})),
    "a directory of 200 000 members": ("x.npz", directory(200_000)),
    "50 000 arrays": ("x.npz", archive_of({f"{i}.npy": b"" for i in range(25_000)})),
    "no number in a huge safetensor": (
        "x.safetensors",
        struct.pack("<Q", len(HEADER)) + HEADER.encode(),
    ),
    "a header of 20 MB": (
        "x.safetensors",
        struct.pack("<Q", 20_000_002) + b"{" + b" " * 20_000_000 + b"}",
    ),
    "millions of fields": ("x.caffemodel", wf.field(1, "n") + wf.field(3, 0) * 3_000_000),
    "millions of fields in a layer": ("x.caffemodel", wf.field(100, wf.field(3, 0) * 3_000_000)),
    "many blobs": ("x.caffemodel", wf.field(100, wf.field(1, "a") + ONE_BLOB * 100_000)),
    "no number in a huge blob": (
        "x.caffemodel",
        wf.caffe([("a", "X", [wf.caffe_blob([], shape=(0, 2**62, 2**62))])]),
    ),
    "a data space of nothing": ("x.h5", hdf5(null_space)),
    "a name of nothing": ("x.h5", hdf5(null_name)),
    "attributes of 12 MB": ("x.h5", hdf5(many_attributes)),
}  # fmt: skip

#: Reads each file of a folder, and prints what came of it, the seconds and the megabytes.
CHILD = """
import json, resource, sys, time
from pathlib import Path
from jaxplain import weights_convert as wc
results = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        wc.read(path)
        outcome = "read"
    except wc.CheckpointError as error:
        outcome = f"{len(str(error)) < 1000} {str(error)[:300]}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results[path.name] = outcome, time.process_time() - start, grown >> 10
print(json.dumps(results))
"""


def test_hostile_files_are_answered_with_one_error(tmp_path):
    """In a process of its own, of which none may crash, hang or fill the memory."""
    names = {}
    for number, (what, (name, data)) in enumerate(HOSTILE.items()):
        names[f"{number:02d}-{name}"] = what
        (tmp_path / f"{number:02d}-{name}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = {names[name]: result for name, result in json.loads(done.stdout).items()}
    assert list(results) == list(HOSTILE)
    for what, (outcome, seconds, megabytes) in results.items():
        assert outcome.startswith("True "), f"{what}: {outcome}"
        # Bounds, not timings: what is meant is hours, or gigabytes.
        assert seconds < 30 and megabytes < 500, f"{what}: {seconds:.1f} s, {megabytes} MB"


def test_instructions_of_other_protocols_are_read(tmp_path):
    """Names on the stack, memos that count themselves, sets, numbers as text, pairs."""
    named = b"\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93\x94"
    body = tensor().replace(b"ctorch._utils\n_rebuild_tensor_v2\n", named)
    others = b"\x8c\x01s\x8f\x94(K\x01K\x02\x90\x8c\x01f(K\x01\x91\x8c\x01iI12\n\x8c\x01lL9L\n"
    others += b"\x8c\x01bI01\n\x8c\x01dG\x3f\xf0" + bytes(6) + b"\x8c\x01tF1.5\n\x8c\x01pg0\n"
    pairs = b"ccollections\nOrderedDict\n]]\x8c\x01wa" + body + b"aa\x85R"
    data = b"\x80\x04\x95" + bytes(8) + b"}p0\n(\x8c\x05model" + pairs + others + b"u."
    read = wc.read_torch(wf.write(tmp_path, "x.pth", torch_file(data)))
    assert list(read) == ["w"] and read["w"].tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------- values after they are converted


class Norm(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 2, (1, 1), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(2, epsilon=1e-5, rngs=rngs)


NAMES = NameMap(
    "caffe",
    {"conv": "conv", "bn": caffe_norm("bn", "scale") | {"shift": "conv.1"}},
    **CAFFE,
)
RIGHT = {
    "conv.0": np.ones((2, 3, 1, 1), np.float32),
    "conv.1": np.zeros(2, np.float32),
    "bn.0": np.ones(2, np.float32),
    "bn.1": np.ones(2, np.float32),
    "bn.2": np.array([4.0], np.float32),
    "scale.0": np.ones(2, np.float32),
    "scale.1": np.zeros(2, np.float32),
}


@pytest.mark.parametrize(
    ("changed", "bad", "wrong_shape"),
    [
        ({}, (), ()),
        ({"bn.1": np.array([0.0, 1.0])}, (), ()),  # a channel that is always 0
        ({"conv.0": np.full((2, 3, 1, 1), 1e300)}, ("conv.0",), ()),
        ({"conv.0": np.full((2, 3, 1, 1), 1j)}, ("conv.0",), ()),
        ({"bn.1": np.ones(2, np.complex64)}, ("bn.1",), ()),
        ({"bn.0": np.full(2, 1e39), "bn.2": np.array([1e3])}, (), ()),  # too large only before
        ({"bn.0": np.full(2, 1e40)}, ("bn.0",), ()),
        ({"bn.1": -np.ones(2)}, ("bn.1",), ()),
        ({"bn.2": np.array([-4.0])}, ("bn.1",), ()),
        ({"bn.2": np.array([0.0])}, ("bn.1",), ()),
        ({"bn.1": np.full(2, 1e-30, "f4"), "bn.2": np.array([1e30])}, ("bn.1",), ()),
        ({"bn.2": np.array([1e-45], "f4")}, ("bn.0", "bn.1"), ()),
        ({"bn.2": np.array([np.nan])}, ("bn.2",), ()),
        ({"bn.2": np.ones(2)}, (), ("bn.2",)),
        ({"conv.1": np.ones(1)}, (), ("conv.1",)),
        ({"conv.1": np.full(2, 1e39)}, ("conv.1",), ()),
    ],
)
def test_values_that_no_network_has_after_they_are_converted(changed, bad, wrong_shape):
    network = wc.abstract(Norm)
    if not bad and not wrong_shape:
        weights, _ = wc.convert(RIGHT | changed, network, NAMES)
        assert all(np.isfinite(np.asarray(v, np.float32)).all() for v in weights.values())
        return
    with pytest.raises(wc.ConversionError) as raised:
        wc.convert(RIGHT | changed, network, NAMES)
    assert raised.value.bad == bad
    assert tuple(name for name, _, _ in raised.value.wrong_shape) == wrong_shape


# ---------------------------------------------------------------- disks and folders


def test_a_store_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """The limit of a file's size plays the full disk; then Orbax itself fails, in the middle."""
    arrays = {f"{i}": np.ones(100_000, np.float32) for i in range(8)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            wc.save(tmp_path / "net", arrays, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []

    def fail(self, path, arrays):
        path.mkdir()
        (path / "half").write_bytes(b"half")
        raise ValueError("OUT_OF_RANGE: Error writing")

    monkeypatch.setattr(store._orbax, "save", fail)
    with pytest.raises(OSError, match="net cannot be written: OUT_OF_RANGE"):
        wc.save(tmp_path / "net", arrays, {})
    assert list(tmp_path.iterdir()) == []


def test_an_address_makes_no_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (wc.save, store.export, wc.write_safetensors):
        more = [{}] if write is not wc.write_safetensors else []
        with pytest.raises(ValueError, match="gs://bucket/net is an address, and maps of"):
            write("gs://bucket/net", {"a": np.ones(2)}, *more)
    monkeypatch.setenv("JAXPLAIN_CACHE", "gs://bucket")
    with pytest.raises(OSError, match="must be a folder of this machine"):
        wc.cache_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("why", ["a file", "no home", "below a file"])
def test_a_network_loads_without_a_cache(tmp_path, monkeypatch, caplog, why):
    """And says that its weights were not kept."""
    file = tmp_path / "file"
    file.write_text("no folder")
    monkeypatch.setenv("JAXPLAIN_CACHE", str(file if why == "a file" else file / "below"))
    if why == "no home":
        monkeypatch.setenv("JAXPLAIN_CACHE", "~nobody-of-this-name/cache")
        with pytest.raises(OSError, match="there is no home directory; JAXPLAIN_CACHE"):
            wc.cache_dir()
    network = models.from_pretrained("efficientnet_lite0")
    assert network.config.name == "efficientnet_lite0"
    assert "the weights of efficientnet_lite0 could not be kept: " in caplog.text
    assert file.read_text() == "no folder" and [p.name for p in tmp_path.iterdir()] == ["file"]
