"""The families of `keras.applications`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.third_party.networks.base import CLASSES, Cut, Network, images, perturbed

#: Network -> the side of its images, and what makes it small.
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "ResNet50": (64, {}),
    "ResNet50V2": (64, {}),
    "DenseNet121": (64, {}),
    "MobileNet": (64, {"alpha": 0.25}),
    "MobileNetV2": (64, {"alpha": 0.35}),
    "MobileNetV3Small": (64, {}),
    "EfficientNetB0": (64, {}),
    "EfficientNetV2B0": (64, {}),
    "Xception": (71, {}),
    "InceptionV3": (107, {}),
    "InceptionResNetV2": (107, {}),
    "VGG16": (64, {}),
    "VGG19": (64, {}),
    "NASNetMobile": (64, {}),
    "ConvNeXtTiny": (64, {}),
    "ResNet101": (64, {}),
    "DenseNet169": (64, {}),
}

_RELUS = (
    "ResNet50",
    "ResNet50V2",
    "ResNet101",
    "DenseNet121",
    "DenseNet169",
    "Xception",
    "InceptionV3",
    "InceptionResNetV2",
    "VGG16",
    "VGG19",
    "NASNetMobile",
)


def build(family: str) -> Network:
    import keras

    keras.backend.set_floatx("float64")
    keras.utils.set_random_seed(3)
    size, options = FAMILIES[family]
    model = getattr(keras.applications, family)(
        weights=None,
        include_top=True,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(size, size, 3),
        **options,
    )
    rng = np.random.default_rng(11)
    for weight in model.weights:
        weight.assign(perturbed(weight.path, weight.value, rng))
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
    return Network(family, inference(model), images(size), tuple(cuts), family in _RELUS)


def keras_cut(model: Any, at: Any) -> Cut:
    import keras

    return Cut(
        inference(keras.Model(model.inputs, at)), inference(keras.Model(at, model.outputs[0]))
    )


def inference(model: Any) -> Callable[[jax.Array], jax.Array]:
    def fn(x: jax.Array) -> jax.Array:
        out = model(x, training=False)
        return out[0] if isinstance(out, list) else out

    return fn
