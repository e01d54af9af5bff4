"""VGG, AlexNet, SqueezeNet and GoogLeNet against torchvision, timm and Keras."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch_compare import (
    SIZES,
    TOLERANCE,
    captured,
    check,
    converted,
    errors,
    image,
    randomise,
    state,
)

from jaxplain import weights_convert as wc


def _sequence(features: torch.nn.Sequential, name) -> dict[str, str]:
    """Tag -> path for layers that torch numbers through; ``name(kind, module)`` gives the tag."""
    kinds = {torch.nn.Conv2d: "conv", torch.nn.ReLU: "relu", torch.nn.MaxPool2d: "pool"}
    named = ((i, kinds.get(type(m))) for i, m in enumerate(features))
    return {name(kind): f"features.{i}" for i, kind in named if kind}


def _vgg_layers(module) -> dict[str, str]:
    stage, i = 1, 0

    def name(kind):
        nonlocal stage, i
        if kind == "pool":
            stage, i = stage + 1, 0
            return f"pool{stage - 1}"
        i += kind == "conv"
        return f"{kind}{stage}_{i}"

    dense = {"fc6": "classifier.0", "relu6": "classifier.1"}
    dense |= {"fc7": "classifier.3", "relu7": "classifier.4"}
    return _sequence(module.features, name) | dense


def _alexnet_layers(module) -> dict[str, str]:
    i = 0

    def name(kind):
        nonlocal i
        i += kind == "conv"
        return f"{kind}{i}"

    dense = {"fc6": "classifier.1", "relu6": "classifier.2"}
    dense |= {"fc7": "classifier.4", "relu7": "classifier.5"}
    return _sequence(module.features, name) | dense


def _squeezenet_layers(module) -> dict[str, str]:
    layers, last = {"conv1": "features.0", "relu1": "features.1"}, 1
    for i, m in enumerate(module.features[2:], 2):
        if not isinstance(m, torch.nn.MaxPool2d):
            last += 1
        kind = "pool" if isinstance(m, torch.nn.MaxPool2d) else "fire"
        layers[f"{kind}{last}"] = f"features.{i}"
    return layers | {"conv10": "classifier.1", "relu10": "classifier.2"}


def _googlenet_layers(module) -> dict[str, str]:
    layers = {"conv1": "conv1", "conv2": "conv3", "pool5": "avgpool", "avgpool": "avgpool"}
    layers |= {f"pool{i}": f"maxpool{i}" for i in range(1, 5)}
    modules = dict(module.named_children())
    return layers | {
        n.replace("inception", "inception_"): n for n in modules if n.startswith("inception")
    }


@functools.lru_cache(maxsize=1)
def _pair(name: str):
    """torchvision's network with random weights, and ours with the same."""
    options = {"init_weights": True}
    if name == "alexnet" or name.startswith("squeezenet"):
        options = {}
    if name == "googlenet":
        options = {"init_weights": False, "transform_input": True}
    module = randomise(getattr(torchvision.models, name)(weights=None, **options))
    return converted(name, state(module), "torchvision"), module


_NETWORKS = {
    "vgg16": _vgg_layers,
    "vgg16_bn": _vgg_layers,
    "vgg19": _vgg_layers,
    "vgg19_bn": _vgg_layers,
    "alexnet": _alexnet_layers,
    "squeezenet1_0": _squeezenet_layers,
    "squeezenet1_1": _squeezenet_layers,
    "googlenet": _googlenet_layers,
}


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", _NETWORKS)
def test_agrees_with_torchvision(name, size):
    network, module = _pair(name)
    check(network, module, _NETWORKS[name](module), image(size))


def test_vgg_agrees_with_timm_whose_dense_layers_slide():
    module = randomise(timm.create_model("vgg16_bn", pretrained=False))
    network = converted("vgg16_bn", state(module), "timm", fully_convolutional=True)
    x = image((224, 336))
    with torch.no_grad():
        expected = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    scores = captured(network, x)["output"]
    assert scores.shape == (1, 1, 4, 1000)
    found = errors({"mean": scores.mean(axis=(1, 2))}, {"mean": expected})
    print(found)
    assert found["mean"] <= TOLERANCE


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vgg_agrees_with_keras_applications(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name.upper())(weights=None, classifier_activation=None)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, np.random.uniform(-0.1, 0.1, bias.shape)])
    model.save_weights(tmp_path / "vgg.weights.h5")
    network = converted(name, wc.read(tmp_path / "vgg.weights.h5"), "keras-3")
    outputs = {
        layer.name.replace("block", "relu").replace("_conv", "_"): layer.output
        for layer in model.layers
        if "_conv" in layer.name
    }
    outputs |= {f"pool{i}": model.get_layer(f"block{i}_pool").output for i in range(1, 6)}
    outputs |= {"relu6": model.get_layer("fc1").output, "relu7": model.get_layer("fc2").output}
    outputs |= {"output": model.output}
    x = image((224, 224))
    bgr = x[..., ::-1]  # Keras's weights see BGR
    expected = {k: np.asarray(v) for k, v in keras.Model(model.input, outputs)(bgr).items()}
    got = captured(network, x)
    found = errors({k: got[k] for k in expected}, expected)
    print(max(found.items(), key=lambda item: item[1]))
    assert max(found.values()) <= TOLERANCE, found
