"""Excitation Backprop and winner-take-all, written again for heads that are more than a pool.

Nothing here is jaxplain's: a network is traced and every operation's signal goes to its inputs by
Eq. 6 (linear layers, by the signed contributions, of which additions are one) or as it is
(activations, norms, moves). Attention is a linear layer of its values; its weights get nothing.
Activations, softmax and norms are known by their marks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.third_party.marks import GATES, bound, mark_of, traced, walk
from benchmarks.third_party.networks import Cut
from benchmarks.third_party.subject import NoCheckError, Subject

#: A mask that adds -100 leaves weights of attention up to this; they are nothing, however shared.
_MASKED = 1e-30
_LINEAR = ("dot_general", "conv_general_dilated", "reduce_sum")
_MOVES = (
    *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "convert_element_type"),
    *("slice", "split", "unstack", "gather", "concatenate", "stack", "pad", "rev", "copy", "name"),
)


@dataclasses.dataclass(eq=False)
class Value:
    """A value of the network: what it is, whether it depends on the inputs, or is a gate's."""

    array: jax.Array
    active: bool
    gate: bool = False
    made: Step | None = None


@dataclasses.dataclass(eq=False)
class Step:
    """An operation with what went in and came out.

    ``sign`` is of the scales behind a linear operation, which are a part of its weights.
    """

    name: str
    run: Callable[..., list[jax.Array]]
    inputs: list[Value]
    outputs: list[Value]
    sign: Any = 1.0


def positive(a: jax.Array) -> jax.Array:
    return jnp.maximum(a, 0)


def shares(r: jax.Array, of: jax.Array) -> jax.Array:
    return jnp.where(of == 0, 0, r / jnp.where(of == 0, 1, of))


class Tape:
    """The steps of ``fn(*inputs)``, and the signal that goes back through them."""

    def __init__(self, fn: Callable[..., jax.Array], *inputs: jax.Array):
        closed = traced(fn, *inputs)
        self.steps: list[Step] = []
        self._begun: dict[str, Value] = {}
        self.inputs = [Value(v, True) for v in inputs]
        (self.output,) = walk(
            closed.jaxpr, closed.consts, self.inputs, self._step, lambda a: Value(a, False)
        )
        linear = [s for s in self.steps if s.name in _LINEAR[:2] and _weighted(s)]
        self.classifier = linear[-1]

    def _step(self, eqn: Any, ins: list[Value]) -> list[Value]:
        name = eqn.primitive.name

        def run(*arrays: jax.Array) -> list[jax.Array]:
            return bound(eqn, arrays)

        active = [v for v in ins if v.active]
        outs = [Value(a, bool(active)) for a in run(*(v.array for v in ins))]
        if not active:
            return outs
        step = Step(name, run, ins, outs)
        for v in outs:
            v.made, v.gate = step, name in _MOVES and all(v.gate for v in active)
        mark = mark_of(eqn)
        if mark and mark[0] == "begin":
            self._begun[mark[2]] = ins[0]
        elif mark:
            if ins[0] not in self.inputs:  # which are put in place of what the operation gives
                step.inputs = [self._begun[mark[2]]]  # past all that is between
            outs[0].gate = mark[1] in GATES
        elif name in ("mul", "div") and len(active) == 1:
            _fold(active[0], next(v.array for v in ins if not v.active))
        self.steps.append(step)
        return outs

    def back(
        self, signal: jax.Array, rule: Callable, to: list[Value], negate: bool = False
    ) -> dict:
        """The signal on its way to inputs, by value's id; ``rule``: linear layers, additions."""
        found, behind = {id(self.output): signal}, set(map(id, to))
        for step in self.steps:
            if not behind.isdisjoint(map(id, step.inputs)):
                behind.update(map(id, step.outputs))
        for step in reversed(self.steps):
            if behind.isdisjoint(map(id, step.inputs)):
                continue
            outs = [found.get(id(v)) for v in step.outputs]
            if all(r is None for r in outs):
                continue
            outs = [
                jnp.zeros_like(v.array) if r is None else r
                for r, v in zip(outs, step.outputs, strict=True)
            ]
            sign = -step.sign if negate and step is self.classifier else step.sign
            for v, r in zip(step.inputs, _signals(step, outs, sign, rule), strict=True):
                if v.active and r is not None:
                    found[id(v)] = found.get(id(v), 0) + r
        return found


def _weighted(step: Step) -> bool:
    return [v.active for v in step.inputs] == [True, False] or [v.active for v in step.inputs] == [
        False,
        True,
    ]


def _fold(v: Value, scale: jax.Array) -> None:
    """Gives a scale's sign to the linear layer that it stands behind, if there is one."""
    while v.made is not None and v.made.name in ("add", "sub", *_MOVES[:1]):
        active = [u for u in v.made.inputs if u.active]
        if len(active) != 1 or v.made.name in _MOVES:
            return
        v = active[0]
    if v.made is not None and v.made.name in _LINEAR:
        v.made.sign = v.made.sign * jnp.sign(scale)


def _signals(step: Step, outs: list, sign: Any, rule: Callable) -> list:
    ins, (r, *_) = step.inputs, outs
    arrays = [v.array for v in ins]
    active = [i for i, v in enumerate(ins) if v.active]
    result: list = [None] * len(ins)
    if len(ins) == 1 and step.name == "name":
        return [r]
    if step.name in _MOVES:
        pull = jax.vjp(step.run, *arrays)[1]
        if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in arrays):
            floats = [i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]

            def moved(*given: jax.Array) -> list:
                every = list(arrays)
                for i, a in zip(floats, given, strict=True):
                    every[i] = a
                return step.run(*every)

            back = jax.vjp(moved, *(arrays[i] for i in floats))[1](outs)
            for i, a in zip(floats, back, strict=True):
                result[i] = a
            return result
        return list(pull(outs))
    if step.name in ("add", "sub", "add_any"):
        if len(active) == 1:
            result[active[0]] = r
        else:
            result = rule(None, [arrays[0], -arrays[1] if step.name == "sub" else arrays[1]], r, 1)
        return result
    if step.name in ("mul", "div") and len(active) == 1:
        result[active[0]] = r
        return result
    if step.name in (*_LINEAR, "mul") and len(active) == 2:
        gates = [ins[i].gate for i in active]
        if sum(gates) != 1:
            raise NoCheckError("a product of two values neither of which is a gate")
        i = active[gates.index(False)]
        if step.name == "mul":
            result[i] = r
            return result
        weights = jnp.where(arrays[1 - i] < _MASKED, 0, arrays[1 - i])

        def attended(a: jax.Array, w: jax.Array) -> jax.Array:
            return step.run(*((a, w) if i == 0 else (w, a)))[0]

        result[i] = rule(attended, positive(arrays[i]), r, 1, weights)
        return result
    if step.name in _LINEAR:
        (i,) = active
        if step.name == "reduce_sum":
            weights = jnp.ones_like(arrays[0])
            result[0] = rule(lambda a, w: step.run(a * w)[0], arrays[0], r, sign, weights)
            return result

        def product(a: jax.Array, w: jax.Array) -> jax.Array:
            return step.run(*((a, w) if i == 0 else (w, a)))[0]

        result[i] = rule(product, arrays[i], r, sign, arrays[1 - i])
        return result
    raise NoCheckError(f"the signal of {step.name!r} is not known")


def share(product: Callable | None, a: Any, r: jax.Array, sign: Any, w: Any = None) -> Any:
    """Eq. 6: to the children by their positive contributions; an addition's weights are 1."""
    if product is None:
        a = [positive(v) for v in a]
        part = shares(r, sum(a))
        return [v * part for v in a]
    total = jnp.zeros_like(a)
    for s in (1, -1):
        pairs = [(positive(a), positive(s * w)), (-positive(-a), -positive(-s * w))]
        pulls = [jax.vjp(lambda a, w=w: product(a, w), a) for a, w in pairs]
        part = shares(jnp.where(sign * s >= 0, r, 0), pulls[0][0] + pulls[1][0])
        total = total + sum(
            a * pull(part)[0] for (a, _), (_, pull) in zip(pairs, pulls, strict=True)
        )
        if jnp.ndim(sign) == 0 and sign == s:
            break
        if jnp.ndim(sign) == 0:
            total = jnp.zeros_like(a)
    return total


def win(product: Callable | None, a: Any, r: jax.Array, sign: Any, w: Any = None) -> Any:
    """All to the child of the largest contribution, of the one unit of one image that has it."""
    here = r != 0
    if product is None:
        first = (a[0] >= a[1]) & (a[0] > 0)
        return [jnp.where(here & first, r, 0), jnp.where(here & ~first & (a[1] > 0), r, 0)]
    pull = jax.vjp(lambda a: product(a, w), a)[1]
    given = (a * pull(here * jnp.sign(sign).astype(a.dtype))[0]).ravel()
    won = jax.nn.one_hot(given.argmax(), given.size, dtype=a.dtype).reshape(a.shape)
    return won * jnp.where(given.max() > 0, r.sum(), 0)


class Signals(NamedTuple):
    """What arrives at a cut of a class, and of the negative of the classifier."""

    shares: jax.Array
    against: jax.Array


class Winners(NamedTuple):
    """The winner that arrives at a cut, or past it at the images."""

    value: jax.Array
    pixels: jax.Array


def _tapes(s: Subject, cut: Cut, target: int) -> Iterator[tuple[Tape, jax.Array]]:
    """Image by image, whose axis may then lie anywhere; with the signal at the scores."""
    for x, value in zip(s.x, s.value_at(cut), strict=True):
        tape = Tape(cut.scores, x[None], value[None])
        yield tape, jnp.zeros_like(tape.output.array).at[:, target].set(1)


def _arrived(found: dict, value: Value) -> jax.Array:
    return found.get(id(value), jnp.zeros_like(value.array))


@functools.lru_cache(maxsize=1)
def signals(s: Subject, cut: Cut, target: int) -> Signals:
    """The signals of a class."""
    found = []
    for tape, one in _tapes(s, cut, target):
        _, value = tape.inputs
        ways = [tape.back(one, share, [value], negate) for negate in (False, True)]
        found.append([_arrived(way, value) for way in ways])
    return Signals(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))


@functools.lru_cache(maxsize=1)
def winners(s: Subject, cut: Cut, target: int) -> Winners:
    """The winner of a class."""
    found = []
    for tape, one in _tapes(s, cut, target):
        pixels, value = tape.inputs
        way = tape.back(one, win, tape.inputs)
        found.append([_arrived(way, value), _arrived(way, pixels)])
    return Winners(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))
