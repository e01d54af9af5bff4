"""Guided Grad-CAM: the details of guided backpropagation where Grad-CAM is positive."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core.numerics import positive
from jaxplain.explainers._common import check_reduce, over_targets, reduce_channels, run
from jaxplain.explainers._types import (
    ClassChunk,
    Images,
    Layer,
    Maps,
    Network,
    Reduce,
    Targets,
    Tokens,
)
from jaxplain.explainers.cams import SPACE, _grad_cam_map, _require_space
from jaxplain.rules import gradient_rules

__all__ = ["guided_grad_cam"]


def _upsample(maps: jax.Array, shape: tuple[int, int], method: str) -> jax.Array:
    if method == "bilinear":
        return jax.image.resize(maps, (maps.shape[0], *shape), "bilinear", antialias=False)
    for axis, size in zip(SPACE, shape, strict=True):
        # Row i reads row floor(i h / H), in whole numbers: as other packages' nearest neighbour.
        index = np.arange(size) * maps.shape[axis] // size
        maps = jnp.take(maps, index, axis=axis)
    return maps


def _guided_grad_cam(model, x, targets, *, layers, class_chunk, resize, reduce):
    scores, acts, pull = model.pullback(x, layers)
    _require_space(layers, acts, "guided_grad_cam")
    _, _, guided_pull = model.pullback(x, ("input",), gradient_rules.guided_rules())

    def one(seed):
        signal, guided = pull(seed), guided_pull(seed)["input"]
        maps = {}
        for name in layers:
            coarse = positive(_grad_cam_map(acts[name], signal[name]))
            fine = _upsample(coarse, x.shape[1:3], resize).astype(guided.dtype)
            maps[name] = reduce_channels(guided * fine[..., None], reduce)
        return maps

    return over_targets(one, scores, targets, class_chunk)


def guided_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layer = None,
    tokens: Tokens = None,
    resize: Literal["bilinear", "nearest"] = "bilinear",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> Maps:
    """Guided Grad-CAM (Selvaraju et al. 2017, section 3.2): details where Grad-CAM is positive.

    The elementwise product of `guided_backprop` at the image and `grad_cam` at the layer, upsampled
    to the image.

    Args:
        fn, x, targets, layer, class_chunk: as in `grad_cam`; the layer is Grad-CAM's.
        resize: ``"bilinear"`` (half-pixel centres) as in the paper, or ``"nearest"`` as in captum.
        reduce: what becomes of the channel axis, as in `gradient`: ``"max_abs"``, ``"sum"``,
            ``"l2"``, or None, which keeps it.

    Returns:
        Maps ``(B, H, W)``, or ``(B, K, H, W)`` for K targets, at the resolution of the image, with
        a trailing channel axis for ``reduce=None``; a dict of them for a sequence of layers.

    Raises:
        ValueError: no such resize or reduction, besides the errors of `grad_cam`.
        UnsupportedOperationError: an operation that may hide a ReLU cannot be opened.

    Reference: as for `grad_cam`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return jaxplain.tag(jax.nn.relu(x * 2.), "features").sum((1, 2))
        >>> x = jnp.arange(4.).reshape(1, 2, 2, 1)
        >>> jaxplain.guided_grad_cam(fn, x, 0, layer="features")
        Array([[[ 0.,  4.],
                [ 8., 12.]]], dtype=float32)
    """
    if resize not in ("bilinear", "nearest"):
        raise ValueError(f"resize must be 'bilinear' or 'nearest', not {resize!r}.")
    return run(
        _guided_grad_cam,
        fn,
        x,
        targets,
        layer=layer,
        tokens=tokens,
        class_chunk=class_chunk,
        resize=resize,
        reduce=check_reduce(reduce),
    )
