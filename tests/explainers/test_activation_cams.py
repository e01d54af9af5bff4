"""Score-, Ablation-, Eigen-, Relevance- and fitted CAM, against loops in NumPy and in relation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
import vits
from jax.sharding import PartitionSpec as P

import jaxplain
from jaxplain.explainers.fitted_cam import _Moments
from jaxplain.rules.composites import composite

METHODS = ("score_cam", "ablation_cam", "eigen_cam", "relevance_cam")
RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(3, 3, 3, 6)) / 5, RNG.normal(size=(3, 3, 6, 6)) / 5
DENSE, BIAS = RNG.normal(size=(6, 4)), RNG.normal(size=4)


def network(x, kept=1.0):
    """A skip connection bypasses the layer "b"; `kept` multiplies its channels."""
    w1, w2, dense, bias = (jnp.asarray(v, x.dtype) for v in (W1, W2, DENSE, BIAS))
    a = jaxplain.tag(jax.nn.relu(nets.conv(x, w1, (2, 2), (1, 1))), "a")
    b = kept * jaxplain.tag(jax.nn.relu(nets.conv(a, w2, padding=(1, 1))), "b")
    return jnp.tanh((a + b).mean((1, 2)) @ dense) + bias


@pytest.fixture
def x(x64):
    return jnp.asarray(nets.images(1, size=6))


def weighted(weights, a):
    """Maps from weights (B, C)."""
    return np.einsum("bc,bhwc->bhw", weights, a)


@pytest.mark.parametrize("weights", ["softmax", "increase"])
def test_score_cam_is_a_loop_over_channels(x, weights):
    a = np.asarray(jaxplain.capture(network, ["a"])(x)[1]["a"])
    scores = []
    for c in range(a.shape[-1]):
        up = np.asarray(jax.image.resize(jnp.asarray(a[..., c]), (2, 6, 6), "bilinear"))
        low, high = up.min((1, 2), keepdims=True), up.max((1, 2), keepdims=True)
        mask = (up - low) / np.where(high > low, high - low, 1)
        scores.append(np.asarray(network(x * mask[..., None]))[:, 2])
    w = np.stack(scores, 1)
    if weights == "softmax":
        w = np.exp(w) / np.exp(w).sum(1, keepdims=True)
    else:
        w = w - np.asarray(network(0 * x))[:, 2:3]
    got = jaxplain.score_cam(network, x, 2, layer="a", weighting=weights, relu=False, batch_size=4)
    np.testing.assert_allclose(got, weighted(w, a), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("relative", [True, False])
def test_ablation_cam_is_a_loop_over_channels(x, relative):
    """Also where a skip connection bypasses the layer."""
    a, score = np.asarray(jaxplain.capture(network, ["b"])(x)[1]["b"]), network(x)[:, 1]
    without = [network(x, 1 - np.eye(6)[c])[:, 1] for c in range(6)]
    w = np.asarray(score)[:, None] - np.stack(without, 1)
    w = w / np.asarray(score)[:, None] if relative else w
    got = jaxplain.ablation_cam(
        network, x, 1, layer="b", relative=relative, relu=False, batch_size=4
    )
    np.testing.assert_allclose(got, weighted(w, a), rtol=1e-9, atol=1e-12)


def test_ablation_cam_of_a_score_of_zero():
    fn = lambda x: jaxplain.tag(x * 1.0, "f").sum((1, 2)) @ jnp.array([[1.0], [-1.0]])  # noqa: E731
    x = jnp.ones((1, 2, 2, 2))
    assert not np.asarray(jaxplain.ablation_cam(fn, x, 0, layer="f")).any()
    drop = jaxplain.ablation_cam(fn, 2 * x, 0, layer="f", relative=False, relu=False)
    np.testing.assert_allclose(drop, 0)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("size", [2, 5])  # 4 positions are fewer than 6 channels, 25 are more
def test_eigen_cam_is_the_svd(x64, size, centre):
    x = jnp.asarray(nets.images(3, size=size))
    mix = jnp.asarray(RNG.uniform(0, 1, (3, 6)))
    fn = lambda v: jaxplain.tag(v @ mix, "f").mean((1, 2))  # noqa: E731
    flat = np.asarray(x @ mix).reshape(2, -1, 6)
    flat = flat - flat.mean(1, keepdims=True) if centre else flat
    _, _, vt = np.linalg.svd(flat)
    expected = np.einsum("bpc,bc->bp", flat, vt[:, 0]).reshape(2, size, size)
    got = np.asarray(jaxplain.eigen_cam(fn, x, layer="f", centre=centre))
    sign = np.sign((got * expected).sum((1, 2), keepdims=True))
    np.testing.assert_allclose(got, sign * expected, atol=1e-9)
    # The sign agrees with the sum over channels; positive activations have a positive component.
    assert ((got * np.asarray(x @ mix).sum(-1)).sum((1, 2)) > 0).all()
    assert centre or (got > 0).all()

    def loss(v):
        return jnp.square(jaxplain.eigen_cam(fn, v, layer="f", centre=centre))[0, 0, 1]

    step = 1e-5 * jnp.asarray(RNG.normal(size=x.shape))
    change = (loss(x + step) - loss(x - step)) / 2
    np.testing.assert_allclose((jax.grad(loss)(x) * step).sum(), change, rtol=1e-5)


def test_relevance_cam_weighs_by_lrp(x):
    rules = composite("z_plus", bias=False)
    fn = nets.convnet(nets.convnet_params(4))
    signal = np.full((2, 4), -1 / 3)
    signal[:, 2] = 1
    relevance, a = [
        np.asarray(v)
        for v in (
            jaxplain.lrp(fn, x, signal, layer="mid", composite=rules, seed="one", channels=True),
            jaxplain.capture(fn, ["mid"])(x)[1]["mid"],
        )
    ]
    got = jaxplain.relevance_cam(fn, x, 2, layer="mid")
    np.testing.assert_allclose(got, weighted(relevance.sum((1, 2)), a), rtol=1e-9, atol=1e-12)
    alone = jaxplain.relevance_cam(fn, x, 2, layer="mid", contrastive=False)
    assert np.abs(np.asarray(got - alone)).max() > 1e-3


def test_relevance_cam_of_a_transformer_weighs_by_attn_lrp():
    fn, x = vits.plain(vits.weights()), jnp.asarray(vits.images())
    signal = np.full((2, vits.CLASSES), -1 / (vits.CLASSES - 1))
    signal[:, 2] = 1
    layer = jaxplain.trace(fn, x).graph.last_spatial
    relevance = jaxplain.lrp(
        fn, x, signal, layer=layer, composite="attn_lrp", seed="one", channels=True
    )
    model = jaxplain.trace(fn, x)
    a = model.maps(layer, jaxplain.capture(fn, [layer])(x)[1][layer])
    got = jaxplain.relevance_cam(fn, x, 2, layer=layer)
    np.testing.assert_allclose(got, weighted(relevance.sum((1, 2)), a), rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(got)).max() > 1e-6


def test_relevance_cam_of_two_classes_is_antisymmetric(x):
    weight = jnp.asarray(RNG.normal(size=(6, 2)))

    def fn(v):
        return jaxplain.tag(nets.conv(v, jnp.asarray(np.abs(W1))), "f").mean((1, 2)) @ weight

    maps = np.asarray(jaxplain.relevance_cam(fn, x, [[0, 1]] * 2, layer="f"))
    np.testing.assert_allclose(maps[:, 0], -maps[:, 1], rtol=1e-9)
    one = lambda v: fn(v)[:, :1]  # noqa: E731
    with pytest.raises(ValueError, match="use contrastive=False"):
        jaxplain.relevance_cam(one, x, 0, layer="f")


@pytest.mark.parametrize("method", METHODS)
def test_contract(x64, method):
    """Targets, layers, jit, slopes and the batch's independence."""
    fn = nets.convnet(nets.convnet_params(4))
    x, call = jnp.asarray(nets.images(1, size=6)), getattr(jaxplain, method)
    maps = call(fn, x, [[0, 3, 1], [2, 1, 0]], layer=["mid", "pool"])
    assert list(maps) == ["mid", "pool"] and maps["mid"].shape == (2, 3, 3, 3)
    inside = jax.jit(lambda v: call(fn, v, jnp.array([3, 1]), layer="pool"))(x)
    np.testing.assert_allclose(maps["pool"][:, 1], inside, rtol=1e-8, atol=1e-12)
    signal = jnp.zeros((1, 4)).at[0, 2].set(1.0)
    alone = call(fn, x[1:], signal, layer="mid")
    np.testing.assert_allclose(maps["mid"][1:, 0], alone, rtol=1e-8, atol=1e-12)
    slope = jax.grad(lambda v: jnp.square(call(fn, v, 1, layer="mid")).sum())(x)
    assert np.isfinite(np.asarray(slope)).all() and np.asarray(slope).any()


@pytest.mark.parametrize("method", METHODS)
def test_dead_layer_and_bfloat16(method):
    """Nothing is divided by 0: not in the map, not in its slope, not in half precision."""
    w = jnp.ones((1, 2), jnp.bfloat16)
    fn = lambda x: jaxplain.tag(jax.nn.relu(-x), "f").mean((1, 2)) @ w  # noqa: E731
    call = getattr(jaxplain, method)
    dead, live = jnp.ones(16, jnp.bfloat16), -jnp.arange(16, dtype=jnp.bfloat16)
    for x in (dead.reshape(1, 4, 4, 1), live.reshape(1, 4, 4, 1)):
        loss = lambda v: call(fn, v, 0, layer="f").astype(jnp.float32).sum()  # noqa: E731
        value, slope = jax.value_and_grad(loss)(x)
        assert (value == 0) == bool(x[0, 0, 0, 0] == 1) or method == "relevance_cam"
        assert np.isfinite(np.asarray(slope, np.float32)).all()
        assert call(fn, x, 0, layer="f").dtype == jnp.bfloat16


@pytest.mark.parametrize("method", METHODS)
def test_score_maps_and_shards(method):
    """A fully convolutional network, whose batch is spread over two devices."""
    w = jnp.asarray(RNG.normal(size=(3, 3, 3, 4)), jnp.float32)
    fn = lambda x: nets.conv(jaxplain.tag(jax.nn.relu(x - 0.3), "f"), w)  # noqa: E731
    x = jnp.asarray(nets.images(1, size=5), jnp.float32)
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    call = lambda v: getattr(jaxplain, method)(fn, v, 2, layer="f")  # noqa: E731
    whole = call(x)
    assert whole.shape == (2, 5, 5) and np.asarray(whole).any()
    spread = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))(x)
    np.testing.assert_allclose(spread, whole, rtol=1e-4, atol=1e-6)


# ---- fitted CAM -----------------------------------------------------------------------------


def test_fit_finds_the_classifier(x):
    """On a network that ends in a global average pool, the fitted CAM is the CAM."""
    params = nets.convnet_params(4)
    fn = nets.convnet(params)
    batches = [jnp.asarray(nets.images(i, batch=b, size=6)) for i, b in ((5, 20), (6, 20), (7, 3))]
    fit = jaxplain.fit_cam(fn, iter(batches), layer="out", ridge=0)
    np.testing.assert_allclose(fit.weight, params["dense"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.bias, params["bias3"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fit.explained, 1, rtol=1e-9)
    targets = [[0, 1, 3]] * 2
    got = jax.jit(lambda v, f: jaxplain.fitted_cam(fn, v, targets, fit=f))(x, fit)
    np.testing.assert_allclose(got, jaxplain.cam(fn, x, targets, layer="out"), atol=1e-6)
    assert jaxplain.fit_cam(fn, batches[:1]).layer == fit.layer  # the last layer with space


def test_fit_is_ridge_regression(x64):
    """Against the solution of the stacked least-squares problem, all batches at once."""
    batches = [jnp.asarray(nets.images(i, batch=b, size=6)) for i, b in ((5, 9), (6, 4))]
    fit = jaxplain.fit_cam(network, batches, layer="b", ridge=0.2)
    every = jnp.concatenate(batches)
    scores, acts = jaxplain.capture(network, ["b"])(every)
    f, s = np.asarray(acts["b"]).mean((1, 2)), np.asarray(scores)
    fc, sc, n = f - f.mean(0), s - s.mean(0), len(f)
    strength = 0.2 * np.square(fc).mean()
    stacked = np.concatenate([fc / np.sqrt(n), np.sqrt(strength) * np.eye(6)])
    w = np.linalg.lstsq(stacked, np.concatenate([sc / np.sqrt(n), np.zeros((6, 4))]), rcond=None)[0]
    np.testing.assert_allclose(fit.weight, w, rtol=1e-7, atol=1e-10)
    left = s - (f @ w + np.asarray(fit.bias))
    np.testing.assert_allclose(left.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(fit.explained, 1 - left.var(0) / s.var(0), rtol=1e-6)
    assert (np.asarray(fit.explained) < 1).all()


def test_moments_of_a_stream_do_not_cancel():
    """A mean a million times the deviations, in batches of different sizes."""
    rows = RNG.normal(size=(50, 5)) + 1e6
    moments = _Moments()
    for part in np.split(rows, [1, 20, 23]):
        moments.add(part[:, :3], part[:, 3:])
    centred = rows - rows.mean(0)
    assert moments.count == 50
    np.testing.assert_allclose(moments.products, centred[:, :3].T @ centred, atol=1e-6)
    np.testing.assert_allclose(moments.squares, np.square(centred).sum(0)[3:], rtol=1e-6)


def test_a_ridge_makes_up_for_few_images():
    """600 channels that all follow one number, in single precision: fewer images than channels."""
    spread = jnp.asarray(RNG.uniform(0.5, 1.5, 600), jnp.float32)

    def fn(x):
        features = jaxplain.tag(x * spread, "features")
        return features.mean((1, 2))[:, :1] * 3 + 1

    images = jnp.asarray(RNG.uniform(size=(20, 2, 2, 1)), jnp.float32)
    fit = jaxplain.fit_cam(fn, [images], layer="features")
    assert fit.weight.shape == (600, 1) and float(fit.explained[0]) > 0.999
    pooled = (images * spread).mean((1, 2))
    np.testing.assert_allclose(pooled @ fit.weight + fit.bias, fn(images), rtol=1e-3)
    with pytest.raises(ValueError, match="no unique fit: use ridge > 0"):
        jaxplain.fit_cam(fn, [images], layer="features", ridge=0)
    with pytest.raises(ValueError, match="no unique fit: use a larger ridge"):
        jaxplain.fit_cam(fn, [images * 0], layer="features")


def test_fit_errors(x):
    fn = nets.convnet(nets.convnet_params(4))
    for batches, options, match in (
        ([], {}, "at least two, not 0"),
        ([x[:1]], {}, "at least two, not 1"),
        ([x], {"ridge": -1.0}, "must not be negative"),
        ([x], {"ridge": 0, "layer": "out"}, "do not tell the 6 channels of 'out' apart"),
        ([x], {"layer": "gap"}, "needs a layer with height and width"),
    ):
        with pytest.raises(ValueError, match=match):
            jaxplain.fit_cam(fn, batches, **options)
    fit = jaxplain.FittedCam(jnp.ones((6, 7)), jnp.ones(7), jnp.ones(7), "out")
    with pytest.raises(ValueError, match="6 channels at 'out' and 4 classes"):
        jaxplain.fitted_cam(fn, x, 0, fit=fit)


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        ("score_cam", {"layer": "gap"}, ValueError, "needs a layer with height and width"),
        ("score_cam", {"weighting": "probability"}, ValueError, "'softmax', 'increase'"),
        ("score_cam", {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ("ablation_cam", {"batch_size": 2.5}, TypeError, "batch_size must be an int"),
        ("ablation_cam", {"layer": "gap"}, ValueError, "needs a layer with height and width"),
        ("eigen_cam", {"layer": "gap"}, ValueError, "needs a layer with height and width"),
        ("eigen_cam", {"targets": 9}, ValueError, "class 9 is out of range"),
        ("relevance_cam", {"composite": 1}, TypeError, "must be a name or a RuleSet"),
    ],
)
def test_errors(x, method, options, error, match):
    fn = nets.convnet(nets.convnet_params(4))
    with pytest.raises(error, match=match):
        getattr(jaxplain, method)(fn, x, **{"targets": 0, **options})
