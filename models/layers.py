"""Building blocks that the networks share, with Caffe's and torch's padding and rounding.

All of them take images ``(B, H, W, C)``. Windows are square. Padding is symmetric and explicit:
``SAME`` of XLA pads the other side where the two differ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


class Conv(nnx.Conv):
    """Convolution with a square window and the same padding on all four sides.

    Parameters: ``kernel`` of shape ``(k, k, inputs / groups, outputs)`` and ``bias``.

    Args:
        inputs, outputs: numbers of channels.
        kernel: side of the window.
        stride, padding, groups: as in Caffe and torch.
        bias: whether there is one.
        dtype: what to compute in (parameters stay float32); None for the inputs' own.
        rngs: for the initial weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.layers import Conv
        >>> Conv(3, 8, 7, stride=2, padding=3, rngs=nnx.Rngs(0))(jnp.zeros((1, 32, 31, 3))).shape
        (1, 16, 16, 8)
    """

    def __init__(
        self, inputs, outputs, kernel, stride=1, padding=0, groups=1, *, bias=True, dtype=None, rngs
    ):
        super().__init__(
            inputs,
            outputs,
            (kernel, kernel),
            (stride, stride),
            padding=((padding, padding), (padding, padding)),
            feature_group_count=groups,
            use_bias=bias,
            dtype=dtype,
            rngs=rngs,
        )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation by the stored statistics: evaluation mode only."""

    def __init__(self, features, epsilon=1e-5, *, dtype=None, rngs):
        super().__init__(
            features, use_running_average=True, epsilon=epsilon, dtype=dtype, rngs=rngs
        )


class WindowDense(nnx.Module):
    """The dense layer after a flatten, whose kernel remembers the window: ``(h, w, in, out)``.

    Ordinarily one matrix product of the flattened ``(B, h, w, in)`` with the kernel. Fully
    convolutional, the same kernel slides over an input of any size at least ``(h, w)``, with
    stride 1: ``(B, H, W, in)`` to ``(B, H - h + 1, W - w + 1, out)``.

    Raises:
        ValueError: the input is not ``(h, w)``, or smaller than that when fully convolutional.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxplain.models.layers import WindowDense
        >>> fc6 = WindowDense(7, 7, 4, 16, rngs=nnx.Rngs(0))
        >>> fc6(jnp.zeros((2, 7, 7, 4))).shape
        (2, 16)
    """

    def __init__(
        self, height, width, inputs, outputs, *, fully_convolutional=False, dtype=None, rngs
    ):
        initial = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (height, width, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.window = (height, width)
        self.fully_convolutional = fully_convolutional
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[1:3]
        too_small = any(n < k for n, k in zip(size, self.window, strict=True))
        if too_small or (size != self.window and not self.fully_convolutional):
            raise ValueError(
                f"The dense layer takes features of {self.window[0]} x {self.window[1]}, not of "
                f"{size[0]} x {size[1]}: give images of the network's own size, or larger ones "
                "to the network with fully_convolutional=True."
            )
        kernel, bias = self.kernel[...], self.bias[...]
        dtype = self.dtype or jnp.result_type(x, kernel)
        x, kernel, bias = x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)
        if self.fully_convolutional:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        else:
            x = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, kernel.shape[-1])
        return x + bias


def pool_pads(size: int, window: int, stride: int, padding: int, ceil_mode: bool):
    """Padding (before, after) of one axis that gives Caffe's and torch's number of windows.

    With ``ceil_mode`` a window that sticks out counts, unless it starts in the padding behind.

    Example:
        >>> from jaxplain.models.layers import pool_pads
        >>> pool_pads(112, 3, 2, 0, True), pool_pads(112, 3, 2, 0, False)
        ((0, 1), (0, 0))
    """
    steps = size + 2 * padding - window
    if steps < 0:
        raise ValueError(
            f"A pooling window of {window} does not fit features of {size} (padding {padding}): "
            "give larger images."
        )
    count = (-(-steps // stride) if ceil_mode else steps // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return padding, max((count - 1) * stride + window - size - padding, 0)


def _pool(x, initial, combine, window, stride, pads):
    return lax.reduce_window(
        x,
        np.asarray(initial, x.dtype),  # of NumPy: a traced one is not seen to be the identity
        combine,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *pads, (0, 0)),
    )


def max_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> jax.Array:
    """Max pooling with Caffe's (``ceil_mode=True``) or torch's number of windows.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.layers import max_pool
        >>> x = jnp.zeros((1, 112, 112, 2))
        >>> max_pool(x, 3, 2).shape, max_pool(x, 3, 2, ceil_mode=True).shape
        ((1, 55, 55, 2), (1, 56, 56, 2))
    """
    pads = [pool_pads(n, window, stride, padding, ceil_mode) for n in x.shape[1:3]]
    return _pool(x, -jnp.inf, lax.max, window, stride, pads)


def avg_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> jax.Array:
    """Average pooling; the padding counts as zeros, what ``ceil_mode`` adds behind it does not.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.layers import avg_pool
        >>> avg_pool(jnp.ones((1, 4, 4, 1)), 3, 2, ceil_mode=True)[0, :, :, 0]
        Array([[1., 1.],
               [1., 1.]], dtype=float32)
    """
    pads = [pool_pads(n, window, stride, padding, ceil_mode) for n in x.shape[1:3]]
    counts = []
    for n, (low, high) in zip(x.shape[1:3], pads, strict=True):
        starts = np.arange(0, low + n + high - window + 1, stride)
        counts.append(np.minimum(starts + window, n + 2 * padding) - starts)
    area = np.multiply.outer(*counts)[:, :, None]
    if (area == window**2).all():
        area = window**2
    return _pool(x, 0, lax.add, window, stride, pads) / np.asarray(area, x.dtype)


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages over ``size`` x ``size`` windows that cover the image evenly, as torch's does.

    Window i of an axis of n spans ``floor(i n / size)`` to ``ceil((i + 1) n / size)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.layers import adaptive_avg_pool
        >>> adaptive_avg_pool(jnp.arange(5.0).reshape(1, 5, 1, 1), 2)[0, :, 0, 0]
        Array([1., 3.], dtype=float32)
    """
    for axis in (1, 2):
        n = x.shape[axis]
        if n != size:  # otherwise every window is one pixel
            average = np.zeros((n, size))
            for i in range(size):
                start, end = i * n // size, -(-(i + 1) * n // size)
                average[start:end, i] = 1 / (end - start)
            x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(average, x.dtype), (axis, 0)), -1, axis)
    return x


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Mean over space: ``(B, H, W, C)`` to ``(B, C)``."""
    return jnp.mean(x, axis=(1, 2))


def lrn(x: jax.Array, window: int, alpha: float, beta: float, k: float = 1.0) -> jax.Array:
    """Local response normalisation across ``window`` neighbouring channels, as in Caffe and torch.

    ``x / (k + alpha / window * sum of squares) ** beta``; A. Krizhevsky et al., ImageNet
    Classification with Deep Convolutional Neural Networks, NIPS 2012, section 3.3, whose alpha
    is not divided by the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.layers import lrn
        >>> lrn(jnp.ones((1, 1, 1, 3)), 3, alpha=3.0, beta=1.0)[0, 0, 0]
        Array([0.33333334, 0.25      , 0.33333334], dtype=float32)
    """
    zero = np.zeros((), x.dtype)
    pads = ((0, 0), (0, 0), (0, 0), (window // 2, (window - 1) // 2))
    squares = lax.reduce_window(x * x, zero, lax.add, (1, 1, 1, window), (1, 1, 1, 1), pads)
    return x / (k + alpha / window * squares) ** beta
