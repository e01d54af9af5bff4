"""CAM for any network: a linear classifier on pooled activations, fitted to the network's scores.

`cam` needs a network that ends in a global average pool and one dense layer. For any other, the
scores are regressed on the pooled activations of a layer over a data set, and the weights of that
regression take the place of the classifier's (Ebrahimpour et al. 2019, section 3.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import trace
from jaxplain.core.numerics import class_scores, positive
from jaxplain.explainers._common import check_images, over_targets, run
from jaxplain.explainers._types import Images, Network, Targets, Tokens
from jaxplain.explainers.cams import SPACE, _require_space

__all__ = ["FittedCam", "fit_cam", "fitted_cam"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FittedCam:
    """What `fit_cam` found: ``score_n = pooled @ weight[:, n] + bias[n]``, nearly.

    A pytree, so that it can go through ``jit`` and be stored as arrays.

    Attributes:
        weight: ``(C, N)``, for channels pooled by their mean over space.
        bias: ``(N,)``.
        explained: ``(N,)``, R^2 on the data: the part of each score's variance that the fit
            explains, 1 for a network that `cam` itself can explain. Where it is low, the map says
            little.
        layer: the layer whose activations were pooled.
    """

    weight: jax.Array
    bias: jax.Array
    explained: jax.Array
    layer: str = dataclasses.field(metadata={"static": True})


class _Moments:
    """Count, mean and centred second moments of a stream of rows, in double precision.

    Batches are merged by the pairwise formula of Chan, Golub and LeVeque, which unlike the plain
    sum of squares does not cancel where the mean is large against the deviations.
    """

    def __init__(self):
        self.count, self.mean, self.products = 0, np.zeros(()), np.zeros(())
        self.squares = np.zeros(())  # of the scores: their other products are not needed

    def add(self, features: np.ndarray, scores: np.ndarray) -> None:
        rows = np.concatenate([features, scores], 1).astype(np.float64)
        n, channels = len(rows), features.shape[1]
        mean = rows.mean(0)
        centred, shift = rows - mean, mean - self.mean
        weight = self.count * n / (self.count + n)
        self.products = self.products + centred[:, :channels].T @ centred
        self.products += weight * np.outer(shift[:channels], shift)
        self.squares = self.squares + (centred[:, channels:] ** 2).sum(0)
        self.squares += weight * shift[channels:] ** 2
        self.mean = self.mean + shift * (n / (self.count + n))
        self.count += n


def _pooled(model, x, targets, *, layers, class_chunk):
    scores, acts = model.forward(x, layers)
    _require_space(layers, acts, "fit_cam")
    scores = class_scores(scores)
    return {name: (acts[name].mean(SPACE), scores) for name in layers}


def fit_cam(
    fn: Network,
    batches: Iterable[Images],
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    ridge: float = 1e-3,
) -> FittedCam:
    """Regresses a network's scores on its pooled activations, over a data set (for `fitted_cam`).

    Ridge regression of every score ``S_n`` on the channels' means over space ``F``: the minimum of
    ``sum_i (S_i - F_i w - b)^2 / n + ridge * v * |w|^2``, where ``v`` is the mean variance of a
    channel, so that ``ridge`` has no unit. The batches are read once, one after another; all that
    is kept of them are means and second moments. (The paper pools by the sum, which divides all
    weights by the number of positions.)

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``, whose
            mean over space is then the score: a callable or an NNX module.
        batches: float images ``(B, H, W, C)``, preprocessed as the network expects; any iterable.
            Batches of one shape share one compiled program. For a good fit there are several times
            as many images as channels, of all the classes.
        layer: where the channels are; None for the last layer with more than one position.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        ridge: strength of the regularisation. 0 is ordinary least squares.

    Returns:
        A `FittedCam`, in single precision, or double where the scores are double.

    Raises:
        TypeError: images that are not of a float dtype.
        ValueError: fewer than two images, no such layer or one without height and width, a negative
            ridge, or channels that the data do not tell apart with ``ridge=0``.

    Reference: Ebrahimpour et al., *Do humans look where deep convolutional neural networks
    "attend"?*, 2019, section 3.1; Zhou et al., *Learning deep features for discriminative
    localization*, CVPR 2016.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> weight = jnp.array([[1., -2.], [0., 3.]])
        >>> def fn(x):
        ...     return jaxplain.tag(x * 1., "features").mean((1, 2)) @ weight + 5
        >>> batches = jax.random.uniform(jax.random.key(0), (4, 8, 2, 2, 2))
        >>> fit = jaxplain.fit_cam(fn, batches, layer="features", ridge=0)
        >>> bool(jnp.allclose(fit.weight, weight, atol=1e-4)), bool((fit.explained > 0.999).all())
        (True, True)
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, but is {ridge}")
    moments, dtype = _Moments(), jnp.dtype(jnp.float32)
    for x in batches:
        x = check_images(x)
        if layer is None:
            layer = trace(fn, x).graph.last_spatial
        features, scores = run(_pooled, fn, x, None, layer=layer, tokens=tokens, logits=False)
        dtype = jnp.promote_types(jnp.float32, scores.dtype)
        moments.add(np.asarray(features, np.float64), np.asarray(scores, np.float64))
    if layer is None or moments.count < 2:
        raise ValueError(f"fit_cam needs images to learn from, at least two, not {moments.count}")
    channels = len(moments.products)
    covariance = moments.products[:, :channels] / moments.count
    shared = moments.products[:, channels:] / moments.count
    values, vectors = np.linalg.eigh(covariance)
    values = values + ridge * np.trace(covariance) / channels
    # Without a ridge, directions in which only rounding of the activations varies are none; a ridge
    # makes up for them, and need only stand out of the rounding here, in double precision.
    rounding = np.finfo(np.float64 if ridge else dtype).eps
    if values[0] <= channels * rounding * max(values[-1], 0):
        raise ValueError(
            f"the {moments.count} images do not tell the {channels} channels of {layer!r} apart "
            "(some are constant or sums of others), so there is no unique fit: use "
            f"{'a larger ridge' if ridge else 'ridge > 0'}, or more images"
        )
    weight = vectors @ ((vectors.T @ shared) / values[:, None])
    left = moments.squares / moments.count - (weight * (2 * shared - covariance @ weight)).sum(0)
    total = moments.squares / moments.count
    explained = 1 - np.divide(left, total, out=np.zeros_like(left), where=total > 0)
    bias = moments.mean[channels:] - moments.mean[:channels] @ weight
    return FittedCam(
        weight=jnp.asarray(weight, dtype),
        bias=jnp.asarray(bias, dtype),
        explained=jnp.asarray(explained, dtype),
        layer=layer,
    )


def _fitted_cam(model, x, targets, weight, *, layers, class_chunk, relu):
    (layer,) = layers
    scores, acts = model.forward(x, layers)
    _require_space(layers, acts, "fitted_cam")
    a = acts[layer]
    if weight.shape != (a.shape[-1], scores.shape[-1]):
        raise ValueError(
            f"the fit has weights {weight.shape} for (channels, classes), but this network has "
            f"{a.shape[-1]} channels at {layer!r} and {scores.shape[-1]} classes"
        )

    def one(seed):
        seed = seed.sum(tuple(range(1, seed.ndim - 1)))
        w = jnp.matmul(seed, weight.T.astype(seed.dtype), precision=jax.lax.Precision.HIGHEST)
        m = (w[:, None, None, :].astype(a.dtype) * a).sum(-1)
        return {layer: positive(m) if relu else m}

    return over_targets(one, scores, targets)


def fitted_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    tokens: Tokens = None,
    fit: FittedCam,
    relu: bool = False,
) -> jax.Array:
    """CAM with fitted weights: ``sum_c w_c A_c`` at the layer of the fit.

    The map's mean plus the bias is the fitted score. On a network that ends in a global average
    pool and a dense layer it is `cam`, up to the ridge.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``.
        tokens: where it is not known how maps lie in the layer: the grid ``(h, w)`` of its
            positions, row by row, or a function from its values to maps ``(B, h, w, C)``.
        fit: the result of `fit_cam` for this network.
        relu: True keeps only the positive part.

    Returns:
        Signed maps ``(B, h, w)``, or ``(B, K, h, w)`` for K targets, in the dtype of the layer.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x is not four-dimensional or not finite, a class is out of range, or the fit is
            another network's.

    Reference: as for `fit_cam`.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jnp.square(jaxplain.tag(x * 1., "features").mean((1, 2)))
        >>> fit = jaxplain.FittedCam(jnp.full((1, 1), 2.), jnp.zeros(1), jnp.ones(1), "features")
        >>> jaxplain.fitted_cam(fn, jnp.arange(2.).reshape(1, 1, 2, 1), 0, fit=fit)
        Array([[[0., 2.]]], dtype=float32)
    """
    return run(
        _fitted_cam,
        fn,
        x,
        targets,
        layer=fit.layer,
        tokens=tokens,
        arrays=(fit.weight,),
        logits=False,
        relu=bool(relu),
    )
