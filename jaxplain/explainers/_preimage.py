"""Cut a network into stages, and lead feature maps back through them.

A *stage* is what stands between two values that every path from the image to the scores passes
through: one operation of a chain, or a whole block with a skip connection or parallel branches.
`preimage` is the NA-BP module of NAFlow for one stage, `coefficients` its Eq. 16.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.core import Graph, Operation, UnknownLayerError, UnsupportedOperationError
from jaxplain.explainers._least_squares import LeastSquares, least_squares

#: Of the moves those whose transpose leads every value back to where it came from: the others
#: repeat values, or leave out where they were.
_MOVES = ("reshape", "squeeze", "expand_dims", "transpose", "pad", "slice", "rev", "concatenate")


@dataclass(frozen=True, eq=False)
class Stage:
    """The operations between two consecutive cuts of the network.

    ``source`` and ``target`` are the values at the cuts, ``constants`` the values that the
    operations need besides and that do not depend on the image.
    """

    ops: tuple[Operation, ...]
    source: Any
    target: Any
    constants: tuple[Any, ...]

    def __call__(self, constants: tuple, value: jax.Array) -> jax.Array:
        """The target from the source, in at least float32 outside the network's own precision."""
        env = dict(zip(self.constants, constants, strict=True))
        env[self.source] = value.astype(self.source.aval.dtype)
        for op in self.ops:
            outs = op.evaluate([env[v] for v in op.inputs], [env[v] for v in op.constants])
            env.update(zip(op.outputs, outs, strict=True))
        return env[self.target].astype(working_dtype(self.target.aval.dtype))

    @property
    def treatment(self) -> str:
        """How the stage is led back: "bias", "scale", "relu", "leaky_relu", "max_pool" and "move"
        exactly, "jacobian" (everything else) by least squares."""
        if len(self.ops) > 1:
            return "jacobian"
        op = next(iter(self.ops))
        same = self.source.aval.shape == self.target.aval.shape
        if op.kind in ("bias", "scale") and same:
            return op.kind
        if op.name in ("relu", "relu6"):
            return "relu"
        if op.name == "leaky_relu" or (op.kind == "max_pool" and op.name != "maximum"):
            return op.name if op.kind == "activation" else "max_pool"
        return "move" if op.identity or op.name in _MOVES else "jacobian"


def working_dtype(dtype: Any) -> Any:
    """The dtype in which feature maps are led back: float32 for the 16-bit types."""
    return jnp.promote_types(dtype, jnp.float32)


def stages(graph: Graph) -> list[Stage]:
    """The network as a chain of stages, from the image to the scores."""
    last_use = {v: i for i, op in enumerate(graph.ops) for v in op.inputs}
    last_use[graph.outputs[0]] = len(graph.ops)
    found, since, source, alive = [], [], graph.inputs[0], {graph.inputs[0]}
    for i, op in enumerate(graph.ops):
        since.append(op)
        alive = {v for v in alive | set(op.outputs) if last_use.get(v, -1) > i}
        if len(alive) == 1:
            (target,) = alive
            constants = dict.fromkeys(v for o in since for v in o.constants)
            found.append(Stage(tuple(since), source, target, tuple(constants)))
            since, source = [], target
    return found


def position(graph: Graph, cuts: dict[Any, int], name: str) -> int:
    """Where among the cuts the layer stands; an error where it is none."""
    v = graph.layer(name)
    if v in cuts:
        return cuts[v]
    above = graph.downstream(frozenset({v}))
    reached = {v, *(u for op in above for u in op.outputs)}
    meeting = next(
        (op for op in graph.ops if op in above and not reached.issuperset(op.inputs)), None
    )
    known = [graph.name_of(u) for u in cuts if len(u.aval.shape) == 4]
    named = [n for n in known if not n.rpartition(":")[2].lstrip("-").isdigit()] or known
    reason = ""
    if meeting is not None:
        reason = (
            f": at the operation {meeting.name!r} at {meeting.place} it meets a path that "
            "bypasses it"
        )
    raise UnknownLayerError(
        f"the layer {name!r} is no cut of the network{reason}. NAFlow leads the feature maps back "
        f"through cuts only, which are here {', '.join(map(repr, named))}"
    )


class Led(NamedTuple):
    """A feature map on its way back.

    ``known`` marks the neurons whose value is known, None if all are: what ReLUs and max pools
    discarded is 0 in ``value``, and a layer below is not asked to reproduce it. ``residual`` and
    ``steps`` are those of the least-squares solve that led here, 0 where there was none.
    """

    value: jax.Array
    known: jax.Array | None
    residual: jax.Array
    steps: jax.Array


def start(value: jax.Array) -> Led:
    """The last feature map, where the flow starts."""
    value = value.astype(working_dtype(value.dtype))
    return Led(value, None, jnp.zeros((), value.dtype), jnp.zeros((), jnp.int32))


def preimage(
    stage: Stage, constants: tuple, a: jax.Array, above: Led, options: LeastSquares
) -> Led:
    """The feature map at the stage's source for the one at its target.

    ``a`` is the source's value in the forward pass: it says which neurons ReLUs and max pools
    discarded, and where the Jacobian is taken.
    """
    a = a.astype(working_dtype(a.dtype))
    y, known = above.value.astype(working_dtype(stage.target.aval.dtype)), above.known
    treatment = stage.treatment
    if treatment == "jacobian":
        return _least_squares(stage, constants, a, y, known, options)
    evaluate = functools.partial(stage, constants)
    if treatment == "bias":  # Eq. 11
        x = y - evaluate(jnp.zeros_like(a))
        x = x if known is None else jnp.where(known, x, 0)
    elif treatment == "scale":  # Eq. 11
        x, known = _unscale(stage, evaluate, y, known)
    elif treatment == "relu":  # Eq. 12; a saturated ReLU6 says no more than that it is
        kept, saturated = (a > 0) & (y > 0), a >= _ceiling(stage, evaluate, a)
        x = jnp.where(kept, y, 0)
        known = _both(known, kept & ~saturated)
    elif treatment == "leaky_relu":  # Eq. 13
        x = jnp.where(y >= 0, y, y / -evaluate(-jnp.ones_like(a)))
    else:
        x, known = _put_back(evaluate, a, y, known, pooled=treatment == "max_pool")
    return Led(x, known, jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32))


def coefficients(
    stage: Stage, constants: tuple, a: jax.Array, x: jax.Array, g: jax.Array
) -> jax.Array:
    """Eq. 16: the coefficients ``g`` at the target times the Jacobian at ``x``.

    ``x`` is the back-propagated feature map at the source. Abandoned neurons get 0, and a max
    pool keeps the positions of the forward pass ``a``, as in Eq. 14.
    """
    evaluate = functools.partial(stage, constants)
    treatment = stage.treatment
    if treatment == "relu":
        return jnp.where((x > 0) & (x < _ceiling(stage, evaluate, x)), g, 0)
    at = a.astype(x.dtype) if treatment == "max_pool" else x
    return jax.vjp(evaluate, at)[1](g)[0]


def _both(known: jax.Array | None, also: jax.Array) -> jax.Array:
    return also if known is None else known & also


def _unscale(stage: Stage, evaluate: Any, y: jax.Array, known: jax.Array | None) -> tuple:
    if stage.ops[0].equations[0].primitive.name in ("sub", "neg"):  # c - x is its own inverse
        x = evaluate(y)
        return (x if known is None else jnp.where(known, x, 0)), known
    factor = evaluate(jnp.ones_like(y))
    used = factor != 0  # a channel with scale 0 reaches no score: it is abandoned
    return jnp.where(used, y / jnp.where(used, factor, 1), 0), _both(known, used)


def _put_back(
    evaluate: Any, a: jax.Array, y: jax.Array, known: jax.Array | None, *, pooled: bool
) -> tuple:
    """Values return to where they were taken from (Eq. 14); the rest is 0 and not known.

    A neuron that several windows of a max pool chose gets the mean of what they hold.
    """
    transposed = jax.vjp(evaluate, a)[1]
    held = jnp.ones_like(y) if known is None else known.astype(y.dtype)
    x, times = transposed(y * held)[0], transposed(held)[0]
    taken = times > 0
    return (jnp.where(taken, x / jnp.where(taken, times, 1), 0) if pooled else x), taken


def _ceiling(stage: Stage, evaluate: Any, like: jax.Array) -> jax.Array:
    """Where the rectifier saturates: 6 for ReLU6, infinity for ReLU."""
    if stage.ops[0].name == "relu":
        return jnp.full((), jnp.inf, like.dtype)
    largest = jnp.finfo(stage.source.aval.dtype).max
    return evaluate(jnp.full_like(like, largest)).max()


def _least_squares(stage, constants, a, y, known, options):
    for op in stage.ops:
        if op.kind == "opaque" or not jnp.issubdtype(stage.target.aval.dtype, jnp.floating):
            raise UnsupportedOperationError(
                f"NAFlow cannot lead a feature map back through the operation {op.name!r} at "
                f"{op.place}: it has no Jacobian that can be transposed; choose layers above it"
            )
    function, parameters = functools.partial(_masked, stage), (constants, known)
    value, through = jax.jvp(functools.partial(function, parameters), (a,), (a,))
    # J x + (f(a) - J a) = y: the stage is affine while its ReLUs and pools keep their states.
    y = y if known is None else jnp.where(known, y, 0)
    x, residual, steps = least_squares(options, function, parameters, a, y - (value - through))
    return Led(x, None, residual, steps)


def _masked(stage: Stage, parameters: tuple, value: jax.Array) -> jax.Array:
    """The stage's output where it is known: what was abandoned above asks for nothing."""
    constants, known = parameters
    y = stage(constants, value)
    return y if known is None else jnp.where(known, y, 0)
