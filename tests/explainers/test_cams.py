"""The CAM family: values worked out by hand, and what must hold between the methods."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain

SAME = ("grad_cam", "grad_cam_plus_plus", "x_grad_cam", "layer_cam", "hires_cam")

#: Activations (2 x 2, two channels) and the gradient of the score there.
A = jnp.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]]])[None]
G = jnp.array([[[1.0, -1.0], [-2.0, 0.0]], [[3.0, -1.0], [2.0, 4.0]]])[None]


def given(x):
    """A score whose gradient at the layer "a" is G."""
    return (jaxplain.tag(x * 1.0, "a") * G).sum((1, 2, 3))[:, None]


def by_hand(method):
    a, g = np.asarray(A[0]), np.asarray(G[0])
    first, second = a[..., 0], a[..., 1]
    # Channel sums: A 6 and 4; G 4 and 2; G A 1 - 6 + 4 = -1 and -2 - 1 + 4 = 1.
    if method == "grad_cam":
        return 1.0 * first + 0.5 * second
    if method == "x_grad_cam":
        return -1 / 6 * first + 1 / 4 * second
    if method == "grad_cam_plus_plus":
        # G alpha = G / (2 + sum(A) G) where G > 0.
        up = 1 / (2 + 6) + 3 / (2 + 18) + 2 / (2 + 12)
        return up * first + 4 / (2 + 16) * second
    if method == "layer_cam":
        return np.array([[1.0, 0.0], [0.0, 4.0 + 4.0]])
    return (a * g).sum(-1)


@pytest.mark.parametrize("method", SAME)
def test_by_hand(method):
    options = {"relu": False, "layer": "a"}
    if method == "x_grad_cam":
        options["eps"] = 0.0
    got = getattr(jaxplain, method)(given, A, 0, **options)
    np.testing.assert_allclose(got[0], by_hand(method), rtol=1e-6)
    positive = getattr(jaxplain, method)(given, A, 0, **{**options, "relu": True})
    np.testing.assert_allclose(positive[0], np.maximum(by_hand(method), 0), rtol=1e-6)


def test_grad_cam_plus_plus_eps():
    eps = 0.5
    g, total = np.asarray(G[0]), np.asarray(A[0]).sum((0, 1))
    alpha = g**2 / (2 * g**2 + total * g**3 + eps)
    weights = (np.maximum(g, 0) * np.where(g > 0, alpha, 0)).sum((0, 1))
    got = jaxplain.grad_cam_plus_plus(given, A, 0, layer="a", eps=eps)
    np.testing.assert_allclose(got[0], (weights * np.asarray(A[0])).sum(-1), rtol=1e-6)


def test_grad_cam_plus_plus_keeps_tiny_gradients():
    """The paper's formula, without an epsilon: alpha tends to 1/2 for small scores."""
    small = lambda x: 1e-20 * given(x)  # noqa: E731
    got = 1e20 * jaxplain.grad_cam_plus_plus(small, A, 0, layer="a")
    expected = (np.maximum(G[0], 0).sum((0, 1)) / 2 * A[0]).sum(-1)
    np.testing.assert_allclose(got[0], expected, rtol=1e-4)


@pytest.fixture
def convnet(x64):
    params = nets.convnet_params(7)
    return nets.convnet(params), jnp.asarray(nets.images(8)), params


def test_cam_in_a_network_with_global_average_pooling(convnet):
    fn, x, params = convnet
    _, acts = jaxplain.capture(fn, ["out"])(x)
    expected = np.einsum("bhwc,c->bhw", acts["out"], params["dense"][:, 2])
    maps = jaxplain.cam(fn, x, 2, layer="out")
    np.testing.assert_allclose(maps, expected, rtol=1e-10)
    np.testing.assert_allclose(jaxplain.cam(fn, x, 2), expected, rtol=1e-10)
    # The score is the map's mean plus the bias.
    np.testing.assert_allclose(maps.mean((1, 2)) + params["bias3"][2], fn(x)[:, 2], rtol=1e-10)
    # There Grad-CAM and HiRes-CAM are CAM divided by the number of positions.
    pixels = maps.shape[1] * maps.shape[2]
    for method in (jaxplain.grad_cam, jaxplain.hires_cam):
        scaled = pixels * method(fn, x, 2, layer="out", relu=False)
        np.testing.assert_allclose(scaled, maps, rtol=1e-10, atol=1e-12)


def test_hires_cam_sums_to_the_score_above_a_linear_layer(convnet):
    fn, x, params = convnet
    total = jaxplain.hires_cam(fn, x, 1, layer="out").sum((1, 2))
    np.testing.assert_allclose(total + params["bias3"][1], fn(x)[:, 1], rtol=1e-10)


def test_x_grad_cam_sums_to_what_hires_cam_does(convnet):
    fn, x, _ = convnet
    got = jaxplain.x_grad_cam(fn, x, 1, layer="pool", eps=0.0).sum((1, 2))
    np.testing.assert_allclose(got, jaxplain.hires_cam(fn, x, 1, layer="pool").sum((1, 2)))


def _head(head):
    """A network with `head` above its layer "f" of 4 x 4 x 3."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    return lambda x: head(jaxplain.tag(jax.nn.relu(x - 0.5), "f"), w)


CAM_WORKS = {
    "scale and bias": lambda h, w: (h * jnp.arange(1.0, 4.0) + 1.0).mean((1, 2)) @ w,
    "kept axes, 1 x 1 convolution": lambda h, w: nets.conv(
        h.mean((1, 2), keepdims=True), w[None, None]
    )[:, 0, 0],
    "channels first": lambda h, w: h.transpose(0, 3, 1, 2).mean((2, 3)) @ w,
    "window": lambda h, w: (
        (
            jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 4, 4, 1), (1, 1, 1, 1), "VALID") / 16
        ).reshape(-1, 3)
        @ w
    ),
    "temperature": lambda h, w: (h.mean((1, 2)) @ w + 1.0) / 2.0,
}
CAM_FAILS = {
    "flatten": (lambda h, w: h.reshape(h.shape[0], -1)[:, :3] @ w, "comes before the pool"),
    "two layers": (lambda h, w: h.mean((1, 2)) @ w @ w.T, "second layer"),
    "relu": (lambda h, w: jax.nn.relu(h).mean((1, 2)) @ w, "relu"),
    "softmax": (lambda h, w: jax.nn.softmax(h.mean((1, 2)) @ w), "lies after it"),
    "no dense": (lambda h, w: h.mean((1, 2)), "no dense layer"),
    "half": (lambda h, w: h.mean(1).mean(1) @ w, "not over all of space"),
    "window": (
        lambda h, w: (
            jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").sum(
                (1, 2)
            )
            @ w
        ),
        "not global",
    ),
    "position": (lambda h, w: (h * jnp.arange(4.0)[:, None]).mean((1, 2)) @ w, "varies over space"),
    "skip": (lambda h, w: h.mean((1, 2)) @ w + h.max((1, 2)) @ w, "lies after it"),
}


@pytest.mark.parametrize("head", CAM_WORKS.values(), ids=CAM_WORKS)
def test_cam_heads(x64, head):
    fn, x = _head(head), jnp.asarray(nets.images(3, size=4))
    expected = 16 * jaxplain.grad_cam(fn, x, 1, layer="f", relu=False)
    np.testing.assert_allclose(jaxplain.cam(fn, x, 1, layer="f"), expected, rtol=1e-10)


@pytest.mark.parametrize(("head", "why"), CAM_FAILS.values(), ids=CAM_FAILS)
def test_cam_refuses(x64, head, why):
    fn, x = _head(head), jnp.asarray(nets.images(3, size=4))
    with pytest.raises(ValueError, match=why) as error:
        jaxplain.cam(fn, x, 1, layer="f")
    assert "use grad_cam" in str(error.value)


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_guided_grad_cam_is_the_product(convnet, resize):
    fn, x, _ = convnet
    coarse = jaxplain.grad_cam(fn, x, 1, layer="pool")
    fine = jaxplain.guided_backprop(fn, x, 1, reduce=None)
    if resize == "nearest":
        up = np.repeat(np.repeat(np.asarray(coarse), 2, 1), 2, 2)
    else:
        up = np.asarray(jax.image.resize(coarse, (2, 8, 8), "bilinear"))
    got = jaxplain.guided_grad_cam(fn, x, 1, layer="pool", resize=resize, reduce=None)
    np.testing.assert_allclose(got, np.asarray(fine) * up[..., None], rtol=1e-9, atol=1e-14)
    strongest = jaxplain.guided_grad_cam(fn, x, 1, layer="pool", resize=resize)
    np.testing.assert_allclose(strongest, np.abs(np.asarray(got)).max(-1), rtol=1e-9)


def test_nearest_takes_rows_as_other_packages_do():
    """Row i of 5 reads row floor(i * 2 / 5)."""
    relu = jax.nn.relu
    fn = lambda x: jaxplain.tag(relu(x[:, :2]), "a").sum((1, 2)) + 0 * x.sum((1, 2))  # noqa: E731
    x = jnp.array([1.0, 2.0, 0.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    half = lambda v: fn(v) + v.sum((1, 2))  # noqa: E731
    maps = jaxplain.guided_grad_cam(half, x, 0, layer="a", resize="nearest")
    gradient = jaxplain.guided_backprop(half, x, 0)
    np.testing.assert_allclose(np.asarray(maps / gradient)[0, :, 0], [1, 1, 1, 2, 2], rtol=1e-6)


@pytest.mark.parametrize("method", [*SAME, "cam", "guided_grad_cam"])
def test_several_layers_jit_and_slopes(convnet, method):
    fn, x, _ = convnet
    call = getattr(jaxplain, method)
    layers = ["out"] if method == "cam" else ["out", "pool"]
    maps = call(fn, x, [[0, 1, 2]] * 2, layer=layers)
    assert list(maps) == layers
    for name in layers:
        alone = call(fn, x, 1, layer=name)
        np.testing.assert_allclose(maps[name][:, 1], alone, rtol=1e-9, atol=1e-14)
        inside = jax.jit(lambda v, n=name: call(fn, v, 1, layer=n))(x)
        np.testing.assert_allclose(inside, alone, rtol=1e-9, atol=1e-14)
    slope = jax.grad(lambda v: jnp.square(call(fn, v, 1, layer="out")).sum())(x)
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize("method", [*SAME, "cam", "guided_grad_cam"])
def test_dead_layer_gives_a_map_of_zeros(method):
    """Activations and gradients of 0 everywhere: no division by 0, here or in the slope."""
    w = jnp.ones((1, 2))
    fn = lambda x: jaxplain.tag(jax.nn.relu(-x), "a").mean((1, 2)) @ w  # noqa: E731
    x = jnp.ones((1, 4, 4, 1))
    options = {"eps": 0.0} if method in ("x_grad_cam", "grad_cam_plus_plus") else {}
    loss = lambda v: getattr(jaxplain, method)(fn, v, 0, layer="a", **options).sum()  # noqa: E731
    value, slope = jax.value_and_grad(loss)(x)
    assert value == 0 and np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("grad_cam", {"layer": "gap"}, "needs a layer with height and width"),
        ("grad_cam_plus_plus", {"eps": -1.0}, "eps must not be negative"),
        ("x_grad_cam", {"eps": -1.0}, "eps must not be negative"),
        ("guided_grad_cam", {"resize": "cubic"}, "'bilinear' or 'nearest'"),
        ("cam", {"layer": "pool"}, "use grad_cam"),
    ],
)
def test_errors(convnet, method, options, match):
    fn, x, _ = convnet
    with pytest.raises(ValueError, match=match):
        getattr(jaxplain, method)(fn, x, 0, **options)
