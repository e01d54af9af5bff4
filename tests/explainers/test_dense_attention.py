"""Dense Attention: its equations written out in NumPy, its cost, its layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from benchmarks.shaped import RESNET50, VGG16


def small_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (3, 3, 3, 4), "conv2": (3, 3, 4, 5), "conv3": (3, 3, 5, 6)}
    return {k: rng.normal(size=s) / np.sqrt(np.prod(s[:3])) for k, s in shapes.items()}


def small(params):
    """Three stages of convolution and ReLU, 8, 4 and 2 pixels wide, and a classifier."""

    def fn(x):
        h = x
        for i in (1, 2, 3):
            h = nets.conv(h, params[f"conv{i}"], padding=(1, 1))
            h = jaxplain.tag(jax.nn.relu(h), f"relu{i}")
            h = nets.max_pool(h, (2, 2), (2, 2)) if i < 3 else h
        return h.mean((1, 2)) * 3.0

    return fn


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(nets.images(1, batch=2), jnp.float32)


# -- the paper's equations in NumPy, with a backward pass by hand ------------------------------


def np_conv(x, w):
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:2], w.shape[-1]))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = np.einsum("abc,abcd->d", padded[i : i + 3, j : j + 3], w)
    return out


def np_conv_back(g, w):
    back = np.zeros((g.shape[0] + 2, g.shape[1] + 2, w.shape[2]))
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            back[i : i + 3, j : j + 3] += np.einsum("abcd,d->abc", w, g[i, j])
    return back[1:-1, 1:-1]


def np_pool(x):
    blocks = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(*blocks.shape[:2], 4, -1)


def np_unpool(g, x):
    blocks = np_pool(x)
    first = np.arange(4)[:, None] == blocks.argmax(2)[:, :, None]
    spread = (first * g[:, :, None]).reshape(*g.shape[:2], 2, 2, -1)
    return spread.transpose(0, 2, 1, 3, 4).reshape(x.shape)


def np_up(m, size):
    """Bilinear, half-pixel centres, pixel by pixel."""
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = (np.clip((k + 0.5) * len(m) / size - 0.5, 0, len(m) - 1) for k in (i, j))
            a, b = int(y), int(x)
            c, d = min(a + 1, len(m) - 1), min(b + 1, len(m) - 1)
            top = m[a, b] * (1 - x + b) + m[a, d] * (x - b)
            bottom = m[c, b] * (1 - x + b) + m[c, d] * (x - b)
            out[i, j] = top * (1 - y + a) + bottom * (y - a)
    return out


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def transcription(image, params):
    """Eqs. 5 to 14 for one image: the layers' maps and the cumulative ones, first layer first."""
    f, h = [], image
    for i in (1, 2, 3):
        f.append(np.maximum(np_conv(h, params[f"conv{i}"]), 0))
        h = np_pool(f[-1]).max(2) if i < 3 else h
    g = [None, None, np.full(f[2].shape, 1 / f[2].size)]  # Eqs. 6 and 7 at the last layer
    for n in (1, 0):
        above = np_conv_back(g[n + 1] * (f[n + 1] > 0), params[f"conv{n + 2}"])
        g[n] = np_unpool(above, f[n])
    own = []
    for a, s in zip(f, g, strict=True):
        spatial = softmax(s.sum(-1))[..., None]  # Eqs. 8 and 9
        channel = softmax(s.sum((0, 1)))  # Eq. 11
        a_s, a_c = spatial * a, channel * a  # Eqs. 5 and 10
        own.append((a_c * a + a_s * a).mean(-1))  # Eq. 12, and the mean over channels
    cumulative = [sum(np_up(m, len(own[i])) for m in own[i:]) for i in range(3)]  # Eqs. 13, 14
    return own, cumulative


def test_equals_the_transcription(x64):
    params = small_params()
    images = nets.images(1, batch=2)
    got = jaxplain.dense_attention(small(params), jnp.asarray(images))
    assert list(got.layers) == list(got.cumulative) == ["relu1", "relu2", "relu3"]
    for b in range(2):
        own, cumulative = transcription(images[b], params)
        for name, one, many in zip(got.layers, own, cumulative, strict=True):
            assert got.layers[name].shape[1:] == one.shape
            assert np.abs(got.layers[name][b] - one).max() < 1e-6 * one.max()
            assert np.abs(got.cumulative[name][b] - many).max() < 1e-6 * many.max()


def test_sensitivities_matter(x64):
    """A network whose weights are far from uniform, so that the softmaxes are seen."""
    params = {k: 30 * v for k, v in small_params(4).items()}
    image = nets.images(2, batch=1)
    got = jaxplain.dense_attention(small(params), jnp.asarray(image)).layers["relu1"][0]
    own, _ = transcription(image[0], params)
    assert np.abs(got - own[0]).max() < 1e-6 * own[0].max()
    h = np.maximum(np_conv(image[0], params["conv1"]), 0)
    uniform = (h**2 * (1 / 64 + 1 / 4)).mean(-1)
    assert np.abs(own[0] - uniform).max() > 0.1 * own[0].max()


# -- cost -------------------------------------------------------------------------------------


def flops(network, function):
    x = jax.ShapeDtypeStruct((1, *network.image), jnp.float32)

    def program(parameters, x):
        return function(lambda image: network.apply(parameters, image), x)

    compiled = jax.jit(program).lower(network.parameters, x).compile()
    return float(compiled.cost_analysis()["flops"])


def test_one_backward_pass_gives_all_layers():
    forward = flops(VGG16, lambda fn, x: fn(x))
    names = []

    def maps(fn, x):
        result = jaxplain.dense_attention(fn, x)
        names.extend(result.layers)
        return result

    assert flops(VGG16, maps) <= 2.2 * forward
    assert names == ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]


# -- layers, transformations, errors ----------------------------------------------------------


def test_default_layers_of_resnet():
    def maps(parameters, x):
        result = jaxplain.dense_attention(lambda image: RESNET50.apply(parameters, image), x)
        assert list(result.layers)[1:] == ["res2c", "res3d", "res4f", "res5c"]
        return list(result.layers.values())

    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = [m.shape for m in jax.eval_shape(maps, RESNET50.parameters, x)]
    assert shapes == [(1, 32, 32), (1, 16, 16), (1, 8, 8), (1, 4, 4), (1, 2, 2)]


def test_named_layers_come_in_the_networks_order(x):
    fn = small({k: jnp.asarray(v, jnp.float32) for k, v in small_params().items()})
    every = jaxplain.dense_attention(fn, x)
    some = jaxplain.dense_attention(fn, x, layer=["relu3", "relu1"])
    assert list(some.layers) == ["relu1", "relu3"]
    assert np.array_equal(some.layers["relu1"], every.layers["relu1"])
    assert np.array_equal(some.cumulative["relu3"], some.layers["relu3"])
    below = jaxplain.dense_attention(fn, x, layer=["relu1", "relu2"])  # GT at relu2
    assert not np.allclose(below.layers["relu1"], every.layers["relu1"], rtol=1e-7)


def test_images_are_independent_under_jit_and_in_bfloat16(x):
    params = {k: jnp.asarray(v, jnp.float32) for k, v in small_params().items()}
    whole = jax.jit(lambda x: jaxplain.dense_attention(small(params), x))(x)
    alone = jaxplain.dense_attention(small(params), x[1:])
    for name, m in alone.cumulative.items():
        assert np.allclose(m[0], whole.cumulative[name][1], rtol=1e-5)
    half = {k: v.astype(jnp.bfloat16) for k, v in params.items()}
    result = jaxplain.dense_attention(small(half), x.astype(jnp.bfloat16))
    for name, m in result.cumulative.items():
        assert m.dtype == jnp.bfloat16
        assert np.allclose(np.asarray(m, np.float32), whole.cumulative[name], rtol=0.2, atol=0.02)


def test_differentiable(x):
    params = {k: jnp.asarray(v, jnp.float32) for k, v in small_params().items()}

    def loss(x):
        return jaxplain.dense_attention(small(params), x).cumulative["relu1"].sum()

    slope = np.asarray(jax.grad(loss)(x))
    assert np.isfinite(slope).all() and slope.any()


def test_errors(x):
    fn = small({k: jnp.asarray(v, jnp.float32) for k, v in small_params().items()})
    with pytest.raises(ValueError, match="empty sequence"):
        jaxplain.dense_attention(fn, x, layer=[])
    with pytest.raises(ValueError, match="one layer twice"):
        jaxplain.dense_attention(fn, x, layer=["relu1", "relu1"])
    with pytest.raises(jaxplain.UnknownLayerError, match="relu9"):
        jaxplain.dense_attention(fn, x, layer=["relu9"])
    with pytest.raises(ValueError, match="height and width"):
        tagged = lambda x: jaxplain.tag(fn(x), "scores") * 1.0  # noqa: E731
        jaxplain.dense_attention(tagged, x, layer=["scores"])
