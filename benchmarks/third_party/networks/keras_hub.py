"""The image classifiers of keras-hub that work on tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.third_party.networks.base import (
    CLASSES,
    Attends,
    Cut,
    Network,
    images,
    perturbed,
    tapped,
    tokens,
)
from benchmarks.third_party.networks.keras import in_double_precision, inference

_VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24}
_SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 3)}

#: Network -> the side of its images, what makes its backbone small, the tokens that have no place,
#: and the layers that it is cut at.
FAMILIES: dict[str, tuple[int, dict[str, Any], int, Callable[[Any], tuple[Any, ...]]]] = {
    "ViT": (40, {**_VIT, "mlp_dim": 32}, 1, lambda b: _vit(b.get_layer("vit_encoder"))),
    "DeiT": (40, {**_VIT, "intermediate_dim": 32}, 2, lambda b: _vit(b.get_layer("deit_encoder"))),
    "SwinTransformer": (
        64,
        _SWIN,
        0,
        lambda b: (b.stages[-1].blocks[-1].norm1, b.stages[-1].blocks[-2]),
    ),
}


def _vit(encoder: Any) -> tuple[Any, ...]:
    below, last = encoder.encoder_layers
    return last.layer_norm_1, below


def build(family: str) -> Network:
    import keras_hub

    in_double_precision()
    size, options, prefix, layers = FAMILIES[family]
    backbone = getattr(keras_hub.models, f"{family}Backbone")(
        image_shape=(size, size, 3), dtype="float64", **options
    )
    model = getattr(keras_hub.models, f"{family}ImageClassifier")(
        backbone=backbone, num_classes=CLASSES
    )
    rng = np.random.default_rng(11)
    for weight in model.weights:
        if weight.dtype == "float64":
            name = weight.path if np.any(weight.value) else "bias"  # what begins as zeros is drawn
            weight.assign(perturbed(name, weight.value, rng))
    fn, x = inference(model), images(size)
    cuts = tuple(_cut(fn, layer, x, tokens(prefix)) for layer in layers(backbone))
    attends = None
    if prefix:
        encoder = backbone.get_layer(f"{family.lower()}_encoder")
        blocks = tuple(_cut(fn, layer, x, tokens(prefix)) for layer in encoder.encoder_layers)
        attends = Attends(prefix, (0,), blocks)
    return Network(f"keras-hub {family}", fn, x, cuts, False, attends=attends)


def _cut(
    fn: Callable[[jax.Array], jax.Array],
    layer: Any,
    x: jax.Array,
    maps: Callable[[jax.Array], jax.Array],
) -> Cut:
    """The cut at what a layer gives, which may be the first of several."""

    def run(x: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        seen, call = [], layer.call

        def called(*args: Any, **options: Any) -> Any:
            out = call(*args, **options)
            value, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
            seen.append(value)
            value = value if put is None else put
            return value if rest is None else (value, *rest)

        with mock.patch.object(layer, "call", called):
            scores = fn(x)
        return scores, seen[-1]

    return tapped(run, x, maps)
