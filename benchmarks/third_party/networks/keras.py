"""The families of `keras.applications`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.third_party.networks.base import (
    CLASSES,
    Between,
    Cut,
    Network,
    images,
    perturbed,
)

#: Network -> the side of its images, and its builder's arguments.
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "ResNet50": (64, {}),
    "ResNet50V2": (64, {}),
    "DenseNet": (64, {"blocks": (2, 3, 3, 2)}),
    "MobileNet": (64, {"alpha": 0.25}),
    "MobileNetV2": (64, {"alpha": 0.35}),
    "MobileNetV3Small": (64, {}),
    "MobileNetV3Large": (64, {"alpha": 0.5}),
    "EfficientNet": (64, {"width_coefficient": 0.3, "depth_coefficient": 0.3, "default_size": 64}),
    "EfficientNetV2": (
        64,
        {
            "width_coefficient": 0.3,
            "depth_coefficient": 0.3,
            "default_size": 64,
            "name": "efficientnetv2-b0",
        },
    ),
    "Xception": (71, {}),
    "InceptionV3": (107, {}),
    "InceptionResNetV2": (107, {}),
    "VGG16": (64, {}),
    "VGG19": (64, {}),
    "NASNet": (64, {"penultimate_filters": 96, "num_blocks": 1, "stem_block_filters": 8}),
    "ConvNeXt": (64, {"depths": (1, 1, 2, 1), "projection_dims": (16, 24, 32, 48)}),
}

#: Builders of networks of any size, which the public functions call -> their modules.
_ANY_SIZE = {
    "ConvNeXt": "convnext",
    "DenseNet": "densenet",
    "EfficientNet": "efficientnet",
    "EfficientNetV2": "efficientnet_v2",
    "NASNet": "nasnet",
}

#: These take pixels of 0 to 255.
_PIXELS = ("MobileNetV3", "EfficientNet", "ConvNeXt")

_RELUS = (
    "ResNet",
    "DenseNet",
    "Xception",
    "Inception",
    "VGG",
    "NASNet",
)


def build(family: str) -> Network:
    import keras

    in_double_precision()
    size, options = FAMILIES[family]
    module = keras.applications
    if family in _ANY_SIZE:
        module = importlib.import_module(f"keras.src.applications.{_ANY_SIZE[family]}")
    model = getattr(module, family)(
        weights=None,
        include_top=True,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(size, size, 3),
        **options,
    )
    rng = np.random.default_rng(11)
    for weight in model.weights:
        # A layer scale, which begins as 1e-6, has no name of its own.
        name = "scale" if "layer_scale" in weight.path else weight.path
        value = perturbed(name, weight.value, rng)
        if value.ndim == 4 and value.shape[3] == 1:  # depthwise kernels, which begin near 0
            value = rng.normal(0, np.sqrt(2 / np.prod(value.shape[:2])), value.shape)
        weight.assign(value)
    pools = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.GlobalAveragePooling2D | keras.layers.Flatten)
        and layer.input.ndim == 4
        and layer.input.shape[1] > 1
    ]
    cuts, at = [], pools[-1].input
    for _ in range(3):
        cuts.append(keras_cut(model, at))
        below = at._keras_history.operation.input
        if isinstance(below, list):
            break
        at = below
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.output.shape[-1] <= 96
    )
    x = images(size)
    return Network(
        name=family,
        fn=inference(model),
        x=127.5 * (x + 1) if family.startswith(_PIXELS) else x,
        cuts=tuple(cuts),
        narrow=inference(keras.Model(model.inputs, first.output)),
        relus=family.startswith(_RELUS),
        # Its hard sigmoid is a relu6 of its own.
        gates=("relu6", "hard_sigmoid")
        if family.startswith("MobileNetV3")
        else ("sigmoid", "hard_sigmoid"),
    )


def in_double_precision() -> None:
    """What is built from here on computes in double precision, and begins with the same weights."""
    import keras
    from keras.src.backend.common import dtypes

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # else norms would be in single precision
    keras.utils.set_random_seed(3)


def keras_cut(model: Any, at: Any) -> Cut:
    import keras

    return Cut(
        inference(keras.Model(model.inputs, at)),
        inference(keras.Model(at, model.outputs[0])),
        between=_between(model),
    )


def _between(model: Any) -> Between | None:
    import keras

    *_, last, top = model.layers
    if isinstance(last, keras.layers.LayerNormalization):
        return Between(last, np.asarray(top.kernel))
    if not model.name.startswith("MobileNetV3"):
        return None
    # Its dense layers are convolutions of one position.
    dense, top = model.get_layer("conv_2"), model.get_layer("logits")
    inner = keras.Model(dense.input, top.input)
    return Between(
        lambda pooled: inference(inner)(pooled[:, None, None])[:, 0, 0],
        np.asarray(top.kernel)[0, 0],
        np.asarray(dense.kernel)[0, 0],
    )


def inference(model: Any) -> Callable[[jax.Array], jax.Array]:
    def fn(x: jax.Array) -> jax.Array:
        out = model(x, training=False)
        return out[0] if isinstance(out, list) else out

    return fn
