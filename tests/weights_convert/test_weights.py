"""Foreign checkpoints: read exactly, refused where hostile, converted strictly, kept safely."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch_writer as tw  # noqa: E402
from flax import nnx

from jaxplain import weights_convert as wc

BOTH = pytest.mark.parametrize("write", tw.FORMATS.values(), ids=tw.FORMATS)


def file(tmp_path, data, name="x.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def ordered(**tensors):
    """A state dictionary as torch makes it, with its ``_metadata`` attribute."""
    result = collections.OrderedDict(tensors)
    result._metadata = collections.OrderedDict({"": {"version": 1}})
    return result


def data_dir():
    folder = os.environ.get("JAXPLAIN_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXPLAIN_TEST_DATA does not name a folder of test data")
    return Path(folder)


# ---------------------------------------------------------------- reading


@BOTH
@pytest.mark.parametrize("dtype", list(tw.STORAGES), ids=str)
def test_round_trip_of_every_dtype(tmp_path, write, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = wc.read_torch(file(tmp_path, write(ordered(a=tw.view(values)))))["a"]
    assert read.dtype == dtype and read.shape == (2, 3, 4)
    np.testing.assert_array_equal(read.astype(np.complex64), values.astype(np.complex64))


@BOTH
def test_strides_offsets_shared_storages_and_scalars(tmp_path, write):
    flat = np.arange(100, dtype=np.float32)
    state = ordered(
        transposed=tw.View(flat, 0, (10, 10), (1, 10)),
        part=tw.View(flat, 7, (3, 4), (20, 2)),
        scalar=tw.View(flat, 42, (), ()),
        expanded=tw.View(flat, 5, (3, 2), (0, 1)),
        one=tw.View(flat, 99, (1,), (10**12,)),
        empty=tw.View(flat, 0, (0, 3), (3, 1)),
    )
    read = wc.read_torch(file(tmp_path, write(state)))
    square = flat.reshape(10, 10)
    np.testing.assert_array_equal(read["transposed"], square.T)
    part = [[7 + 20 * i + 2 * j for j in range(4)] for i in range(3)]
    np.testing.assert_array_equal(read["part"], part)
    assert read["scalar"].shape == () and read["scalar"] == 42
    np.testing.assert_array_equal(read["expanded"], [[5, 6]] * 3)
    assert read["one"] == [99] and read["empty"].shape == (0, 3)
    assert not read["transposed"].flags.writeable  # a view of the file, not a copy


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_big_endian(tmp_path, write, dtype):
    values = (np.arange(6) * (1 + 2j)).astype(dtype) if dtype == np.complex64 else np.arange(6.0)
    values = values.astype(dtype)
    read = wc.read_torch(file(tmp_path, write(ordered(a=tw.view(values)), big=True)))["a"]
    np.testing.assert_array_equal(read, values)


def test_untyped_storage(tmp_path):
    values = np.arange(6).astype(ml_dtypes.bfloat16)
    tensor = tw.View(values, 2, (2, 2), (2, 1), untyped="bfloat16")
    read = wc.read_torch(file(tmp_path, tw.zipped(ordered(a=tensor))))["a"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.astype(int), [[2, 3], [4, 5]])


@BOTH
def test_nested_state_dict_prefix_and_parameters(tmp_path, write):
    a = tw.view(np.ones(2, np.float32))
    parameter = tw.Call("torch._utils", "_rebuild_parameter", a, True, collections.OrderedDict())
    state = ordered(**{"module.a": a, "module.b": parameter})
    read = wc.read_torch(file(tmp_path, write({"epoch": 3, "state_dict": state, "best": 0.5})))
    assert list(read) == ["a", "b"]
    mixed = ordered(**{"module.a": a, "b": a})  # the prefix is on some only: a real name
    assert list(wc.read_torch(file(tmp_path, write(mixed)))) == ["module.a", "b"]


def test_real_legacy_file_with_nested_state_dict():
    read = wc.read_torch(data_dir() / "weights" / "resnet20-12fca82f.th")
    assert read["conv1.weight"].shape == (16, 3, 3, 3) and read["linear.weight"].shape == (10, 64)
    assert all(np.isfinite(v).all() for v in read.values() if v.dtype.kind == "f")


# ---------------------------------------------------------------- refusing


class Marker:
    """Proof that nothing was executed: a file that the hostile pickle would make."""

    def __init__(self, tmp_path):
        self.path = tmp_path / "owned"

    @property
    def command(self):
        return f"touch {self.path}"


@BOTH
@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch.nn", "Linear"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch.serialization", "load"),
    ],
)
def test_other_globals_are_refused_by_name_and_nothing_runs(tmp_path, write, module, name):
    marker = Marker(tmp_path)
    path = file(tmp_path, write({"a": tw.Call(module, name, marker.command)}))
    with pytest.raises(wc.UnsafeCheckpointError, match=f"{module}.{name}, which is neither"):
        wc.read_torch(path)
    assert not marker.path.exists()


def test_code_in_the_header_pickles_does_not_run(tmp_path):
    marker = Marker(tmp_path)
    hostile = b"\x80\x02cos\nsystem\n" + pickle.dumps((marker.command,), 2)[2:-1] + b"R."
    magic = pickle.dumps(tw.MAGIC, 2)
    for data in (magic + hostile, magic + pickle.dumps(tw.PROTOCOL, 2) + hostile):
        with pytest.raises(wc.UnsafeCheckpointError, match="os.system"):
            wc.read_torch(file(tmp_path, data))
    with pytest.raises(wc.CheckpointError, match="is not a PyTorch file"):
        wc.read_torch(file(tmp_path, hostile + b" " * 20))
    assert not marker.path.exists()


@pytest.mark.parametrize(
    "target",
    [
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
    ],
)
@pytest.mark.parametrize("state", [b"}X\x01\x00\x00\x00aK\x01s", b"N}X\x01\x00\x00\x00aK\x01s\x86"])
def test_the_readers_own_objects_cannot_be_altered(tmp_path, target, state):
    body = b"\x80\x02" + target + state + b"b."
    parts = [pickle.dumps(v, 2) for v in (tw.MAGIC, tw.PROTOCOL, {})]
    with pytest.raises(wc.UnsafeCheckpointError, match="alter"):
        wc.read_torch(file(tmp_path, b"".join(parts) + body))


@pytest.mark.parametrize("slots", [False, True])
def test_tensors_cannot_be_altered(tmp_path, slots):
    body, _ = tw.dump(tw.view(np.ones(1, np.float32)), legacy=True)
    state = b"}X\x06\x00\x00\x00offsetK\x09s"
    body = body[:-1] + (b"N" + state + b"\x86" if slots else state) + b"b."
    parts = [pickle.dumps(v, 2) for v in (tw.MAGIC, tw.PROTOCOL, {})]
    with pytest.raises(wc.UnsafeCheckpointError, match="alter"):
        wc.read_torch(file(tmp_path, b"".join(parts) + body))


def test_forged_memo_index_claims_no_memory(tmp_path):
    body = b"\x80\x02}r\xff\xff\xff\x7f."
    parts = [pickle.dumps(v, 2) for v in (tw.MAGIC, tw.PROTOCOL, {})]
    with pytest.raises(wc.CheckpointError, match="damaged"):
        wc.read_torch(file(tmp_path, b"".join(parts) + body))


@BOTH
def test_truncated_at_any_place_is_one_clear_sentence(tmp_path, write):
    state = ordered(a=tw.view(np.ones(500, np.float32)), b=tw.view(np.zeros(3, np.int64)))
    data = write(state)
    for size in [*range(0, len(data) - 1, 37), len(data) - 1]:
        path = file(tmp_path, data[:size])
        with pytest.raises(wc.CheckpointError) as info:
            wc.read_torch(path)
        message = str(info.value)
        assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message
        if size > 20:
            assert "cut short" in message


@BOTH
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_flipped_bytes_never_raise_anything_else(tmp_path, write):
    data = bytearray(write(ordered(a=tw.view(np.ones(5, np.float32)))))
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = data.copy()
        broken[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(wc.CheckpointError):
            wc.read_torch(file(tmp_path, broken))


def test_not_a_torch_file(tmp_path):
    for data in (b"", b"<!DOCTYPE html>" * 9, pickle.dumps({"a": 1}) + b"\0" * 20):
        with pytest.raises(wc.CheckpointError, match="is not a PyTorch file"):
            wc.read_torch(file(tmp_path, data))
    with pytest.raises(wc.CheckpointError, match="tar format"):
        wc.read_torch(file(tmp_path, b"\0" * 257 + b"ustar" + b"\0" * 250))
    with pytest.raises(FileNotFoundError, match="no file"):
        wc.read_torch(tmp_path / "none.pth")


@BOTH
def test_no_tensors_is_an_error(tmp_path, write):
    for content in ({"epoch": 1}, [1, 2], {}):
        with pytest.raises(wc.CheckpointError, match="no dictionary of named tensors"):
            wc.read_torch(file(tmp_path, write(content)))


@BOTH
@pytest.mark.parametrize(
    "offset, shape, strides, match",
    [
        (0, (11,), (1,), "beyond its storage"),
        (1, (10,), (1,), "beyond its storage"),
        (0, (2, 2), (9, 2), "beyond its storage"),
        (0, (10**18,), (1,), "beyond its storage"),
        (0, (10**30,), (1,), "not counts"),
        (0, (0, 2**48, 2**48), (1, 1, 1), "impossible shape"),
        (0, (10**9, 10**9), (0, 0), "larger than its storage"),
        (-1, (2,), (1,), "not counts"),
        (5, (2,), (-1,), "not counts"),
        (0, (-2,), (1,), "not counts"),
        (0, (2,), (1, 1), "sizes but"),
        (0, (2.0,), (1,), "not counts"),
    ],
)
def test_tensors_beyond_their_storage(tmp_path, write, offset, shape, strides, match):
    tensor = tw.View(np.ones(10, np.float32), offset, shape, strides)
    with pytest.raises(wc.CheckpointError, match=match):
        wc.read_torch(file(tmp_path, write(ordered(a=tensor))))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive/../../evil", "a\\..\\evil"])
def test_hostile_member_names(tmp_path, name):
    data = tw.zipped(ordered(a=tw.view(np.ones(2, np.float32))), extra=[(name, b"x")])
    with pytest.raises(wc.UnsafeCheckpointError, match="archive holds a file named"):
        wc.read_torch(file(tmp_path, data))


def test_other_bad_archives(tmp_path):
    state = ordered(a=tw.view(np.ones(2, np.float32)))
    with pytest.raises(wc.CheckpointError, match="compressed"):
        wc.read_torch(file(tmp_path, tw.zipped(state, compress=True)))
    with pytest.raises(wc.CheckpointError, match="no single data.pkl"):
        wc.read_torch(file(tmp_path, tw.zipped(state, extra=[("other/data.pkl", b"x")])))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = tw.zipped(state, extra=[("archive/data/0", b"x" * 8)])
    with pytest.raises(wc.CheckpointError, match="twice"):
        wc.read_torch(file(tmp_path, twice))


# ---------------------------------------------------------------- converting


def small():
    return nnx.Sequential(
        nnx.Conv(3, 4, (5, 7), rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )


def test_with_weights_is_strict():
    weights = {n: np.zeros(s) for n, s in wc.parameter_shapes(small()).items()}
    weights["layers.1.bias"] = np.zeros(3)
    weights["what"] = np.zeros(3)
    with pytest.raises(wc.ConversionError, match="unexpected.*what.*layers.1.bias is"):
        wc.with_weights(small(), weights)


# ---------------------------------------------------------------- storing

WEIGHTS = {
    "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.b.c": np.ones((), np.int64),
    "half": np.ones(3, ml_dtypes.bfloat16),
}
SHAPES = {n: v.shape for n, v in WEIGHTS.items()}


def test_store_round_trip(tmp_path):
    folder = tmp_path / "deep" / "w"
    wc.save(folder, WEIGHTS, {"network": "x"})
    weights, config = wc.load(folder, SHAPES)
    assert config["network"] == "x" and set(weights) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert weights[name].dtype == value.dtype
        np.testing.assert_array_equal(weights[name], value)
    assert os.listdir(folder.parent) == ["w"]


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXPLAIN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wc.cache_dir() == tmp_path / "jaxplain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wc.cache_dir() == tmp_path / ".cache" / "jaxplain"
    monkeypatch.setenv("JAXPLAIN_CACHE", "~/mine")
    assert wc.cache_dir() == tmp_path / "mine"


def test_concurrent_writers_both_succeed(tmp_path):
    failures = []

    def write():
        try:
            wc.save(tmp_path / "w", WEIGHTS, {"network": "x"})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures and os.listdir(tmp_path) == ["w"]
    wc.load(tmp_path / "w", SHAPES)


def test_nothing_half_written_remains(tmp_path):
    with pytest.raises(TypeError):  # the configuration is written last, and is no JSON
        wc.save(tmp_path / "w", WEIGHTS, {"network": object()})
    assert os.listdir(tmp_path) == []


def test_replace(tmp_path):
    wc.save(tmp_path / "w", WEIGHTS, {"network": "old"})
    wc.save(tmp_path / "w", WEIGHTS, {"network": "kept out"})
    assert wc.load_config(tmp_path / "w")["network"] == "old"
    wc.save(tmp_path / "w", WEIGHTS, {"network": "new"}, replace=True)
    assert wc.load_config(tmp_path / "w")["network"] == "new"
    assert os.listdir(tmp_path) == ["w"]


def test_other_shapes_are_refused(tmp_path):
    wc.save(tmp_path / "w", WEIGHTS, {})
    for shapes, match in [
        ({**SHAPES, "half": (4,)}, "half is .3,., must be .4,."),
        ({**SHAPES, "more": (4,)}, "more is missing"),
        ({"half": (3,)}, "must be not known"),
    ]:
        with pytest.raises(wc.CheckpointError, match=match):
            wc.load(tmp_path / "w", shapes)


def test_damaged_folder_says_to_delete_it(tmp_path):
    folder = tmp_path / "w"
    big = {"a": np.random.default_rng(0).normal(size=(64, 64))}
    wc.save(folder, big, {})
    files = [p for p in (folder / "weights").rglob("*") if p.is_file()]
    data = max(files, key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(wc.CheckpointError, match="damaged; delete the folder"):
        wc.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(wc.CheckpointError, match="damaged; delete the folder"):
        wc.load(folder)
    (folder / "config.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(wc.CheckpointError, match="format 99"):
        wc.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(wc.CheckpointError, match="holds no config.json"):
        wc.load(folder)


def test_wrong_values_are_noticed_by_the_checksum(tmp_path):
    wc.save(tmp_path / "w", WEIGHTS, {})
    config = wc.load_config(tmp_path / "w")
    config["weights_sha256"] = "0" * 64
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    with pytest.raises(wc.CheckpointError, match="damaged"):
        wc.load(tmp_path / "w")


def test_import_stays_lean():
    code = (
        "import sys, jaxplain.models, jaxplain.weights_convert;"
        "print([m for m in ('orbax', 'orbax.checkpoint', 'torch', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
