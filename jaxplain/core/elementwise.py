"""Recognise an elementwise function of one value by its graph on a grid of points.

A ReLU is a ReLU however it was written: ``jax.nn.relu``, ``jnp.maximum``, ``where(x > 0, x, 0)``,
``(x + abs(x)) / 2``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.intervals import INF, Facts
from jaxplain.core.primitives import ON_NUMPY, of_class

#: The value that stands for every element of a constant array whose values are not known: a slope
#: or a scale as a trained network may hold.
PLACEHOLDER = 0.25
_GRID = np.concatenate([[-1e4, -100.0, -30.0], np.linspace(-8, 8, 129), [30.0, 100.0, 1e4]])
_ZERO = int(np.flatnonzero(_GRID == 0)[0])

#: Names of functions ``f(c x) = c f(x)`` for positive c: a scale around one is no part of it.
HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu", "abs"})


def elementwise_body(jaxpr: Any) -> bool:
    """Whether a jaxpr, with the calls in it, computes each value from those at its place alone."""
    return all(
        elementwise_body(_compat.body(eqn)[0]) if is_call(eqn) else _at_its_place(eqn)
        for eqn in jaxpr.eqns
    )


def is_call(eqn: Any) -> bool:
    return eqn.primitive.name in _compat.CALLS | _compat.CUSTOM_CALLS


def _at_its_place(eqn: Any) -> bool:
    name = eqn.primitive.name
    if name == "broadcast_in_dim":  # of a number
        return math.prod(eqn.invars[0].aval.shape) == 1
    reduces = name.startswith(("reduce_a", "reduce_o", "arg"))
    return name == "select_n" or (
        of_class(name, "identity", "elementwise", "discrete") and not reduces
    )


def is_elementwise(eqn: Any) -> bool:
    """Whether an equation, which may be a call with its own derivative, is elementwise."""
    if eqn.primitive.name in _compat.CUSTOM_CALLS:
        inner, consts = _compat.body(eqn)
        return not consts and len(eqn.outvars) == 1 and elementwise_body(inner)
    return len(eqn.outvars) == 1 and _at_its_place(eqn)


class Curve:
    """The graph of a function of one value on the grid, and what it shows."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray | None]):
        self.function = function
        with np.errstate(all="ignore"):
            found = function(_GRID)
        #: The values on the grid; NaN where the function is not known.
        self.y: np.ndarray = np.full(_GRID.shape, np.nan) if found is None else found

    @property
    def known(self) -> bool:
        return not np.isnan(self.y).any()

    @property
    def affine(self) -> bool:
        """Whether the function is ``m x + c``."""
        if not np.isfinite(self.y).all():
            return False
        at = self.y[_ZERO]
        slope = self.y[_ZERO + 1] - at
        line = at + slope * _GRID / (_GRID[_ZERO + 1] - _GRID[_ZERO])
        return bool(np.allclose(self.y, line, rtol=1e-6, atol=1e-6))

    @property
    def name(self) -> str | None:
        """The name of the known activation that this is, None if it is none."""
        far = len(_GRID) if np.isfinite(self.y[-1]) else -1  # exp(1e4) is infinite
        y = self.y[:far]
        return _recognise(_GRID[:far], y) if np.isfinite(y).all() else None

    @property
    def facts(self) -> Facts:
        """Bounds of the values, for functions that are monotone outside of the grid."""
        y = self.y
        low = -INF if y[0] < min(y[1], y[2]) - 1 or y[-1] < y[-2] - 1 else self._extreme(1)
        high = INF if y[-1] > max(y[-2], y[-3]) + 1 or y[0] > y[1] + 1 else -self._extreme(-1)
        return Facts(low, high)

    def _extreme(self, sign: int) -> float:
        """The least value of ``sign * y``; between two points of the grid, a bound of it."""
        y = sign * self.y
        i = int(np.argmin(y))
        if i in (0, len(y) - 1) or y[i - 1] == y[i] or y[i + 1] == y[i]:
            return float(y[i])
        with np.errstate(all="ignore"):
            near = self.function(np.linspace(_GRID[i - 1], _GRID[i + 1], 2001))
        near = y if near is None else sign * near
        least = float(np.min(near))
        return least if least == y[i] else least - 1e-6 * abs(least)


def curve(eqns: list, root: Any, output: Any, constants: Mapping[Any, float | None]) -> Curve:
    """The function of ``root`` that the equations compute, ``constants`` being known numbers.

    A constant that is None is not known, and `PLACEHOLDER` stands for it.
    """

    def function(x: np.ndarray) -> np.ndarray | None:
        env: dict = {root: x}
        env.update((v, PLACEHOLDER if c is None else c) for v, c in constants.items())
        return None if not _run(eqns, env, len(x)) else np.asarray(env[output], float)

    return Curve(function)


def _run(eqns: Any, env: dict, size: int) -> bool:
    for eqn in eqns:
        values = [
            np.asarray(v.val if isinstance(v, _compat.Literal) else env[v]) for v in eqn.invars
        ]
        if any(v.size not in (1, size) for v in values):
            return False
        outs = _outputs(eqn, [np.broadcast_to(v.reshape(-1), (size,)) for v in values], size)
        if outs is None:
            return False
        env.update(zip(eqn.outvars, outs, strict=True))
    return True


def _outputs(eqn: Any, values: list, size: int) -> list | None:
    name, params = eqn.primitive.name, eqn.params
    if is_call(eqn):
        inner, consts = _compat.body(eqn)
        inside = dict(zip(inner.invars, values, strict=True))
        if consts or not _run(inner.eqns, inside, size):
            return None
        return [v.val if isinstance(v, _compat.Literal) else inside[v] for v in inner.outvars]
    if name == "convert_element_type":
        kind = np.dtype(params["new_dtype"]).kind
        return [values[0].astype({"b": bool, "i": int, "u": int}.get(kind, float))]
    if name == "select_n":
        return [np.choose(values[0].astype(int), values[1:])]
    if name == "integer_pow":
        return [np.asarray(values[0], float) ** params["y"]]
    if name in ("not", "and", "or", "xor") and values[0].dtype != bool:
        return None
    if name in ON_NUMPY:
        return [ON_NUMPY[name](*values)]
    if name == "broadcast_in_dim" or of_class(name, "identity"):
        return values[: len(eqn.outvars)]
    floating = [np.issubdtype(v.dtype, np.floating) for v in values]
    if not all(floating):
        return None
    # A function that NumPy lacks: jax computes it, on the processor.
    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        arrays = [
            jax.numpy.asarray(v, u.aval.dtype) for v, u in zip(values, eqn.invars, strict=True)
        ]
        return [np.asarray(out, float) for out in _compat.bind(eqn, *arrays)]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


_FIXED_NAMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(x),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "selu": lambda x: 1.0507009873 * np.where(x > 0, x, 1.6732632423 * np.expm1(np.minimum(x, 0))),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "log_sigmoid": lambda x: -_softplus(-x),
    "abs": np.abs,
}


def _recognise(x: np.ndarray, y: np.ndarray) -> str | None:
    """The name of a known activation with the values ``y``; constants may be of bfloat16."""

    def close(z: np.ndarray) -> bool:
        return bool(np.allclose(y, z, rtol=1e-2, atol=2e-3))

    if close(np.maximum(x, 0)):
        return "relu"
    top, at, last = float(np.max(y)), float(y[_ZERO]), float(y[-1] / x[-1])
    if top > 0.1 and close(np.clip(x, 0, top)):
        return "relu6"
    for name, z in _FIXED_NAMES.items():
        if close(z(x)):
            return name
    if abs(last - 1) < 1e-2:  # the identity far to the right
        return _rectifier(x, y, close, at)
    bottom = float(np.min(y))
    if top > 0.1 and abs(top + bottom) < 1e-3 * top and close(np.clip(x, bottom, top)):
        return "hard_tanh"
    step = (y[_ZERO + 1] - at) / (x[_ZERO + 1] - x[_ZERO])
    if abs(at - 0.5) < 2e-3 and 0 < step <= 1 and close(np.clip(step * x + 0.5, 0, 1)):
        return "hard_sigmoid"
    return None


def _rectifier(x: np.ndarray, y: np.ndarray, close: Callable, at: float) -> str | None:
    leak = float(y[0] / x[0])
    if 0 < leak < 1 and close(np.where(x > 0, x, leak * x)):
        return "leaky_relu"
    low = -float(y[0])
    if low > 2e-3:
        below = np.minimum(x, 0)
        if close(np.where(x > 0, x, low * np.expm1(below))):
            return "elu"
        if close(np.where(x > 0, x, low * np.expm1(below / low))):
            return "celu"
    if at > 2e-3:
        beta = math.log(2) / at
        if close(_softplus(beta * x) / beta):
            return "softplus"
        if close((x + np.sqrt(x * x + 4 * at * at)) / 2):
            return "squareplus"
    share = y[_ZERO + 8] / x[_ZERO + 8]  # at 1, where swish gives sigmoid(beta)
    if abs(at) < 1e-6 and 0.5 < share < 1:
        beta = math.log(share / (1 - share))
        if close(x * _sigmoid(beta * x)):
            return "swish"
    same = y == x
    if same[-1] and not same[0]:
        cut = int(np.flatnonzero(~same)[-1])
        if (y[: cut + 1] == y[0]).all() and same[cut + 1 :].all():
            return "threshold"
    return None
