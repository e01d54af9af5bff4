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
    Attends,
    Between,
    Cut,
    Network,
    images,
    perturbed,
    tapped,
    tokens,
)


def view(prefix: int = 0, grids: tuple[int, ...] = ()) -> Callable[[jax.Array], Any]:
    """That of maps ``(B, C, h, w)``, whose channels may be groups, and of tokens.

    With the sides that grids have, also of tokens behind heads, ``(B, heads, tokens)`` and
    ``(B, heads, tokens, C)``, and None of what has no place.
    """

    def maps(value: jax.Array) -> Any:
        counts = [side**2 for side in grids]
        if value.ndim == 3 and value.shape[2] in counts and value.shape[1] not in counts:
            value = value.swapaxes(1, 2)
        elif value.ndim == 4 and value.shape[2] in counts:
            value = value.swapaxes(1, 2).reshape(len(value), value.shape[2], -1)
        elif value.ndim == 4 and grids and value.shape[2] not in grids:
            return None
        if value.ndim == 5:
            value = value.reshape(len(value), -1, *value.shape[3:])
        return value.transpose(0, 2, 3, 1) if value.ndim == 4 else tokens(prefix)(value)

    return maps


@dataclass(frozen=True)
class Family:
    """A class of networks, and what is known of each.

    Attributes:
        kind: the name of the class.
        options: what makes it small.
        maps: the view of the values that it is cut at.
        inner: the modules whose inputs it is cut at: the last attention, and its block; None where
            the last value is behind ``features`` and ``norm``, of each place, and the scores are of
            the mean by ``head``.
        norm, head: by their names.
        gates: the activations that only multiply, where others are of the same function.
        attends: the tokens without a place, those that the scores read, and the chunk of blocks,
            if there is one among the same tokens.
    """

    kind: str
    options: dict[str, Any]
    maps: Callable[[jax.Array], jax.Array]
    inner: tuple[Callable[[Any], Any], ...] | None = None
    norm: Literal["each place", "the mean", "none"] = "none"
    head: str = "head"
    gates: Callable[[Any], list[Any]] | None = None
    attends: tuple[int, tuple[int, ...], Callable[[Any], Any] | None] | None = None


_VIT = {"img_size": 40, "patch_size": 8, "dim": 24, "num_heads": 3, "depths": [2], "mlp_ratio": 2}
_MOBILE = [
    (8, 8, 3, 2, True, "relu"),
    (8, 24, 3, 2, False, "relu"),
    (12, 24, 5, 1, True, "hard_swish"),
    (16, 48, 5, 1, True, "hard_swish"),
]
_INNER = (lambda m: m.blocks[-1].blocks[1].attn, lambda m: m.blocks[-1].blocks[1])
FAMILIES = {
    "ViT": Family(
        "VisionTransformer",
        {**_VIT, "global_pool": "token", "reg_tokens": 0},
        view(prefix=1),
        _INNER,
        attends=(1, (0,), lambda m: m.blocks[-1].blocks),
    ),
    "ViT with registers": Family(
        "VisionTransformer",
        {**_VIT, "global_pool": "avg", "reg_tokens": 4, "use_local_pos_embed": True},
        view(prefix=5),
        _INNER,
        attends=(5, (), lambda m: m.blocks[-1].blocks),
    ),
    "ConvNeXt": Family(
        "ConvNeXt",
        {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24], "layer_scale_init_value": 1.0},
        view(),
        norm="the mean",
    ),
    "MobileNetV3": Family(
        "MobileNetv3",
        {"layers_config": _MOBILE, "last_channels": 64},
        view(),
        head="classifier",
    ),
    "Mlla": Family(
        "Mlla",
        # Of one stage: behind a merging, which ends in a ReLU, it is not clear what gates what.
        {"img_size": 64, "dim": 16, "depths": [2], "num_heads": [2]},
        view(),
        norm="each place",
        gates=lambda m: [block.act for chunk in m.blocks for block in chunk.blocks],
    ),
    # Mlla multiplies what is not its attention; here the same attention counts.
    "Vssd with linear attention": Family(
        "Vssd",
        {
            **{"img_size": 32, "dim": 24, "depths": [2], "num_heads": [2]},
            "attentions_layers": "linearattention",
        },
        view(grids=(8, 16)),
        norm="each place",
    ),
}


def build(name: str) -> Network:
    import equinox as eqx
    from equimo.core.layers import activation
    from equimo.vision import models

    # Looked up when called, as a network's own code does, and not when equimo is imported.
    for act in ("relu", "gelu", "silu", "hard_swish", "sigmoid", "hard_sigmoid"):
        late = functools.partial(lambda act, x: getattr(jax.nn, act)(x), act)
        activation.register_act(act, force=True)(late)
    family = FAMILIES[name]
    model = getattr(models, family.kind)(
        in_channels=3, num_classes=CLASSES, key=jax.random.key(3), **family.options
    )
    model = eqx.nn.inference_mode(_drawn(model))
    gates = ("sigmoid", "hard_sigmoid")
    if family.gates:  # SiLU by another name, by which the checks tell it from the others
        swish = [lambda x: jax.nn.swish(x)] * len(family.gates(model))
        model, gates = eqx.tree_at(family.gates, model, swish), (*gates, "swish")
    x = images(family.options.get("img_size", 64))

    def fn(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda image: _call(model, image))(x)

    cuts = (
        tuple(_at(model, where, x, family.maps) for where in family.inner)
        if family.inner
        else (_at_features(model, family),)
    )
    attends = None
    if family.attends:
        prefix, readers, chunk = family.attends
        blocks = tuple(
            _at(model, lambda m, i=i: chunk(m)[i], x, family.maps, behind=True)
            for i in range(len(chunk(model)) if chunk else 0)
        )
        attends = Attends(prefix, readers, blocks)
    return Network(f"equimo {name}", fn, x, cuts, False, gates=gates, attends=attends)


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

    weights = np.asarray(getattr(model, family.head).weight).T
    normed = family.norm == "the mean"
    between = Between(jax.vmap(model.norm), weights) if normed else None
    return Cut(jax.vmap(features), jax.vmap(head), family.maps, between)


def _at(
    model: Any,
    where: Callable[[Any], Any],
    x: jax.Array,
    maps: Callable[[jax.Array], jax.Array],
    behind: bool = False,
) -> Cut:
    """The cut at what a module is given, or gives."""
    import equinox as eqx

    def run(image: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        seen = []

        def instead(value: jax.Array) -> jax.Array:
            seen.append(value)
            return value if put is None else put

        def module(value: jax.Array, **options: Any) -> jax.Array:
            if behind:
                return instead(where(model)(value, **options))
            return where(model)(instead(value), **options)

        scores = _call(eqx.tree_at(where, model, module), image)
        return scores, seen[-1]

    def every(x: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(run, in_axes=(0, None if put is None else 0))(x, put)

    return tapped(every, x, maps)
