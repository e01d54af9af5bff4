"""FullGrad: completeness on any network, biases folded with their batch norm, the map by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxplain

RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 3, 3, 3)) / 3
SHIFT = np.array([0.3, -0.2, 0.1])


def conv(x):
    return nets.conv(x, jnp.asarray(W), padding=(1, 1)) + SHIFT


def gated(x):
    return conv(x) * jax.nn.sigmoid(conv(x).mean((1, 2), keepdims=True))


def with_constants(x):
    h = jnp.concatenate([conv(x), jnp.full_like(x, 0.7)], -1)
    h = lax.pad(h, 0.4, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    return jnp.where(jnp.arange(6) > 1, h, 2.0)


#: Operations behind which a bias can hide.
NETWORKS = {
    "relu": lambda x: jax.nn.relu(conv(x)),
    "relu6": lambda x: jnp.clip(4 * conv(4 * x), 0, 6),
    "leaky": lambda x: jax.nn.leaky_relu(conv(x), 0.1),
    "silu": lambda x: jax.nn.silu(conv(x)),
    "gelu": lambda x: jax.nn.gelu(conv(x)),
    "softplus": lambda x: jax.nn.softplus(conv(x)),
    "max": lambda x: nets.max_pool(jnp.maximum(conv(x), 0.2), (2, 2), (2, 2)),
    "lrn": lambda x: nets.lrn(5 * conv(x), 3, 1.0, 0.75, 1.0),
    "softmax": lambda x: jax.nn.softmax(conv(x)),
    "gate": gated,
    "reversed": lambda x: jax.nn.relu(1 - conv(2 - x) / 3) * 2,
    "constants": with_constants,
    "residual": lambda x: jax.nn.relu(conv(x) + x) - 0.5,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_completeness(x64, name):
    """Input and biases add up to the score, whatever the network is made of."""
    fn = lambda x: NETWORKS[name](x).mean((1, 2)) + 0.25  # noqa: E731
    x = jnp.asarray(nets.images(1, size=4, low=-1))
    terms = jaxplain.full_grad_terms(fn, x, 1)
    total = sum(np.asarray(t).sum(tuple(range(1, t.ndim))) for t in terms.values())
    np.testing.assert_allclose(total, fn(x)[:, 1], rtol=1e-9)
    proper = jaxplain.full_grad_terms(fn, x, 1, implicit=False)
    linear = name in ("relu", "leaky", "reversed", "residual")
    assert set(proper) <= set(terms) and (len(proper) == len(terms)) == linear


def test_batch_norm_and_bias_are_one_term(x64):
    """The shift is (bias - mean) * scale + beta, and its gradient is that at the norm's output."""
    p = nets.convnet_params(3)
    fn, x = nets.convnet(p), jnp.asarray(nets.images(1, size=6))
    terms = jaxplain.full_grad_terms(fn, x, [[0, 2], [1, 3]])
    assert len(terms) == 4 and terms["input"].shape == (2, 2, 6, 6, 3)
    slope = jaxplain.gradient(fn, x, [[0, 2], [1, 3]], layer="act1", reduce=None)
    active = np.asarray(jaxplain.capture(fn, ["act1"])(x)[1]["act1"])[:, None] > 0
    scale = p["gamma"] / np.sqrt(p["var"] + 1e-3)
    shift = (p["bias1"] - p["mean"]) * scale + p["beta"]
    (norm,) = [t for t in terms.values() if t.shape == (2, 2, 6, 6, 6)]
    np.testing.assert_allclose(norm, shift * np.asarray(slope) * active, rtol=1e-9, atol=1e-12)


def test_the_map_by_hand(x64):
    fn = lambda x: jax.nn.relu(x * 2 - 1).sum((1, 2))  # noqa: E731
    x = jnp.array([0.0, 1, 3, 5]).reshape(1, 2, 2, 1)
    by = lambda **o: np.asarray(jaxplain.full_grad(fn, x, 0, **o))[0].ravel()  # noqa: E731
    # x dS/dx = (0, 2, 6, 10); bias gradients (0, -1, -1, -1)
    np.testing.assert_allclose(by(rescale=None), [0, 3, 7, 11])
    np.testing.assert_allclose(by(), [0, 0.2 + 1, 0.6 + 1, 1 + 1])
    np.testing.assert_allclose(by(eps=1.0), [0, 2 / 11 + 0.5, 6 / 11 + 0.5, 10 / 11 + 0.5])
    two = lambda x: fn(x) * jnp.array([[1.0]]) + 0 * x.sum((1, 2))  # noqa: E731
    np.testing.assert_allclose(np.asarray(jaxplain.full_grad(two, x, 0))[0].ravel(), by())


def test_rescaling_by_channel_and_by_layer(x64):
    """Two channels, one ten times the other: by channel they count alike."""
    fn = lambda x: x.sum((1, 2)) @ jnp.array([[1.0], [10.0]])  # noqa: E731
    x = jnp.array([[[[0.0, 4.0], [2.0, 0.0]]]])
    np.testing.assert_allclose(jaxplain.full_grad(fn, x, 0)[0, 0], [1, 1])
    np.testing.assert_allclose(jaxplain.full_grad(fn, x, 0, rescale="layer")[0, 0], [1, 0.05])


def test_rounding_is_no_implicit_bias():
    """PReLU has none; what rounding leaves would be blown up by the rescaling."""
    slopes = jnp.asarray(RNG.uniform(0.1, 0.3, 3), jnp.float32)
    fn = lambda x: jnp.where(x > 0, x, slopes * x).mean((1, 2))  # noqa: E731
    x = jnp.asarray(nets.images(1, size=5, low=-1), jnp.float32)
    terms = jaxplain.full_grad_terms(fn, x, 1)
    assert all(not np.asarray(t).any() for k, t in terms.items() if k != "input")


def test_dense_biases_have_no_place_in_the_map(x64):
    p = nets.convnet_params(3)
    x = jnp.asarray(nets.images(1, size=6))
    other = nets.convnet({**p, "bias3": p["bias3"] + 10})
    np.testing.assert_allclose(
        jaxplain.full_grad(other, x, 1), jaxplain.full_grad(nets.convnet(p), x, 1), rtol=1e-9
    )


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(jax.nn.silu(self.norm(self.conv(x))).mean((1, 2)))


def test_a_module_of_flax():
    module, x = Block(nnx.Rngs(0)), jnp.asarray(nets.images(1, size=5), jnp.float32)
    for bias in (module.conv.bias, module.norm.bias, module.norm.mean):
        bias[...] = jnp.arange(5) / 5
    terms = jaxplain.full_grad_terms(module, x, 1)
    assert {"input", "norm", "dense"} < set(terms) and "conv" not in terms
    total = sum(np.asarray(t).sum(tuple(range(1, t.ndim))) for t in terms.values())
    np.testing.assert_allclose(total, module(x)[:, 1], rtol=1e-4)


def test_contract():
    """Targets, jit, slopes, half precision, and a score map spread over two devices."""
    fn = lambda x: nets.conv(  # noqa: E731
        jax.nn.relu(nets.conv(x, jnp.asarray(W, x.dtype), padding=(1, 1)) + x.dtype.type(0.1)),
        jnp.asarray(W, x.dtype),
    )
    x = jnp.asarray(nets.images(1, size=5), jnp.float32)
    maps = jaxplain.full_grad(fn, x, [[0, 1], [2, 1]], class_chunk=1)
    assert maps.shape == (2, 2, 5, 5) and (np.asarray(maps) >= 0).all()
    call = lambda v: jaxplain.full_grad(fn, v, 1)  # noqa: E731
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    spread = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))(x)
    np.testing.assert_allclose(spread, maps[:, 1], rtol=1e-4, atol=1e-5)
    slope = jax.grad(lambda v: jnp.square(call(v)).sum())
    for image in (x, jnp.zeros_like(x)):
        assert np.isfinite(np.asarray(slope(image))).all()
    half = call(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and np.isfinite(np.asarray(half, np.float32)).all()


def test_errors():
    @jax.custom_vjp
    def foreign(x):
        return jnp.cumsum(x, 1)

    foreign.defvjp(lambda x: (foreign(x), None), lambda _, g: (g,))
    fn, x = lambda v: foreign(v).mean((1, 2)), jnp.ones((1, 2, 2, 1))
    with pytest.raises(jaxplain.UnsupportedOperationError, match="implicit=False"):
        jaxplain.full_grad(fn, x, 0)
    assert jaxplain.full_grad(fn, x, 0, implicit=False).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="'channel', 'layer', None"):
        jaxplain.full_grad(fn, x, 0, rescale="image")
    with pytest.raises(ValueError, match="eps must not be negative"):
        jaxplain.full_grad(fn, x, 0, eps=-1.0)
