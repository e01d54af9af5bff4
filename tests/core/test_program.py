"""Programs of what closes over weights: the same values, and weights prepared once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from jaxplain.core.program import Program, Weights, prepared


@pytest.fixture(scope="module")
def network():
    return nnx.Sequential(
        nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.Conv(8, 8, (3, 3), rngs=nnx.Rngs(1)),
        lambda x: x.mean((1, 2)),
        nnx.Linear(8, 5, rngs=nnx.Rngs(2)),
    )


METHODS = {
    "mwp": functools.partial(jaxplain.excitation_backprop, layer="input"),
    "c-mwp": functools.partial(jaxplain.excitation_backprop, layer="input", contrastive=True),
    "lrp": jaxplain.lrp,
    "gradient": jaxplain.gradient,
    "rise": functools.partial(jaxplain.rise, key=jax.random.key(3), samples=4),
}


def test_maps_are_those_of_the_methods_by_themselves(network):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    signals = jax.random.normal(jax.random.key(2), (2, 3, 5))
    program = Program(lambda x, s: {k: f(network, x, s) for k, f in METHODS.items()})
    found = program(x, signals)
    for name, method in METHODS.items():
        np.testing.assert_allclose(found[name], method(network, x, signals), atol=1e-6)


def test_programs_of_several_shapes_share_what_is_prepared(network):
    weights, read = Weights(), []
    for batch in (1, 2):
        x = jnp.zeros((batch, 8, 8, 3))
        closed = jax.make_jaxpr(lambda x: METHODS["mwp"](network, x, 0))(x)
        _, numbers = prepared(closed, weights)
        read.append([v for v in weights.ready(numbers) if v.ndim == 4])
    assert read[0] and list(map(id, read[0])) == list(map(id, read[1]))


def test_what_is_made_of_weights_alone_is_no_part_of_the_program(network):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))

    def explain(x):
        return [METHODS[name](network, x, jnp.array([0, 1])) for name in ("mwp", "c-mwp")]

    weights = Weights()
    call, numbers = prepared(jax.make_jaxpr(explain)(x), weights)
    text = jax.jit(call).lower(weights.ready(numbers), x).as_text()
    plain = jax.jit(explain).lower(x).as_text()
    of_a_kernel = r"stablehlo\.maximum[^\n]*tensor<3x3x8x8xf32>"
    assert re.search(of_a_kernel, plain) and not re.search(of_a_kernel, text)
    # Both methods' w+ is one array: the kernel, and w+ and w- of it.
    own = [np.asarray(v) for v in weights.ready(numbers) if v.shape == (3, 3, 8, 8)]
    assert len(own) <= 3 and len({v.tobytes() for v in own}) == len(own)


@pytest.mark.parametrize("seed", [1, 2])
def test_equations_that_look_alike_are_not_taken_for_one(seed):
    """Bodies with constants of their own print alike; literals, contexts and results do not."""
    a, b = np.random.default_rng(seed).normal(size=(2, 3000)).astype(np.float32)

    def fn(x):
        parts = [jax.jit(lambda w, c=c: w * c)(w) for c in (a, b) for w in (a, b)]
        parts += [jnp.where(jnp.asarray(a) > 0, c, jnp.asarray(b)) for c in (1.0, 2.0)]
        parts += jnp.split(jnp.asarray(a), 2)
        parts += [jax.lax.cond(x.sum() > 0, lambda w: w + 1, lambda w: w - 1, jnp.asarray(a))]
        parts += [jax.lax.scan(lambda c, w: (c + w, c * w), 0.0, jnp.asarray(v))[1] for v in (a, b)]
        parts += [jnp.broadcast_to(jnp.asarray(a), (2, 3000)), jnp.zeros(5), jnp.asarray(b)]
        return [x.sum() + part for part in parts], parts

    x = jnp.ones(2)
    got, wanted = Program(fn)(x), fn(x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_nothing_larger_than_its_weights_is_held():
    bias = jnp.arange(3.0)
    weights = Weights()
    call, numbers = prepared(
        jax.make_jaxpr(lambda x: x + jnp.broadcast_to(bias, (64, 3)))(jnp.ones((64, 3))), weights
    )
    assert [array.shape for array in weights.ready(numbers)] == [(3,)]
    np.testing.assert_array_equal(
        jax.jit(call)(weights.ready(numbers), jnp.zeros((64, 3)))[0], jnp.tile(bias, (64, 1))
    )
