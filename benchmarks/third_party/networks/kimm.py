"""The Keras networks of kimm: hybrids of convolutions and attention."""

from __future__ import annotations

import numpy as np

from benchmarks.third_party.networks.base import CLASSES, Network, images, perturbed
from benchmarks.third_party.networks.keras import in_double_precision, inference, keras_cut

FAMILIES = ("MobileViTXXS",)


def build(family: str) -> Network:
    from kimm import models

    in_double_precision()
    x = images(64)
    model = getattr(models, family)(
        weights=None, classes=CLASSES, classifier_activation=None, input_shape=x.shape[1:]
    )
    rng = np.random.default_rng(11)
    for weight in model.weights:
        weight.assign(perturbed(weight.path, weight.value, rng))
    at = model.layers[-1].input
    while at.ndim != 4 or at.shape[1] == 1:
        at = at._keras_history.operation.input
    cuts = [keras_cut(model, at)]
    return Network(f"kimm {family}", inference(model), x, tuple(cuts), False)
