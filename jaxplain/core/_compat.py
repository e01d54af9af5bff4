"""The one file that touches ``jax.extend``, ``jax._src`` and whatever changes between releases.

Written for jax 0.10 to 0.12. Each shim says which release needs it.
"""

from __future__ import annotations

import contextlib
import os
import types
from typing import Any

import jax
import numpy as np
from jax._src import linear_util as _lu
from jax._src import source_info_util as _source
from jax.extend import core as _core

_source.register_exclusion(os.path.dirname(__file__))  # tag() is not the user's line

ClosedJaxpr: Any = _core.ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]
Jaxpr = _core.Jaxpr
Literal = _core.Literal
Var = _core.Var

#: Calls whose body is part of the surrounding program ("pjit" until 0.7, "jit" since).
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
#: Calls that carry a derivative of their own.
CUSTOM_CALLS = {"custom_jvp_call", "custom_vjp_call"}


def open_jaxpr(closed: Any) -> tuple[Any, list]:
    """The open jaxpr and its constants (0.12 has one class for both)."""
    return getattr(closed, "jaxpr", closed), list(getattr(closed, "consts", ()))


def body(eqn: Any) -> tuple[Any, list]:
    """The inner jaxpr of a call-like equation, with its constants."""
    params = eqn.params
    return open_jaxpr(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])


def inner_jaxprs(eqn: Any) -> list:
    """Every jaxpr among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                found.append(open_jaxpr(item)[0])
    return found


def scan_arity(eqn: Any) -> tuple[int, int]:
    """Number of constants and of carried values of a scan (renamed in 0.11)."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(eqn: Any, *args: Any) -> list:
    """Apply an equation's primitive. Custom calls need ``get_bind_params``; all accept it."""
    params = eqn.primitive.get_bind_params(eqn.params)
    out = eqn.primitive.bind(*args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


@contextlib.contextmanager
def equation_context(eqn: Any, traceback: Any = None):
    """Bind under the equation's own source line, name stack and tracing context."""
    stack = _source.current_name_stack() + eqn.source_info.name_stack
    traceback = traceback or eqn.source_info.traceback
    with _source.user_context(traceback, name_stack=stack), eqn.ctx.manager:
        yield


def users_traceback(eqn: Any, outer: Any) -> Any:
    """The equation's traceback, or ``outer`` where it has no frame of the user's.

    The bodies of jax.numpy's own jitted functions are traced once and then lack the caller's line.
    """
    return eqn.source_info.traceback if _source.summarize(eqn.source_info) else outer


def source_line(eqn: Any) -> str:
    """``file:line (function)`` of the user's code that made the equation."""
    return _source.summarize(eqn.source_info)


def scopes(eqn: Any) -> tuple[str, ...]:
    """The module path of an equation: its name stack without the transformations in it."""
    stack = getattr(eqn.source_info.name_stack, "stack", ())
    return tuple(s.name for s in stack if type(s).__name__ == "Scope")


def vary_like(x: Any, like: Any) -> Any:
    """``x``, varying over the mesh axes that ``like`` varies over: shard_map wants it said."""
    own, wanted = (getattr(jax.typeof(v), "manual_axis_type", None) for v in (x, like))
    if own is None or wanted is None:
        return x
    missing = wanted.varying - own.varying
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x


def zeros_like_varying(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Zeros that vary over the mesh axes of ``like``, as ``shard_map`` demands of cotangents."""
    return jax.lax.full_like(like, 0, dtype=dtype, shape=shape)


def shape_of(aval: Any) -> jax.ShapeDtypeStruct:
    """What ``jax.make_jaxpr`` needs to make a value of this type again, in shard_map too."""
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    placed = (
        {}
        if mesh is None or mesh.empty
        else {"sharding": aval.sharding, "manual_axis_type": aval.manual_axis_type}
    )
    return jax.ShapeDtypeStruct(
        aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False), **placed
    )


def fingerprint(closed: Any) -> tuple[str, list]:
    """A text that is equal for equal programs, and the objects that it names by address.

    Array constants count by shape and dtype only: their values are run-time arguments. The
    objects must be kept alive as long as the text is used as a key, so that no address is reused.
    """
    jaxpr, _ = open_jaxpr(closed)
    parts: list[str] = []
    keep: list = []
    _describe(jaxpr, parts, keep)
    return "".join(parts), keep


def _describe(jaxpr: Any, parts: list[str], keep: list) -> None:
    names: dict = {}

    def name(atom: Any) -> str:
        if isinstance(atom, Literal):
            if np.ndim(atom.val):
                keep.append(atom.val)
            value = repr(atom.val) if np.ndim(atom.val) == 0 else f"@{id(atom.val)}"
            return f"{value}:{atom.aval}"
        return f"{names.setdefault(atom, len(names))}:{atom.aval}"

    parts.append("{" + ",".join(map(name, [*jaxpr.constvars, *jaxpr.invars])) + ";")
    for eqn in jaxpr.eqns:
        parts.append(
            f"{','.join(map(name, eqn.outvars))}={eqn.primitive.name}"
            f"({','.join(map(name, eqn.invars))})<{'/'.join(scopes(eqn))}>"
        )
        for key in sorted(eqn.params):
            parts.append(f"[{key}=")
            _describe_value(eqn.params[key], parts, keep, 0)
            parts.append("]")
    parts.append("->" + ",".join(map(name, jaxpr.outvars)) + "}")


def _describe_value(value: Any, parts: list[str], keep: list, depth: int) -> None:
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        jaxpr, consts = open_jaxpr(value)
        _describe(jaxpr, parts, keep)
        keep.extend(consts)
        parts.append(f"@{[id(c) for c in consts]}")
    elif isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        parts.append("(")
        for item in value:
            _describe_value(item, parts, keep, depth)
            parts.append(",")
        parts.append(")")
    elif isinstance(value, np.ndarray):
        parts.append(f"{value.dtype}{value.shape}{value.tobytes()!r}")
    elif isinstance(value, _lu.WrappedFun) and depth < 8:
        # jax wraps the user's derivative rule anew at every trace; the rule itself stays.
        _describe_value(value.f, parts, keep, depth + 1)
        for transform, params in value.transforms:
            _describe_value(transform, parts, keep, depth + 1)
            _describe_value(tuple(params), parts, keep, depth + 1)
    elif isinstance(value, types.FunctionType) and value.__closure__ and depth < 8:
        parts.append(f"code@{id(value.__code__)}")
        keep.append(value.__code__)
        for cell in value.__closure__:
            with contextlib.suppress(ValueError):  # an empty cell holds nothing to tell apart
                # jax's own caches and sentinels are made anew at every trace and tell nothing apart
                if type(cell.cell_contents).__name__ not in (
                    "Store",
                    "EqualStore",
                    "list",
                    "dict",
                    "object",
                ):
                    _describe_value(cell.cell_contents, parts, keep, depth + 1)
    else:
        keep.append(value)
        parts.append(repr(value))
