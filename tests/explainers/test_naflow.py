"""NAFlow (Liao et al. 2024) against Jacobians that are built and decomposed, in float64."""

from __future__ import annotations

import inspect
import sys

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from nets import normal

import jaxplain
from jaxplain.cli import method_options
from jaxplain.core import UnknownLayerError, UnsupportedOperationError, tag, trace
from jaxplain.explainers._preimage import preimage, stages, start
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.explanation import computing

EXACT = jaxplain.LeastSquares(tolerance=1e-11, iterations=2000, damping=0.0)
CENTRE = np.eye(9)[4].reshape(3, 3, 1, 1)  # with it an identity is a 3 x 3 kernel
DENSE = jaxplain.LeastSquares(method="dense", damping=0.0)


def norm_params(seed, channels):
    rng = np.random.default_rng(seed)
    return {
        "gamma": rng.uniform(0.5, 1.5, channels) * rng.choice([-1, 1], channels),
        "beta": rng.normal(size=channels),
        "mean": rng.normal(size=channels),
        "var": rng.uniform(0.5, 1.5, channels),
    }


def residual_block(seed, inputs, outputs, stride):
    """Convolution, batch norm, ReLU, convolution, addition of a shortcut."""
    w1 = normal(seed, 3, 3, inputs, outputs, scale=0.3)
    w2 = normal(seed + 1, 3, 3, outputs, outputs, scale=0.3)
    shortcut = normal(seed + 2, 1, 1, inputs, outputs)
    p = norm_params(seed + 3, outputs)

    def block(x):
        h = jax.nn.relu(nets.batch_norm(nets.conv(x, w1, stride, (1, 1)), p, 1e-3))
        h = nets.conv(h, w2, padding=(1, 1)) + 0.1
        return h + (x if inputs == outputs else nets.conv(x, shortcut, stride))

    return block


def with_bias(w, b, **options):
    return lambda x: nets.conv(x, w, **options) + b


SEGMENTS = {
    "conv with more outputs": (with_bias(normal(0, 3, 3, 3, 8), 0.5, padding=(1, 1)), 3),
    "conv with fewer outputs": (with_bias(normal(1, 3, 3, 6, 2), 0.5, padding=(1, 1)), 6),
    "strided conv": (with_bias(normal(2, 3, 3, 4, 5), normal(3, 5), stride=(2, 2)), 4),
    "depthwise conv": (
        lambda x: jax.lax.conv_general_dilated(
            x,
            normal(4, 3, 3, 1, 6),
            (1, 1),
            "SAME",
            feature_group_count=3,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        3,
    ),
    "batch norm": (lambda x: nets.batch_norm(x, norm_params(4, 4), 1e-3), 4),
    "ReLU": (jax.nn.relu, 4),
    "max pool": (lambda x: nets.max_pool(x, (2, 2), (2, 2)), 4),
    "overlapping max pool": (lambda x: nets.max_pool(x, (3, 3), (2, 2), (1, 1)), 4),
    "average pool": (lambda x: x.reshape(1, 3, 2, 3, 2, -1).mean((2, 4)), 4),
    "residual block": (residual_block(5, 4, 4, (1, 1)), 4),
    "residual block, ReLU": (lambda x: jax.nn.relu(residual_block(5, 4, 4, (1, 1))(x)), 4),
    "residual block, stride, ReLU": (lambda x: jax.nn.relu(residual_block(9, 3, 4, (2, 2))(x)), 3),
}


def lead_back(fn, x, y, solver):
    """Lead ``y`` back through all stages of ``fn``: what NAFlow does between two layers."""
    model = trace(fn, x)
    led = start(y)
    for stage in reversed(stages(model.graph)):
        a, *held = model.evaluate([x], outputs=[stage.source, *stage.constants])
        led = preimage(stage, tuple(held), a, led, solver)
    return led


def jacobian(fn, x):
    return np.asarray(jax.jacobian(lambda v: fn(v).ravel())(x)).reshape(-1, x.size)


def dense_preimage(fn, a, y):
    """The minimal least-squares solution of ``f(a) + J (x - a) = y``."""
    j = jacobian(fn, a)
    right = np.asarray(y - fn(a)).ravel() + j @ np.asarray(a).ravel()
    return np.linalg.lstsq(j, right)[0].reshape(a.shape)


@pytest.mark.parametrize("solver", [EXACT, DENSE], ids=["cg", "dense"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segments_preimage_is_the_dense_least_squares_solution(x64, name, solver):
    fn, channels = SEGMENTS[name]
    a = jnp.asarray(normal(20, 1, 6, 6, channels))
    y = jnp.asarray(normal(21, *fn(a).shape))  # not one that the segment can put out
    if "ReLU" in name:  # which abandons what is led back negative
        y = abs(y)
    led = lead_back(fn, a, y, solver)
    assert nets.relative_error(led.value, dense_preimage(fn, a, y)) < 1e-5


def test_a_neuron_that_fired_but_is_led_back_negative_is_abandoned(x64):
    """Eq. 12; and the layer below is asked for what is left, not for a 0 in its place."""
    a, y = jnp.array([-1.0, 2.0, 3.0, 4.0]), jnp.array([5.0, -1.0, 0.0, 7.0])
    led = lead_back(jax.nn.relu, a[None, None, :, None], y[None, None, :, None], EXACT)
    assert led.value.ravel().tolist() == [0, 0, 0, 7]
    assert led.known.ravel().tolist() == [False, False, False, True]

    w = jnp.asarray(normal(3, 2, 2))

    def fn(x):
        return jax.nn.relu(x @ w + 10)

    a = jnp.ones((1, 1, 1, 2))
    led = lead_back(fn, a, jnp.array([-3.0, 4.0]).reshape(1, 1, 1, 2), EXACT)
    column = w[:, 1]  # x . column + 10 = 4, of least norm
    np.testing.assert_allclose(led.value.ravel(), -6 * column / (column @ column), rtol=1e-9)


def test_one_default_of_damping(monkeypatch):
    """`naflow`, `naflow_similarity` and the command line take what `LeastSquares` has."""
    damping = jaxplain.LeastSquares().damping
    assert damping == 0.3
    for function in (jaxplain.naflow, jaxplain.naflow_similarity):
        assert inspect.signature(function).parameters["solver"].default.damping == damping
    assert not set(CATALOGUE["naflow"].options)

    taken = []
    one = np.zeros(1, np.float32)
    about = jaxplain.Explanation("", np.zeros((4, 4, 3), "u1"), "", (0,), ("cat",), one, one, ("",))
    subject = computing.Subject(about, jnp.ones((1, 4, 4, 3)), lambda x: x)
    choice = method_options.choices(["naflow"], [])["naflow"]

    def naflow(*_, solver, **__):
        taken.append(solver)
        raise InterruptedError

    monkeypatch.setattr(sys.modules["jaxplain.explainers.naflow"], "naflow", naflow)
    with pytest.raises(InterruptedError):
        computing.COMPUTED["naflow"](None, [subject], choice)
    assert taken[0].damping == damping


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_leaky_relu_is_inverted_exactly(x64, slope):
    x, a = map(jnp.asarray, (normal(0, 1, 3, 3, 2), normal(1, 1, 3, 3, 2)))

    def fn(v):
        return jax.nn.leaky_relu(v, slope)

    led = lead_back(fn, a, fn(x), EXACT)  # whatever the states of the forward pass were
    assert nets.relative_error(led.value, x) < 1e-12


def test_relu6_keeps_saturated_neurons(x64):
    a = jnp.array([-1.0, 2.0, 9.0]).reshape(1, 1, 3, 1)
    led = lead_back(jax.nn.relu6, a, jax.nn.relu6(a), EXACT)
    assert led.value.ravel().tolist() == [0.0, 2.0, 6.0]
    assert led.known.ravel().tolist() == [False, True, False]  # 9 asks the layer below for nothing


def test_a_channel_without_scale_is_abandoned(x64):
    scale = jnp.array([2.0, 0.0])
    a = jnp.ones((1, 1, 1, 2))
    led = lead_back(lambda x: x * scale + 1, a, 5 * a, EXACT)
    assert led.value.ravel().tolist() == [2.0, 0.0]
    assert led.known.ravel().tolist() == [True, False]


def invertible(x):
    """Convolutions that lose nothing, batch norm, leaky ReLU, a residual block."""

    def leaky(v):
        return jax.nn.leaky_relu(v, 0.2)

    h = tag(
        nets.conv(x, np.eye(3) * CENTRE + normal(0, 3, 3, 3, 3, scale=0.05), padding=(1, 1)), "conv"
    )
    h = tag(leaky(tag(nets.batch_norm(h, norm_params(1, 3), 1e-3), "norm")), "leaky")
    inner = leaky(nets.conv(h, normal(2, 3, 3, 3, 3, scale=0.1), padding=(1, 1)))
    h = tag(leaky(h + nets.conv(inner, normal(3, 3, 3, 3, 3, scale=0.1), padding=(1, 1))), "block")
    h = tag(h.transpose(0, 2, 1, 3), "turned")
    h = tag(nets.conv(h, normal(4, 1, 1, 3, 3)) - 0.3, "features")
    return h.mean((1, 2)) @ normal(5, 3, 4)


def test_a_network_of_invertible_layers_returns_its_own_activations(x64):
    x = normal(7, 2, 6, 6, 3)
    names = ["input", "conv", "norm", "leaky", "block", "turned", "features"]
    flow = jaxplain.naflow(invertible, x, 1, layer=names, solver=EXACT, details=True)
    _, acts = jaxplain.capture(invertible, names)(x)
    assert all(list(part) == names for part in flow)
    acts["turned"] = acts["turned"].transpose(0, 2, 1, 3)  # feature maps are (B, h, w, C)
    for name in names[:-1]:
        assert nets.relative_error(flow.features[name], acts[name]) < 1e-8, name
    upright = acts["features"].transpose(0, 2, 1, 3)
    assert nets.relative_error(flow.features["features"], upright) < 1e-8
    assert max(float(r.max()) for r in flow.residuals.values()) < 1e-9
    assert flow.iterations["turned"].min() > 0 and flow.iterations["conv"].max() == 0


def test_abandoned_neurons_are_those_that_relu_and_max_pool_discarded(x64):
    w1, w2 = normal(0, 3, 3, 3, 8), normal(1, 3, 3, 8, 30)  # of full column rank: they lose nothing

    def fn(x):
        h = tag(nets.conv(x, w1, padding=(1, 1)) + 0.1, "conv")
        h = tag(jax.nn.relu(h), "relu")
        h = tag(nets.max_pool(h, (2, 2), (2, 2)), "pool")
        return tag(nets.conv(h, w2, padding=(1, 1)), "features").mean((1, 2))

    x = normal(2, 1, 8, 8, 3)
    names = ["input", "conv", "relu", "pool", "features"]
    flow = jaxplain.naflow(fn, x, 0, layer=names, solver=EXACT, details=True)
    _, acts = jaxplain.capture(fn, names)(x)
    conv = np.asarray(acts["conv"])
    windows = np.maximum(conv, 0).reshape(1, 4, 2, 4, 2, 8).transpose(0, 1, 3, 5, 2, 4)
    first = np.eye(4, dtype=bool)[windows.reshape(1, 4, 4, 8, 4).argmax(-1)]
    first = first.reshape(1, 4, 4, 8, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(conv.shape)
    used = first & (conv > 0)
    assert 0.1 < used.mean() < first.mean() == 0.25
    features = {name: np.asarray(f) for name, f in flow.features.items()}
    assert ((features["conv"] != 0) == used).all() and (features["relu"][~first] == 0).all()
    for name in ("conv", "relu"):
        assert nets.relative_error(features[name], np.where(used, conv, 0)) < 1e-8
    assert (np.asarray(flow.coefficients["conv"])[~used] == 0).all()
    # What the abandoned neurons held is not asked of the input.
    again = np.asarray(jaxplain.capture(fn, ["conv"])(flow.features["input"])[1]["conv"])
    assert nets.relative_error(np.where(used, again, 0), np.where(used, conv, 0)) < 1e-8


@pytest.fixture
def convnet(x64):
    return nets.convnet({k: jnp.asarray(v) for k, v in nets.convnet_params(3, bias=0.3).items()})


def test_the_last_layers_map_is_hires_cam(convnet):
    x = jnp.asarray(nets.images(0))
    got = jaxplain.naflow(convnet, x, layer=["pool", "out"])
    assert nets.relative_error(got["out"], jaxplain.hires_cam(convnet, x, layer="out")) < 1e-12
    alone = jaxplain.naflow(convnet, x, layer="pool")
    assert nets.relative_error(alone, got["pool"]) < 1e-10


def test_a_layers_map_written_out_with_dense_matrices(convnet):
    x = jnp.asarray(nets.images(0, batch=1))
    p = nets.convnet_params(3, bias=0.3)
    flow = jaxplain.naflow(convnet, x, 2, layer=["pool", "sum", "out"], solver=EXACT, details=True)
    pool = jaxplain.capture(convnet, ["pool"])(x)[1]["pool"]

    def block(v):
        h = jax.nn.relu(nets.conv(v, p["conv2"], padding=(1, 1)) + p["bias2"])
        return h + v

    def scores(v):
        return (jax.nn.relu(v).mean((1, 2)) @ p["dense"])[0, 2]

    features = dense_preimage(lambda v: jax.nn.relu(block(v)), pool, jax.nn.relu(block(pool)))
    assert nets.relative_error(flow.features["pool"], features) < 1e-6
    above = jax.grad(scores)(flow.features["sum"])
    alpha = np.asarray(above).ravel() @ jacobian(block, jnp.asarray(features))
    expected = (alpha.reshape(pool.shape) * features).sum(-1)
    assert nets.relative_error(flow.maps["pool"], expected) < 1e-6
    assert nets.relative_error(flow.maps["sum"], (above * flow.features["sum"]).sum(-1)) < 1e-12


def test_the_residual_is_that_of_the_normal_equations(convnet):
    x = jnp.asarray(nets.images(0, batch=1))
    few = jaxplain.LeastSquares(tolerance=1e-9, iterations=2, damping=0.0)
    flow = jaxplain.naflow(convnet, x, layer=["pool", "out"], solver=few, details=True)
    _, acts = jaxplain.capture(convnet, ["pool", "out"])(x)
    p = nets.convnet_params(3, bias=0.3)

    def block(v):
        h = jax.nn.relu(nets.conv(v, p["conv2"], padding=(1, 1)) + p["bias2"])
        return jax.nn.relu(h + v)

    j = jacobian(block, acts["pool"])
    y = np.asarray(acts["out"] - block(acts["pool"])).ravel() + j @ np.asarray(acts["pool"]).ravel()
    got = np.asarray(flow.features["pool"]).ravel()
    expected = np.linalg.norm(j.T @ (j @ got - y)) / np.linalg.norm(j.T @ y)
    assert flow.iterations["pool"].tolist() == [2] and flow.residuals["out"].tolist() == [0]
    assert float(flow.residuals["pool"][0]) == pytest.approx(expected, rel=1e-6) and expected > 1e-3


def test_damping_solves_the_damped_normal_equations(x64):
    fn, channels = SEGMENTS["conv with fewer outputs"]
    a = jnp.asarray(normal(20, 1, 6, 6, channels))
    y = jnp.asarray(normal(21, *fn(a).shape))
    j = jacobian(fn, a)
    expected = np.linalg.solve(j.T @ j + 0.49 * np.eye(a.size), j.T @ np.asarray(y - 0.5).ravel())
    for method in ("cg", "dense"):
        options = jaxplain.LeastSquares(method, tolerance=1e-11, iterations=2000, damping=0.7)
        led = lead_back(fn, a, y, options)
        assert nets.relative_error(led.value, expected.reshape(a.shape)) < 1e-8
        assert float(led.residual) < 1e-9


def test_batches_classes_chunks_and_jit(convnet):
    x = jnp.asarray(nets.images(0))
    classes = jnp.array([[0, 3, 1], [2, 1, 0]])
    options = dict(layer=["pool", "out"], solver=EXACT)
    maps = jaxplain.naflow(convnet, x, classes, **options)
    assert maps["pool"].shape == (2, 3, 4, 4)
    jitted = jax.jit(lambda x, t: jaxplain.naflow(convnet, x, t, class_chunk=2, **options))(
        x, classes
    )
    alone = jaxplain.naflow(convnet, x[1:], classes[1, 2], **options)
    signal = jax.nn.one_hot(classes, 4)
    prior = jaxplain.naflow(convnet, x, signal, **options)
    for name, m in maps.items():
        assert nets.relative_error(jitted[name], m) < 1e-9
        assert nets.relative_error(prior[name], m) < 1e-9
        assert nets.relative_error(alone[name][0], m[1, 2]) < 1e-9
    top = jaxplain.naflow(convnet, x, **options)["pool"]
    best = jaxplain.naflow(convnet, x, convnet(x).argmax(-1), **options)["pool"]
    assert nets.relative_error(top, best) < 1e-9


def test_gradients_of_a_map(convnet):
    x = jnp.asarray(nets.images(0, batch=1))
    direction, weight = normal(1, *x.shape), normal(2, 1, 4, 4)

    def loss(t):
        m = jaxplain.naflow(convnet, x + t * direction, 1, layer="pool", solver=EXACT)
        return (m * weight).sum()

    step = 1e-5
    numeric = (loss(step) - loss(-step)) / (2 * step)
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(numeric), rel=1e-5)


@pytest.mark.parametrize("name", ["conv with more outputs", "conv with fewer outputs"])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_gradients_through_a_solve(x64, name, damping):
    channels, outputs = (3, 8) if "more" in name else (6, 2)
    a, weight = jnp.asarray(normal(0, 1, 5, 5, channels)), normal(1, 1, 5, 5, channels)
    y, w = jnp.asarray(normal(2, 1, 5, 5, outputs)), normal(3, 3, 3, channels, outputs)
    dy, dw = normal(4, *y.shape), normal(5, *w.shape)
    options = jaxplain.LeastSquares(tolerance=1e-12, iterations=2000, damping=damping)

    def loss(t):
        def fn(v):
            return nets.conv(v, w + t * dw, padding=(1, 1))

        return (lead_back(fn, a, y + t * dy, options).value * weight).sum()

    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(numeric), rel=1e-5)


def test_bfloat16_is_solved_in_float32():
    params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(3, bias=0.3).items()}
    short = nets.convnet({k: v.astype(jnp.bfloat16) for k, v in params.items()})
    x = jnp.asarray(nets.images(0), jnp.float32)
    layers = ["act1", "pool", "out"]
    flow = jaxplain.naflow(short, x.astype(jnp.bfloat16), 1, layer=layers, details=True)
    exact = jaxplain.naflow(nets.convnet(params), x, 1, layer=layers)
    for name, m in flow.maps.items():
        assert m.dtype == jnp.bfloat16 and flow.features[name].dtype == jnp.float32
        a, b = np.asarray(m, np.float32).ravel(), np.asarray(exact[name]).ravel()
        assert np.isfinite(a).all() and np.corrcoef(a, b)[0, 1] > 0.98, name


def test_memory_grows_with_the_activations(fully_compiled):
    block = residual_block(0, 8, 8, (1, 1))

    def temporary(size):
        def fn(x):
            return tag(jax.nn.relu(block(tag(jax.nn.relu(block(x)), "below"))), "out").mean((1, 2))

        def explain(x):
            return jaxplain.naflow(fn, x, 0, layer=["input", "below", "out"])

        x = jax.ShapeDtypeStruct((1, size, size, 8), jnp.float32)
        return jax.jit(explain).lower(x).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(16), temporary(32)  # 4 times the activations, 16 times the Jacobians
    assert small < large < 5 * small and large < 200 * 32 * 32 * 8 * 4


# -- errors ------------------------------------------------------------------------------------


def test_a_layer_that_is_no_cut_is_refused(convnet):
    x = jnp.asarray(nets.images(0))
    with pytest.raises(UnknownLayerError, match="'mid' is no cut .* 'pool', 'sum', 'out'") as error:
        jaxplain.naflow(convnet, x, layer=["mid", "out"])
    assert "the operation 'add' at" in str(error.value)
    assert "'mid'" not in str(error.value).split("are here")[1]
    with pytest.raises(UnknownLayerError, match="no layer 'nothing'"):
        jaxplain.naflow(convnet, x, layer="nothing")
    with pytest.raises(UnknownLayerError, match="no cut"):
        jaxplain.naflow(convnet, x, layer="pool", last="mid")


def test_other_errors(convnet):
    x = jnp.asarray(nets.images(0))
    with pytest.raises(ValueError, match="lies above 'pool'.*last='out'"):
        jaxplain.naflow(convnet, x, layer="out", last="pool")
    with pytest.raises(ValueError, match="'gap' has shape"):
        jaxplain.naflow(convnet, x, layer="gap")
    with pytest.raises(ValueError, match="empty sequence"):
        jaxplain.naflow(convnet, x, layer=[])
    with pytest.raises(ValueError, match="class 4 is out of range"):
        jaxplain.naflow(convnet, x, 4, layer="pool")
    with pytest.raises(ValueError, match=r"must be an int or have the shape \(batch,\).*batch 2"):
        jaxplain.naflow(convnet, x, [0, 1, 2], layer="pool")
    with pytest.raises(TypeError, match="solver must be a jaxplain.LeastSquares"):
        jaxplain.naflow(convnet, x, layer="pool", solver="cg")
    with pytest.raises(ValueError, match="too large to build"):
        jaxplain.naflow(
            lambda x: tag(nets.conv(x, normal(0, 1, 1, 3, 3)), "out").mean((1, 2)),
            jnp.ones((1, 64, 64, 3)),
            layer="input",
            solver=DENSE,
        )
    for options in ({"method": "lu"}, {"tolerance": 0.0}, {"iterations": 0}, {"damping": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            jaxplain.LeastSquares(**options)

    def sorted_pixels(x):
        return tag(jnp.sort(x, axis=-1), "sorted").mean((1, 2))

    with pytest.raises(UnsupportedOperationError, match="'sort'.*choose layers above it"):
        jaxplain.naflow(sorted_pixels, x, layer=["input", "sorted"])
