"""The smallest network of the registry, random weights as its source names them, and for any."""

from __future__ import annotations

import math

import numpy as np
from flax import nnx

from jaxplain import weights_convert as wc
from jaxplain.models import conversion
from jaxplain.models.entries import find

SMALL = "conv4net"


def foreign(name=SMALL, seed=0) -> dict[str, np.ndarray]:
    """Random tensors for a network, with the names and axes of its first source (as torch's)."""
    entry = find(name)
    model = conversion.build(entry, entry.outputs)
    shapes = wc.parameter_shapes(model)
    rng = np.random.default_rng(seed)
    names = entry.sources[0].names
    assert names.layout == "torch"
    tensors = {}
    for ours, theirs in names.resolve(shapes).items():
        shape = shapes[ours]
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        tensors[theirs] = np.abs(rng.normal(size=shape)).astype("f4")
    return tensors


def state(model):
    return {
        ".".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model))
    }


def equal(a, b):
    a, b = state(a), state(b)
    assert set(a) == set(b)
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name])


def filled(network):
    """Random weights and statistics; the first filter of each layer is alive by its bias alone."""
    vector = np.random.default_rng(0).normal(size=1_000_003).astype(np.float32)
    weights = {}
    for name, shape in wc.parameter_shapes(network).items():
        value = np.resize(vector, shape)  # repeated, for there are many
        if name.endswith("kernel"):
            value = value * np.float32(math.sqrt(2 / math.prod(shape[:-1])))
            value[..., 0] = -np.abs(value[..., 0]) / 100
        elif name.endswith((".scale", ".var")):
            value = 1 + np.tanh(value) / 2
        elif name.endswith("bias"):
            value[0] = 3.0
        weights[name] = value
    return wc.with_weights(network, weights)
