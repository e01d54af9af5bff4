"""Principal Feature Visualisation (Bakken et al. 2020): what features differ in, as colours.

The features ``F`` of a late layer, one row a pixel of every image, are centred and decomposed,
``F' = U S V^T`` (Eqs. 3 and 4). The first columns of ``U S`` (Eqs. 5 and 6), three of them as red,
green and blue, are upsampled to the image and weighted by the activation map ``A``, the upsampled
channel sums of earlier layers (Eqs. 1 and 2): ``V = normalise(A * up(U S))`` (Eq. 7). No class, no
backward pass. Colours are relative to the batch; `pfv_fit` and `pfv_apply` make them agree
across a data set.

Two routes to the same numbers: the singular value decomposition of ``F'``, and the eigenvectors of
its ``C x C`` covariance, which is cheaper wherever pixels outnumber channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import UnknownLayerError, trace
from jaxplain.core.numerics import magnitude
from jaxplain.explainers._colours import coloured
from jaxplain.explainers._common import check_images, check_option, require_named, run_traced
from jaxplain.explainers._principal import HIGHEST, from_covariance, principal, route_costs
from jaxplain.explainers._stages import require_maps, size, stages
from jaxplain.explainers._types import Images, Network, Tokens

__all__ = ["PFVBasis", "PrincipalFeatures", "pfv", "pfv_apply", "pfv_fit"]

_ROUTES = ("auto", "svd", "covariance")
_WEIGHTINGS = ("sum", "hierarchical")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "directions", "singular_values", "weight_max", "scale"),
    meta_fields=("layer", "weight_layers", "weighting"),
)
@dataclasses.dataclass(frozen=True)
class PFVBasis:
    """The principal directions of a layer's features; a pytree.

    Attributes:
        mean: ``(C,)``, the mean feature.
        directions: ``(C, k)``, the first columns of ``V``, each with its largest loading positive.
        singular_values: ``(k,)``, the first of ``S``.
        weight_max: ``(L,)``, the largest channel sum of each weight layer.
        scale: ``(2,)``, the weighted values that become 0 and 1 as colours; None: each batch's own.
        layer, weight_layers, weighting: as they were given to `pfv` or `pfv_fit`.
    """

    mean: jax.Array
    directions: jax.Array
    singular_values: jax.Array
    weight_max: jax.Array
    scale: jax.Array | None
    layer: str | None
    weight_layers: tuple[str, ...] | None
    weighting: str


class PrincipalFeatures(NamedTuple):
    """What PFV gives for a batch; under `jit` what is not used is not computed.

    Attributes:
        colours: ``(B, H, W, k)`` in [0, 1], Eq. 7 with the authors' normalisation.
        weighted: ``(B, H, W, k)``, the same before the normalisation, signed.
        components: ``(B, h, w, k)``, columns of ``U S`` at the layer's own resolution, signed.
        weights: ``(B, H, W)``, the activation map of Eq. 2.
        basis: the directions the components are taken along.
    """

    colours: jax.Array
    weighted: jax.Array
    components: jax.Array
    weights: jax.Array
    basis: PFVBasis


def pfv(
    fn: Network,
    x: Images,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    weight_layers: Sequence[str] | None = None,
    weighting: Literal["sum", "hierarchical"] = "sum",
    components: int = 3,
    method: Literal["auto", "svd", "covariance"] = "auto",
) -> PrincipalFeatures:
    """Principal features of a batch of images (Bakken et al. 2020, Eqs. 1 to 7).

    All arithmetic is in float32 at least; results have the dtype of ``x``. The result is
    reverse-differentiable with respect to ``x``; where two singular values coincide,
    the rotation between their directions counts as zero.

    Args:
        fn: images ``(B, H, W, C)`` to anything; what lies above the layer is not computed.
        x: float images ``(B, H, W, C)``. Colours are relative to this batch.
        layer: whose features are decomposed; None for the last convolutional layer, before the last
            pool, or a transformer's last tokens, behind its last norm.
        tokens: where it is not known how maps lie in a named layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        weight_layers: whose channel sums weight the result; None for the last layer at each
            resolution before ``layer``: inputs of max pools and strided convolutions; of networks
            that mix tokens, none. An empty sequence leaves the components unweighted.
        components: how many directions, 1 to the number of channels; 3 give colours.
        method: ``"svd"``, ``"covariance"``, or ``"auto"`` for the one with fewer operations
            (`route_costs`). They agree up to rounding.
        weighting: ``"sum"`` is Eq. 2; ``"hierarchical"`` is the authors' code's other mode: from
            the deepest weight layer to the first, resize to the layer's size and multiply by its
            channel sum over its maximum in the batch. Its ``weighted`` and ``colours`` have the
            first weight layer's size.

    Returns:
        `PrincipalFeatures`. The authors' normalisation subtracts the mean, divides by the standard
        deviation of the whole array, clips to one standard deviation and scales to [0, 1].

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, an unknown option, too many components,
            a layer without height and width, or no weight layer found.
        UnknownLayerError: no such layer, or no convolution to be found by default.

    Reference: Bakken et al., *Principal feature visualisation in convolutional neural networks*,
    ECCV 2020.

    Example:
        Two channels that only ever move together have one principal direction:

        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     features = jnp.concatenate([3 * x, 4 * x], -1)
        ...     return jaxplain.tag(features, "features").mean((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> result = jaxplain.pfv(fn, x, layer="features", weight_layers=(), components=1)
        >>> [[round(float(v), 3) for v in row] for row in result.components[0, :, :, 0]]
        [[-7.5, -2.5], [2.5, 7.5]]
        >>> [round(float(v), 3) for v in result.basis.directions[:, 0]]
        [0.6, 0.8]
    """
    check_option("method", method, _ROUTES)
    basis = _unfitted(layer, weight_layers, weighting)
    return _call(_pfv, fn, x, basis, tokens, components=components, method=method)


def pfv_fit(
    fn: Network,
    batches: Iterable[Images],
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    weight_layers: Sequence[str] | None = None,
    weighting: Literal["sum", "hierarchical"] = "sum",
    components: int = 3,
    scale: bool = True,
) -> PFVBasis:
    """The principal directions of a stream of batches: a running mean and ``C x C`` covariance.

    The same as `pfv` of all images at once, up to rounding, with memory for one batch. Batches may
    differ in size and may be sharded over devices.

    Args:
        fn: images ``(B, H, W, C)`` to anything.
        batches: float images ``(B, H, W, C)`` each; a list, or anything that can be iterated twice.
        layer, tokens, weight_layers, components, weighting: as in `pfv`.
        scale: True reads the batches a second time, for the range of the colours, so that those of
            `pfv_apply` mean the same in every batch. False reads them once; `pfv_apply` then scales
            colours by the batch it is given.

    Returns:
        A `PFVBasis` in float32 (float64 for float64 images).

    Raises:
        TypeError: ``batches`` is an iterator, which cannot be read twice, and ``scale`` is True.
        ValueError: there is no batch, besides the errors of `pfv`.

    Reference: as for `pfv`; the merging of moments is that of Chan, Golub and LeVeque, *Updating
    formulae and a pairwise algorithm for computing sample variances*, 1979.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(jnp.concatenate([3 * x, 4 * x], -1), "features").mean((1, 2))
        >>> batches = [jnp.arange(4.).reshape(1, 2, 2, 1), jnp.zeros((2, 2, 2, 1))]
        >>> basis = jaxplain.pfv_fit(fn, batches, layer="features", weight_layers=(), components=1)
        >>> [round(float(v), 3) for v in basis.mean]
        [1.5, 2.0]
    """
    if scale and isinstance(batches, Iterator):
        raise TypeError(
            "batches is an iterator, which can be read only once, and the range of the "
            "colours needs a second pass: give a list, or say scale=False"
        )
    basis = _unfitted(layer, weight_layers, weighting)
    moments = None
    for x in batches:
        new = _call(_feature_moments, fn, x, basis, tokens, components=components)
        moments = new if moments is None else _merge(moments, new)
    if moments is None:
        raise ValueError("batches is empty; give at least one batch of images (B, H, W, C)")
    directions, singular_values = from_covariance(moments.covariance, moments.rows, components)
    basis = dataclasses.replace(
        basis,
        mean=moments.mean,
        directions=directions,
        singular_values=singular_values,
        weight_max=moments.weight_max,
    )
    if not scale:
        return basis
    values = np.array([_call(_value_moments, fn, x, basis, tokens) for x in batches], np.float64)
    n, mean, square, low, high = values.T
    total = (n * mean).sum() / n.sum()
    spread = np.sqrt((n * (square + (mean - total) ** 2)).sum() / n.sum())
    limits = (max(low.min(), total - spread), min(high.max(), total + spread))
    return dataclasses.replace(basis, scale=jnp.asarray(limits, basis.mean.dtype))


def pfv_apply(
    fn: Network, x: Images, *, tokens: Tokens = None, basis: PFVBasis
) -> PrincipalFeatures:
    """The principal features of images along the directions of a `pfv_fit`.

    Every image's result depends on that image alone, if the basis has a ``scale``. Pure: works
    inside `jit`, with the basis as an argument.

    Args:
        fn, x, tokens: as in `pfv`.
        basis: from `pfv_fit`, or from another batch's `pfv`.

    Returns:
        `PrincipalFeatures`, with this ``basis``.

    Raises:
        TypeError: the basis is none, or x is not of a float dtype.
        ValueError: the basis has another number of channels, besides the errors of `pfv`.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(jnp.concatenate([3 * x, 4 * x], -1), "features").mean((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> basis = jaxplain.pfv_fit(fn, [x], layer="features", weight_layers=(), components=1)
        >>> colours = jaxplain.pfv_apply(fn, x + 1, basis=basis).colours
        >>> [round(float(v), 3) for v in colours.ravel()]
        [0.276, 0.724, 1.0, 1.0]
    """
    if not isinstance(basis, PFVBasis) or basis.directions is None:
        raise TypeError(f"basis must be a PFVBasis of pfv_fit, not {type(basis).__name__}")
    return _call(_apply, fn, x, basis, tokens)


# -- the traced part --------------------------------------------------------------------------


def _unfitted(layer, weight_layers, weighting) -> PFVBasis:
    check_option("weighting", weighting, _WEIGHTINGS)
    if isinstance(weight_layers, str):
        weight_layers = (weight_layers,)
    weight_layers = None if weight_layers is None else tuple(weight_layers)
    nothing: Any = None  # what a fit finds
    return PFVBasis(nothing, nothing, nothing, nothing, None, layer, weight_layers, weighting)


def _call(impl, fn, x, basis: PFVBasis, tokens: Tokens, **static):
    """Find the layers, check them, and run ``impl`` in the one internal jit."""
    x = check_images(x)
    model = trace(fn, x)
    named = [n for n in (basis.layer, *(basis.weight_layers or ())) if n is not None]
    if not named:
        require_named(tokens)
    model = model.viewed(named, tokens)
    found = _found(model, basis)
    layout: Any = found[0][1]
    b, h, w, channels = layout.batch, layout.height, layout.width, layout.channels
    if basis.mean is not None and basis.mean.shape != (channels,):
        raise ValueError(
            f"the basis is one of {basis.mean.shape[0]} channels, but the layer has "
            f"{channels}; fit it with the same network and layer"
        )
    k = static.get("components", 1)
    if not isinstance(k, int) or not 1 <= k <= min(channels, b * h * w):
        raise ValueError(
            f"components must be an int from 1 to {min(channels, b * h * w)}, the "
            f"smaller of the layer's channels and pixels, not {k!r}"
        )
    if static.get("method") == "auto":
        costs = route_costs(b * h * w, channels, k)
        static["method"] = min(costs, key=lambda name: costs[name].flops)
    return run_traced(impl, model, x, None, arrays=(basis,), found=found, **static)


def _found(model, basis: PFVBasis) -> tuple:
    """The features' variable, then those of the weight layers, with how maps lie in each."""
    graph = model.graph
    tokens = graph.blocks.tokens
    sought = not tokens and (basis.layer is None or basis.weight_layers is None)
    found = stages(graph) if sought else []
    if basis.layer is None:
        last = tokens[-1] if tokens else found[-1]
        features = last, graph.layout(last)
    else:
        features = last, _ = require_maps(model, basis.layer, "pfv")
    if basis.weight_layers is not None:
        named = [require_maps(model, name, "pfv") for name in basis.weight_layers]
        order = {v: i for i, v in enumerate([*graph.inputs, *(op.output for op in graph.ops)])}
        return features, *sorted(named, key=lambda pair: order[pair[0]])
    if tokens:
        return (features,)
    before = [op.output for op in graph.ops]
    before = set(before[: before.index(last)] if last in before else ())
    shape = features[1].height, features[1].width
    weights = [(v, graph.layout(v)) for v in found if v in before and size(graph, v) != shape]
    if not weights:
        raise UnknownLayerError(
            "the network does not become smaller before the layer, so that there is "
            "no weight layer; name weight_layers, or say weight_layers=() for none"
        )
    return features, *weights


def _activations(model, x, found) -> tuple[jax.Array, list[jax.Array]]:
    """Features, and the channel sums of the weight layers (Eq. 1), in float32 at least."""
    values = model.evaluate([x], outputs=[v for v, _ in found])
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    features, *weights = [
        layout.maps(value).astype(dtype) for (_, layout), value in zip(found, values, strict=True)
    ]
    return features, [w.sum(-1) for w in weights]


def _pfv(model, x, _, basis, *, found, components, method):
    features, sums = _activations(model, x, found)
    rows = features.reshape(-1, features.shape[-1])
    mean = rows.mean(0)
    centred = rows - mean
    scale = magnitude(centred)  # squares of large values would overflow
    directions, singular_values = principal(centred / scale, components, method)
    singular_values = singular_values * scale[0]
    basis = dataclasses.replace(
        basis,
        mean=mean,
        directions=directions,
        singular_values=singular_values,
        weight_max=_maxima(sums, mean),
    )
    return _features(features, sums, basis, x)


def _apply(model, x, _, basis, *, found):
    return _features(*_activations(model, x, found), basis, x)


def _maxima(sums, like) -> jax.Array:
    return jnp.stack([s.max() for s in sums]) if sums else jnp.zeros(0, like.dtype)


def _features(features, sums, basis: PFVBasis, x) -> PrincipalFeatures:
    return PrincipalFeatures(**coloured(features, sums, basis, x), basis=basis)


# -- moments of a stream ----------------------------------------------------------------------


class _Moments(NamedTuple):
    mean: jax.Array
    covariance: jax.Array
    weight_max: jax.Array
    rows: jax.Array


@jax.jit
def _merge(a: _Moments, b: _Moments) -> _Moments:
    rows = a.rows + b.rows
    share = b.rows / rows
    delta = b.mean - a.mean
    covariance = (
        (1 - share) * a.covariance
        + share * b.covariance
        + share * (1 - share) * jnp.outer(delta, delta)
    )
    return _Moments(
        a.mean + share * delta, covariance, jnp.maximum(a.weight_max, b.weight_max), rows
    )


def _feature_moments(model, x, _, basis, *, found, components):
    features, sums = _activations(model, x, found)
    rows = features.reshape(-1, features.shape[-1])
    mean = rows.mean(0)
    centred = rows - mean
    covariance = jnp.matmul(centred.T, centred, precision=HIGHEST) / rows.shape[0]
    return _Moments(mean, covariance, _maxima(sums, mean), jnp.asarray(rows.shape[0], mean.dtype))


def _value_moments(model, x, _, basis, *, found):
    """Count, mean, variance, lowest and highest of the weighted components."""
    v = _features(
        *_activations(model, x, found), basis, x.astype(jnp.promote_types(x.dtype, jnp.float32))
    ).weighted
    mean = v.mean()
    count = jnp.asarray(v.size, mean.dtype)
    return jnp.stack([count, mean, jnp.square(v - mean).mean(), v.min(), v.max()])
