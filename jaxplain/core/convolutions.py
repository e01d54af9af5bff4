"""Convolutions with a derivative that moves the smaller of the signal and the kernel.

The gradient of a convolution at its input is a convolution with the kernel transposed: inputs and
outputs change places, and the window is reversed. Compilers write that kernel anew at each call;
for one image that takes as long as all else in ResNet-50's backward pass. Where the signal is
smaller than the kernel, the gradient is here one product with the kernel as it lies, whose results
for each place of the window are added where they belong. And a stride puts zeros between the
values of the signal: where a convolution with a stride reads few channels, as a network's first
does, the pixels of each square of that side are taken as channels, so that there is no stride.
The numbers are JAX's, in another order of additions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxplain.core import _compat

#: The signal is moved, and not the kernel, where the output has so many channels for each place:
#: with fewer, products with the padding's zeros cost more than they save.
_CHANNELS_PER_PLACE = 2
#: The pixels of a square become channels where they are no more than these.
_CHANNELS_OF_A_SQUARE = 16


def is_convolution(eqn: Any) -> bool:
    """Whether an equation is a convolution with a derivative in this module.

    That is of floating-point values with the channels last, without groups, and not transposed.
    """
    if eqn.primitive.name != "conv_general_dilated":
        return False
    p, x = eqn.params, eqn.invars[0].aval
    images, _, results = p["dimension_numbers"]
    last = (0, x.ndim - 1, *range(1, x.ndim - 1))
    return (
        tuple(images) == tuple(results) == last
        and p["feature_group_count"] == p["batch_group_count"] == 1
        and set(p["lhs_dilation"]) <= {1}
        and jnp.issubdtype(x.dtype, jnp.floating)
    )


def convolve(eqn: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What an equation computes for which `is_convolution` holds, with this derivative."""

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _compat.bind(eqn, x, kernel)[0]

    call = jax.custom_jvp(plain)

    @functools.partial(call.defjvp, symbolic_zeros=True)
    def derivative(primals: Any, tangents: Any) -> Any:
        (x, kernel), (of_x, of_kernel) = primals, tangents
        y = plain(x, kernel)
        parts = [jnp.zeros_like(y)]
        if not isinstance(of_x, SymbolicZero):
            parts.append(_moved(eqn.params, plain, of_x, kernel, y.shape))
        if not isinstance(of_kernel, SymbolicZero):
            parts.append(plain(x, of_kernel))
        return y, functools.reduce(jnp.add, parts[1:] or parts)

    return call(x, kernel)


def _moved(
    params: dict, plain: Callable, x: jax.Array, kernel: jax.Array, shape: Sequence[int]
) -> jax.Array:
    """The convolution, as what has the cheapest transpose."""
    outputs, inputs, *space = params["dimension_numbers"].rhs_spec
    window = math.prod(kernel.shape[i] for i in space)
    channels, places = kernel.shape[outputs], math.prod(shape[:-1])
    # Sums of rounded products would be less exact than a convolution of bfloat16.
    sums = jnp.finfo(x.dtype).bits >= 32 and _CHANNELS_PER_PLACE * places <= channels
    if window == 1 or sums:
        return _as_product(params, x, kernel, shape)
    strides = math.prod(params["window_strides"])
    # Of one image it is no gain.
    able = shape[0] > 1 and set(params["rhs_dilation"]) <= {1}
    if able and strides > 1 and strides * kernel.shape[inputs] <= _CHANNELS_OF_A_SQUARE:
        return _of_squares(params, x, jnp.transpose(kernel, (*space, inputs, outputs)), shape)
    return plain(x, kernel)


def _as_product(params: dict, x: jax.Array, kernel: jax.Array, shape: Sequence[int]) -> jax.Array:
    """One product with what each window holds."""
    outputs, inputs, *space = params["dimension_numbers"].rhs_spec
    window = [kernel.shape[i] for i in space]
    edges = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    spread = lax.pad(x, jnp.zeros((), x.dtype), edges) if any(map(any, edges)) else x
    parts = []
    for place in itertools.product(*map(range, window)):
        steps = zip(place, params["rhs_dilation"], strict=True)
        start = [0, *(i * n for i, n in steps), 0]
        strides = [1, *params["window_strides"], 1]
        sizes = [*shape[:-1], x.shape[-1]]
        stop = [i + (n - 1) * k + 1 for i, n, k in zip(start, sizes, strides, strict=True)]
        parts.append(lax.slice(spread, start, stop, strides))
    # Of matrices, since compilers write other operands anew, the kernel too.
    held = jnp.stack(parts, -2).reshape(math.prod(shape[:-1]), -1)
    matrix = jnp.transpose(kernel, (*space, inputs, outputs)).reshape(-1, shape[-1])
    product = lax.dot_general(
        held,
        matrix,
        (((1,), (0,)), ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return product.reshape(shape)


def _of_squares(params: dict, x: jax.Array, kernel: jax.Array, shape: Sequence[int]) -> jax.Array:
    """A convolution without stride of the squares of pixels that lie between two strides."""
    strides, n = params["window_strides"], len(params["window_strides"])
    window = [-(-k // s) for k, s in zip(kernel.shape, strides, strict=False)]
    squares = [size + k - 1 for size, k in zip(shape[1:], window, strict=False)]
    edges = [
        (low, s * count - size - low, 0)
        for (low, _), s, count, size in zip(
            params["padding"], strides, squares, x.shape[1:], strict=False
        )
    ]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), *edges, (0, 0, 0)])
    rest = [(0, s * k - size, 0) for s, k, size in zip(strides, window, kernel.shape, strict=False)]
    kernel = lax.pad(kernel, zero.astype(kernel.dtype), [*rest, (0, 0, 0), (0, 0, 0)])
    return lax.conv_general_dilated(
        _as_channels(x, 1, squares, strides),
        _as_channels(kernel, 0, window, strides),
        (1,) * n,
        "VALID",
        dimension_numbers=params["dimension_numbers"]._replace(rhs_spec=(n + 1, n, *range(n))),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )


def _as_channels(
    values: jax.Array, first: int, counts: Sequence[int], strides: Sequence[int]
) -> jax.Array:
    """The pixels of each square as channels; the axes of space are those from ``first`` on."""
    n, shape = len(counts), values.shape
    pairs = [size for pair in zip(counts, strides, strict=True) for size in pair]
    apart = values.reshape(*shape[:first], *pairs, *shape[first + n :])
    squares, pixels = range(first, first + 2 * n, 2), range(first + 1, first + 2 * n, 2)
    order = (*range(first), *squares, *pixels, *range(first + 2 * n, apart.ndim))
    channels = math.prod(strides) * shape[first + n]
    return apart.transpose(order).reshape(
        *shape[:first], *counts, channels, *shape[first + n + 1 :]
    )
