"""Feedback CNN: gates behind the ReLUs, set from the top down so that a class's score rises.

Behind every ReLU (or ReLU6) stands a gate ``h`` in [0, 1] that multiplies its output (Eqs. 4, 6).
For one image and class the gates maximise the class's score ``S(h)``:

* *held states*: within a sweep every operation is replaced by its tangent at the current forward
  pass, so a ReLU is a fixed mask and a max pool fixed switches (Eqs. 4, 5). No path through the
  network meets two gates of one layer, so the held score is linear in each layer's gates, with
  slope ``alpha = dS/dh = g relu(a)``: the signal ``g`` behind the gate times the activation before;
* *hard* gates follow the sign of ``g``. Where the neuron fires that is the sign of ``alpha``; where
  it does not, Eq. 6 is indifferent, and the neuron may fire once other gates have closed: closed by
  ``alpha``, which is 0 there, it could never;
* a *sequential* sweep sets the gates from the top layer down, each from the signal that the new
  gates above it give. That is block-coordinate ascent: the held score never falls. It is also one
  backward pass, with a signal that each gate multiplies by its own new value;
* a *simultaneous* sweep sets all from one plain backward pass, and may lower the score: where a
  layer's new gates reverse the sign of a slope below, that slope is out of date.

Each sweep begins with a new forward pass under the gates of the last one.

References: Cao et al., *Look and think twice: capturing top-down visual attention with feedback
convolutional neural networks*, ICCV 2015.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain.core import Graph, Model, _compat
from jaxplain.core.assignment import assign
from jaxplain.core.hoist import hoist
from jaxplain.core.numerics import all_but_batch
from jaxplain.explainers._common import (
    check_option,
    check_reduce,
    over_targets,
    reduce_channels,
    run,
)
from jaxplain.explainers._types import ClassChunk, Images, Network, Reduce, Targets
from jaxplain.rules.gradient_rules import RELUS, guided_rules

__all__ = ["Feedback", "feedback"]


class Feedback(NamedTuple):
    """What :func:`feedback` finds, with ``details=True``. K targets put an axis K after the batch.

    Attributes:
        maps: the image gradient under the final gates, as without details.
        scores: (B, steps + 1), the target's score by a forward pass with open gates, after one
            sweep, after two, ... It can fall where ReLUs change their state; it stays the same once
            no gate changes.
        gates: name of a ReLU's output -> the final gates, of its shape.
        activations: name of a ReLU's output -> its value behind the gate, by the last such pass.
        converged: (B,), whether no gate of the batch changed in the last sweep.
    """

    maps: jax.Array
    scores: jax.Array
    gates: dict[str, jax.Array]
    activations: dict[str, jax.Array]
    converged: jax.Array


def feedback(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    steps: int = 10,
    mode: Literal["hard", "soft"] = "hard",
    order: Literal["sequential", "simultaneous"] = "sequential",
    step_size: float = 1.0,
    reduce: Reduce = "max_abs",
    details: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array | Feedback:
    """The gradient of the class score at the image after feedback (Cao et al. 2015, Eqs. 6 to 8).

    Begins with open gates and repeats sweeps until none changes a gate, or ``steps`` are done. The
    map is ``max_c |T|`` (section 4.2) of the template ``T = dS/dx`` (Eq. 8) under the final gates,
    with the ReLU states and pooling switches of the last sweep's forward pass. So one hard sweep
    gives the map of :func:`guided_backprop`, the papers' "Deconv"; no sweep that of
    :func:`gradient`; and once no gate changes it is the true gradient of the gated network.

    A higher score is not a better map. On GoogLeNet and pictures of two animals
    (``benchmarks/cued_animal.py``) 56 % of the saliency lie on the animal that is asked for after
    one sweep, 50 % after two and 48 % after ten, where the score is twice that after one; the
    gradient has 49 %. Soft mode with a step size of 1000 reaches scores four times those of hard
    mode, and its maps spread over the picture (36 %).

    Args:
        fn: images (B, H, W, C) to scores (B, N) or a score map (B, H', W', N): a callable or an NNX
            module.
        x: images, float, preprocessed as the network expects.
        targets: None (top class), an int, ints (B,) or (B, K), or a float signal (B, N) or (B, K,
            N), whose product with the scores is then the score. For a score map the signal is
            spread by the softmax over space that the open network gives, unless it says where: (B,
            H', W', N) or (B, K, H', W', N).
        steps: the greatest number of sweeps; 0 leaves all gates open.
        mode: ``"hard"`` leaves a gate open where the gradient ``g`` of the score at the gated
            output is positive, and what is closed stays closed (Eq. 6): the set of open gates
            shrinks until it is a fixed point. ``"soft"`` is projected gradient ascent, ``h <-
            clip(h + step_size alpha, 0, 1)`` with the gate's slope ``alpha = g relu(a)`` (Eq. 7):
            gates can open again.
        order: ``"sequential"``, top layer first, never lowers the held score; ``"simultaneous"``
            can.
        step_size: of soft mode, in gate units per unit of ``alpha``. The slopes of a layer add up
            to about the score, so the more units a layer has the larger this must be.
        reduce: how channels are reduced, as in :func:`gradient`; None keeps the signed template.
        details: return a :class:`Feedback` instead of the maps alone.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        Maps (B, H, W), or (B, K, H, W) for K targets, in the dtype of the images; or a
        :class:`Feedback`. Gates and scores are float32 for networks in half precision.
        Differentiating a map takes the final gates as constants. With a batch that ``jit`` shards,
        the devices exchange after each sweep whether any gate changed, and nothing else.

    Raises:
        UnsupportedOperationError: the network has no ReLU, other activations beside them, or a loop
            or foreign derivative that may hide one.
        ValueError, TypeError: unknown mode, order or reduction, steps, step_size or class out of
            range, images that are no finite float batch.

    Example:
        The second hidden unit lowers the score, so its gate closes:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     h = jax.nn.relu(x.sum((1, 2)) @ jnp.array([[1., 2.]]))
        ...     return h @ jnp.array([[3.], [-1.]])
        >>> result = jaxplain.feedback(fn, jnp.ones((1, 1, 1, 1)), steps=3, details=True)
        >>> result.gates["relu:0"].tolist(), result.scores.tolist(), result.maps.tolist()
        ([[1.0, 0.0]], [[1.0, 3.0, 3.0, 3.0]], [[[3.0]]])
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int, not {type(steps).__name__}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, not {steps}")
    if not (step_size > 0 and math.isfinite(step_size)):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    check_option("mode", mode, tuple(_MODES))
    check_option("order", order, ("sequential", "simultaneous"))
    return run(
        _feedback,
        fn,
        x,
        targets,
        layer="input",
        class_chunk=class_chunk,
        holds=_gated_values,
        steps=steps,
        mode=mode,
        order=order,
        reduce=check_reduce(reduce),
        details=bool(details),
        arrays=(jnp.asarray(step_size, jnp.float32),),
    )


class _Mode(NamedTuple):
    """How a gate is decided.

    Attributes:
        reason: what decides it, of the signal behind the gate and the value before it.
        update: the new gate, of the old one, the reason and the step size.
    """

    reason: Callable[[jax.Array, jax.Array], jax.Array]
    update: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _hard(h: jax.Array, g: jax.Array, step_size: jax.Array) -> jax.Array:
    return jnp.where(g > 0, h, 0)


def _soft(h: jax.Array, alpha: jax.Array, step_size: jax.Array) -> jax.Array:
    return jnp.clip(h + step_size.astype(h.dtype) * alpha, 0, 1)


_MODES = {
    "hard": _Mode(lambda g, value: g, _hard),
    "soft": _Mode(lambda g, value: g * value, _soft),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gate(
    reason: Callable, behind: Callable, h: jax.Array, given: jax.Array, value: jax.Array
) -> jax.Array:
    """``h * value``, whose signal is multiplied by ``behind(h, reason(g, value), given)``.

    The gate's cotangent is the reason.
    """
    return value * h.astype(value.dtype)


def _gate_forward(reason, behind, h, given, value):
    return _gate(reason, behind, h, given, value), (h, given, value)


def _gate_backward(reason, behind, residuals, g):
    h, given, value = residuals
    why = reason(g.astype(h.dtype), value.astype(h.dtype))
    return why, None, g * behind(h, why, given).astype(g.dtype)


def _old(h: jax.Array, why: jax.Array, given: jax.Array) -> jax.Array:
    return h


def _given(h: jax.Array, why: jax.Array, given: jax.Array) -> jax.Array:
    return given


_gate.defvjp(_gate_forward, _gate_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _found(function: Callable, result: jax.Array, args: tuple) -> jax.Array:
    """``function(*args)``, which is known to be ``result`` already: only derivatives compute it."""
    return result


@_found.defjvp
def _found_jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple:
    return primals[0], jax.jvp(function, primals[1], tangents[1])[1]


def _gated_values(graph: Graph) -> list:
    """The outputs of the ReLUs, which the gates multiply."""
    assign(graph, guided_rules())  # refuses what has no ReLU, or may hide one
    return [op.output for op in graph.ops if op.kind == "activation" and op.name in RELUS]


def _feedback(
    model, x, targets, step_size, *, layers, class_chunk, steps, mode, order, reduce, details
):
    graph = model.graph
    gated = _gated_values(graph)
    wide = [jnp.promote_types(v.aval.dtype, jnp.float32) for v in gated]
    reason, update = _MODES[mode]
    behind = update if order == "sequential" else _old
    given = [step_size] * len(gated)

    def evaluate(
        model: Model,
        image: jax.Array,
        behind: Callable,
        gates: list,
        given: list,
        values: Sequence = (),
    ) -> list:
        edits = {
            v: functools.partial(_gate, reason, behind, h, a)
            for v, h, a in zip(gated, gates, given, strict=True)
        }
        return model.evaluate([image], edits=edits, outputs=[graph.outputs[0], *values])

    # The loop is not differentiated: the final gates are constants.
    held, fixed_x = Model(graph, lax.stop_gradient(model.constants)), lax.stop_gradient(x)

    ascending = order == "sequential"

    def below_gates(
        constants: Sequence, image: jax.Array, seed: jax.Array, before: list, gates: list
    ) -> jax.Array:
        network = Model(graph, constants)
        scores, pull = jax.vjp(lambda v: evaluate(network, v, _given, before, gates)[0], image)
        return pull(_compat.vary_like(seed, scores))[0]

    def one(seed: jax.Array) -> dict:
        fixed_seed = lax.stop_gradient(seed)

        def score(scores: jax.Array) -> jax.Array:
            product = (fixed_seed * scores).astype(jnp.promote_types(scores.dtype, jnp.float32))
            return product.sum(all_but_batch(scores))

        def sweep(carry: tuple) -> tuple:
            i, gates, _, trajectory, template, _ = carry
            scores, pull = jax.vjp(
                lambda gates, image: evaluate(held, image, behind, gates, given)[0], gates, fixed_x
            )
            reasons, below = pull(_compat.vary_like(fixed_seed, scores))
            after = [update(h, why, step_size) for h, why in zip(gates, reasons, strict=True)]
            changed = functools.reduce(
                jnp.logical_or, [(a != h).any() for a, h in zip(after, gates, strict=True)]
            )
            trajectory = trajectory.at[:, i].set(score(scores))
            return i + 1, after, gates, trajectory, below if ascending else template, changed

        opened = [
            _compat.zeros_like_varying(v.aval.shape, dtype, x) + 1
            for v, dtype in zip(gated, wide, strict=True)
        ]
        trajectory = _compat.zeros_like_varying(
            (len(x), steps + 1), jnp.promote_types(seed.dtype, jnp.float32), x
        )
        changed = ~_compat.zeros_like_varying((), bool, x)
        start = 0, opened, opened, trajectory, jnp.zeros_like(x), changed
        i, gates, before, trajectory, template, changed = lax.stop_gradient(
            lax.while_loop(lambda carry: carry[-1] & (carry[0] < steps), hoist(sweep, start), start)
        )

        # Eq. 8 with the states of the last sweep: its gates forward, the final ones backward. A
        # sequential sweep multiplies by the new gates, and so has come down to it.
        last_pass = model.constants, x, seed, before, gates
        swept = ascending and steps > 0
        template = _found(below_gates, template, last_pass) if swept else below_gates(*last_pass)
        maps = reduce_channels(template, reduce)
        if not details:
            return {"input": maps}
        scores, *activations = evaluate(model, x, _old, gates, given, gated)
        last = jnp.arange(steps + 1) >= i
        names = [graph.name_of(v) for v in gated]
        return {
            "input": Feedback(
                maps,
                jnp.where(last, score(scores)[:, None], trajectory),
                dict(zip(names, gates, strict=True)),
                dict(zip(names, activations, strict=True)),
                jnp.broadcast_to(~changed, (len(x),)),
            )
        }

    model.check_gradient(["input"])
    open_scores, _ = model.forward(x)
    return over_targets(one, open_scores, targets, class_chunk)
