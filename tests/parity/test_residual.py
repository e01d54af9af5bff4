"""Residual networks agree with those that others define, weights carried over by the converters."""

from __future__ import annotations

import os

import jax.numpy as jnp
import keras
import numpy as np
import pytest
import timm
import torch
import torch_residual
import torchvision
from flax import nnx
from torch_compare import (
    SIZES,
    TOLERANCE,
    converted,
    errors,
    image,
    state,
    tags,
    to_ours,
    torch_captured,
)

import jaxplain
from jaxplain.models.entries import find


def randomise(module, seed=0):
    """Random batch normalisation, with statistics that fit, and branches that are small.

    Otherwise 150 layers overflow, or amplify the rounding errors of both sides.
    """
    torch.manual_seed(seed)
    for name, m in module.named_modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            m.momentum = 1.0  # the statistics become those of the batch below
            torch.nn.init.uniform_(m.weight, -0.5, 1.5)
            if name.endswith("bn3"):
                m.weight.data *= 0.3
            torch.nn.init.normal_(m.bias, 0.0, 0.3)
    with torch.no_grad():
        module.train()(torch.randn(4, 3, 64, 64))
    return module.eval()


def captured(network, x):
    """The activation of every tag and the output, computed operation by operation.

    That compiles every shape of a convolution once; a network as a whole would take minutes.
    """
    output, activations = jaxplain.capture(network, tags(network, x))(jnp.asarray(x))
    return {name: np.asarray(a) for name, a in (activations | {"output": output}).items()}


def reference(module, x, flip=False):
    """What a module of ``torch_residual`` computes: the output and the activations by our tags."""
    seen = x[..., ::-1] if flip else x
    with torch.no_grad():
        output, acts = module(torch.from_numpy(seen.transpose(0, 3, 1, 2).copy()))
    return {name: to_ours(a.numpy()) for name, a in (acts | {"output": output}).items()}


def agree(got, expected):
    found = errors(got, expected)
    worst = max(found, key=found.get)
    print(f"{len(found)} activations, {worst} {found[worst]:.1e}")
    assert found[worst] <= TOLERANCE, {n: e for n, e in found.items() if e > TOLERANCE}


def hooks(module, stem, pool):
    """Tag -> path in torchvision's and timm's ResNets."""
    blocks = [
        f"layer{i}.{j}" for i in range(1, 5) for j in range(len(getattr(module, f"layer{i}")))
    ]
    return {"conv1": stem, "pool1": "maxpool", "avgpool": pool} | {b: b for b in blocks}


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50_caffe", "resnet50_bam", "efficientnet_lite1", "conv64f"]
)
def test_fully_convolutional_equals_ordinary(name):
    """At the real native size; one position."""
    entry = find(name)
    ordinary, sliding = (
        entry.build(entry.outputs, fully_convolutional=slide, rngs=nnx.Rngs(0))
        for slide in (False, True)
    )
    x = image((entry.config.input_size,) * 2)
    expected = np.asarray(ordinary(x))
    difference = np.abs(np.asarray(sliding(x))[:, 0, 0] - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max()


DEEP = pytest.mark.skipif(
    not os.environ.get("JAXPLAIN_ALL_NETWORKS"),
    reason="as resnet50, only deeper; JAXPLAIN_ALL_NETWORKS=1 runs it (minutes)",
)


@pytest.mark.parametrize("depth", [18, 34, 50, *(pytest.param(n, marks=DEEP) for n in (101, 152))])
def test_resnet(depth):
    """Against torchvision and timm, which hold the same weights under the same names."""
    module = randomise(getattr(torchvision.models, f"resnet{depth}")(), depth)
    other = timm.create_model(f"resnet{depth}").eval()
    other.load_state_dict(module.state_dict())
    network = converted(f"resnet{depth}", state(module), "timm")
    for size in SIZES:
        x = image(size)
        got = captured(network, x)
        agree(got, torch_captured(module, hooks(module, "relu", "avgpool"), x))
        agree(got, torch_captured(other, hooks(other, "act1", "global_pool"), x))


def test_caffe_layout():
    """Stride on the first 1x1, a pool that rounds up, BGR, and a bias before batch norm."""
    module = randomise(torch_residual.Caffe())
    network = converted("resnet50_caffe", module.blobs(), "caffe")
    for size in SIZES:
        agree(captured(network, image(size)), reference(module, image(size), flip=True))


@pytest.mark.parametrize("attention", ["cbam", "bam"])
def test_attention(attention):
    module = randomise(torch_residual.Attention(attention))
    network = converted(f"resnet50_{attention}", state(module), "attention-module")
    for size in SIZES:
        agree(captured(network, image(size)), reference(module, image(size)))


@pytest.mark.parametrize("depth", [18, 50])
def test_npid(depth):
    module = randomise(getattr(torchvision.models, f"resnet{depth}")(num_classes=128))
    network = converted(f"resnet{depth}_npid", state(module), "lemniscate")
    x = image((224, 224))
    expected = torch_captured(module, hooks(module, "relu", "avgpool"), x)
    expected["output"] /= np.sqrt(np.square(expected["output"]).sum(1, keepdims=True))
    agree(captured(network, x), expected)


def test_multi_similarity():
    """The backbone keeps torchvision's classifier, which is of no use and is dropped by name."""
    module, head = randomise(torchvision.models.resnet50()), torch.nn.Linear(2048, 512)
    tensors = {f"backbone.model.{n}": v for n, v in state(module).items()}
    tensors |= {f"head.fc.{n}": v for n, v in state(head).items()}
    network = converted("resnet50_ms", tensors, "ms-loss")
    x = image((224, 224))
    expected = torch_captured(module, hooks(module, "relu", "avgpool"), x)
    with torch.no_grad():
        embedding = head(torch.from_numpy(expected["avgpool"]))
        expected["output"] = torch.nn.functional.normalize(embedding).numpy()
    agree(captured(network, x), expected)


@pytest.mark.parametrize(
    "name, source", [("conv4net", "few-shot-meta-baseline"), ("conv64f", "libfewshot")]
)
def test_few_shot(name, source):
    module = randomise(torch_residual.FewShot(name))
    network = converted(name, state(module), source)
    agree(captured(network, image((84, 84))), reference(module, image((84, 84))))


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_cifar(depth):
    module = randomise(torch_residual.Cifar(depth))
    network = converted(f"cifar_resnet{depth}", state(module), "pytorch_resnet_cifar10")
    agree(captured(network, image((32, 32))), reference(module, image((32, 32))))


def test_keras():
    """Biases in all convolutions, BGR, another epsilon, and padding by layers of its own."""
    # With its own top the network takes images of one size only.
    body = keras.applications.ResNet50(
        weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    scores = keras.layers.Dense(1000, name="predictions")(body.output)
    model = keras.Model(body.input, scores)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape
            # Small scales keep the sum of the branches from growing from block to block.
            bounds = (0.0, 0.4) if layer.name.endswith("_3_bn") else (-0.5, 1.5)
            layer.gamma.assign(rng.uniform(*bounds, n))
            layer.beta.assign(rng.normal(0, 0.1, n))
            layer.moving_mean.assign(rng.normal(0, 0.3, n))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, n))
        elif isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(rng.normal(0, 0.3, layer.bias.shape))
    tensors = {
        f"{layer.name}/{v.name}": np.asarray(v) for layer in model.layers for v in layer.weights
    }
    network = converted("resnet50_keras", tensors, "keras")
    counts = zip(range(2, 6), (3, 4, 6, 3), strict=True)
    paths = {f"layer{i - 1}.{j}": f"conv{i}_block{j + 1}_out" for i, n in counts for j in range(n)}
    paths |= {"conv1": "conv1_relu", "pool1": "pool1_pool", "avgpool": "avg_pool"}
    outputs = {tag: model.get_layer(path).output for tag, path in paths.items()}
    theirs = keras.Model(model.input, outputs | {"output": model.output})
    for size in SIZES:
        expected = theirs(np.ascontiguousarray(image(size)[..., ::-1]))
        agree(captured(network, image(size)), {n: np.asarray(v) for n, v in expected.items()})
