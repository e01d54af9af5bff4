"""Recognise an elementwise function of one value by its graph on a grid of points.

A ReLU is a ReLU however it was written: ``jax.nn.relu``, ``jnp.maximum``, ``where(x > 0, x, 0)``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.intervals import INF, UNKNOWN, Facts

UNARY = {
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "tanh",
    "logistic",
    "sin",
    "cos",
    "tan",
    "erf",
    "erfc",
    "erf_inv",
    "rsqrt",
    "sqrt",
    "cbrt",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "integer_pow",
    "square",
    "pow",
    "atan2",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "asin",
    "acos",
    "atan",
    "clamp",
    "nextafter",
    "rem",
}
_COMPARISONS = {
    "gt",
    "ge",
    "lt",
    "le",
    "eq",
    "ne",
    "and",
    "or",
    "not",
    "xor",
    "is_finite",
}
DISCRETE = _COMPARISONS | {
    "argmax",
    "argmin",
    "reduce_and",
    "reduce_or",
    "gt_to",
    "lt_to",
    "le_to",
    "eq_to",
}
#: What neither bends nor scales a value.
_TRIVIAL = {"convert_element_type", "copy", "stop_gradient", "reduce_precision", "pvary", "pcast"}
_SHIFTS = {"neg", "add", "sub"}
ELEMENTWISE = UNARY | _COMPARISONS | _TRIVIAL | _SHIFTS | {"mul", "div", "max", "min", "select_n"}
#: Names that are given by the values on the grid.
KNOWN = ("relu", "relu6", "leaky_relu", "tanh", "sigmoid", "silu", "elu")
_GRID = np.concatenate([[-1e4, -100.0, -30.0], np.linspace(-8, 8, 129), [30.0, 100.0, 1e4]])


def primitive_names(jaxpr: Any) -> set[str]:
    """The primitives of a jaxpr and of the calls in it."""
    names: set[str] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _compat.CALLS | _compat.CUSTOM_CALLS:
            names |= primitive_names(_compat.body(eqn)[0])
        else:
            names.add(eqn.primitive.name)
    return names


@dataclasses.dataclass(frozen=True)
class Function:
    """An elementwise function of one value with known constants, recognised by its graph."""

    name: str
    facts: Facts

    @staticmethod
    def of(eqns: list, root: Any, facts: dict) -> Function | None:
        last = eqns[-1]
        names = set()
        for eqn in eqns:
            if eqn.primitive.name in _compat.CUSTOM_CALLS:
                names |= primitive_names(_compat.body(eqn)[0])
            else:
                names.add(eqn.primitive.name)
        trivial = _TRIVIAL | _SHIFTS | DISCRETE | {"broadcast_in_dim"}
        linear = len(eqns) == 1 and names <= {"mul", "div"}
        if (
            not names <= ELEMENTWISE | {"broadcast_in_dim"}
            or names <= trivial
            or linear
            or last.outvars[0].aval.shape != root.aval.shape
            or np.dtype(last.outvars[0].aval.dtype).kind in "iub"
            or jax.numpy.issubdtype(root.aval.dtype, np.integer)
        ):
            return None
        values = _on_grid(eqns, root, facts)
        if values is None:
            return None
        x, y = _GRID, values
        low = -INF if y[0] < min(y[1], y[2]) - 1 or y[-1] < y[-2] - 1 else float(np.min(y))
        high = INF if y[-1] > max(y[-2], y[-3]) + 1 or y[0] > y[1] + 1 else float(np.max(y))
        return Function(_function_name(x, y, last, len(eqns) == 1), Facts(low, high))


def _function_name(x: np.ndarray, y: np.ndarray, last: Any, single: bool) -> str:
    close = lambda z: bool(np.allclose(y, z, rtol=1e-2, atol=1e-3))  # noqa: E731 (bfloat16 grids)
    slope, top = y[-1] / x[-1], float(np.max(y))
    if close(np.maximum(x, 0)):
        return "relu"
    if top > 0 and close(np.clip(x, 0, top)):
        return "relu6"
    leak = float(y[0] / x[0])
    if 0 < leak < 1 and abs(slope - 1) < 1e-2 and close(np.where(x > 0, x, leak * x)):
        return "leaky_relu"
    known = {
        "tanh": np.tanh(x),
        "sigmoid": 1 / (1 + np.exp(-np.clip(x, -500, 500))),
        "silu": x / (1 + np.exp(-np.clip(x, -500, 500))),
        "elu": np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    }
    for name, z in known.items():
        if close(z):
            return name
    if last.primitive.name in _compat.CUSTOM_CALLS:
        return str(last.params.get("name") or "activation")
    return last.primitive.name if single and last.primitive.name in UNARY else "activation"


def _as(value: Any, aval: Any) -> jax.Array:
    return jax.numpy.asarray(value, aval.dtype)


def _on_grid(eqns: list, root: Any, facts: dict) -> np.ndarray | None:
    """The function's values on a grid, or None where one of its constants is not known."""
    dtype = root.aval.dtype
    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        env: dict = {root: jax.numpy.asarray(_GRID, dtype)}

        def run(equations: Any, env: dict) -> bool:
            for eqn in equations:
                values = []
                for v in eqn.invars:
                    if isinstance(v, _compat.Literal):
                        value = v.val
                    elif v in env:
                        value = env[v]
                    else:
                        value = facts.get(v, UNKNOWN).static
                    if value is None or np.ndim(value) > 1:
                        return False
                    values.append(jax.numpy.broadcast_to(_as(value, v.aval), _GRID.shape))
                name = eqn.primitive.name
                if name in _compat.CALLS | _compat.CUSTOM_CALLS:
                    inner, consts = _compat.body(eqn)
                    if consts:
                        return False
                    inside = dict(zip(inner.invars, values, strict=True))
                    if not run(inner.eqns, inside):
                        return False
                    outs = [inside[v] for v in inner.outvars]
                elif name in ("broadcast_in_dim", "pvary", "pcast"):
                    outs = values[:1]
                else:
                    outs = _compat.bind(eqn, *values)
                env.update(zip(eqn.outvars, outs, strict=True))
            return True

        if not run(eqns, env):
            return None
        return np.asarray(env[eqns[-1].outvars[0]], np.float64)
