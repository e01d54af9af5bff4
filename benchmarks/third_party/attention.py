"""What the attention methods and AttnLRP should give, worked out without jaxplain.

A network's attention is what its framework's softmax gives, in order; it is known by its mark. Its
map is of what `Attends` says of the network: the tokens that the scores read, and its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.third_party.marks import bound, mark_of, traced, walk
from benchmarks.third_party.networks import Attends
from benchmarks.third_party.subject import NoCheckError, Result, Subject, compiled, error

#: Primitives between an activation's marks and outside of them whose relevance passes.
_ACTIVATIONS = ("integer_pow", "square", "tanh", "logistic", "exp", "erf", "pow")


def _attending(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> Callable:
    """``run(x, zeros) -> fn(x), weights``: zeros are added to the weights of attentions in turn."""
    closed = traced(fn, x)

    def run(x: jax.Array, added: Sequence[jax.Array | None]) -> tuple[jax.Array, list[jax.Array]]:
        weights = []

        def step(eqn: Any, ins: list) -> list:
            outs = bound(eqn, ins)
            mark = mark_of(eqn)
            if mark and mark[:2] == ("end", "softmax"):
                put = added[len(weights)] if len(weights) < len(added) else None
                weights.append(outs[0])
                outs = outs if put is None else [outs[0] + put]
            return outs

        (out,) = walk(closed.jaxpr, closed.consts, [x], step, lambda a: a)
        return out, weights

    return run


def _row(of: Attends, matrix: jax.Array) -> jax.Array:
    """The row of the tokens that the scores read, of one image."""
    readers = list(of.readers) or list(range(of.prefix, len(matrix)))
    return matrix[jnp.asarray(readers)].mean(0)


def _map(of: Attends, row: jax.Array) -> jax.Array:
    side = math.isqrt(len(row) - of.prefix)
    return row[of.prefix :].reshape(side, side)


def _every_image(s: Subject, expected: Callable[[Attends, jax.Array], jax.Array]) -> jax.Array:
    of = s.network.attends
    if of is None:
        raise NoCheckError("it is not known where the network attends")
    return jnp.stack([_map(of, expected(of, x[None])) for x in s.x])


def _heads(weights: jax.Array) -> jax.Array:
    """``(heads, N, N)`` of one image."""
    return weights.reshape(weights.shape[-3:])


def rollout(s: Subject) -> Result:
    found = s.explain("attention-rollout")

    def expected(of: Attends, x: jax.Array) -> jax.Array:
        _, weights = _attending(s.network.fn, x)(x, ())
        total: Any = jnp.eye(weights[0].shape[-1])
        for own in map(_heads, weights):
            total = (own.mean(0) + jnp.eye(len(total))) / 2 @ total
        return _row(of, total)

    return "the product of the softmaxes", error(found, _every_image(s, expected))


def transformer_attribution(s: Subject) -> Result:
    found = s.explain("transformer-attribution")

    def expected(of: Attends, x: jax.Array) -> jax.Array:
        run = _attending(s.network.fn, x)
        _, weights = run(x, ())
        zeros = [jnp.zeros_like(w) for w in weights]
        slopes = jax.grad(lambda zeros: run(x, zeros)[0][0, s.target])(zeros)
        total: Any = jnp.eye(weights[0].shape[-1])
        for own, slope in zip(weights, slopes, strict=True):
            total = total + jnp.maximum(_heads(own * slope), 0).mean(0) @ total
        return _row(of, total)

    return "jax.grad at the softmaxes", error(found, _every_image(s, expected))


def legrad(s: Subject) -> Result:
    found = s.explain("legrad")

    def expected(of: Attends, x: jax.Array) -> jax.Array:
        total: Any = 0.0
        for number, block in enumerate(of.blocks):
            run = _attending(block.features, x)
            _, weights = run(x, ())

            def score(zeros: jax.Array, run: Callable = run, number: int = number) -> jax.Array:
                value, _ = run(x, [None] * number + [zeros])
                return of.blocks[-1].scores(x, value)[0, s.target]

            slope = jax.grad(score)(jnp.zeros_like(weights[number]))
            total = total + jnp.maximum(_heads(slope), 0).mean((0, 1))
        return total

    words = "jax.grad at the softmaxes, the head at each block"
    return words, error(found, _every_image(s, expected))


# ---------------------------------------------------------------- AttnLRP


class _Value(NamedTuple):
    array: jax.Array
    active: bool


def _halved(a: jax.Array) -> jax.Array:
    """The same with half the derivative."""
    return a / 2 + jax.lax.stop_gradient(a / 2)


def _passing(a: jax.Array, y: jax.Array) -> jax.Array:
    """``y = f(a)`` with the derivative ``f(a) / a``."""
    factor = jnp.where(a == 0, 0, y / jnp.where(a == 0, 1, a))
    return jax.lax.stop_gradient(y - factor * a) + jax.lax.stop_gradient(factor) * a


def _modified(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> Callable:
    """The function with AttnLRP's derivative: relevance is input times gradient."""
    closed = traced(fn, x)

    def modified(x: jax.Array) -> jax.Array:
        begun: dict[str, jax.Array] = {}
        softmaxes: set[str] = set()

        def step(eqn: Any, ins: list[_Value]) -> list[_Value]:
            name, arrays = eqn.primitive.name, [v.array for v in ins]
            active, mark = [v.active for v in ins], mark_of(eqn)
            outs, alive = bound(eqn, arrays), any(active)
            if not alive:
                pass
            elif mark:
                when, kind, number = mark
                if when == "begin":
                    begun[number] = arrays[0]
                    softmaxes.update([number] if kind == "softmax" else [])
                elif kind == "softmax":
                    softmaxes.remove(number)
                elif kind != "norm":
                    outs = [_passing(begun[number], arrays[0])]
            elif softmaxes:
                pass  # its own gradient
            elif name == "rsqrt":  # of a norm: a constant
                outs, alive = [jax.lax.stop_gradient(outs[0])], False
            elif name == "div" and active[1]:
                outs, alive = bound(eqn, [arrays[0], jax.lax.stop_gradient(arrays[1])]), active[0]
            elif name in ("mul", "dot_general") and all(active):
                outs = [_halved(outs[0])]
            elif name in _ACTIVATIONS:
                outs = [_passing(arrays[0], outs[0])]
            return [_Value(a, alive) for a in outs]

        (out,) = walk(closed.jaxpr, closed.consts, [_Value(x, True)], step, _constant)
        return out.array

    return modified


def _constant(a: jax.Array) -> _Value:
    return _Value(a, False)


def attn_lrp(s: Subject) -> Result:
    found = s.explain("lrp")
    run = _modified(s.network.fn, s.x)
    slope = compiled(jax.grad(lambda x: run(x)[:, s.target].sum()), s.x)(s.x)
    return "AttnLRP is input x jax.grad, modified", error(found, (s.x * slope).sum(-1))
