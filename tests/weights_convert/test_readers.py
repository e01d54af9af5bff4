"""The readers of foreign files: exact on what is right, one clear error on what is not."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import weight_files as wf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxplain import weights_convert as wc
from jaxplain.weights_convert.safetensors_file import read_metadata

h5py = pytest.importorskip("h5py", reason="needs the extra zoo")
FORMATS = pytest.mark.parametrize("kind", wf.FORMATS)


def same(read, tensors):
    assert list(read) and set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].shape == value.shape and read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


# ---------------------------------------------------------------- what is right


@FORMATS
def test_round_trip_as_views(tmp_path, kind):
    name, writer, tensors = wf.FORMATS[kind]
    read = wc.read(wf.write(tmp_path, name, writer(tensors)))
    same(read, tensors)
    for array in read.values():  # nothing is copied: the file is mapped
        assert not array.flags.owndata and not array.flags.writeable


def test_every_dtype_of_safetensors(tmp_path):
    kinds = [np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int8, np.uint16, np.bool_]
    tensors = {np.dtype(k).name: np.arange(6).reshape(2, 3).astype(k) for k in kinds}
    tensors |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(3.0)}
    same(wc.read_safetensors(wf.write(tmp_path, "x", wf.safetensors(tensors))), tensors)


def test_npz_compressed_and_fortran(tmp_path):
    tensors = {"a/b": np.asfortranarray(wf.RNG.normal(size=(40, 3))), "c": np.array(2)}
    np.savez_compressed(tmp_path / "x.npz", **tensors)
    same(wc.read_npz(tmp_path / "x.npz"), tensors)


def test_caffe_forms_of_blobs(tmp_path):
    """Legacy sizes (1, 1, out, in) and (1, 1, 1, out), doubles, numbers one by one."""
    kernel, matrix, bias = (wf.RNG.normal(size=s).astype("f4") for s in ((1, 1, 3, 2), (3, 2), 3))
    layers = [
        ("conv", 4, [wf.caffe_blob(kernel, legacy=(1, 1, 3, 2))]),
        (
            "fc",
            14,
            [wf.caffe_blob(matrix, legacy=(1, 1, 3, 2)), wf.caffe_blob(bias, legacy=(1, 1, 1, 3))],
        ),
        ("relu", 18, []),
        ("one_by_one", 14, [wf.caffe_blob(matrix, legacy=(1, 1, 3, 2), packed=False)]),
    ]
    read = wc.read_caffemodel(wf.write(tmp_path, "x", wf.caffe(layers, v1=True)))
    same(read, {"conv.0": kernel, "fc.0": matrix, "fc.1": bias, "one_by_one.0": matrix})
    layers = [("bn", "BatchNorm", [wf.caffe_blob(bias, double=True), wf.caffe_blob([999.0])])]
    read = wc.read_caffemodel(wf.write(tmp_path, "x", wf.caffe(layers)))
    assert read["bn.0"].dtype == np.float64 and read["bn.1"].tolist() == [999.0]
    np.testing.assert_array_equal(read["bn.0"], bias.astype("f8"))


def test_files_that_keras_itself_writes(tmp_path):
    keras = pytest.importorskip("keras")
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="conv_a"),
            keras.layers.BatchNormalization(name="bn_a"),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="fc"),
        ]
    )
    inner.compile("adam", "mse")
    conv, bn, fc = (inner.get_layer(n).get_weights() for n in ("conv_a", "bn_a", "fc"))
    names = [
        "conv_a/kernel",
        "conv_a/bias",
        "bn_a/gamma",
        "bn_a/beta",
        "bn_a/moving_mean",
        "bn_a/moving_variance",
        "fc/kernel",
        "fc/bias",
    ]
    numbers = [
        f"{layer}/vars/{i}"
        for layer, n in (("conv_a", 2), ("bn_a", 4), ("fc", 2))
        for i in range(n)
    ]
    for file, keys in [("x.h5", names), ("x.keras", numbers), ("x.weights.h5", numbers)]:
        path = tmp_path / file
        inner.save_weights(path) if "weights" in file else inner.save(path)
        same(wc.read(path), dict(zip(keys, conv + bn + fc, strict=True)))


def test_names_of_keras_1(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"block1_conv1", b"bn"])
        for layer, leaves in {"block1_conv1": ["W_1", "b_1"], "bn": ["running_std"]}.items():
            names = [f"{layer}_{leaf}:0" for leaf in leaves]
            file.create_group(layer).attrs["weight_names"] = np.array([n.encode() for n in names])
            for name in names:
                file[layer][name] = np.ones(2, np.float32)
    read = wc.read_keras(tmp_path / "x.h5")
    assert list(read) == ["block1_conv1/kernel", "block1_conv1/bias", "bn/moving_variance"]


def test_real_files(test_data):
    weights = test_data / "weights"
    caffe = wc.read(weights / "squeezenet_v1.1.caffemodel")
    keras = wc.read(weights / "squeezenet_v1.1_notop_keras.h5")
    assert len(caffe) == 52 and caffe["conv10.0"].shape == (1000, 512, 1, 1)
    assert set(caffe) - {"conv10.0", "conv10.1"} == {
        n.replace("/kernel", ".0").replace("/bias", ".1") for n in keras
    }
    for name, value in keras.items():
        if name.endswith("/kernel"):
            blob = caffe[name.replace("/kernel", ".0")]
            np.testing.assert_array_equal(value, blob.transpose(2, 3, 1, 0))
        else:
            np.testing.assert_array_equal(value, caffe[name.replace("/bias", ".1")])
    googlenet = wc.read(weights / "bvlc_googlenet.caffemodel")
    assert len(googlenet) == 116 and googlenet["conv1/7x7_s2.0"].shape == (64, 3, 7, 7)
    assert googlenet["loss3/classifier.0"].shape == (1000, 1024)
    assert all(v.ndim == 1 for n, v in googlenet.items() if n.endswith(".1"))


# ---------------------------------------------------------------- what is not


def refused(path, match, error=wc.CheckpointError, read=wc.read):
    with pytest.raises(error, match=match) as info:
        read(path)
    text = str(info.value)
    assert text.startswith(str(path)) and text.endswith(".") and "\n" not in text
    return text


@FORMATS
def test_truncated_at_any_place(tmp_path, kind):
    """One sentence that names the file; Caffe's format alone may end early between layers."""
    name, writer, tensors = wf.FORMATS[kind]
    data = writer(tensors)
    step = len(data) // 6 if "keras" in kind else 97  # each Keras file costs a process
    for size in [*range(0, len(data) - 1, step), len(data) - 1]:
        path = wf.write(tmp_path, name, data[:size])
        try:
            read = wc.read(path)
        except wc.CheckpointError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert kind == "caffe" and set(read) < set(tensors)


@FORMATS
def test_directories_and_absent_files(tmp_path, kind):
    name, writer, _ = wf.FORMATS[kind]
    with pytest.raises(FileNotFoundError, match="There is no file"):
        wc.read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="There is no file"):
        wc.read(tmp_path / name)


def test_unknown_formats(tmp_path):
    for data in (b"", b"<!DOCTYPE html>" * 50, b"\0" * 1000):
        refused(wf.write(tmp_path, "x.bin", data), "no known format: it should be a file of")
    refused(wf.write(tmp_path, "x.caffemodel", b"<html>"), "is not a .caffemodel file")


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_zip_bombs(tmp_path):
    zeros = bytes(50_000_000)
    npy = io.BytesIO()
    np.save(npy, np.zeros(50_000_000, np.uint8))
    tracemalloc.start()
    for name, members in {
        "x.npz": {"a.npy": npy.getvalue()},
        "x.keras": {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + zeros},
        "x.pth": {"a/data.pkl": b"\x80\x02}.", "a/data/0": zeros},
    }.items():
        refused(
            archive(tmp_path / name, members), "times as much: at most", wc.UnsafeCheckpointError
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 110_000_000  # what the test itself makes; nothing was inflated


def test_npz_with_pickles_or_other_things(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    np.savez(tmp_path / "x.npz", a=np.array([Evil()], dtype=object))
    refused(tmp_path / "x.npz", "holds Python objects", wc.UnsafeCheckpointError)
    assert not (tmp_path / "owned").exists()
    np.savez(tmp_path / "x.npz", a=np.array(["text"]))
    refused(tmp_path / "x.npz", "holds no numbers")


@pytest.mark.parametrize("shape", ["(3, 3)", "(1000000000000,)", "(-2, -1)", "(2, 1.0)", "[2]"])
def test_npz_with_a_forged_header(tmp_path, shape):
    npy = io.BytesIO()
    np.save(npy, np.zeros(2))
    forged = npy.getvalue().replace(b"(2,)", shape.encode().ljust(4), 1)
    excess = len(forged) - len(npy.getvalue())
    forged = forged.replace(b" " * excess + b"\n", b"\n", 1) if excess > 0 else forged
    refused(archive(tmp_path / "x.npz", {"a.npy": forged}), "array 'a.npy'")


def test_hostile_caffe_files(tmp_path):
    def check(match, layers=None, **options):
        data = wf.caffe([("a", "Convolution", layers or [])], **options)
        refused(wf.write(tmp_path, "x.caffemodel", data), match)

    ones = np.ones(6)
    check("'a.0' of shape .*2, 2.* holds 6 numbers", [wf.caffe_blob(ones, shape=(2, 2))])
    check("'a.0' of shape .* holds 6 numbers", [wf.caffe_blob(ones, shape=(2**62, 4))])
    check("holds 6 numbers", [wf.caffe_blob(ones, shape=(2**64 - 2, 2**64 - 3))])
    check("no layer has blobs")
    check(
        "twice",
        prefix=wf.field(100, wf.field(1, "a") + wf.field(7, wf.caffe_blob(ones))),
        layers=[wf.caffe_blob(ones)],
    )
    check("cut short", prefix=wf.varint(100 << 3 | 2) + wf.varint(2**60))
    check("cut short", [wf.field(7, b"") + wf.field(5, b"123")])
    check("impossibly long", prefix=wf.field(100, wf.field(1, "a" * 2_000_000)))
    check("damaged", prefix=wf.field(100, wf.field(1, b"\xff\xfe")))
    check("first form", v1=False, prefix=wf.field(2, wf.field(1, wf.field(1, "x"))))
    check("damaged", prefix=b"\xff" * 11)
    check("impossible shape", [wf.caffe_blob(np.ones(1), shape=(1,) * 33)])
    check("impossible shape", [wf.field(7, wf.field(1, 1)) * 33 + wf.field(5, b"1234")])


def test_caffe_blobs_in_pieces_and_unusual_spellings(tmp_path):
    """What protocol buffers allow besides what Caffe writes: they mean the same."""
    half = [np.arange(i, i + 3, dtype="<f4").tobytes() for i in (0, 3)]
    loose_dims = wf.field(7, wf.field(1, 2) + wf.field(1, 3))
    two_shapes = wf.field(7, wf.field(1, wf.varint(2))) + wf.field(7, wf.field(1, wf.varint(3)))
    blobs = [
        loose_dims + wf.field(5, half[0]) + wf.field(5, half[1]),
        two_shapes + wf.field(5, b"".join(half)),
        wf.field(7, b"") + wf.field(5, half[0][8:]),
    ]
    read = wc.read_caffemodel(
        wf.write(tmp_path, "x", wf.caffe([("a", "X", blobs)]) + wf.field(100, wf.field(3, "top")))
    )
    np.testing.assert_array_equal(read["a.0"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(read["a.1"], read["a.0"])
    assert read["a.2"].shape == () and read["a.2"] == 2


def safetensors_file(folder, header, data=b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return wf.write(folder, "x.safetensors", struct.pack("<Q", len(text)) + text + data)


def test_hostile_safetensors(tmp_path):
    for data in (wf.long_header(2**63), wf.long_header(90), b"\x02\0\0\0\0\0\0\0{}more", b"123"):
        path = wf.write(tmp_path, "x.safetensors", data)
        refused(path, "is cut short or damaged", read=wc.read_safetensors)

    def tensor(begin, end, shape, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    def check(match, header, data=bytes(8)):
        refused(safetensors_file(tmp_path, header, data), match)

    check("damaged", b"{" + b"[" * 100_000)
    check("damaged", b'{"a":' * 100_000)
    check("damaged", b'{"a": 1}')
    check("damaged", b'{"\xff": {}}')
    check("one thing twice", b'{"a": {}, "a": {}}')
    check("the place of the tensor 'a' is not given", {"a": {"dtype": "F32", "shape": [2]}})
    check("the place of the tensor 'a'", {"a": tensor(-8, 0, [2])})
    check("the place of the tensor 'a'", {"a": tensor(0, 1 << 64, [2])})
    check("unknown type F3", {"a": tensor(0, 8, [2], "F3")})
    check("unknown type", {"a": tensor(0, 8, [2], None)})
    for shape in ([3], [-2], [True, 2], [1] * 33, [1 << 62, 1 << 62], 2, [2.0], [1 << 70, 0]):
        check("not that of its shape", {"a": tensor(0, 8, shape)})
    check("damaged", {"a": tensor(4, 8, [1])})  # a gap
    check("damaged", {"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])})  # an overlap
    check("damaged", {"a": tensor(0, 16, [4])})  # beyond the end
    with pytest.raises(wc.CheckpointError, match="is not a .safetensors file"):
        read_metadata(safetensors_file(tmp_path, {"__metadata__": {"a": 1}}))
    assert read_metadata(safetensors_file(tmp_path, {"__metadata__": {"a": "b"}})) == {"a": "b"}


def test_safetensors_as_the_package_reads_and_writes_them(tmp_path):
    """Its reader accepts what we write and gives the same; strides and byte order do not matter."""
    kinds = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]
    tensors = {np.dtype(k).name: np.arange(6).reshape(2, 3).astype(k) for k in kinds}
    tensors |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(3.0)}
    tensors |= {"strided": wf.RNG.normal(size=(3, 8))[::2, ::3].T, "big": np.arange(3, dtype=">i4")}
    path = tmp_path / "x.safetensors"
    wc.write_safetensors(path, tensors, {"a": "texts, too: ü"})
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"a": "texts, too: ü"} == read_metadata(path)
        for name in set(tensors) - {"bfloat16"}:  # for which the package wants another framework
            np.testing.assert_array_equal(file.get_tensor(name), tensors[name])
        assert set(file.keys()) == set(tensors)
    same(wc.read_safetensors(path), tensors | {"big": np.arange(3, dtype=np.int32)})
    wc.write_safetensors(path, {})
    assert wc.read_safetensors(path) == {} == read_metadata(path)
    with pytest.raises(ValueError, match="has no type for 'a', of complex64"):
        wc.write_safetensors(path, {"a": np.ones(2, np.complex64)})


def hdf5(path, make):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv"
        make(file, group)
    return path


def test_hdf5_that_refers_to_elsewhere(tmp_path):
    secret = hdf5(tmp_path / "secret.h5", lambda f, g: g.create_dataset("0", data=np.ones(3)))
    (tmp_path / "raw").write_bytes(b"secret data!")

    def soft(file, group):
        group["0"] = h5py.SoftLink("/somewhere")

    def external(file, group):
        group["0"] = h5py.ExternalLink(str(secret), "/layers/conv/vars/0")

    def storage(file, group):
        group.create_dataset("0", (3,), "f4", external=[(str(tmp_path / "raw"), 0, 12)])

    def virtual(file, group):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "layers/conv/vars/0", (3,))
        group.create_virtual_dataset("0", layout)

    for make, match in [
        (soft, "link to elsewhere"),
        (external, "link to elsewhere"),
        (storage, "in another file"),
        (virtual, "refers to other"),
    ]:
        refused(hdf5(tmp_path / "x.h5", make), match, wc.UnsafeCheckpointError)


def test_other_hdf5_files(tmp_path):
    def compressed(file, group):
        group.create_dataset("0", data=np.ones(3), compression="gzip")

    def absent(file, group):  # petabytes are declared, and no byte of them is there
        group.create_dataset("0", (2**50,), "f4")

    def text(file, group):
        group["0"] = "text"

    def circle(file, group):
        group["again"] = file["layers"]

    def foreign(file, group):
        file["measurements"] = np.ones(3)

    def nothing(file, group):
        pass

    for make, match in [
        (compressed, "without compression"),
        (absent, "has no data"),
        (text, "no plain number"),
        (circle, "too many objects"),
        (foreign, "holds 'measurements'"),
        (nothing, "no layers"),
    ]:
        refused(hdf5(tmp_path / "x.h5", make), match)


# ---------------------------------------------------------------- fuzzing

CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


def mutated(data: bytes, changes, cut: float, reach: int) -> bytes:
    out = bytearray(data)
    for place, value in changes:
        out[int(place * min(reach, len(out)))] = value
    return bytes(out[: int(cut * len(out))] if cut else out)


def fuzz(folder, name, data, examples, reach=1 << 30):
    """Whatever is changed: a dictionary of arrays, or the documented error; and little memory."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHANGES, st.just(0.0) | st.just(0.0) | st.floats(0.01, 0.99))
    def run(changes, cut):
        path = wf.write(folder, name, mutated(data, changes, cut, reach))
        try:
            read = wc.read(path)
        except wc.CheckpointError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(v, np.ndarray) and v.nbytes <= 1 << 26 for v in read.values())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB, of the peak
    assert grown < (len(data) >> 10) + (64 << 10)


@FORMATS
@pytest.mark.filterwarnings("ignore")
def test_mutated_files(tmp_path, kind):
    name, writer, tensors = wf.FORMATS[kind]
    fuzz(tmp_path, name, writer(tensors), 12 if "keras" in kind else 300)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name, examples",
    [
        ("squeezenet_v1.1.caffemodel", 60),
        ("resnet20-12fca82f.th", 60),
        ("squeezenet_v1.1_notop_keras.h5", 12),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_mutated_headers_of_real_files(tmp_path, test_data, name, examples):
    data = (test_data / "weights" / name).read_bytes()
    fuzz(tmp_path, name, data, examples, reach=20_000)
