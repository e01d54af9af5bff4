"""The Linen networks of flaim: hierarchical and hybrid transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax

from benchmarks.third_party.networks.base import CLASSES, Attends, Network, images, tokens
from benchmarks.third_party.networks.linen import cut, drawn


def places(value: jax.Array) -> jax.Array:
    """The view of maps, and of tokens, in windows of which there is one, too."""
    if value.ndim == 4 and value.shape[1] > 1:
        return value
    value = value.reshape(len(value), -1, value.shape[-1])
    return tokens(value.shape[1] - math.isqrt(value.shape[1]) ** 2)(value)


@dataclass(frozen=True)
class Family:
    """A network.

    Attributes:
        kind, options: its class, and what makes it small.
        size: of its images.
        paths: the modules that it is cut at.
        attends: the tokens without a place, those that the scores read, and the count of blocks.
    """

    kind: str
    options: dict[str, Any]
    size: int
    paths: tuple[tuple[str, ...], ...]
    attends: tuple[int, tuple[int, ...], int] | None = None


_VIT = {"depth": 2, "token_dim": 24, "n_heads": 3, "patch_size": 8}
_STAGES = {"depths": (1, 1), "n_heads": (2, 3)}
FAMILIES = {
    "Cait": Family(
        "Cait",
        {**_VIT, "layer_scale_init_value": 1.0},
        40,
        (("ClassAttentionBlock_1", "LayerNorm_0"), ("MetaFormerBlock_1",)),
    ),
    "Beit": Family(
        "ViT",
        {**_VIT, "rel_pos_embed": True, "head_pool": True, "head_norm_first": False},
        40,
        (("MetaFormerBlock_1", "LayerNorm_0"), ("MetaFormerBlock_0",)),
        (1, (), 2),
    ),
    "PVTV2": Family(
        "PVTV2",
        {**_STAGES, "token_dims": (16, 24), "sr_factors": (2, 1)},
        32,
        (("PVTV2Stage_1", "LayerNorm_0"), ("PVTV2Stage_1", "MetaFormerBlock_0")),
    ),
    "MaxViT": Family(
        "MaxViT",
        {
            **{"depths": (1, 1), "out_dims": (8, 16), "stem_out_dim": 8, "head_dim": 4},
            "partition_size_factor": 16,
        },
        64,
        (
            ("MaxViTStage_1", "MaxViTBlock_0", "MetaFormerBlock_1", "LayerNorm_0"),
            ("MaxViTStage_1", "MaxViTBlock_0", "MetaFormerBlock_0"),
        ),
    ),
    "GCViT": Family(
        "GCViT",
        {**_STAGES, "n_heads": (2, 4), "token_dim": 16, "window_size_factors": (16, 16)},
        64,
        (("GCViTStage_1", "GCViTBlock_0", "LayerNorm_0"), ("GCViTStage_1", "GCViTDownsample_0")),
    ),
    "NesT": Family(
        "NesT",
        {**_STAGES, "token_dims": (16, 24)},
        32,
        (("NesTStage_1", "MetaFormerBlock_0", "LayerNorm_0"), ("NesTStage_1", "AbsPosEmbed_0")),
    ),
}


def build(name: str) -> Network:
    # Of which flaim names the type of keys, as it was called when flaim was written.
    with mock.patch.object(jax.random, "KeyArray", jax.Array, create=True):
        from flaim import models
        from flaim.layers import acts

    # Looked up when called, as a network's own code does, and not when flaim is imported; modules
    # hold this very function as their default.
    late: Any = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    acts.gelu.__setstate__((late, (), {}, None))
    family = FAMILIES[name]
    module = getattr(models, family.kind.lower())
    net = getattr(module, family.kind)(n_classes=CLASSES, **family.options)
    x = images(family.size)
    training = {"training": False} if family.kind == "MaxViT" else {}
    variables = drawn(net.init(jax.random.key(3), x, **training))

    def fn(x: jax.Array) -> jax.Array:
        return net.apply(variables, x, **training)

    cuts = tuple(cut(fn, path, x, places) for path in family.paths)
    attends = None
    if family.attends:
        prefix, readers, count = family.attends
        paths = [(f"MetaFormerBlock_{i}",) for i in range(count)]
        blocks = tuple(cut(fn, path, x, places) for path in paths)
        attends = Attends(prefix, readers, blocks)
    return Network(f"flaim {name}", fn, x, cuts, False, attends=attends)
