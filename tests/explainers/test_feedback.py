"""Feedback CNN (Cao et al. 2015): what the sweeps promise, against networks written out by hand.

The oracle of the held states is `gated_convnet`: masks and pooling switches are inputs of it.
"""

from __future__ import annotations

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxplain
from jaxplain.core import UnsupportedOperationError

SEEDS = st.integers(0, 2**31 - 1)
examples = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GATES = ("relu:0", "relu:1", "relu:2")  # of nets.convnet, from the image up


class Network:
    """A function whose weights can be redrawn without compiling again."""

    def __init__(self, build):
        self.params: dict = {}
        self.fn = build(self.params)

    def set(self, params):
        self.params.update({k: jnp.asarray(v) for k, v in params.items()})
        return self.fn


CONVNET = Network(nets.convnet)


def draw(seed: int, batch: int = 2):
    params = nets.convnet_params(seed, bias=0.3)
    return params, jnp.asarray(nets.images(seed + 1, batch=batch, low=-1.0))


def run(fn, x, targets, **options):
    return jaxplain.feedback(fn, x, targets, details=True, **options)


@jax.jit
def gated_convnet(p, x, gates, held=None, added=None):
    """nets.convnet with a gate behind each ReLU: scores, and the states that it was in.

    `held` are the states (three ReLU masks, the pool's switches) to use instead of its own;
    `added` is added to each gated output, whose gradient is thereby that of `added`.
    """
    states = {}

    def relu(z, name):
        states[name] = (z > 0).astype(z.dtype)
        gated = z * (states if held is None else held)[name] * gates[name]
        return gated if added is None else gated + added[name]

    h = nets.conv(x, p["conv1"], padding=(1, 1)) + p["bias1"]
    h = relu(nets.batch_norm(h, p, 1e-3), "relu:0")
    b, n, _, c = h.shape
    windows = h.reshape(b, n // 2, 2, n // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    windows = windows.reshape(b, n // 2, n // 2, 4, c)
    states["pool"] = jax.nn.one_hot(windows.argmax(3), 4, axis=3, dtype=h.dtype)
    pool = (windows * (states if held is None else held)["pool"]).sum(3)
    mid = relu(nets.conv(pool, p["conv2"], padding=(1, 1)) + p["bias2"], "relu:1")
    out = relu(mid + pool, "relu:2")
    return out.mean((1, 2)) @ p["dense"] + p["bias3"], states


def held_score(gates, x, p, signal, held):
    return jnp.sum(signal * gated_convnet(p, x, gates, held)[0])


held_slopes, held_template = (jax.jit(jax.grad(held_score, argnums=i)) for i in (0, 1))


@jax.jit
def held_signals(gates, x, p, signal, held):
    """The gradient of the held score at each gated output."""

    def score(added):
        return jnp.sum(signal * gated_convnet(p, x, gates, held, added)[0])

    return jax.grad(score)(jax.tree.map(jnp.zeros_like, gates))


def ones():
    shapes = {"relu:0": (2, 8, 8, 6), "relu:1": (2, 4, 4, 6), "relu:2": (2, 4, 4, 6)}
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


# ---- what a sweep promises ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hard", "soft"])
@examples
@given(SEEDS, st.integers(0, 3), st.integers(0, 3))
def test_held_score_never_falls_within_a_sweep(x64, mode, seed, first, second):
    """Layer after layer from the top; each layer's gates follow from what holds above them then.

    Hard gates by the gradient at the gated output, soft ones by the slope.
    """
    params, x = draw(seed)
    fn, targets = CONVNET.set(params), jnp.asarray([first, second])
    p, signal = dict(CONVNET.params), jax.nn.one_hot(targets, 4)
    gates = ones()
    for steps in (1, 2):
        result = run(fn, x, targets, steps=steps, mode=mode, step_size=20.0)
        start, held = gated_convnet(p, x, gates)
        np.testing.assert_allclose(
            result.scores[:, steps - 1], (signal * start).sum(1), rtol=1e-10, atol=1e-12
        )
        score = np.asarray((signal * start).sum(1))
        for name in reversed(GATES):
            place = (gates, x, p, signal, held)
            expected = (
                gates[name] * (held_signals(*place)[name] > 0)
                if mode == "hard"
                else jnp.clip(gates[name] + 20.0 * held_slopes(*place)[name], 0, 1)
            )
            np.testing.assert_allclose(result.gates[name], expected, atol=1e-9, err_msg=name)
            if mode == "hard":  # what is closed stays closed
                assert (np.asarray(result.gates[name]) <= np.asarray(gates[name])).all()
            gates = {**gates, name: result.gates[name]}
            now = np.asarray((signal * gated_convnet(p, x, gates, held)[0]).sum(1))
            assert (now >= score - 1e-12).all(), (name, now - score)
            score = now
        # Eq. 8: the template is the held score's gradient under these gates.
        template = held_template(gates, x, p, signal, held)
        np.testing.assert_allclose(result.maps, np.abs(template).max(-1), atol=1e-12)
        final = (signal * gated_convnet(p, x, gates)[0]).sum(1)
        np.testing.assert_allclose(result.scores[:, steps], final, rtol=1e-10, atol=1e-12)


@examples
@given(SEEDS)
def test_hard_mode_reaches_a_fixed_point(x64, seed):
    """At the end no gate changes any more: the gradient at each open gate's output is positive."""
    params, x = draw(seed)
    fn, targets = CONVNET.set(params), jnp.tile(jnp.arange(4), (2, 1))
    end = run(fn, x, targets, steps=40)
    assert np.asarray(end.converged).all()
    for name in GATES:
        gates = np.asarray(end.gates[name])
        assert set(np.unique(gates)) <= {0.0, 1.0}
    np.testing.assert_allclose(end.scores[..., -1], end.scores[..., -2], rtol=1e-12)
    p = dict(CONVNET.params)
    for k in range(4):  # the gated network's own gradient, slopes and activations
        gates = {name: g[:, k] for name, g in end.gates.items()}
        scores, states = gated_convnet(p, x, gates)
        np.testing.assert_allclose(end.scores[:, k, -1], scores[:, k], rtol=1e-10, atol=1e-12)
        signal = jax.nn.one_hot(jnp.full(2, k), 4)
        template = held_template(gates, x, p, signal, states)
        np.testing.assert_allclose(end.maps[:, k], np.abs(template).max(-1), atol=1e-12)
        signals = held_signals(gates, x, p, signal, states)
        for name in GATES:
            assert (np.asarray(signals[name])[np.asarray(gates[name]) == 1] > 0).all()
            closed = np.asarray(gates[name]) == 0
            assert (np.asarray(end.activations[name])[:, k][closed] == 0).all()


def test_simultaneous_order_can_lower_the_score(x64):
    """Two layers of two units: closing the second unit above reverses both slopes below."""
    fn = nets.mlp([np.eye(2), [[2, 3], [-1, -2]], [[1], [-1]]], [np.zeros(2), [2, 0], [0]])
    x = jnp.ones((1, 1, 1, 2))
    both = run(fn, x, 0, steps=1, order="simultaneous")
    assert both.gates["relu:0"].tolist() == [[0, 1]] and both.gates["relu:1"].tolist() == [[1, 0]]
    assert both.scores.tolist() == [[2, 1]]  # all ReLUs stay open, so this is the held score too
    swept = run(fn, x, 0, steps=1)
    assert swept.gates["relu:0"].tolist() == [[1, 0]] and swept.gates["relu:1"].tolist() == [[1, 0]]
    assert swept.scores.tolist() == [[2, 4]]


def test_a_neuron_that_is_silent_at_first_fires_once_what_silenced_it_is_closed(x64):
    """The first of two units above is silent, but its weight is positive, so its gate stays open.

    The second unit closes the gate of the inhibitor of both; in the next pass the first one fires.
    """
    fn = nets.mlp([np.eye(2), [[1, 1], [-2, -1]], [[1], [1]]], [np.zeros(2), [0, 3], [0]])
    x = jnp.ones((1, 1, 1, 2))
    result = run(fn, x, 0, steps=3)
    assert result.gates["relu:0"].tolist() == [[1, 0]] and result.gates["relu:1"].tolist() == [
        [1, 1]
    ]
    assert result.scores.tolist() == [[3, 5, 5, 5]] and result.converged.all()
    assert result.activations["relu:1"].tolist() == [[1, 4]]


# ---- against exhaustive search ------------------------------------------------------------------


def gated_mlp_scores(weights, biases, x, target):
    """The target's score for every setting of all gates, in NumPy."""
    sizes = [len(b) for b in biases[:-1]]
    gates = np.array(list(itertools.product((0.0, 1.0), repeat=sum(sizes))))
    h, used = np.tile(x, (len(gates), 1)), 0
    for w, b, size in zip(weights, biases, sizes, strict=False):
        h = np.maximum(h @ w + b, 0) * gates[:, used : used + size]
        used += size
    return h @ weights[-1][:, target] + biases[-1][target]


def draw_mlp(seed, sizes):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=pair) for pair in itertools.pairwise(sizes)]
    return weights, [0.5 * rng.normal(size=n) for n in sizes[1:]], rng.normal(size=sizes[0])


def mlp_network(depth):
    return Network(
        lambda p: (
            lambda x: nets.mlp(
                [p[f"w{i}"] for i in range(depth)], [p[f"b{i}"] for i in range(depth)]
            )(x)
        )
    )


SHALLOW, DEEP = mlp_network(2), mlp_network(3)


def set_mlp(network, weights, biases):
    named = {f"w{i}": w for i, w in enumerate(weights)} | {f"b{i}": b for i, b in enumerate(biases)}
    return network.set(named)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@examples
@given(SEEDS, st.integers(0, 2))
def test_one_gated_layer_reaches_the_exhaustive_optimum(x64, mode, seed, target):
    weights, biases, x = draw_mlp(seed, (5, 9, 3))
    fn = set_mlp(SHALLOW, weights, biases)
    result = run(fn, jnp.asarray(x)[None, None, None], target, mode=mode, steps=60, step_size=1e4)
    best = gated_mlp_scores(weights, biases, x, target).max()
    np.testing.assert_allclose(result.scores[0, -1], best, rtol=1e-10, atol=1e-12)
    assert result.converged.all()


def test_two_gated_layers_against_the_exhaustive_optimum(x64, record_property):
    """Greedy sweeps, so no guarantee: the part of the possible gain that is reached, in 40 nets."""
    reached = {"hard": [], "soft": [], "simultaneous": []}
    options = {
        "hard": {},
        "simultaneous": {"order": "simultaneous"},
        "soft": {"mode": "soft", "steps": 100, "step_size": 0.5},
    }
    for seed in range(40):
        weights, biases, x = draw_mlp(seed, (4, 6, 6, 3))
        fn, image = set_mlp(DEEP, weights, biases), jnp.asarray(x)[None, None, None]
        every = gated_mlp_scores(weights, biases, x, 0)
        best, opened = every.max(), every[-1]
        for name, given_options in options.items():
            scores = np.asarray(run(fn, image, 0, **given_options).scores[0])
            assert scores[0] == pytest.approx(opened)
            if name != "soft":
                assert scores[-1] <= best + 1e-12
            reached[name].append((scores[-1] - opened) / (best - opened) if best > opened else 1.0)
    shares = {name: (np.mean(r), np.mean(np.asarray(r) > 1 - 1e-9)) for name, r in reached.items()}
    for name, (gain, optimal) in shares.items():
        record_property(name, f"{gain:.3f} of the gain, optimal in {optimal:.3f}")
        print(f"{name}: {gain:.3f} of the gain, optimal in {optimal:.3f} of the networks")
    # Measured: hard 0.888 (optimal in 65 %), soft 0.910 (68 %), hard simultaneous 0.830 (33 %).
    assert shares["soft"][0] > 0.88
    assert shares["hard"][0] > 0.86 > shares["simultaneous"][0]


# ---- with all gates open, and after one sweep ---------------------------------------------------


def inception():
    """ReLU6, LRN, overlapping pools in ceil mode, a concatenation, an addition, an average pool."""
    p = {k: jnp.asarray(v) for k, v in nets.convnet_params(5, bias=0.3).items()}

    def fn(x):
        h = jax.nn.relu6(3 * nets.conv(x, p["conv1"], padding=(1, 1)) + p["bias1"])
        h = nets.lrn(nets.max_pool(h, (3, 3), (2, 2), ceil_mode=True), 5, 0.5, 0.75, 1.0)
        left = jnp.maximum(nets.conv(h, p["conv2"], padding=(1, 1)) + p["bias2"], 0) + h
        right = jax.nn.relu(nets.max_pool(h, (3, 3), (1, 1), (1, 1)) - 0.2)
        h = jnp.concatenate([left, right], -1)
        return h.mean((1, 2)) @ jnp.concatenate([p["dense"], -p["dense"]]) + p["bias3"]

    return fn


def score_map():
    p = {k: jnp.asarray(v) for k, v in nets.convnet_params(6).items()}
    return lambda x: jnp.where((h := nets.conv(x, p["conv1"])) > 0, h, 0) @ p["dense"]


@pytest.mark.parametrize("network", [inception, score_map])
def test_open_gates_are_gradient_and_one_sweep_is_guided_backprop(x64, network):
    """Value for value, to rounding: XLA may sum the branches of an inception in another order."""
    fn, x = network(), jnp.asarray(nets.images(8, low=-1.0))
    targets = jnp.asarray([[0, 3], [2, 1]])
    opened = jaxplain.feedback(fn, x, targets, steps=0, reduce=None)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    same(opened, jaxplain.gradient(fn, x, targets, reduce=None))
    swept = jaxplain.feedback(fn, x, targets, steps=1, reduce=None)
    same(swept, jaxplain.guided_backprop(fn, x, targets, reduce=None))
    assert nets.relative_error(swept, opened) > 1e-2


# ---- the contract of an explainer ---------------------------------------------------------------


def test_classes_batches_jit_and_vmap(x64):
    params, x = draw(31, batch=4)
    fn, options = CONVNET.set(params), {"mode": "soft", "step_size": 20.0, "steps": 4}
    targets = jnp.asarray([[2, 0, 3, 1]] * 4)
    together = run(fn, x, targets, **options)
    assert together.maps.shape == (4, 4, 8, 8) and together.scores.shape == (4, 4, 5)
    assert together.gates["relu:0"].shape == together.activations["relu:0"].shape == (4, 4, 8, 8, 6)
    close = {"rtol": 1e-9, "atol": 1e-12}
    chunked = jaxplain.feedback(fn, x, targets, class_chunk=2, **options)
    np.testing.assert_allclose(chunked, together.maps, **close)
    signal = jnp.zeros((2, 4)).at[:, 3].set(1.0)
    mapped = jax.jit(jax.vmap(lambda v: jaxplain.feedback(fn, v, signal, **options)))(
        x.reshape(2, 2, 8, 8, 3)
    )
    np.testing.assert_allclose(mapped.reshape(4, 8, 8), together.maps[:, 2], **close)
    top = np.argmax(np.asarray(fn(x))[:, [2, 0, 3, 1]], -1)  # of the open network
    found = jaxplain.feedback(fn, x, **options)
    np.testing.assert_allclose(found, together.maps[np.arange(4), top], **close)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_bfloat16_and_a_black_image(mode):
    params = {k: jnp.asarray(v, jnp.bfloat16) for k, v in nets.convnet_params(33).items()}
    x = jnp.asarray(nets.images(33), jnp.bfloat16).at[1].set(0)
    result = run(nets.convnet(params), x, 1, mode=mode, step_size=20.0, steps=4)
    assert result.maps.dtype == jnp.bfloat16 and result.scores.dtype == jnp.float32
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    assert np.asarray(result.maps[0], np.float32).max() > 0


def test_gradient_of_a_map(x64):
    """With respect to the weights, against finite differences; the gates are constants."""
    x = jnp.asarray(nets.images(34))
    params = {k: jnp.asarray(v) for k, v in nets.convnet_params(34).items()}

    @jax.jit
    @jax.value_and_grad
    def loss(p):
        return jnp.sum(jaxplain.feedback(nets.convnet(p), x, 2, steps=2, reduce="sum") ** 2)

    slope, rng, h = loss(params)[1], np.random.default_rng(2), 1e-6
    for name in ("conv1", "gamma", "conv2", "dense"):
        way = rng.normal(size=params[name].shape)
        ahead, behind = (loss({**params, name: params[name] + s * h * way})[0] for s in (1, -1))
        exact = float(jnp.sum(slope[name] * way))
        assert exact == pytest.approx(float((ahead - behind) / (2 * h)), rel=1e-5), name


def test_sharded_batch(fully_compiled):
    """Under jit the devices share bits alone, on whether to go on; in shard_map nothing."""
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
    fn = nets.convnet({k: jnp.asarray(v) for k, v in nets.convnet_params(35).items()})
    x = jnp.asarray(nets.images(35, batch=8), jnp.float32)
    explain = lambda v: jaxplain.feedback(fn, v, 1, steps=3)  # noqa: E731
    expected = explain(x)
    sharded = jax.device_put(x, NamedSharding(mesh, P("batch")))
    compiled = jax.jit(explain).lower(sharded).compile()
    assert nets.relative_error(compiled(sharded), expected) < 2e-5
    collective = re.compile(r"= (\S+|\([^()]*\)) (all-\w+|reduce-scatter|collective-\w+)\(")
    found = collective.findall(compiled.as_text())
    assert found and all(name == "all-reduce" for _, name in found)
    assert set(re.findall(r"\w+\[\d*\]", " ".join(shape for shape, _ in found))) == {"pred[]"}
    mapped = jax.shard_map(explain, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    each = jax.jit(mapped).lower(sharded).compile()
    assert nets.relative_error(each(sharded), expected) < 2e-5
    assert not collective.findall(each.as_text())


def test_weights_are_read_anew_and_nothing_compiles_again():
    params, x = draw(36)
    fn, x = CONVNET.set({k: np.float32(v) for k, v in params.items()}), x.astype(jnp.float32)
    before, compiled = jaxplain.feedback(fn, x, 1, steps=2), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    CONVNET.set({k: np.float32(v) for k, v in draw(37)[0].items()})
    after = jaxplain.feedback(fn, x, 1, steps=2)
    assert not compiled
    assert nets.relative_error(after, before) > 1e-2


# ---- errors -------------------------------------------------------------------------------------


def test_errors():
    x = jnp.ones((1, 4, 4, 3))

    def hidden(v):
        return lax.while_loop(lambda u: u.sum() < 9, lambda u: jax.nn.relu(u) + 1, v).mean((1, 2))

    with pytest.raises(UnsupportedOperationError, match="(?s)no ReLU.*grad_cam"):
        jaxplain.feedback(lambda v: jax.nn.gelu(v).mean((1, 2)), x)
    with pytest.raises(UnsupportedOperationError, match="'while'"):
        jaxplain.feedback(lambda v: hidden(jax.nn.relu(v)), x)
    fn = lambda v: jax.nn.relu(v).mean((1, 2))  # noqa: E731
    for options, match in (
        ({"mode": "medium"}, "mode must be one of 'hard', 'soft'"),
        ({"order": "random"}, "order must be one of 'sequential'"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"reduce": "mean"}, "reduce must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            jaxplain.feedback(fn, x, 0, **options)
    with pytest.raises(TypeError, match="steps must be an int"):
        jaxplain.feedback(fn, x, 0, steps=2.5)
