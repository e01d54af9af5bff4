"""The Linen networks of flaxmodels."""

from __future__ import annotations

import jax

from benchmarks.third_party.networks.base import CLASSES, Network, images
from benchmarks.third_party.networks.linen import cut, drawn

#: Network -> the module that it is cut at, which gives the last maps.
FAMILIES = {"ResNet18": ("BasicBlock_7",)}


def build(family: str) -> Network:
    import flaxmodels

    net = getattr(flaxmodels, family)(
        output="logits", pretrained=None, normalize=False, num_classes=CLASSES, dtype="float64"
    )
    x = images(64)
    variables = drawn(net.init(jax.random.key(3), x, train=False))

    def fn(x: jax.Array) -> jax.Array:
        return net.apply(variables, x, train=False)

    return Network(f"flaxmodels {family}", fn, x, (cut(fn, FAMILIES[family], x),), True)
