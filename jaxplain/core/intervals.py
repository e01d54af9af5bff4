"""Forward analyses: which values are known constants, and between which bounds each value lies.

They run once at trace time. The non-negative analysis of the design is ``low >= 0``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

INF = math.inf


class Facts(NamedTuple):
    """What is known of a value: ``low <= value <= high``, and ``static`` if it is one number."""

    low: float = -INF
    high: float = INF
    static: float | None = None


UNKNOWN = Facts()
#: Values pass through these, whatever their shape: "pvary" and "pcast" are shard_map's.
STRUCTURAL = {
    "reshape",
    "transpose",
    "broadcast_in_dim",
    "squeeze",
    "expand_dims",
    "slice",
    "rev",
    "copy",
    "copy_p",
    "name",
    "reduce_precision",
    "stop_gradient",
    "sharding_constraint",
    "pvary",
    "pcast",
    "device_put",
    "convert_element_type",
    "optimization_barrier",
    "split",
    "gather",
    "dynamic_slice",
    "layout_constraint",
    "mesh_cast",
    "reshard",
    "real",
    "unstack",
    "tile",
}
_FIXED = {
    "logistic": (0, 1),
    "tanh": (-1, 1),
    "erf": (-1, 1),
    "exp": (0, INF),
    "exp2": (0, INF),
    "abs": (0, INF),
    "square": (0, INF),
    "sqrt": (0, INF),
    "rsqrt": (0, INF),
    "expm1": (-1, INF),
    "erfc": (0, 2),
    "sin": (-1, 1),
    "cos": (-1, 1),
    "sign": (-1, 1),
}


def number(value: float | None) -> Facts:
    """The facts of a value that is one known number everywhere."""
    return UNKNOWN if value is None or math.isnan(value) else Facts(value, value, value)


def literal(atom: Any) -> Facts:
    """The facts of a literal in a jaxpr."""
    if np.ndim(atom.val) == 0 and np.asarray(atom.val).dtype.kind in "fiub":
        return number(float(atom.val))
    return UNKNOWN


def propagate(eqn: Any, facts: list[Facts]) -> Facts:
    """The facts of an equation's (first) output from the facts of its inputs."""
    name, first = eqn.primitive.name, facts[0] if facts else UNKNOWN
    if name in STRUCTURAL:
        if name == "convert_element_type" and not _keeps_number(eqn):
            return UNKNOWN
        return first
    if name in _FIXED:
        return Facts(*_FIXED[name])
    if name == "integer_pow" and eqn.params["y"] % 2 == 0:
        return Facts(0, INF)
    if name in ("max", "min", "add", "sub", "mul", "div"):
        return _binary(name, *facts)
    if name == "neg":
        return _static(
            Facts(-first.high, -first.low), None if first.static is None else -first.static
        )
    if name == "clamp":
        low, value, high = facts
        return Facts(
            max(low.low, min(value.low, high.low)), min(high.high, max(value.high, low.high))
        )
    if name in ("concatenate", "stack", "select_n", "pad"):
        cases = facts[1:] if name == "select_n" else facts
        return _union(cases)
    if name in ("reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"):
        return Facts(first.low, first.high)
    if name in ("reduce_sum", "reduce_window_sum", "cumsum", "integer_pow", "pow", "log1p"):
        return Facts(0 if first.low >= 0 else -INF, 0 if first.high <= 0 else INF)
    return UNKNOWN


def _keeps_number(eqn: Any) -> bool:
    old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
    return not (new.kind in "iub" and old.kind not in "iub")


def _static(facts: Facts, value: float | None) -> Facts:
    return facts if value is None else number(value)


def _union(cases: list[Facts]) -> Facts:
    statics = {c.static for c in cases}
    value = statics.pop() if len(statics) == 1 else None
    return _static(Facts(min(c.low for c in cases), max(c.high for c in cases)), value)


def _binary(name: str, a: Facts, b: Facts) -> Facts:
    if a.static is not None and b.static is not None:
        if name == "div":
            return number(a.static / b.static) if b.static else UNKNOWN
        op = {
            "max": max,
            "min": min,
            "add": float.__add__,
            "sub": float.__sub__,
            "mul": float.__mul__,
        }[name]
        return number(op(float(a.static), float(b.static)))
    if name == "max":
        return Facts(max(a.low, b.low), max(a.high, b.high))
    if name == "min":
        return Facts(min(a.low, b.low), min(a.high, b.high))
    if name == "add":
        return Facts(a.low + b.low, a.high + b.high)
    if name == "sub":
        return Facts(a.low - b.high, a.high - b.low)
    if name == "div":  # the sign is all that matters
        if a.low >= 0 and b.low >= 0:
            return Facts(0, a.high / b.static if b.static else INF)
        return UNKNOWN
    corners = [_product(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Facts(min(corners), max(corners))


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y  # 0 times a bound at infinity is 0
