"""A network under test, with what several checks need of it, each computed once."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from benchmarks.third_party.networks import CLASSES, Cut, Network
from jaxplain.explainers.catalogue import CATALOGUE


class NoCheckError(Exception):
    """Nothing independent is known of this method on this network."""


def error(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest value of each image."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    if not expected.any() or not np.isfinite(expected).all():
        raise NoCheckError("what is expected is 0 everywhere or not finite, which shows nothing")
    axes = tuple(range(1, found.ndim))
    size = np.abs(expected).max(axes, keepdims=True)
    off = np.abs(found - expected)
    worst = np.where(size > 0, off / np.where(size > 0, size, 1), np.where(off > 0, np.inf, 0))
    return float(worst.max())


def compiled(fn: Callable, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """``jax.jit`` of a function of arrays like x, its weights as arguments: nothing to fold."""
    closed = jax.make_jaxpr(fn)(x)
    run = jax.jit(functools.partial(jax.core.eval_jaxpr, closed.jaxpr))
    weights = [jnp.asarray(v) for v in closed.consts]
    return lambda x: run(weights, x)[0]


class Subject:
    """A network with what several checks need of it, each computed once."""

    def __init__(self, network: Network):
        self.network, self.x = network, network.x
        self.fn = compiled(network.fn, network.x)
        self.model = jaxplain.trace(network.fn, network.x)

    def explain(self, method: str, target: int | None = None, **options: Any) -> Any:
        entry = CATALOGUE[method]
        explain = getattr(jaxplain, entry.function)
        classes = (self.target if target is None else target,) if entry.per_class else ()
        return explain(self.model, self.x, *classes, **{**entry.options, **options})

    @functools.cached_property
    def layer(self) -> str:
        """The default layer."""
        return self.model.graph.last_spatial

    @functools.cached_property
    def cut(self) -> Cut:
        """The framework's cut that has the values of the default layer."""
        found = jaxplain.capture(self.model, [self.layer])(self.x)[1][self.layer]
        for cut in self.network.cuts:
            if error(found, compiled(cut.features, self.x)(self.x)) < 1e-6:
                return cut
        raise NoCheckError(f"the default layer {self.layer!r} is none of the cuts of the network")

    def named(self, values: jax.Array) -> str:
        """The layer that has these values, the uppermost of several."""
        names = [n for n, v in self.model.graph.names.items() if v.aval.shape == values.shape]
        found = jaxplain.capture(self.model, names)(self.x)[1]
        same = [n for n in names if error(found[n], values) < 1e-6]
        if not same:
            raise NoCheckError("no layer has the values of the network's narrow cut")
        return same[-1]

    @functools.cached_property
    def value(self) -> jax.Array:
        """The framework's own value at the cut."""
        return self.value_at(self.cut)

    def value_at(self, cut: Cut) -> jax.Array:
        return compiled(cut.features, self.x)(self.x)

    @functools.cached_property
    def activation(self) -> jax.Array:
        return self.cut.maps(self.value)

    @functools.cached_property
    def slope(self) -> jax.Array:
        """The gradient of the score at the cut."""
        return self._slope(self.target)

    def _slope(self, target: int) -> jax.Array:
        slope = jax.grad(lambda a: self.cut.head(a)[:, target].sum())
        return self.cut.maps(compiled(slope, self.value)(self.value))

    def head(self, maps: jax.Array) -> jax.Array:
        """The scores of other maps; what has no place in them stays as it is, or 0 is there."""
        value = self.value if len(maps) == len(self.value) else jnp.zeros_like(self.value[:1])
        value = jnp.broadcast_to(value, (len(maps), *value.shape[1:]))
        (moved,) = jax.linear_transpose(self.cut.maps, value)(maps - self.cut.maps(value))
        return self.cut.head(value + moved)

    @functools.cached_property
    def target(self) -> int:
        """The class that is explained, of all images: one whose Grad-CAM is not 0 everywhere."""
        try:
            for target in range(CLASSES):
                slope = self._slope(target).mean((1, 2), keepdims=True)
                if bool(((slope * self.activation).sum(-1) > 0).any((1, 2)).all()):
                    return target
        except NoCheckError:
            pass  # the checks that need the cut say so themselves
        return 0

    @functools.cached_property
    def dense(self) -> np.ndarray:
        """The last layer's weights where it reads a global pool, or what is between (`Cut`)."""
        a = self.activation
        positions, channels = a.shape[1] * a.shape[2], a.shape[3]
        nothing = jnp.zeros_like(a[:1])
        bias = self.head(nothing)
        if self.cut.between is not None:
            weights, values = self.cut.between.weights, self.cut.between.values
            bias = bias - values(nothing.mean((1, 2))) @ weights
        else:
            basis = jnp.broadcast_to(jnp.eye(channels)[:, None, None], (channels, *a.shape[1:]))
            weights = self.head(basis.astype(a.dtype)) - bias
        if error(self.head(a), self.pooled @ weights + bias) > 1e-6 or positions == 1:
            raise NoCheckError("the head is no global pool and dense layer")
        return np.asarray(weights)

    @functools.cached_property
    def pooled(self) -> jax.Array:
        """What the last layer of such a head is given."""
        mean = self.activation.mean((1, 2))
        return mean if self.cut.between is None else self.cut.between.values(mean)

    def grad(self, x: jax.Array) -> jax.Array:
        return self._grad(x)

    @functools.cached_property
    def _grad(self) -> Callable[[jax.Array], jax.Array]:
        return compiled(jax.grad(lambda v: self.network.fn(v)[:, self.target].sum()), self.x)


@contextlib.contextmanager
def replaced_backward(passes: Callable[..., jax.Array], *names: str) -> Iterator[None]:
    """Activations of `jax.nn`, which frameworks call, with another backward pass."""

    def replaced(forward: Callable) -> Callable:
        def called(a: jax.Array, *args: Any, **options: Any) -> jax.Array:
            @jax.custom_vjp
            def activation(a: jax.Array) -> jax.Array:
                return forward(a, *args, **options)

            activation.defvjp(
                lambda a: (activation(a), a),
                lambda a, g: (passes(g, a, lambda a: forward(a, *args, **options)),),
            )
            return activation(a)

        return called

    new = {name: replaced(getattr(jax.nn, name)) for name in names}
    with contextlib.ExitStack() as stack:
        for module in filter(None, (jax.nn, sys.modules.get("flax.linen"))):  # which has them too
            own = {name: f for name, f in new.items() if hasattr(module, name)}
            stack.enter_context(mock.patch.multiple(module, **own))
        yield
