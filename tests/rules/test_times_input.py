"""The rules in the gradient-times-input form, each on one operation worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain.rules import (
    Epsilon,
    EpsilonGradient,
    Gamma,
    GammaGradient,
    SharedProduct,
    composite,
    lrp_rules,
)


def signal(fn, x, name="attn_lrp"):
    """The modified gradient of the sum of what ``fn`` computes."""
    y, pull = jax.vjp(jaxplain.with_rules(fn, composite(name)), x)
    return np.asarray(pull(jnp.ones_like(y))[0])


def test_secants(x64):
    x = jnp.asarray([-2.0, 0.0, 1.5])
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    expected = np.asarray(gelu(x)) / np.where(x == 0, 1, x)
    np.testing.assert_allclose(signal(gelu, x), np.where(x == 0, 0.5, expected), rtol=1e-12)
    # sigmoid(0) is not 0: no part of it is x's
    sigmoid = np.asarray(jax.nn.sigmoid(x)) / np.where(x == 0, np.inf, x)
    np.testing.assert_allclose(signal(jax.nn.sigmoid, x), sigmoid, rtol=1e-12)
    np.testing.assert_array_equal(signal(jax.nn.relu, x), [0, 0, 1])
    # a constant that is larger than the value: the secants of all outputs add up
    c = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    value = jnp.asarray([[2.0], [-1.0]])
    np.testing.assert_allclose(signal(lambda x: c / x, value), [[3 / 4], [7.0]], rtol=1e-12)


def test_products_and_quotients(x64):
    x = jnp.asarray(nets.normal(0, 2, 3))
    w, u = jnp.asarray(nets.normal(1, 3, 3)), jnp.asarray(nets.normal(2, 3, 3))
    a, b = np.asarray(x @ w), np.asarray(x @ u)
    gate = np.asarray(jax.nn.sigmoid(x @ u))
    uniform = (b @ w.T + a @ u.T) / 2
    np.testing.assert_allclose(signal(lambda x: (x @ w) * (x @ u), x), uniform, rtol=1e-12)
    np.testing.assert_allclose(signal(lambda x: (x @ w) * (x @ u), x, "cp_lrp"), uniform)
    gated = lambda x: (x @ w) * jax.nn.sigmoid(x @ u)  # noqa: E731
    np.testing.assert_allclose(signal(gated, x, "cp_lrp"), gate @ w.T, rtol=1e-12)
    np.testing.assert_allclose(
        signal(gated, x), (gate @ w.T + (a * gate / b) @ u.T) / 2, rtol=1e-12
    )
    for quotient in (lambda x: (x @ w) / (x @ u), lambda x: (x @ w) * (1 / (x @ u))):
        for name in ("attn_lrp", "cp_lrp"):
            np.testing.assert_allclose(signal(quotient, x, name), (1 / b) @ w.T, rtol=1e-12)
    square = jnp.square(x @ w)
    np.testing.assert_allclose(
        signal(lambda x: (x @ w) ** 2, x), np.sqrt(square) * np.sign(a) @ w.T
    )
    with pytest.raises(ValueError, match="must be 'values' or 'uniform', not 'all'"):
        SharedProduct(products="all")


def test_norms_and_softmax(x64):
    x = jnp.asarray(nets.normal(3, 4, 5))
    softmax = lambda x: jax.nn.softmax(x) * jnp.arange(5)  # noqa: E731
    np.testing.assert_allclose(signal(softmax, x), jax.grad(lambda x: softmax(x).sum())(x))
    norms = {
        "rms": (lambda x: x / jnp.sqrt((x * x).mean(-1, keepdims=True)), False),
        "layer": (lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True), True),
        "l2": (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), False),
    }
    weight = jnp.arange(5.0)
    for norm, centred in norms.values():
        value = x - x.mean(-1, keepdims=True) if centred else x
        held = np.asarray((norm(x) / value)[:, :1]) * np.asarray(weight)
        held = held - held.mean(-1, keepdims=True) if centred else held
        got = signal(lambda x, f=norm: f(x) * weight, x)
        np.testing.assert_allclose(got, held, rtol=1e-9, atol=1e-12)
    with pytest.raises(jaxplain.UnsupportedOperationError, match="pass a rule for 'log_softmax'"):
        signal(jax.nn.log_softmax, x)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"eps": 0.1}])
def test_linear_layers_are_those_of_the_relevance_form(x64, options, nonnegative):
    """The same relevance as `Epsilon` and `Gamma` give it, batch norm and bias included."""
    w, v = jnp.asarray(nets.normal(4, 6, 7)), jnp.asarray(nets.normal(5, 7, 3))
    scale, bias = jnp.asarray(nets.normal(6, 2, 7))
    x = jnp.asarray(nets.normal(7, 2, 1, 1, 6))

    def fn(x):
        x = jnp.abs(x[:, 0, 0]) if nonnegative else x[:, 0, 0]
        return jax.nn.relu((x @ w + 0.3) * scale + bias) @ v

    for rule, name, more in (
        (Epsilon, EpsilonGradient, {}),
        (Gamma, GammaGradient, {"gamma": 0.4}),
    ):
        rules = composite("attn_lrp", **options, **more)
        if options or more:
            assert rules.rules["dense"] == name(**options, **more)
        got = jaxplain.lrp(fn, x, 1, composite=rules, channels=True)
        form = {"eps": 0.0, **options, **more}
        expected = jaxplain.lrp(fn, x, 1, composite=lrp_rules(rule(**form), eps=0.0), channels=True)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_signals_times_values_are_the_maps(x64):
    """What `lrp` returns is the value times the signal that `with_rules` gives."""
    w = jnp.asarray(nets.normal(8, 3, 3))
    fn = lambda x: (jax.nn.silu(x @ w) * (x @ w.T)).mean((1, 2))  # noqa: E731
    x = jnp.asarray(nets.normal(9, 2, 2, 2, 3))
    pull = jax.vjp(jaxplain.with_rules(fn, composite("attn_lrp")), x)[1]
    expected = x * pull(jax.nn.one_hot(jnp.array([1, 1]), 3, dtype=x.dtype))[0]
    got = jaxplain.lrp(fn, x, 1, composite="attn_lrp", channels=True)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    one = jaxplain.lrp(fn, x, 1, composite="attn_lrp", seed="one", channels=True)
    np.testing.assert_allclose(one * fn(x)[:, 1][:, None, None, None], expected, rtol=1e-12)
