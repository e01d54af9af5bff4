"""What each JAX primitive does to values: the one table that every analysis reads.

A primitive that is not in the table is opaque: nothing is assumed of it.

==============  ===========================================================================
class           what it does
==============  ===========================================================================
``identity``    gives its inputs back, one by one, up to rounding
``move``        puts values elsewhere, repeats them or leaves some out, computes none
``elementwise`` computes each value from those at the same place, by a function without jumps
``discrete``    gives truth values, whole numbers or positions: no signal passes
``sum``         adds values up
``extreme``     takes the greatest or the least of several values
``linear``      multiplies by weights and adds up
``control``     runs other programs
``effect``      is there for its effect
==============  ===========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxplain.core import _compat

_TABLE = {
    "identity": """
        name copy copy_p reduce_precision optimization_barrier sharding_constraint device_put
        layout_constraint pvary pcast mesh_cast reshard annotate
        convert_element_type stop_gradient""",
    "move": """
        reshape transpose broadcast_in_dim squeeze expand_dims slice rev split gather dynamic_slice
        dynamic_update_slice concatenate stack unstack tile pad select_n real complex imag""",
    "elementwise": """
        add add_any sub mul div neg max min clamp exp exp2 log log1p expm1 tanh logistic sin cos tan
        erf erfc erf_inv rsqrt sqrt cbrt abs sign floor ceil round integer_pow square pow atan2 sinh
        cosh asinh acosh atanh asin acos atan nextafter rem lgamma digamma""",
    "discrete": """
        gt ge lt le eq ne and or not xor is_finite argmax argmin reduce_and reduce_or gt_to lt_to
        le_to eq_to""",
    "sum": "reduce_sum reduce_window_sum cumsum",
    "extreme": "reduce_max reduce_min reduce_window_max reduce_window_min",
    "linear": "conv_general_dilated dot_general",
    "control": "while cond scan",
    "effect": "debug_callback pure_callback io_callback",
}

#: Primitive name -> its class.
CLASS: dict[str, str] = {name: kind for kind, names in _TABLE.items() for name in names.split()}

#: Elementwise primitives that are affine in each single argument, the others being held.
AFFINE = frozenset({"add", "add_any", "sub", "mul", "neg"})

#: Primitives on floats whose derivative is 0 wherever there is one.
WITHOUT_GRADIENT = frozenset({"stop_gradient", "sign", "floor", "ceil", "round"})

#: Elementwise primitives on NumPy arrays in double precision; parameters come as keywords.
ON_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "erf": np.vectorize(math.erf, otypes=[float]),
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "square": np.square,
    "pow": np.power,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "xor": np.logical_xor,
    "is_finite": np.isfinite,
}


def of_class(name: str, *classes: str) -> bool:
    """Whether a primitive is of one of these classes."""
    return CLASS.get(name) in classes


def literal_number(atom: Any) -> float | None:
    """The number that a literal of a program is, None for other atoms."""
    value = getattr(atom, "val", None)
    if value is None or np.ndim(value) or np.asarray(value).dtype.kind not in "fiub":
        return None
    return float(value)


def is_identity(eqn: Any, number: Callable[[Any], float | None] = literal_number) -> bool:
    """Whether an equation gives back its input's values in its input's shape, up to rounding.

    ``number`` tells which number an atom is everywhere, if that is known: ``x * 1`` and ``x + 0``
    are identities too. ``stop_gradient`` is none: it takes the signal away.
    """
    name = eqn.primitive.name
    if name == "stop_gradient" or not eqn.invars or len(eqn.outvars) != 1:
        return False
    old, new = eqn.invars[0].aval, eqn.outvars[0].aval
    if name == "convert_element_type":
        return _is_float(old.dtype) and _is_float(new.dtype)
    if CLASS.get(name) == "identity":
        return True
    if name in ("custom_jvp_call", "custom_vjp_call"):
        return _gives_back(eqn)
    if name in ("add", "add_any", "sub", "mul", "div"):
        return _is_neutral(eqn, number)
    if getattr(old, "shape", None) != new.shape:
        return False
    if name in ("reshape", "squeeze", "expand_dims", "slice"):
        return True
    if name == "concatenate":
        return len(eqn.invars) == 1
    if name == "broadcast_in_dim":
        return eqn.params["broadcast_dimensions"] == tuple(range(len(new.shape)))
    if name == "pad":
        return not any(any(c) for c in eqn.params["padding_config"])
    order = tuple(range(len(new.shape)))
    return name == "transpose" and tuple(eqn.params["permutation"]) == order


def is_fused(eqn: Any) -> bool:
    """Whether an equation is, or calls, a kernel that holds no graph of its own."""
    if eqn.primitive.name.startswith(("dot_product_attention", "pallas_call", "custom_partition")):
        return True
    return any(is_fused(e) for jaxpr in _compat.inner_jaxprs(eqn) for e in jaxpr.eqns)


def _is_neutral(eqn: Any, number: Callable[[Any], float | None]) -> bool:
    """Whether an equation adds 0 to its input, or multiplies it by 1."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    neutral = 1.0 if name in ("mul", "div") else 0.0
    first, second = eqn.invars
    if number(second) == neutral and first.aval.shape == shape:
        return True
    commutes = name in ("add", "add_any", "mul")
    return commutes and number(first) == neutral and second.aval.shape == shape


def _gives_back(eqn: Any) -> bool:
    """Whether a call with a derivative of its own returns its only input."""
    inner = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if len(inner.invars) != 1 or len(eqn.invars) != 1:
        return False
    value = inner.invars[0]
    for inside in inner.eqns:
        if not is_identity(inside) or inside.invars[0] is not value:
            return False
        value = inside.outvars[0]
    return inner.outvars[0] is value


def gives_back(eqns: list) -> bool:
    """Whether moves, each upon the one before, bring every value back to where it came from."""
    order = None
    reshaped = False
    for eqn in eqns:
        name = eqn.primitive.name
        if is_identity(eqn):
            continue
        if name == "transpose":
            permutation = eqn.params["permutation"]
            order = [order[i] for i in permutation] if order else list(permutation)
        elif name in ("reshape", "squeeze", "expand_dims") or _only_adds_axes(eqn):
            reshaped = True
        else:
            return False
    if order and (reshaped or order != sorted(order)):
        return False
    return eqns[0].invars[0].aval.shape == eqns[-1].outvars[0].aval.shape


def _only_adds_axes(eqn: Any) -> bool:
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    return eqn.primitive.name == "broadcast_in_dim" and math.prod(old) == math.prod(new)


def _is_float(dtype: Any) -> bool:
    return np.dtype(dtype).kind in "fV"  # "V": bfloat16 and its like
