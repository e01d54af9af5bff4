"""Forward analyses: which values are known constants, and between which bounds each value lies.

They run once at trace time. The non-negative analysis of the design is ``low >= 0``.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from jaxplain.core.primitives import is_identity, of_class

INF = math.inf


class Facts(NamedTuple):
    """What is known of a value: ``low <= value <= high``, and ``static`` if it is one number."""

    low: float = -INF
    high: float = INF
    static: float | None = None


UNKNOWN = Facts()
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


_COMPARISONS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
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
    """The facts of an equation's outputs from the facts of its inputs."""
    name, first = eqn.primitive.name, facts[0] if facts else UNKNOWN
    if name in ("custom_jvp_call", "custom_vjp_call"):
        return first if is_identity(eqn) else UNKNOWN
    if name in ("concatenate", "stack", "pad"):
        return _union(facts)
    if name == "select_n":
        return _union(facts[1:])
    if name == "dynamic_update_slice":
        return _union(facts[:2])
    if name in ("complex", "imag"):
        return UNKNOWN
    if of_class(name, "identity", "move"):
        if name == "convert_element_type" and not _keeps_number(eqn):
            return _converted(eqn, first)
        return first
    if name in _COMPARISONS:
        a, b = (f.static for f in facts)
        return UNKNOWN if a is None or b is None else number(float(_COMPARISONS[name](a, b)))
    if name in _FIXED:
        return Facts(*_FIXED[name])
    if name == "integer_pow" and eqn.params["y"] % 2 == 0:
        return Facts(0, INF)
    if name == "mul" and eqn.invars[0] is eqn.invars[1]:
        return Facts(0, INF)
    if name in ("max", "min", "add", "add_any", "sub", "mul", "div"):
        return _binary("add" if name == "add_any" else name, *facts)
    if name == "neg":
        return _static(
            Facts(-first.high, -first.low), None if first.static is None else -first.static
        )
    if name == "clamp":
        low, value, high = facts
        return Facts(
            max(low.low, min(value.low, high.low)), min(high.high, max(value.high, low.high))
        )
    if of_class(name, "extreme"):
        return Facts(first.low, first.high)
    if of_class(name, "sum"):
        return _sum(eqn, first)
    if name in ("integer_pow", "pow", "log1p"):
        return Facts(0 if first.low >= 0 else -INF, 0 if first.high <= 0 else INF)
    return UNKNOWN


def _sum(eqn: Any, terms: Facts) -> Facts:
    """Bounds of a sum of as many terms as the equation adds up, or fewer where it pads."""
    shape, name = eqn.invars[0].aval.shape, eqn.primitive.name
    if name == "reduce_sum":
        count = math.prod(shape[axis] for axis in eqn.params["axes"])
        if terms.static is not None:
            return number(count * terms.static)
        return Facts(_product(count, terms.low), _product(count, terms.high))
    windows = eqn.params.get("window_dimensions", (shape[eqn.params.get("axis", 0)],))
    count = math.prod(windows)
    return Facts(min(0, _product(count, terms.low)), max(0, _product(count, terms.high)))


def _converted(eqn: Any, first: Facts) -> Facts:
    if first.static is None:
        return UNKNOWN
    truth = np.dtype(eqn.params["new_dtype"]).kind == "b"
    return number(float(first.static != 0) if truth else float(math.trunc(first.static)))


def _keeps_number(eqn: Any) -> bool:
    old, new = np.dtype(eqn.invars[0].aval.dtype), np.dtype(eqn.params["new_dtype"])
    return new.kind not in "iub" or (old.kind in "iub" and new.kind != "b")


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
        return _bounds(a.low + b.low, a.high + b.high)
    if name == "sub":
        return _bounds(a.low - b.high, a.high - b.low)
    if name == "div":
        if b.static:
            ends = sorted((a.low / b.static, a.high / b.static))
            return Facts(*ends)
        # the sign is all that matters
        return Facts(0, INF) if a.low >= 0 and b.low >= 0 else UNKNOWN
    corners = [_product(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Facts(min(corners), max(corners))


def _bounds(low: float, high: float) -> Facts:
    """Facts of these bounds; infinity less infinity bounds nothing."""
    return Facts(-INF if math.isnan(low) else low, INF if math.isnan(high) else high)


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y  # 0 times a bound at infinity is 0
