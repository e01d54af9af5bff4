"""Haiku's networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.third_party.networks.base import CLASSES, Cut, Network, images, perturbed

VERSIONS = ("resnet-v1", "resnet-v2", "mobilenet")


def build(version: str) -> Network:
    import haiku as hk

    size = 64

    def forward(x: jax.Array, is_training: bool = False) -> jax.Array:
        if version == "mobilenet":
            strides, channels = (1, 2, 1, 2, 1, 2, 1), (8, 8, 16, 16, 16, 16, 24)
            net = hk.nets.MobileNetV1(strides, channels, num_classes=CLASSES)
            return net(x, is_training)
        net = hk.nets.ResNet50(CLASSES, resnet_v2=version == "resnet-v2")
        return net(x, is_training)

    def seen(x: jax.Array) -> list:
        """The maps that each module gave, in order."""
        values = []

        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and getattr(out, "ndim", 0) == 4:
                values.append(out)
            return out

        with hk.intercept_methods(keep):
            forward(x)
        return values

    net, maps = hk.transform_with_state(forward), hk.transform_with_state(seen)
    x = images(size)
    params, state = net.init(jax.random.key(3), x, True)  # which makes the statistics
    rng = np.random.default_rng(11)
    params, state = (
        {
            module: {
                name: jnp.asarray(perturbed(_name(module, name, value), value, rng))
                for name, value in values.items()
            }
            for module, values in tree.items()
        }
        for tree in (params, state)
    )
    (top,) = (v for m, v in params.items() if m.endswith("logits"))

    def features(x: jax.Array) -> jax.Array:
        return jax.nn.relu(maps.apply(params, state, None, x)[0][-1])

    def head(a: jax.Array) -> jax.Array:
        return a.mean((1, 2)) @ top["w"] + top["b"]

    def fn(x: jax.Array) -> jax.Array:
        return net.apply(params, state, None, x)[0]

    def narrow(x: jax.Array) -> jax.Array:
        return maps.apply(params, state, None, x)[0][0]

    return Network(f"haiku {version}", fn, x, (Cut(features, head),), True, narrow)


def _name(module: str, name: str, value: Any) -> str:
    """A weight's name in Keras's words: statistics are ``average`` and ``hidden`` in Haiku."""
    if name in ("average", "hidden"):
        return "moving_variance" if module.endswith("var_ema") else "moving_mean"
    if name == "w" and not value.any():
        return "bias"  # a ResNet's classifier, which begins as zeros
    return name
