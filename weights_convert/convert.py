"""Strict conversion of foreign tensors into the parameters of a Flax NNX network.

Nothing is guessed and nothing is skipped in silence: whatever is missing, unexpected or of
the wrong shape is collected, and reported in one error.
"""

from __future__ import annotations

import fnmatch
from typing import Any, Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain.weights_convert.errors import ConversionError

_SHOWN = 5  # names listed of each sort of trouble; the error's attributes hold them all


def parameter_shapes(network: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The dotted name and shape of every parameter and statistic of a network.

    Example:
      >>> from flax import nnx
      >>> from jaxplain.weights_convert import parameter_shapes
      >>> parameter_shapes(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      {'bias': (2,), 'kernel': (3, 2)}
    """
    leaves = nnx.to_flat_state(nnx.state(network))
    return {".".join(map(str, path)): tuple(leaf.get_value().shape) for path, leaf in leaves}


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    """Builds a network without computing its initial weights: they have shapes only."""
    return nnx.eval_shape(lambda: build(nnx.Rngs(0)))


def with_weights(network: nnx.Module, weights: Mapping[str, Any]) -> nnx.Module:
    """A network with the structure of ``network`` and the given weights (by dotted name).

    The dtypes are the network's own.

    Raises:
      ConversionError: a weight is missing, unexpected or of the wrong shape.
    """
    shapes = parameter_shapes(network)
    _check(
        missing=[n for n in shapes if n not in weights],
        unexpected=[n for n in weights if n not in shapes],
        wrong_shape=[
            (n, tuple(np.shape(weights[n])), s)
            for n, s in shapes.items()
            if n in weights and tuple(np.shape(weights[n])) != s
        ],
    )
    graph, state = nnx.split(network)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        value = weights[".".join(map(str, path))]
        filled.append((path, leaf.replace(jnp.asarray(value, leaf.get_value().dtype))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def convert(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    ignore: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Renames PyTorch tensors and puts their axes in JAX's order.

    Convolution kernels ``(out, in, h, w)`` become ``(h, w, in, out)``, matrices ``(out, in)``
    become ``(in, out)``; everything else keeps its shape. The results are views where possible.

    Args:
      tensors: name -> array, as from ``read_torch``.
      shapes: the network's parameter name -> shape, as from ``parameter_shapes``.
      names: the network's parameter name -> name in ``tensors``, for every parameter.
      ignore: patterns (as in a shell) of tensors that the network has no use for.

    Returns:
      the network's parameter name -> array.

    Raises:
      ConversionError: lists every tensor that is missing, unexpected or of the wrong shape.

    Example:
      >>> import numpy as np
      >>> from jaxplain.weights_convert import convert
      >>> tensors = {"fc.weight": np.ones((2, 3))}
      >>> out = convert(tensors, {"linear.kernel": (3, 2)}, {"linear.kernel": "fc.weight"})
      >>> out["linear.kernel"].shape
      (3, 2)
    """
    used = {names[target] for target in shapes}
    missing, wrong_shape, converted = [], [], {}
    for target, shape in shapes.items():
        source = names[target]
        if source not in tensors:
            missing.append(source)
            continue
        array, needed = tensors[source], _torch_shape(shape)
        if tuple(array.shape) != needed:
            wrong_shape.append((source, tuple(array.shape), needed))
        else:
            converted[target] = _to_jax(array)
    unexpected = [
        name
        for name in tensors
        if name not in used and not any(fnmatch.fnmatchcase(name, p) for p in ignore)
    ]
    _check(missing, unexpected, wrong_shape)
    return converted


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        h, w, i, o = shape
        return (o, i, h, w)
    return tuple(reversed(shape)) if len(shape) == 2 else tuple(shape)


def _to_jax(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _check(missing, unexpected, wrong_shape) -> None:
    parts = []
    for sort, items in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape", [f"{n} is {f}, must be {s}" for n, f, s in wrong_shape]),
    ):
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            parts.append(f"{len(items)} {sort} ({', '.join(items[:_SHOWN])}{more})")
    if parts:
        raise ConversionError(
            f"The weights do not fit the network: {'; '.join(parts)}.",
            missing,
            unexpected,
            wrong_shape,
        )
