"""The Equinox networks of equimo: channels-first, and of one image, which `jax.vmap` maps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.third_party.networks.base import (
    CLASSES,
    Cut,
    Network,
    images,
    perturbed,
    tapped,
    tokens,
)


def channels_first(value: jax.Array) -> jax.Array:
    """The view of maps ``(B, C, h, w)``."""
    return value.transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Family:
    """A class of networks, and what is known of each.

    Attributes:
        kind: the name of the class.
        options: what makes it small.
        maps: the view of the values that it is cut at.
        attention: the attention whose input is the last value; None where that is behind
            ``features`` and ``norm``, of each place, and the scores are of the mean by ``head``.
        norm, head: by their names.
    """

    kind: str
    options: dict[str, Any]
    maps: Callable[[jax.Array], jax.Array]
    attention: Callable[[Any], Any] | None = None
    norm: Literal["each place", "the mean", "none"] = "none"
    head: str = "head"


_VIT = {"img_size": 40, "patch_size": 8, "dim": 24, "num_heads": 3, "depths": [2], "mlp_ratio": 2}
_MOBILE = [
    (8, 8, 3, 2, True, "relu"),
    (8, 24, 3, 2, False, "relu"),
    (12, 24, 5, 1, True, "hard_swish"),
    (16, 48, 5, 1, True, "hard_swish"),
]
FAMILIES = {
    "ViT": Family(
        "VisionTransformer",
        {**_VIT, "global_pool": "token", "reg_tokens": 0},
        tokens(prefix=1),
        lambda m: m.blocks[-1].blocks[1].attn,
    ),
    "ViT with registers": Family(
        "VisionTransformer",
        {**_VIT, "global_pool": "avg", "reg_tokens": 4, "use_local_pos_embed": True},
        tokens(prefix=5),
        lambda m: m.blocks[-1].blocks[1].attn,
    ),
    "ConvNeXt": Family(
        "ConvNeXt",
        {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24], "layer_scale_init_value": 1.0},
        channels_first,
        norm="the mean",
    ),
    "MobileNetV3": Family(
        "MobileNetv3",
        {"layers_config": _MOBILE, "last_channels": 64},
        channels_first,
        head="classifier",
    ),
    "Mlla": Family(
        "Mlla",
        {"img_size": 64, "dim": 16, "depths": [1, 1, 2], "num_heads": [2, 2, 4]},
        tokens(),
        norm="each place",
    ),
}


def build(name: str) -> Network:
    import equinox as eqx
    from equimo.core.layers import activation
    from equimo.vision import models

    # Looked up when called, as a network's own code does, and not when equimo is imported.
    for act in ("relu", "gelu", "silu", "hard_swish"):
        late = functools.partial(lambda act, x: getattr(jax.nn, act)(x), act)
        activation.register_act(act, force=True)(late)
    family = FAMILIES[name]
    model = getattr(models, family.kind)(
        in_channels=3, num_classes=CLASSES, key=jax.random.key(3), **family.options
    )
    model = eqx.nn.inference_mode(_drawn(model))
    x = images(family.options.get("img_size", 64))

    def fn(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda image: _call(model, image))(x)

    cut = _at_attention(model, family, x) if family.attention else _at_features(model, family)
    return Network(f"equimo {name}", fn, x, (cut,), False)


def _call(part: Callable, image: jax.Array) -> jax.Array:
    return part(image.transpose(2, 0, 1), key=jax.random.key(0), inference=True)


def _drawn(model: Any) -> Any:
    """In double precision; the weights of norms, which begin as ones, and zeros are drawn."""
    import equinox as eqx

    rng = np.random.default_rng(11)

    def draw(value: Any) -> Any:
        if not eqx.is_inexact_array(value):
            return value
        value = np.asarray(value, np.float64)
        name = "scale" if (value == 1).all() else "kernel" if value.any() else "bias"
        return jnp.asarray(perturbed(name, value, rng))

    return jax.tree.map(draw, model)


def _at_features(model: Any, family: Family) -> Cut:
    """The cut behind the features, which a mean over places and a dense layer end."""

    def features(image: jax.Array) -> jax.Array:
        value = _call(model.features, image)
        return jax.vmap(model.norm)(value) if family.norm == "each place" else value

    def head(value: jax.Array) -> jax.Array:
        pooled = value.mean(0 if value.ndim == 2 else (1, 2))
        pooled = model.norm(pooled) if family.norm == "the mean" else pooled
        return getattr(model, family.head)(pooled)

    return Cut(jax.vmap(features), jax.vmap(head), family.maps)


def _at_attention(model: Any, family: Family, x: jax.Array) -> Cut:
    """The cut at what the last attention is given, which is behind its norm."""
    import equinox as eqx

    def run(image: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        seen = []

        def attention(value: jax.Array, **options: Any) -> jax.Array:
            seen.append(value)
            return family.attention(model)(value if put is None else put, **options)

        scores = _call(eqx.tree_at(family.attention, model, attention), image)
        return scores, seen[-1]

    def both(x: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(run, in_axes=(0, None if put is None else 0))(x, put)

    return tapped(both, x, family.maps)
