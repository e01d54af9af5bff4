"""What PFV makes of features along given directions: weighted components, and their colours."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxplain import postprocess
from jaxplain.core.numerics import magnitude
from jaxplain.explainers._principal import HIGHEST

if TYPE_CHECKING:
    from jaxplain.explainers.pfv import PFVBasis


def coloured(
    features: jax.Array, sums: list[jax.Array], basis: PFVBasis, x: jax.Array
) -> dict[str, jax.Array]:
    """The components of features, weighted by the channel sums of other layers, and as colours."""
    d = jnp.einsum("bhwc,ck->bhwk", features - basis.mean, basis.directions, precision=HIGHEST)
    image = x.shape[1], x.shape[2]
    if not sums:
        weights, weighted = jnp.ones((x.shape[0], *image), d.dtype), _resize(d, image)
    elif basis.weighting == "sum":
        weights = functools.reduce(jnp.add, [postprocess.resize(s, image) for s in sums])
        weighted = weights[..., None] * _resize(d, image)
    else:
        weights, weighted = jnp.ones_like(d[..., 0]), d
        for s, high in zip(reversed(sums), basis.weight_max[::-1], strict=True):
            s = jnp.where(high > 0, s / jnp.where(high > 0, high, 1), 0)
            size = s.shape[1], s.shape[2]
            weights = postprocess.resize(weights, size) * s
            weighted = _resize(weighted, size) * s[..., None]
    low, high = _limits(weighted) if basis.scale is None else basis.scale
    span = high - low
    colours = jnp.where(span > 0, (weighted - low) / jnp.where(span > 0, span, 1), 0)
    colours = jnp.clip(colours, 0, 1)
    maps = {"colours": colours, "weighted": weighted, "components": d, "weights": weights}
    return {name: m.astype(x.dtype) for name, m in maps.items()}


def _resize(maps: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Bilinear, with half-pixel centres: (B, h, w, k) to (B, H, W, k)."""
    return jnp.moveaxis(postprocess.resize(jnp.moveaxis(maps, -1, 1), shape), 1, -1)


def _limits(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What clipping at one standard deviation and min-max scaling make 0 and 1."""
    mean = v.mean()
    scale = magnitude(v - mean)
    spread = (jnp.sqrt(jnp.square((v - mean) / scale).mean()) * scale).reshape(())
    return jnp.maximum(v.min(), mean - spread), jnp.minimum(v.max(), mean + spread)
