"""The one file that touches ``jax.extend``, ``jax._src`` and whatever changes between releases.

Written for jax 0.10 to 0.12. Each shim says which release needs it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import core as _internals
from jax._src import distributed as _distributed
from jax._src import linear_util as _lu
from jax._src import source_info_util as _source
from jax._src.callback import io_callback_p as _io_callback_p
from jax.core import Tracer as _Tracer
from jax.custom_derivatives import SymbolicZero
from jax.extend import core as _core

from jaxplain.core.errors import UnsupportedOperationError

_source.register_exclusion(os.path.dirname(__file__))  # tag() is not the user's line
#: Where a network is called from; and the folders of installed packages.
_TRACE = os.path.join(os.path.dirname(__file__), "trace.py")
_INSTALLED = {"site-packages", "dist-packages"}

ClosedJaxpr: Any = _core.ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]
Jaxpr = _core.Jaxpr
Literal = _core.Literal
Var = _core.Var
Tracer: Any = _Tracer
WrappedFun = _lu.WrappedFun

#: Calls that are rematerialised in the backward pass.
REMATS = {"remat", "remat2", "checkpoint"}
#: Calls whose body is part of the surrounding program ("pjit" until 0.7, "jit" since).
CALLS = {"jit", "pjit", "closed_call", "core_call", *REMATS}
#: Calls that carry a derivative of their own.
CUSTOM_CALLS = {"custom_jvp_call", "custom_vjp_call"}
#: Calls of the host that have no derivative.
CALLBACKS = {"pure_callback", "io_callback"}
#: Equations that are there for what they do, not for what they compute.
EFFECTS = {"debug_callback", "debug_print", "io_callback", "check"}

#: Scopes whose names begin so are ours: they mark calls and regions, and are part of no path.
MARK = "jaxplain#"


def open_jaxpr(closed: Any) -> tuple[Any, list]:
    """The open jaxpr and its constants (0.12 has one class for both)."""
    return getattr(closed, "jaxpr", closed), list(getattr(closed, "consts", ()))


def body(eqn: Any) -> tuple[Any, list]:
    """The inner jaxpr of a call-like equation, with its constants."""
    params = eqn.params
    return open_jaxpr(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])


def inner_programs(eqn: Any) -> list[tuple[Any, list]]:
    """Every jaxpr among an equation's parameters, with its constants."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                found.append(open_jaxpr(item))
    return found


def inner_jaxprs(eqn: Any) -> list:
    """Every jaxpr among an equation's parameters."""
    return [jaxpr for jaxpr, _ in inner_programs(eqn)]


def opens(eqn: Any) -> bool:
    """Whether the constants in an equation's bodies can be made arguments of the program."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        return params.get("branches_platforms") is None  # the branch is chosen by the compiler
    if name == "custom_vjp_call":
        return not params["symbolic_zeros"]
    return name in CALLS or name in ("scan", "while", "custom_jvp_call")


def scan_arity(eqn: Any) -> tuple[int, int]:
    """Number of constants and of carried values of a scan (renamed in 0.11)."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def rebind(eqn: Any, *args: Any) -> list:
    """Apply an equation's primitive. Custom calls need ``get_bind_params``; all accept it."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name == "pvary":  # jax 0.10 refuses what varies already
        axes = set(params["axes"]) - set(jax.typeof(args[0]).mat.varying)
        params = {**params, "axes": tuple(a for a in params["axes"] if a in axes)}
        if not axes:
            return list(args)
    out = eqn.primitive.bind(*args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def bind(eqn: Any, *args: Any) -> list:
    """:func:`rebind`; differentiating a call of the host is an error that names it."""
    if eqn.primitive.name not in CALLBACKS:
        return rebind(eqn, *args)

    @jax.custom_jvp
    def call(*args: Any) -> list:
        return rebind(eqn, *args)

    @call.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        raise UnsupportedOperationError(
            f"the {eqn.primitive.name} at {source_line(eqn)} has no derivative, and the signal "
            "would pass through it; put jax.lax.stop_gradient around its arguments, or give the "
            "function that calls it a derivative with jax.custom_jvp"
        )

    return call(*args)


def as_io_callback(eqn: Any, *args: Any) -> list:
    """A pure_callback of which only the call matters: it happens though nobody reads its result."""
    return _io_callback_p.bind(
        *args,
        callback=eqn.params["callback"],
        result_avals=eqn.params["result_avals"],
        sharding=eqn.params["sharding"],
        ordered=False,
    )


def refuse_references(eqn: Any) -> None:
    """An error for an equation that reads or writes a mutable array, whose order would matter."""
    if any(type(e).__module__.startswith("jax._src.state") for e in eqn.effects):
        raise UnsupportedOperationError(
            f"the network reads or writes a mutable array reference ({eqn.primitive.name!r} at "
            f"{source_line(eqn)}), which explainers cannot follow; return the new value instead"
        )


@contextlib.contextmanager
def equation_context(eqn: Any, traceback: Any = None, marks: bool = False) -> Iterator[None]:
    """Bind under the equation's own source line, name stack and tracing context."""
    own = eqn.source_info.name_stack
    if not marks and any(is_mark(s.name) for s in own.stack):
        own = _source.NameStack(tuple(s for s in own.stack if not is_mark(s.name)))
    stack = _source.current_name_stack() + own
    traceback = traceback or eqn.source_info.traceback
    with _source.user_context(traceback, name_stack=stack), eqn.ctx.manager:
        yield


def users_traceback(eqn: Any, outer: Any) -> Any:
    """The equation's traceback, or ``outer`` where it has no frame of the user's.

    The bodies of jax.numpy's own jitted functions are traced once and then lack the caller's line.
    """
    return eqn.source_info.traceback if _source.summarize(eqn.source_info) else outer


def users_frame(eqn: Any) -> tuple | None:
    """The place in the user's code that made the equation, to compare with others."""
    frame = _source.user_frame(eqn.source_info.traceback)
    return frame and (frame.file_name, frame.start_line, frame.start_column)


def source_line(eqn: Any) -> str:
    """``file:line (function)`` of the user's code that made the equation."""
    return _source.summarize(eqn.source_info)


def users_line(eqn: Any) -> str:
    """The innermost line of no installed package: "" where nothing of the user's made it.

    What called jaxplain is no part of the network, and not looked at.
    """
    traceback = eqn.source_info.traceback
    codes, positions = traceback.raw_frames() if traceback else ([], [])
    for code, position in zip(codes, positions, strict=True):
        file = code.co_filename
        if file == _TRACE and code.co_name != "tag":
            break
        if _source.is_user_filename(file) and not _INSTALLED & set(file.split(os.sep)):
            frame = _source.raw_frame_to_frame(code, position)
            return f"{file}:{frame.start_line} ({frame.function_name})"
    return ""


def mark(kind: str, value: Any) -> Any:
    """A named scope that marks the equations within it and is part of no path."""
    return jax.named_scope(f"{MARK}{kind}:{value}")


def is_mark(name: str, kind: str = "") -> bool:
    return name.startswith(f"{MARK}{kind}")


def name_stack(eqn: Any) -> tuple[str, ...]:
    """Scopes, marks, and a mark for each transformation, outermost first."""
    return tuple(
        entry.name if type(entry).__name__ == "Scope" else f"{MARK}transform:{entry.name}"
        for entry in eqn.source_info.name_stack.stack
    )


def scopes(eqn: Any) -> tuple[str, ...]:
    """The module path of an equation: its name stack without transformations and marks."""
    return tuple(name for name in name_stack(eqn) if not is_mark(name))


def regions(eqn: Any) -> tuple[int, ...]:
    """The numbers of the ``checkpoint`` regions that an equation is in, outermost first."""
    start = f"{MARK}checkpoint:"
    return tuple(int(n.removeprefix(start)) for n in name_stack(eqn) if n.startswith(start))


def jaxpr_trace() -> Any:
    """The trace that makes the jaxpr at hand, whatever transformations are within it."""
    trace = _internals.trace_ctx.trace
    while hasattr(trace, "parent_trace"):
        trace = trace.parent_trace
    return trace


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


def zero_tangent(value: Any) -> Any:
    """Zeros that are a tangent of ``value``."""
    aval = jax.typeof(value).to_tangent_aval()
    if aval.dtype == jax.dtypes.float0:
        return np.zeros(aval.shape, aval.dtype)
    return jax.lax.full_like(value, 0, dtype=aval.dtype)


def instantiate(cotangent: Any) -> Any:
    """A cotangent as an array, where JAX gives a symbol for zeros."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    aval: Any = cotangent.aval
    return jax.numpy.zeros(aval.shape, aval.dtype)


class JvpRule(NamedTuple):
    """The traced rule of a custom_jvp_call: an open jaxpr, of its arguments and their tangents.

    ``zeros`` and ``out_zeros`` say which tangents of the arguments and results it leaves out.
    """

    jaxpr: Any
    consts: list
    zeros: list[bool]
    out_zeros: list[bool]

    @property
    def programs(self) -> list[tuple[Any, list]]:
        return [(self.jaxpr, self.consts)]

    @property
    def pattern(self) -> tuple:
        return tuple(self.zeros), tuple(self.out_zeros)


def _jvp_rule(eqn: Any) -> JvpRule:
    """The rule for arguments all of which are differentiated, as far as they can be."""
    zeros = [not _differentiable(v) for v in eqn.invars[eqn.params["num_consts"] :]]
    jaxpr, consts, out_zeros = eqn.params["jvp_jaxpr_fun"].call_wrapped(*zeros)
    return JvpRule(jaxpr, list(consts), zeros, list(out_zeros))


class VjpRule(NamedTuple):
    """The traced rules of a custom_vjp_call.

    ``forward`` is an open jaxpr from the arguments to residuals and results. ``forwarded`` has an
    entry for each residual of ``backward``: None for the next of those, or the number of an
    argument that is one. ``backward`` is a closed jaxpr from residuals and cotangents to the
    cotangents of those arguments that are ``present``.
    """

    forward: Any
    consts: list
    forwarded: list[int | None]
    backward: Any
    present: list[bool]

    @property
    def programs(self) -> list[tuple[Any, list]]:
        return [(self.forward, self.consts), open_jaxpr(self.backward)]

    @property
    def pattern(self) -> tuple:
        return tuple(self.forwarded), tuple(self.present)


def _vjp_rule(eqn: Any) -> VjpRule:
    """The rules for arguments all of which are differentiated, as far as they can be."""
    n_consts = eqn.params["num_consts"]
    arguments = eqn.invars[n_consts:]
    jaxpr, consts = eqn.params["fwd_jaxpr_thunk"].call_wrapped(*map(_differentiable, arguments))
    forwarded = [f if f is None else f - n_consts for f in eqn.params["out_trees"]()[2]]
    own = iter(jaxpr.outvars)
    residuals = [next(own) if f is None else arguments[f] for f in forwarded]
    present: list[bool] = []

    def backward(*values: Any) -> list:
        found = eqn.params["bwd"].call_wrapped(*values)
        found = found[0] if isinstance(found, tuple) else found  # 0.12 returns logs as well
        present[:] = [isinstance(g, (jax.Array, Tracer)) for g in found]
        return [g for g, is_there in zip(found, present, strict=True) if is_there]

    shapes = [shape_of(v.aval) for v in [*residuals, *eqn.outvars]]
    return VjpRule(jaxpr, list(consts), forwarded, jax.make_jaxpr(backward)(*shapes), present)


def custom_rule(eqn: Any) -> JvpRule | VjpRule:
    """The traced derivative of a custom_jvp_call or custom_vjp_call."""
    return _jvp_rule(eqn) if eqn.primitive.name == "custom_jvp_call" else _vjp_rule(eqn)


def _differentiable(atom: Any) -> bool:
    return jax.numpy.issubdtype(atom.aval.dtype, jax.numpy.inexact)


_BARRIERS = itertools.count()
_WEEK = 7 * 86400 * 1000  # milliseconds


def barrier(name: str) -> None:
    """Waits for all processes of `jax.distributed`; returns at once where there is one alone.

    It is that of JAX's own coordinator, which no collective of the devices stands behind: a week is
    not too long, and a process that dies ends the others.
    """
    client = _distributed.global_state.client
    if jax.process_count() > 1 and client is not None:
        client.wait_at_barrier(f"{name} {next(_BARRIERS)}", _WEEK)
