"""Compiled programs of what closes over a network, with its weights prepared once.

Compiled in, weights would be in every program, and slow to compile. As arguments they are held
once; and what a program makes of them alone, as the positive part of a kernel, is made once and
not at every call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import _compat


class _Recipe(NamedTuple):
    """A result of an equation, of arrays of `Weights` or literals."""

    eqn: Any
    inputs: tuple
    result: int


class Weights:
    """Arrays that programs close over, and what they make of these alone: each once.

    Several programs may share it, as those of one network for images of several shapes.
    """

    def __init__(self):
        self._numbers: dict[Any, int] = {}
        self._made_of: list[Any] = []  # an array or a `_Recipe`
        self._free: set[int] = set()  # made of no array
        self._ready: dict[int, jax.Array] = {}

    def constant(self, value: Any) -> int:
        """The number of an array."""
        return self._number(("constant", id(value)), value)  # kept, so that its id stays its own

    def derived(self, eqn: Any, inputs: Sequence[Any]) -> list[int]:
        """The numbers of an equation's results, of numbers and literals."""
        inputs = tuple(inputs)
        key: Any = id(eqn)  # kept, too
        if not _compat.inner_programs(eqn) and not any(map(_is_array, eqn.params.values())):
            said = (
                (np.asarray(i.val).dtype, np.asarray(i.val).tobytes())
                if isinstance(i, _compat.Literal)
                else i
                for i in inputs
            )
            key = eqn.primitive.name, str(eqn.params), tuple(said)
        return [self._number((key, i), _Recipe(eqn, inputs, i)) for i in range(len(eqn.outvars))]

    def ready(self, numbers: Sequence[int]) -> list[jax.Array]:
        """The arrays; those that are not there yet are computed, together."""
        missing = [n for n in numbers if n not in self._ready]
        recipes = [n for n in missing if isinstance(self._made_of[n], _Recipe)]
        for n in set(missing) - set(recipes):
            self._ready[n] = jnp.asarray(self._made_of[n])
        if recipes:
            leaves = sorted(self._leaves(recipes))
            held = [jnp.asarray(self._made_of[n]) for n in leaves]
            made = jax.jit(functools.partial(self._make, recipes, leaves))(held)
            self._ready.update(zip(recipes, made, strict=True))
        return [self._ready[n] for n in numbers]

    def is_free(self, number: int) -> bool:
        """Whether it is made of no array, as zeros are."""
        return number in self._free

    def made(self, number: int) -> Any:
        """What is made of no array, made here."""
        return self._make([number], [], [])[0]

    def _number(self, key: Any, made_of: Any) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._made_of)
            self._made_of.append(made_of)
            if isinstance(made_of, _Recipe):
                own = [i for i in made_of.inputs if isinstance(i, int)]
                if self._free.issuperset(own):
                    self._free.add(self._numbers[key])
        return self._numbers[key]

    def _leaves(self, numbers: Sequence[int]) -> set[int]:
        found, todo = set(), list(numbers)
        seen = set(todo)
        while todo:
            n = todo.pop()
            recipe = self._made_of[n]
            if not isinstance(recipe, _Recipe):
                found.add(n)
                continue
            inputs = {i for i in recipe.inputs if isinstance(i, int)} - seen
            seen |= inputs
            todo += inputs
        return found

    def _make(self, numbers: Sequence[int], leaves: Sequence[int], held: Sequence[Any]) -> list:
        values = dict(zip(leaves, held, strict=True))

        def value(n: Any) -> Any:
            if isinstance(n, _compat.Literal):
                return n.val
            if n not in values:
                recipe = self._made_of[n]
                inputs = list(map(value, recipe.inputs))
                with _compat.equation_context(recipe.eqn):
                    values[n] = _compat.bind(recipe.eqn, *inputs)[recipe.result]
            return values[n]

        return list(map(value, numbers))


def prepared(closed: Any, weights: Weights) -> tuple[Callable[..., list], list[int]]:
    """A program as a function of arrays of ``weights``, the numbers of which come with it.

    Args:
        closed: what `jax.make_jaxpr` gives; its constants are the weights.
        weights: where they are put.

    Returns:
        ``call(arrays, *inputs)`` to the list of results, for `jax.jit`; and the numbers of the
        arrays, for `Weights.ready`.

    Example:
        >>> weights, kernel = Weights(), jnp.array([2.0, -3.0])
        >>> call, numbers = prepared(
        ...     jax.make_jaxpr(lambda x: x @ jnp.maximum(kernel, 0))(jnp.ones(2)), weights
        ... )
        >>> [a.tolist() for a in weights.ready(numbers)]
        [[2.0, 0.0]]
        >>> float(jax.jit(call)(weights.ready(numbers), jnp.ones(2))[0])
        2.0
    """
    jaxpr, consts = _compat.open_jaxpr(closed)
    count = len(jaxpr.invars)
    used = _Walk(weights)
    used.of(jaxpr, used.constants(consts), [None] * count)
    numbers = sorted(used.read)

    def call(arrays: Sequence[Any], *inputs: Any) -> list:
        walk = _Walk(weights, dict(zip(numbers, arrays, strict=True)))
        return [walk.array(v) for v in walk.of(jaxpr, walk.constants(consts), inputs)]

    return call, numbers


class _Weight(NamedTuple):
    """A value that is made of weights alone."""

    number: int


class _Walk:
    """Goes through a program: once to see which arrays it reads, and to compute the rest of it."""

    def __init__(self, weights: Weights, arrays: dict[int, Any] | None = None):
        self.weights, self.arrays = weights, arrays
        self.read: set[int] = set()

    def of(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def value(atom: Any) -> Any:
            return atom if isinstance(atom, _compat.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            env.update(
                zip(eqn.outvars, self._results(eqn, list(map(value, eqn.invars))), strict=True)
            )
        results = list(map(value, jaxpr.outvars))
        if self.arrays is None:
            list(map(self.array, results))
        return results

    def _results(self, eqn: Any, values: list) -> list:
        own = [v for v in values if isinstance(v, _Weight)]
        others = [v for v in values if not isinstance(v, (_Weight, _compat.Literal))]
        name = eqn.primitive.name
        if own and name in _compat.CALLS - _compat.REMATS:
            jaxpr, consts = _compat.body(eqn)
            return self.of(jaxpr, self.constants(consts), values)
        sizes = [
            atom.aval.size
            for atom, v in zip(eqn.invars, values, strict=True)
            if isinstance(v, _Weight) and not self.weights.is_free(v.number)
        ]
        if not others and not eqn.effects and _fit(eqn, sizes):
            inputs = [v.number if isinstance(v, _Weight) else v for v in values]
            return list(map(_Weight, self.weights.derived(eqn, inputs)))
        if own and name == "optimization_barrier":
            # It has what a rule makes of a weight made late; here it is there before.
            return [v if isinstance(v, _Weight) else self.array(v) for v in values]
        arrays = list(map(self.array, values))
        if self.arrays is None:
            return [None] * len(eqn.outvars)
        with _compat.equation_context(eqn):
            return _compat.bind(eqn, *arrays)

    def constants(self, values: Sequence[Any]) -> list[_Weight]:
        return [_Weight(self.weights.constant(value)) for value in values]

    def array(self, value: Any) -> Any:
        if isinstance(value, _compat.Literal):
            return value.val
        if not isinstance(value, _Weight):
            return value
        if self.weights.is_free(value.number):  # nothing to hold
            return None if self.arrays is None else self.weights.made(value.number)
        self.read.add(value.number)
        return None if self.arrays is None else self.arrays[value.number]


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, jax.Array))


def _fit(eqn: Any, sizes: Sequence[int]) -> bool:
    """Whether the results are no larger than the weights that they are made of, if any."""
    return not sizes or all(v.aval.size <= max(sizes) for v in eqn.outvars)


class Program:
    """A function of arrays, compiled as one program for each of their shapes.

    What the function closes over must stay as it is, for it is read once for each shape.

    Args:
        function: of pytrees of arrays, to a pytree of arrays; it must be one that `jax.jit` takes.

    Example:
        >>> kernel = jnp.array([2.0, -3.0])
        >>> Program(lambda x: {"sum": x @ kernel})(jnp.ones(2))["sum"].item()
        -1.0
    """

    def __init__(self, function: Callable):
        self._function, self._weights = function, Weights()
        self._traced: dict[Any, tuple[Callable, list[int], Any]] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        key = tree, tuple((jnp.shape(v), jnp.result_type(v)) for v in leaves)
        if key not in self._traced:
            closed, like = jax.make_jaxpr(
                lambda *flat: self._function(*jax.tree.unflatten(tree, flat)), return_shape=True
            )(*leaves)
            call, numbers = prepared(closed, self._weights)
            self._traced[key] = jax.jit(call), numbers, jax.tree.structure(like)
        call, numbers, out = self._traced[key]
        return jax.tree.unflatten(out, call(self._weights.ready(numbers), *leaves))
