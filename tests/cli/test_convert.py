"""Conversion end to end: name maps, settled differences, the hub, the commands, clean failure."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import weight_files as wf  # noqa: E402
from flax import nnx
from small_network import SMALL, equal, foreign

from jaxplain import cli, models
from jaxplain import weights_convert as wc
from jaxplain.models import conversion
from jaxplain.models.entries import ENTRIES, PARAMETERS, find
from jaxplain.models.layers import BatchNorm, Conv, WindowDense
from jaxplain.weights_convert.name_maps import (
    CAFFE,
    KERAS,
    TORCH,
    NameMap,
    caffe_norm,
    each_name,
    keras_numbered,
    own_names,
)

RNG = np.random.default_rng(1)


class Net(nnx.Module):
    """One of everything: convolution, batch normalisation, a dense layer after a flatten."""

    def __init__(self, rngs):
        self.conv1 = Conv(3, 4, 3, padding=1, bias=False, rngs=rngs)
        self.bn1 = BatchNorm(4, 1e-3, rngs=rngs)
        self.fc6 = WindowDense(2, 3, 4, 5, rngs=rngs)
        self.fc7 = nnx.Linear(5, 6, rngs=rngs)

    def __call__(self, x):
        return self.fc7(self.fc6(self.bn1(self.conv1(x))))


NET = wc.abstract(Net)
IMAGE = RNG.normal(size=(1, 2, 3, 3)).astype("f4")
MODULES = {"conv1": "conv1", "bn1": "bn1", "fc6": "fc.0", "fc7": "fc.1"}
TORCH_MAP = NameMap("torch", MODULES, auxiliary=("aux?.*",), **TORCH)


def torch_tensors():
    shapes = dict(
        [
            ("conv1.weight", (4, 3, 3, 3)),
            ("bn1.weight", (4,)),
            ("bn1.bias", (4,)),
            ("bn1.running_mean", (4,)),
            ("bn1.running_var", (4,)),
            ("fc.0.weight", (5, 24)),
            ("fc.0.bias", (5,)),
            ("fc.1.weight", (6, 5)),
            ("fc.1.bias", (6,)),
        ]
    )
    return {n: np.abs(RNG.normal(size=s)).astype("f4") for n, s in shapes.items()}


def expected(conv, norm, mean, var, epsilon, fc6, bias6, fc7, bias7):
    """The network in NumPy, the kernels as torch has them and features put channels first."""
    padded = np.pad(IMAGE[0], ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))  # (2, 3, c, 3, 3)
    x = np.einsum("hwcij,ocij->ohw", windows, conv)
    scale, offset = norm
    x = (x - mean[:, None, None]) / np.sqrt(var + epsilon)[:, None, None]
    x = x * scale[:, None, None] + offset[:, None, None]
    return (x.reshape(-1) @ fc6.T + bias6) @ fc7.T + bias7


def run(weights):
    return np.asarray(wc.with_weights(NET, weights)(jnp.asarray(IMAGE)))[0]


def test_torch_conversion_against_numpy():
    """Axes, flatten order, epsilon: 1e-5 of torch in a network that adds 1e-3."""
    t = torch_tensors()
    weights, report = wc.convert(t, NET, TORCH_MAP)
    norm = (t["bn1.weight"], t["bn1.bias"])
    dense = [t[f"fc.{i}.{leaf}"] for i in (0, 1) for leaf in ("weight", "bias")]
    want = expected(
        t["conv1.weight"], norm, t["bn1.running_mean"], t["bn1.running_var"], 1e-5, *dense
    )
    np.testing.assert_allclose(run(weights), want, rtol=1e-4)
    assert report.tensors == 9 and report.parameters == sum(v.size for v in t.values())
    assert "unfolded from their flatten order to (h, w, in, out): fc.0.weight" in str(report)
    assert "variance + (1e-05 - 0.001)" in str(report)


def test_caffe_conversion_against_numpy():
    """BGR, the factor of BatchNorm, Scale layers, a bias before batch normalisation."""
    t = torch_tensors()
    names = NameMap(
        "caffe",
        {
            "conv1": "conv1",
            "bn1": caffe_norm("bn", "sc") | {"shift": "conv1.1"},
            "fc6": "fc6",
            "fc7": "fc7",
        },
        bgr="conv1",
        epsilon=1e-3,
        **CAFFE,
    )
    shift = RNG.normal(size=4).astype("f4")
    blobs = {
        "conv1.0": t["conv1.weight"][:, ::-1],
        "conv1.1": shift,
        "bn.0": 4 * t["bn1.running_mean"],
        "bn.1": 4 * t["bn1.running_var"],
        "bn.2": np.array([4.0], "f4"),
        "sc.0": t["bn1.weight"],
        "sc.1": t["bn1.bias"],
        "fc6.0": t["fc.0.weight"],
        "fc6.1": t["fc.0.bias"],
        "fc7.0": t["fc.1.weight"][:, :, None, None],
        "fc7.1": t["fc.1.bias"],
    }
    weights, report = wc.convert(blobs, NET, names)
    dense = [t[f"fc.{i}.{leaf}"] for i in (0, 1) for leaf in ("weight", "bias")]
    want = expected(
        t["conv1.weight"],
        (t["bn1.weight"], t["bn1.bias"]),
        t["bn1.running_mean"] - shift,
        t["bn1.running_var"],
        1e-3,
        *dense,
    )
    np.testing.assert_allclose(run(weights), want, rtol=1e-4)
    for said in ("BGR to RGB: conv1.0", "stored factor: bn.2", "taken off the mean: conv1.1"):
        assert said in str(report)
    # By a factor of 0 Caffe makes mean and variance 0: of a network that was never trained.
    with pytest.raises(wc.ConversionError, match=r"impossible variance \(bn.1\)"):
        wc.convert(blobs | {"bn.2": np.zeros(1, "f4")}, NET, names)


def test_keras_conversion_against_numpy():
    """Kernels as they are, features flattened with channels last; named and numbered variables."""
    t = torch_tensors()
    names = NameMap("keras", MODULES | {"fc6": "fc_a", "fc7": "fc_b"}, **KERAS)
    fc6 = t["fc.0.weight"].reshape(5, 4, 2, 3).transpose(2, 3, 1, 0)
    tensors = {
        "conv1/kernel": t["conv1.weight"].transpose(2, 3, 1, 0),
        "bn1/gamma": t["bn1.weight"],
        "bn1/beta": t["bn1.bias"],
        "bn1/moving_mean": t["bn1.running_mean"],
        "bn1/moving_variance": t["bn1.running_var"],
        "fc_a/kernel": fc6.reshape(24, 5),
        "fc_a/bias": t["fc.0.bias"],
        "fc_b/kernel": t["fc.1.weight"].T,
        "fc_b/bias": t["fc.1.bias"],
    }
    weights, report = wc.convert(tensors, NET, names)
    torch, _ = wc.convert(t, NET, dataclasses.replace(TORCH_MAP, epsilon=1e-3))
    for name, value in torch.items():
        np.testing.assert_array_equal(weights[name], value)
    assert "epsilon" not in str(report)  # 1e-3 on both sides
    numbers = {"kernel": 0, "bias": 1, "gamma": 0, "beta": 1, "moving_mean": 2}
    numbered = {
        f"{n.split('/')[0]}/vars/{numbers.get(n.split('/')[1], 3)}": v for n, v in tensors.items()
    }
    assert wc.match(numbered, NET, [names, keras_numbered(names)]).source == "keras-3"
    again, _ = wc.convert(numbered, NET, keras_numbered(names))
    np.testing.assert_array_equal(again["bn1.var"], weights["bn1.var"])


# ---------------------------------------------------------------- strictness


def test_all_troubles_are_reported_together():
    t = torch_tensors()
    t["fc.1.weight"] = t["fc.1.weight"].T
    t["extra.weight"] = t.pop("conv1.weight")
    t["bn1.running_var"][2] = -1
    t["bn1.bias"][0], t["fc.0.bias"][1] = np.nan, np.inf
    t["bn1.num_batches_tracked"] = np.zeros((), int)
    with pytest.raises(wc.ConversionError) as info:
        wc.convert(t, NET, TORCH_MAP)
    error, text = info.value, str(info.value)
    assert error.missing == ("conv1.weight",) and error.unexpected == ("extra.weight",)
    assert error.wrong_shape == (("fc.1.weight", (5, 6), (6, 5)),)
    assert set(error.bad) == {"bn1.running_var", "bn1.bias", "fc.0.bias"}
    for part in (
        "1 missing (conv1.weight)",
        "1 unexpected (extra.weight)",
        "fc.1.weight is (5, 6), must be (6, 5)",
        "3 with NaN",
    ):
        assert part in text


def test_only_auxiliary_heads_and_counters_are_dropped():
    t = torch_tensors() | {
        "aux1.conv.weight": np.zeros(3),
        "bn1.num_batches_tracked": np.zeros((), int),
    }
    _, report = wc.convert(t, NET, TORCH_MAP)
    assert report.dropped == ("aux1.conv.weight",) and len(report.counters) == 1
    assert "auxiliary heads: aux1.conv.weight" in str(report)
    with pytest.raises(wc.ConversionError, match="1 unexpected .auxiliary.weight"):
        wc.convert(t | {"auxiliary.weight": np.zeros(3)}, NET, TORCH_MAP)


def test_match_takes_the_best_and_refuses_strangers():
    caffe = NameMap("caffe", MODULES | {"bn1": caffe_norm("bn", "scale")}, **CAFFE)
    assert wc.match(torch_tensors(), NET, [caffe, TORCH_MAP]) is TORCH_MAP
    shapes = wc.parameter_shapes(NET)
    assert wc.match(shapes, NET, [caffe, TORCH_MAP]).source == "jaxplain"
    with pytest.raises(wc.ConversionError, match="none of the network's sources .caffe, torch."):
        wc.match(["encoder.weight"], NET, [caffe, TORCH_MAP])


def test_name_map_language():
    names = NameMap(
        "x",
        {
            "a{s}.{b}.conv": "res{s+1}{b:letter}_{n}",
            "a{s}.{b}.{rest}": "other.{rest}",
            "a1.0.conv": "exact",
        },
        numbered="a{s}.{b}",
        **TORCH,
    )
    parameters = ["a1.0.conv.kernel", "a1.2.conv.kernel", "a10.1.conv.bias", "a2.0.fc.kernel"]
    assert list(names.resolve(parameters).values()) == [
        "exact.weight",
        "res2c_1.weight",
        "res11b_3.bias",
        "other.fc.weight",
    ]
    with pytest.raises(KeyError, match="'x' says nothing of the module 'b'"):
        names.resolve(["b.kernel"])


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_source_names_every_parameter_once(name):
    entry = ENTRIES[name]
    model = conversion.build(entry, entry.outputs)
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert PARAMETERS[name] == sum(int(np.prod(v.get_value().shape)) for _, v in leaves)
    sources = [s.names.source for s in entry.sources]
    assert len(set(sources)) == len(sources)
    for source in entry.sources:
        form = conversion.build(entry, entry.outputs, source.names.source)
        shapes = wc.parameter_shapes(form)
        theirs = list(each_name(source.names.resolve(shapes).values()))
        assert len(set(theirs)) == len(theirs) >= len(shapes)
        dataclasses.replace(entry.config, **source.changes)


def test_every_network_has_its_count():
    assert set(PARAMETERS) == set(ENTRIES)


# ---------------------------------------------------------------- a small network of the registry


def test_convert_command_serves_the_name(cache, tmp_path, capsys):
    with pytest.raises(wc.DownloadError, match="your|Get a file with the tensor names") as info:
        models.from_pretrained(SMALL)
    assert f"jaxplain convert {SMALL} FILE" in str(info.value)
    path = wf.write(tmp_path, "x.pth", wf.torch(foreign()))
    assert cli.main(["convert", SMALL, str(path)]) == 0
    out = capsys.readouterr().out
    assert "every one accounted for" in out and f"wrote {cache}" in out
    model = models.from_pretrained(SMALL)
    equal(model, models.from_pretrained(path, network=SMALL))
    (folder,) = cache.iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert config["source"] == "x.pth" and config["report"] and config["origin"] is None
    assert model.config.source == ENTRIES[SMALL].sources[0].names.source
    assert model.config.top1 is None  # what is published is of the published weights


def test_convert_command_to_a_folder_and_to_safetensors(cache, tmp_path, capsys):
    path = wf.write(tmp_path, "x.npz", wf.npz(foreign()))
    out = tmp_path / "deep" / "net"
    assert cli.main(["convert", SMALL, str(path), "--output", str(out)]) == 0
    assert sorted(os.listdir(out)) == ["config.json", "weights"]
    assert cli.main(["convert", SMALL, str(path), "--output", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err

    file = tmp_path / "out.safetensors"
    to = ["--to", "safetensors", "--output", str(file)]
    assert cli.main(["convert", SMALL, str(path), *to]) == 0
    assert set(wc.read(file)) == set(wc.parameter_shapes(models.from_pretrained(out)))
    back = models.from_pretrained(file, network=SMALL)
    equal(back, models.from_pretrained(out))
    assert back.config == models.from_pretrained(out).config
    with pytest.raises(wc.ConversionError, match="holds the weights of conv4net, not of conv64f"):
        models.from_pretrained(file, network="conv64f")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "out.safetensors", "x.npz"]


def test_own_names_need_no_epsilon(tmp_path):
    """Exported variances may have taken up an epsilon and be slightly negative."""
    shapes = wc.parameter_shapes(NET)
    weights = {n: np.ones(s, "f4") for n, s in shapes.items()}
    weights["bn1.var"] = np.full(4, -5e-4, "f4")
    same, report = wc.convert(weights, NET, own_names(shapes))
    np.testing.assert_array_equal(same["bn1.var"], weights["bn1.var"])
    assert not report.notes


def test_explicit_source(cache, tmp_path, capsys):
    path = wf.write(tmp_path, "x.safetensors", wf.safetensors(foreign()))
    assert cli.main(["convert", SMALL, str(path), "--source", "nobody"]) == 2
    assert f"{SMALL} has no source 'nobody'; it has" in capsys.readouterr().err
    assert not cache.exists()


def test_models_command(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", *models.list_models()]
    row = next(line for line in lines if line.startswith("vgg16 "))
    assert "138.36 M" in row and "torchvision" in row and "hf:timm/vgg16.tv_in1k" in row


def test_networks_are_not_initialised_before_loading(cache, tmp_path, monkeypatch):
    """Abstract initialisation: no random number is drawn."""
    import jax

    path = wf.write(tmp_path, "x.pth", wf.torch(foreign()))
    real, concrete = jax.random.truncated_normal, []

    def watched(key, *args, **kwargs):
        concrete.append(not isinstance(key, jax.core.Tracer))
        out = real(key, *args, **kwargs)
        assert isinstance(out, jax.core.Tracer)
        return out

    monkeypatch.setattr(jax.random, "truncated_normal", watched)
    models.from_pretrained(path, network=SMALL)


# ---------------------------------------------------------------- failure leaves nothing behind


def nan_filled(tensors):
    return {n: np.full(v.shape, np.nan, v.dtype) for n, v in tensors.items()}


@pytest.mark.parametrize("kind", wf.FORMATS)
def test_bad_files_of_every_format_leave_nothing_behind(cache, tmp_path, capsys, kind):
    """Truncated, hostile or damaged, of another network, NaN-filled; one line of advice each."""
    name, writer, strangers = wf.FORMATS[kind]
    folder = tmp_path / "in"
    folder.mkdir()
    good = writer(strangers)
    bad = {
        "truncated": (good[: len(good) // 2], "cut short|damaged|not a"),
        "empty": (b"", "no known format|not a"),
        "stranger": (good, "do not fit the network|named as by none"),
    }
    for what, (data, match) in bad.items():
        path = wf.write(folder, name, data)
        for extra in (
            [],
            ["--output", str(tmp_path / "out")],
            ["--to", "safetensors", "--output", str(tmp_path / "o.safetensors")],
        ):
            assert cli.main(["convert", SMALL, str(path), *extra]) == 2, what
            error = capsys.readouterr().err
            assert error.startswith("jaxplain: error: cannot convert") and error.count("\n") == 1
            assert re.search(match, error), error
            if "keras" in kind:
                break  # each one costs a process
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"] and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("kind", ["torch", "safetensors", "npz"])
def test_nan_filled_files(cache, tmp_path, capsys, kind):
    name, writer, _ = wf.FORMATS[kind]
    path = wf.write(tmp_path, name, writer(nan_filled(foreign())))
    assert cli.main(["convert", SMALL, str(path)]) == 2
    assert (
        "with NaN, infinity, complex numbers or an impossible variance" in capsys.readouterr().err
    )
    assert not cache.exists()


def test_nan_filled_caffe_and_keras_files(cache, tmp_path):
    """The same for the sources that use these formats, on SqueezeNet."""
    entry = find("squeezenet1_1")
    model = conversion.build(entry, entry.outputs)
    shapes = wc.parameter_shapes(model)
    for source in entry.sources[1:]:
        names = source.names
        if names.layout == "keras":
            tensors = {
                t: np.full(shapes[o], np.nan, "f4") for o, t in names.resolve(shapes).items()
            }
            path = wf.write(tmp_path, "x.h5", wf.keras_h5(tensors))
        else:
            tensors = {
                t: np.full(
                    (shapes[o][3], shapes[o][2], *shapes[o][:2])
                    if len(shapes[o]) == 4
                    else shapes[o],
                    np.nan,
                    "f4",
                )
                for o, t in names.resolve(shapes).items()
            }
            path = wf.write(tmp_path, "x.caffemodel", wf.caffemodel(tensors))
        with pytest.raises(wc.ConversionError) as info:
            conversion.convert_file(path, "squeezenet1_1", class_names=["x"] * 1000)
        assert len(info.value.bad) == len(shapes) and not info.value.wrong_shape
    assert not cache.exists()


def test_a_killed_process_leaves_nothing_half_written(cache, tmp_path):
    """Killed while the checkpoint is written: the place stays empty, and a second try succeeds."""
    path = wf.write(tmp_path, "x.pth", wf.torch(foreign()))
    out = tmp_path / "net"
    code = (
        "import os, signal, json; from jaxplain import cli\n"
        "from jaxplain.weights_convert import store\n"
        "store.json.dumps = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"cli.main(['convert', {SMALL!r}, {str(path)!r}, '--output', {str(out)!r}])"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    (partial,) = tmp_path.glob("net.partial-*")
    os.utime(partial, (0, 0))  # long ago
    assert cli.main(["convert", SMALL, str(path), "--output", str(out)]) == 0
    models.from_pretrained(out)
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.parametrize("to", ["orbax", "safetensors"])
def test_a_failed_write_leaves_nothing_behind(cache, tmp_path, monkeypatch, capsys, to):
    path = wf.write(tmp_path, "x.pth", wf.torch(foreign()))
    out = tmp_path / "net.safetensors"
    monkeypatch.setattr(wc.store.os, "rename" if to == "orbax" else "replace", fail)
    assert cli.main(["convert", SMALL, str(path), "--to", to, "--output", str(out)]) == 2
    assert "No space" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def fail(*_):
    raise OSError(28, "No space left on device")
