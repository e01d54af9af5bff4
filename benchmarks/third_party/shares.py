"""What Excitation Backprop, winner-take-all and LRP should give, worked out without jaxplain.

By hand through pool, norm or dense layer and classifier, where a network ends so; operation by
operation (`benchmarks.third_party.excitation`) where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from benchmarks.third_party.attention import attn_lrp
from benchmarks.third_party.excitation import signals, winners
from benchmarks.third_party.networks import CLASSES
from benchmarks.third_party.subject import (
    NoCheckError,
    Result,
    Subject,
    compiled,
    error,
    over_space,
    replaced_backward,
)
from jaxplain.rules import composites

EPS = 1e-12  # of LRP's stabiliser, whose default would be seen where shares cancel
_OPERATIONS = "Eq. 6 by hand, operation by operation"


def _shares(contributions: jax.Array) -> jax.Array:
    """The positive part over its sum (axis 1), 0 where nothing is positive."""
    positive = jnp.maximum(contributions, 0)
    total = positive.sum(1, keepdims=True)
    return jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), 0)


def _to_places(s: Subject, pooled: jax.Array) -> jax.Array:
    """The signal of the pooled channels, led back through the pool."""
    b, h, w, c = s.activation.shape
    flat = s.activation.reshape(b, h * w, c)
    return (_shares(flat) * pooled[:, None]).reshape(b, h, w, c)


def _winning(s: Subject, sign: float = 1.0) -> jax.Array:
    return _below(s, _shares(s.pooled * sign * s.dense[:, s.target]))


def _below(s: Subject, signal: jax.Array) -> jax.Array:
    """The signal of the pooled channels: through a dense layer between by Eq. 6, else as it is."""
    if s.cut.between is None or s.cut.between.kernel is None:
        return signal
    shares = _shares(s.activation.mean((1, 2))[..., None] * s.cut.between.kernel)
    return jnp.einsum("bcd,bd->bc", shares, signal)


def mwp(s: Subject) -> Result:
    found = s.explain("mwp")
    try:
        expected = _to_places(s, _winning(s)).sum(-1)
    except NoCheckError:
        total = found.sum((1, 2))
        if bool((jnp.abs(total - 1) < 1e-5).all()):
            return "conservation of the signal", error(total, jnp.ones_like(total))
        # Units that nothing excites lose signal, and so do skips past the layer and other tokens.
        return _OPERATIONS, error(found, s.cut.maps(signals(s, s.cut, s.target).shares).sum(-1))
    return "Eq. 6 by hand, through pool and classifier", error(found, expected)


def c_mwp(s: Subject) -> Result:
    found, parts = s.explain("c-mwp"), s.explain("c-mwp", channels=True)
    try:
        expected = _to_places(s, _winning(s) - _winning(s, -1.0))
        words = "Eqs. 6 and 9 by hand, through pool and classifier"
    except NoCheckError:
        total = parts.sum((1, 2, 3))
        if bool((jnp.abs(total) < 1e-5).all()):  # what the class wins, the others lose
            return "conservation of the signal", float(jnp.abs(total).max())
        of = signals(s, s.cut, s.target)
        expected, words = s.cut.maps(of.shares - of.against), _OPERATIONS
    maps = expected.sum(-1)
    off = jnp.abs(found - jnp.maximum(maps, 0)).max() / jnp.abs(maps).max()  # all may be below 0
    return words, max(error(parts, expected), float(off))


def _other_winners(s: Subject) -> float:
    """Winners that go past the layer, or are tokens without a place: these too, or the pixels."""
    below = s.network.cuts[-1]
    for target in range(CLASSES):
        layers = s.explain("d-wta", target, layer=(s.layer, "input"))
        of = winners(s, s.cut, target)
        arrived, found, won = s.cut.maps(of.value).sum(-1), layers["input"], of.pixels.sum(-1)
        if below is not s.cut and s.value.ndim == 3:
            # Nothing goes past this cut: all its tokens are pixels of the rest.
            found = jaxplain.winner_take_all(
                lambda image: below.head(image[:, :, 0]),
                s.value_at(below)[:, :, None],
                target,
                layer="input",
            )
            won = winners(s, below, target).value.sum(-1)[:, :, None]
        pairs = ((layers[s.layer], arrived), (found, won))
        if any(bool(a.any()) for pair in pairs for a in pair):
            return max(float(jnp.abs(a - b).max()) for a, b in pairs)
    raise NoCheckError("no winner of any class arrives")


def d_wta(s: Subject) -> Result:
    a = np.asarray(s.activation)
    for target in range(CLASSES):  # of which one may end where nothing excites the pool
        try:
            channel = (s.pooled * s.dense[:, target]).argmax(-1)
        except NoCheckError:
            ranked = np.sort(np.asarray(s.explain("d-wta")).reshape(len(a), -1))
            if bool((ranked.sum(1) == 1).all()):
                return "one winner", error(ranked, np.eye(ranked.shape[1])[[-1] * len(ranked)])
            return _OPERATIONS, _other_winners(s)
        if s.cut.between is not None and s.cut.between.kernel is not None:
            channel = (a.mean((1, 2)) * s.cut.between.kernel.T[channel]).argmax(-1)
        expected = np.zeros(a.shape[:3])
        for image, c in enumerate(channel):
            if a[image, :, :, c].max() > 0:  # nothing else excites the pool
                expected[image].flat[a[image, :, :, c].argmax()] = 1
        found = s.explain("d-wta", target)
        if expected.any() or bool(found.any()):
            return "the largest contributions, by hand", float(np.abs(found - expected).max())
    raise NoCheckError("no winner of any class arrives")


def lrp(s: Subject) -> Result:
    if composites.default_composite(s.model.graph) == "attn_lrp":
        return attn_lrp(s)
    s.explain("lrp")  # its own composite
    found = s.explain("lrp", composite=jaxplain.rules.composite("epsilon", eps=EPS))
    if s.network.relus:
        return "epsilon is input x gradient", error(found, (s.x * s.grad(s.x)).sum(-1))

    def passes(g: jax.Array, a: jax.Array, forward: Callable) -> jax.Array:
        return g * jnp.where(a == 0, 0, forward(a) / jnp.where(a == 0, 1, a))

    # An activation passes relevance on, which is a slope of f(a) / a; a gate takes none of it.
    gates = s.network.gates
    shut = replaced_backward(lambda g, a, forward: jnp.zeros_like(g), *gates)
    passing = {"relu", "relu6", "silu", "gelu", "hard_silu", "hard_swish"} - set(gates)
    with shut, _statistics_held(), replaced_backward(passes, *passing):
        slope = jax.grad(lambda v: s.network.fn(v)[:, s.target].sum())
        expected = (s.x * compiled(slope, s.x)(s.x)).sum(-1)
    return "epsilon is input x jax.grad, activations replaced", error(found, expected)


def _led_below(s: Subject, relevance: jax.Array) -> jax.Array:
    """The relevance of the pooled channels: through a norm by epsilon."""
    if s.cut.between is None or s.cut.between.kernel is not None:
        return _below(s, relevance)
    mean = s.activation.mean((1, 2))
    with _statistics_held():
        above, pull = jax.vjp(s.cut.between.values, mean)
    return mean * pull(relevance / above)[0]


def _statistics_held() -> Any:
    """A norm's variance is a constant: what the networks divide by is an ``rsqrt``."""
    rsqrt = jax.lax.rsqrt
    return mock.patch.object(jax.lax, "rsqrt", lambda a: jax.lax.stop_gradient(rsqrt(a)))


def relevance_cam(s: Subject) -> Result:
    s.explain("relevance-cam")  # its own composite
    rules = jaxplain.rules.composite("z_plus", bias=False, eps=EPS)
    found = s.explain("relevance-cam", composite=rules)
    others = s.fn(s.x).shape[1] - 1
    seed = jnp.full(others + 1, -1 / others).at[s.target].set(1)
    try:
        pooled = s.pooled[..., None] * s.dense
    except NoCheckError:
        each = jaxplain.lrp(
            s.model,
            s.x,
            jnp.broadcast_to(jnp.eye(others + 1), (len(s.x), others + 1, others + 1)),
            layer=s.layer,
            composite=rules,
            seed="one",
            channels=True,
        )
        total = each.sum((2, 3, 4))
        expected = (over_space(jnp.einsum("bkhwc,k->bhwc", each, seed)) * s.activation).sum(-1)
        return "conservation of each class's relevance", max(
            error(total, jnp.ones_like(total)), error(found, expected)
        )
    pooled = _led_below(s, (_shares(pooled) * seed).sum(-1))
    total = over_space(s.activation)
    # The rule of an average is no z+: its shares are signed.
    share = jnp.where(total == 0, 0, s.activation / jnp.where(total == 0, 1, total))
    relevance = share * pooled[:, None, None]
    return "z+ by hand, through pool and classifier", error(
        found, (over_space(relevance) * s.activation).sum(-1)
    )
