"""Batch norms that follow no layer under Excitation Backprop: the diagonal convolution, Eq. 6."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain import tag

CHANNELS = 4
NORM = {
    "gamma": np.array([1.5, -0.8, 0.5, -2.0]),
    "beta": np.array([0.1, 3.0, 0.2, 5.0]),  # the units of negative scale fire nonetheless
    "mean": np.array([0.1, 0.2, 0.1, 0.3]),
    "var": np.array([0.8, 1.2, 0.9, 0.7]),
}


def norm(v):
    return nets.batch_norm(v, NORM, 1e-5)


def merged(v):
    scale = NORM["gamma"] / jnp.sqrt(NORM["var"] + 1e-5)
    return v * scale + (NORM["beta"] - NORM["mean"] * scale)


def convolution(v):
    """The same function as a 1 x 1 convolution with a diagonal weight."""
    scale = NORM["gamma"] / jnp.sqrt(NORM["var"] + 1e-5)
    return nets.conv(v, jnp.diag(scale)[None, None]) + (NORM["beta"] - NORM["mean"] * scale)


WEIGHT = nets.normal(0, 3, 3, CHANNELS, CHANNELS)
DENSE = nets.normal(1, CHANNELS, 3)


def layer(v):
    return jax.nn.relu(nets.conv(v, WEIGHT, padding=(1, 1)))


def below(v):
    return tag(v, "below")


#: Networks with a norm where no linear layer stands before it, of which it reads "below".
NETWORKS = {
    "first": lambda bn, v: layer(jax.nn.relu(bn(below(v * 1)))),
    "after an addition": lambda bn, v: layer(jax.nn.relu(bn(below(layer(v) + v)))),
    "after a max pool": lambda bn, v: layer(
        jax.nn.relu(bn(below(nets.max_pool(layer(v), (2, 2), (2, 2)))))
    ),
    "after a ReLU": lambda bn, v: layer(jax.nn.relu(bn(below(layer(v))))),
    "after a concatenation": lambda bn, v: layer(
        jax.nn.relu(bn(below(jnp.concatenate([layer(v)[..., :2], v[..., 2:]], -1))))
    ),
}


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_child_with_a_negative_scale_gets_nothing(x64, name, contrastive):
    x = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1, (2, 6, 6, CHANNELS)))

    def maps(bn):
        return jaxplain.excitation_backprop(
            lambda v: NETWORKS[name](bn, v).mean((1, 2)) @ DENSE,
            x,
            [0, 2],
            layer=["below", "input"],
            contrastive=contrastive,
            channels=True,
        )

    expected = maps(convolution)
    assert (np.asarray(expected["below"])[..., [1, 3]] == 0).all()
    assert np.abs(expected["below"]).max() > 1e-3
    for bn in (norm, merged):
        got = maps(bn)
        for at in expected:
            np.testing.assert_allclose(got[at], expected[at], rtol=1e-9, atol=1e-12, err_msg=at)
