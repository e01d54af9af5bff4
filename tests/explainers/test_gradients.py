"""The gradient family: values worked out by hand, and what must hold between the methods."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxplain

METHODS = {
    "gradient": jaxplain.gradient,
    "input_x_gradient": jaxplain.input_x_gradient,
    "guided_backprop": jaxplain.guided_backprop,
    "deconvnet": jaxplain.deconvnet,
    "integrated_gradients": lambda *a, **k: jaxplain.integrated_gradients(*a, steps=3, **k),
    "smooth_grad": lambda *a, **k: jaxplain.smooth_grad(*a, key=jax.random.key(3), samples=3, **k),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

#: Two inputs, three hidden units, one score: with x = (1, 2) the hidden units are 5, -1 and 1.
W = jnp.array([[1.0, 3.0, -1.0], [2.0, -2.0, 1.0]])
V = jnp.array([[-1.0], [5.0], [2.0]])
X = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)


def small(x):
    return jax.nn.relu(x.reshape(x.shape[0], 2) @ W) @ V


@pytest.fixture
def convnet():
    return nets.convnet(nets.convnet_params(5)), jnp.asarray(nets.images(6), jnp.float32)


@methods
def test_in_shard_map(method, convnet):
    """A batch spread over two devices gives what each half gives alone."""
    fn, x = convnet
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    mapped = jax.shard_map(
        lambda v: method(fn, v, 1), mesh=mesh, in_specs=P("batch"), out_specs=P("batch")
    )
    halves = jnp.concatenate([method(fn, x[i : i + 1], 1) for i in range(2)])
    np.testing.assert_allclose(jax.jit(mapped)(x), halves, rtol=1e-4, atol=1e-6)


def test_by_hand():
    # Gates are open, closed, open: G = -W[:, 0] + 2 W[:, 2].
    np.testing.assert_allclose(jaxplain.gradient(small, X, reduce=None)[0, 0, :, 0], [-3, 0])
    # Only the positive signals 5 and 2 remain, and the closed unit stops 5.
    np.testing.assert_allclose(jaxplain.guided_backprop(small, X, reduce=None)[0, 0, :, 0], [-2, 2])
    # Zeiler's form lets 5 through the closed unit: 5 W[:, 1] + 2 W[:, 2].
    np.testing.assert_allclose(jaxplain.deconvnet(small, X, reduce=None)[0, 0, :, 0], [13, -8])
    np.testing.assert_allclose(
        jaxplain.input_x_gradient(small, X * 2, reduce=None)[0, 0, :, 0], [-6, 0]
    )


def test_springenberg_form_is_guided_backprop(convnet):
    fn, x = convnet
    one = jaxplain.deconvnet(fn, x, form="springenberg", reduce=None)
    np.testing.assert_array_equal(one, jaxplain.guided_backprop(fn, x, reduce=None))
    assert not np.allclose(one, jaxplain.deconvnet(fn, x, reduce=None))


def test_rules_of_the_relu_family():
    def through(act):
        return lambda x: act(x).sum((1, 2))

    # ReLU6 is closed below 0 and above 6.
    x = jnp.array([-1.0, 3.0, 7.0]).reshape(1, 1, 3, 1)
    relu6 = through(jax.nn.relu6)
    flat = lambda maps: np.asarray(maps).reshape(-1)  # noqa: E731
    np.testing.assert_allclose(flat(jaxplain.guided_backprop(relu6, x, 0)), [0, 1, 0])
    np.testing.assert_allclose(flat(jaxplain.deconvnet(relu6, x, 0)), [1, 1, 1])
    leaky = through(lambda v: jax.nn.leaky_relu(v, 0.25))
    for method in (jaxplain.guided_backprop, jaxplain.deconvnet):
        with pytest.raises(jaxplain.UnsupportedOperationError, match="no ReLU.*leaky_relu"):
            method(leaky, x, 0)  # they are defined by ReLUs, and would be the plain gradient
        np.testing.assert_allclose(flat(method(relu6, x, jnp.array([[-1.0]]))), [0, 0, 0])


@pytest.mark.parametrize("reduce", ["max_abs", "sum", "l2"])
def test_reductions(convnet, reduce):
    fn, x = convnet
    full = np.asarray(jaxplain.gradient(fn, x, 1, reduce=None))
    expected = {
        "max_abs": np.abs(full).max(-1),
        "sum": full.sum(-1),
        "l2": np.sqrt((full**2).sum(-1)),
    }[reduce]
    got = jaxplain.gradient(fn, x, 1, reduce=reduce)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_gradient_is_that_of_jax(convnet):
    fn, x = convnet
    np.testing.assert_array_equal(
        jaxplain.gradient(fn, x, 2, reduce=None), jax.jit(jax.grad(lambda v: fn(v)[:, 2].sum()))(x)
    )


def test_smooth_grad(convnet):
    fn, x = convnet
    clean = jaxplain.gradient(fn, x, 1)
    key = jax.random.key(0)
    np.testing.assert_allclose(
        jaxplain.smooth_grad(fn, x, 1, key=key, samples=3, noise=0.0), clean, rtol=1e-4, atol=1e-6
    )
    one = jaxplain.smooth_grad(fn, x, 1, key=key, samples=3)
    np.testing.assert_array_equal(one, jaxplain.smooth_grad(fn, x, 1, key=key, samples=3))
    other = jaxplain.smooth_grad(fn, x, 1, key=jax.random.key(1), samples=3)
    assert not np.allclose(one, other)


def test_smooth_grad_is_the_mean_gradient():
    # dS/dx = 2 x, whose mean over noise is 2 x; its deviation is 2 sigma / sqrt(samples).
    fn = lambda x: (x**2).sum((1, 2))  # noqa: E731
    x = jnp.linspace(-1.0, 1.0, 16).reshape(1, 4, 4, 1)
    maps = jaxplain.smooth_grad(
        fn, x, 0, key=jax.random.key(0), samples=400, noise=0.1, reduce=None
    )
    assert np.abs(np.asarray(maps - 2 * x)).max() < 4 * 2 * 0.1 * 2 / np.sqrt(400)
    # The deviation itself, from one sample of many pixels: sigma = noise * (max - min).
    big = jnp.tile(x, (1, 20, 20, 1))
    one = jaxplain.smooth_grad(fn, big, 0, key=jax.random.key(0), samples=1, noise=0.1, reduce=None)
    assert np.std(np.asarray(one / 2 - big)) == pytest.approx(0.1 * 2, rel=0.05)


def test_integrated_gradients_by_hand():
    # S = x1 x2 from 0: the path's integral gives x1 x2 / 2 to each.
    fn = lambda x: x[:, 0, 0] * x[:, 0, 1]  # noqa: E731
    x = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
    maps = jaxplain.integrated_gradients(fn, x, 0, steps=4)
    np.testing.assert_allclose(maps[0, 0], [6, 6], rtol=1e-5)
    # From (1, 2): (x - x') times the mean of the other coordinate.
    baseline = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    maps = jaxplain.integrated_gradients(fn, x, 0, baseline=baseline, steps=4)
    np.testing.assert_allclose(maps[0, 0], [2 * 3, 2 * 2], rtol=1e-5)


def test_integrated_gradients_of_a_relu_network_are_complete(x64):
    fn, x = nets.convnet(nets.convnet_params(5)), jnp.asarray(nets.images(6))
    maps = jaxplain.integrated_gradients(fn, x, 1, steps=300)
    difference = np.asarray(fn(x) - fn(jnp.zeros_like(x)))[:, 1]
    np.testing.assert_allclose(maps.sum((1, 2)), difference, rtol=1e-3)


@methods
def test_jit_and_vmap(convnet, method):
    fn, x = convnet
    maps = method(fn, x, 1)
    np.testing.assert_allclose(jax.jit(lambda v: method(fn, v, 1))(x), maps, rtol=1e-5, atol=1e-6)
    if method is METHODS["smooth_grad"]:  # noise is drawn for a whole batch
        return
    each = jax.vmap(lambda v: method(fn, v[None], 1)[0])(x)
    np.testing.assert_allclose(each, maps, rtol=1e-4, atol=1e-6)


@methods
def test_bfloat16(convnet, method):
    fn, x = convnet
    low = method(
        lambda v: nets.convnet(
            {k: jnp.asarray(p, jnp.bfloat16) for k, p in nets.convnet_params(5).items()}
        )(v),
        x.astype(jnp.bfloat16),
        1,
    )
    assert low.dtype == jnp.bfloat16 and low.shape == x.shape[:3]
    assert np.isfinite(np.asarray(low, np.float32)).all()


@methods
@pytest.mark.parametrize("reduce", ["sum", "l2"])
def test_maps_are_differentiable(convnet, method, reduce):
    fn, x = convnet
    # A black image has gradients of 0 at many pixels: no root may have an infinite slope there.
    slope = jax.grad(lambda v: jnp.square(method(fn, v, 1, reduce=reduce)).sum())(x * 0.5)
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        ("gradient", {"reduce": "mean"}, ValueError, "reduce must be one of"),
        ("deconvnet", {"form": "zeilr"}, ValueError, "'zeiler' or 'springenberg'"),
        ("integrated_gradients", {"steps": 0}, ValueError, "steps must be at least 1"),
        ("integrated_gradients", {"steps": 2.5}, TypeError, "steps must be an int"),
        ("integrated_gradients", {"baseline": jnp.zeros(5)}, ValueError, "does not broadcast"),
        ("smooth_grad", {"key": 0, "samples": 0}, ValueError, "samples must be at least 1"),
        ("smooth_grad", {"key": 0, "noise": -1.0}, ValueError, "noise must not be negative"),
    ],
)
def test_errors(method, options, error, match):
    with pytest.raises(error, match=match):
        getattr(jaxplain, method)(small, X, **options)
