"""Bodies of loops: the same values, and convolutions as XLA's routines for CPUs take them."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax import lax

import jaxplain
from jaxplain.core.hoist import hoist


@pytest.mark.parametrize(
    "labels",
    [
        ("NHWC", "HWIO", "NHWC"),
        ("NCHW", "OIHW", "NCHW"),
        ("HWNC", "IHWO", "CNHW"),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients_are_the_same(labels, groups):
    rng = np.random.default_rng(0)
    sizes = dict(N=2, H=7, W=6, C=4), dict(H=3, W=2, I=4 // groups, O=6)
    x, kernel = (
        jnp.asarray(rng.normal(size=[n[c] for c in label]), jnp.float32)
        for n, label in zip(sizes, labels, strict=False)
    )

    def fn(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            ((1, 0), (2, 1)),
            rhs_dilation=(1, 2),
            dimension_numbers=labels,
            feature_group_count=groups,
        )

    def both(x):
        return jax.value_and_grad(lambda x: (fn(x, kernel) ** 2).sum())(x)

    canonical = hoist(lambda x: fn(x, kernel), x)(x), hoist(both, x)(x)
    plain = fn(x, kernel), both(x)
    for got, expected in zip(*map(jax.tree.leaves, (canonical, plain)), strict=True):
        assert nets.relative_error(got, expected) < 1e-5


class Pair(NamedTuple):
    a: jax.Array
    b: None


def test_structure_and_named_results():
    def fn(state, pair):
        return {"sum": state[0] + pair.a, "n": state[1]}, None

    args = (jnp.ones(3), 2), Pair(jnp.arange(3.0), None)
    (got, none), (expected, _) = hoist(fn, *args)(*args), fn(*args)
    assert none is None and jax.tree.structure(got) == jax.tree.structure(expected)
    assert got["sum"].tolist() == expected["sum"].tolist() and int(got["n"]) == 2


@pytest.mark.parametrize(
    "explain",
    [
        lambda fn, x: jaxplain.feedback(fn, x, 1),
        lambda fn, x: jaxplain.gradient(fn, x, jnp.arange(4)[None].repeat(2, 0), class_chunk=2),
        lambda fn, x: jaxplain.naflow(fn, x, 1, layer="pool"),
        lambda fn, x: jaxplain.smooth_grad(fn, x, 1, key=jax.random.key(0)),
        lambda fn, x: jaxplain.integrated_gradients(fn, x, 1),
    ],
)
def test_no_explainers_loop_holds_a_convolution_that_xla_cannot_take(fully_compiled, explain):
    fn = nets.convnet(nets.convnet_params(5))
    x = jnp.asarray(nets.images(8), jnp.float32)
    text = jax.jit(lambda x: explain(fn, x)).lower(x).compile().as_text()
    found = re.findall(r"convolution\(.*dim_labels=([\w>-]+).*op_name=\"[^\"]*while/body", text)
    assert set(found) == {"b01f_01io->b01f"}


def test_a_barrier_keeps_what_is_constant_out_of_the_loop():
    kernel = jnp.arange(-4.0, 4.0).reshape(2, 2, 1, 2)

    def fn(x):
        held, x = lax.optimization_barrier((kernel, x))
        return {"map": nets.conv(x, jnp.maximum(held, 0))}

    x = jnp.arange(18.0).reshape(2, 3, 3, 1)
    ready = hoist(fn, x)
    np.testing.assert_array_equal(ready(x)["map"], fn(x)["map"])
    assert " max " not in str(jax.make_jaxpr(ready)(x))
