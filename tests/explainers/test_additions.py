"""How Excitation Backprop shares its signal at additions (Zhang et al. 2018, Eqs. 6 and 19)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain import tag

LAYERS = ("input", "low", "branch1", "sum1", "out1", "branch2", "skip2", "sum2", "out2", "gap")


def add(a, r):
    return a + r


def subtract(a, r):
    return a - (-r)


def joined(a, r):
    """The addition as a convolution: both operands' channels side by side, two identities."""
    eye = jnp.eye(a.shape[-1])
    return nets.conv(jnp.concatenate([a, r], -1), jnp.concatenate([eye, eye])[None, None])


def difference(a, r):
    return a - r


def negated(a, r):
    return a + -r


def network(seed, join):
    """A residual block on its input, and one with a projection: operands of both signs."""
    rng = np.random.default_rng(seed)

    def layer(size, inputs, outputs):
        w = rng.normal(size=(size, size, inputs, outputs)) / np.sqrt(size * size * inputs)
        norm = {
            "gamma": rng.uniform(0.5, 1.5, outputs) * rng.choice([-1.0, 1.0], outputs),
            "beta": 0.3 * rng.normal(size=outputs),
            "mean": 0.1 * rng.normal(size=outputs),
            "var": rng.uniform(0.5, 1.5, outputs),
        }
        pad = size // 2
        return lambda x: nets.batch_norm(nets.conv(x, jnp.asarray(w), padding=(pad, pad)), norm, 0)

    first, one, two, side = layer(3, 3, 6), layer(3, 6, 6), layer(3, 6, 5), layer(1, 6, 5)
    dense = rng.normal(size=(5, 4))

    def fn(x):
        low = tag(jax.nn.relu(first(x)), "low")
        out = tag(jax.nn.relu(tag(join(tag(one(low), "branch1"), low), "sum1")), "out1")
        h = join(tag(two(out), "branch2"), tag(side(out), "skip2"))
        return tag(tag(jax.nn.relu(tag(h, "sum2")), "out2").mean((1, 2)), "gap") @ dense

    return fn


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize(
    ("join", "other"), [(add, joined), (subtract, joined), (difference, negated)]
)
def test_an_addition_in_other_words(x64, join, other, contrastive):
    """By default the maps are those of concatenation and an identity 1 x 1 convolution.

    Taking away is adding the negated: what excites the difference inhibits what is taken away.
    """
    for seed in range(3):
        x, targets = jnp.asarray(nets.images(seed)), jnp.asarray([[0, 3], [2, 1]])
        ours, theirs = network(seed, join), network(seed, other)
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12)
        options = {"layer": list(LAYERS), "contrastive": contrastive, "channels": True}
        got = jaxplain.excitation_backprop(ours, x, targets, **options)
        expected = jaxplain.excitation_backprop(theirs, x, targets, **options)
        for name in LAYERS:
            assert np.abs(expected[name]).max() > 1e-3
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-9, err_msg=name)


FORMULAS = {
    "excitation": lambda a: np.maximum(a, 0),  # Eq. 6 with weights 1
    "signed": lambda a: a,  # Eq. 19
    "magnitude": np.abs,
}


@pytest.mark.parametrize("residual", FORMULAS)
def test_shares_by_their_formulas(x64, residual):
    """P(a) = a / (a + r) P(a + r), with what each form puts in the place of a and r."""
    x, names = jnp.asarray(nets.images(7)), ("branch2", "skip2", "sum2")
    fn = network(7, add)
    maps = jaxplain.excitation_backprop(
        fn, x, [1, 2], layer=list(names), residual=residual, channels=True
    )
    acts = {k: np.asarray(v) for k, v in jaxplain.capture(fn, list(names))(x)[1].items()}
    signal = np.asarray(maps["sum2"])
    reached = signal != 0
    # Where signal arrives there are operands of unlike signs, which the forms tell apart.
    assert (reached & (acts["branch2"] * acts["skip2"] < 0)).any()
    a, r = (FORMULAS[residual](acts[name]) for name in names[:2])
    for name, share in (("branch2", a), ("skip2", r)):
        expected = np.where(reached, share / np.where(reached, a + r, 1) * signal, 0)
        np.testing.assert_allclose(maps[name], expected, rtol=1e-10, atol=1e-12)
