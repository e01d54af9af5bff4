"""Odd inputs and odd networks, for every method: right, or refused in one sentence."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax import lax
from methods import OF_ANY_NETWORK, explain, fit

import jaxplain
from jaxplain.explainers.catalogue import CATALOGUE

every = pytest.mark.parametrize("name", OF_ANY_NETWORK)
FOR_A_CLASS = [name for name, method in OF_ANY_NETWORK.items() if method.per_class]
every_for_a_class = pytest.mark.parametrize("name", FOR_A_CLASS)
#: Methods that look at how scores change, or at activations, not at gradients.
WITHOUT_GRADIENTS = {
    *("fitted-cam", "score-cam", "ablation-cam", "eigen-cam", "occlusion", "rise", "pfv"),
}


@pytest.fixture(scope="module")
def fn():
    return nets.convnet({k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(3).items()})


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(nets.images(3), jnp.float32)


@every
def test_no_images(name, fn, x):
    with pytest.raises(ValueError, match=r"no image.*\(0, 8, 8, 3\)"):
        explain(name, fn, x[:0], 1)


@every_for_a_class
def test_signal_that_is_not_finite(name, fn, x):
    signal = np.ones((2, 4), np.float32)
    signal[1, 2] = np.inf if name in ("mwp", "rise") else np.nan
    with pytest.raises(ValueError, match="signal holds NaN or infinity"):
        explain(name, fn, x, signal)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "rise"])
def test_baseline_that_is_not_finite(method, fn, x):
    options = {"key": jax.random.key(0)} if method == "rise" else {}
    with pytest.raises(ValueError, match="baseline holds NaN or infinity"):
        getattr(jaxplain, method)(fn, x, 1, baseline=np.float32([0, np.nan, 0]), **options)


def test_box_and_reference_that_are_not_finite(fn, x):
    with pytest.raises(ValueError, match="box holds NaN or infinity"):
        jaxplain.lrp(fn, x, 1, composite="epsilon_gamma_box", box=(0, np.inf))
    with pytest.raises(ValueError, match="reference holds NaN or infinity"):
        jaxplain.naflow_similarity(fn, x, np.float32([1, 2, np.nan, 0]))


def test_signals_on_a_device_are_not_read(fn, x):
    maps = jaxplain.gradient(fn, x, jnp.ones((2, 4)).at[1, 2].set(jnp.nan))
    assert np.isfinite(maps[0]).all() and np.isnan(maps[1]).all()


@every_for_a_class
def test_whole_scores(name, fn, x):
    with pytest.raises(TypeError, match="floating-point scores, not int32"):
        explain(name, lambda v: fn(v).astype(jnp.int32), x, 1)


WITHOUT_SIGNAL = {
    "convert_element_type": lambda s: (10 * s).astype(jnp.int32).astype(jnp.float32),
    "round": jnp.round,
    "argmax": lambda s: jax.nn.one_hot(s.argmax(-1), 4),
    "gt": lambda s: jnp.where(s > 0, 1.0, 0.0),
    "stop_gradient": lax.stop_gradient,
}


@pytest.mark.parametrize("cut", WITHOUT_SIGNAL)
def test_scores_without_a_gradient(cut, fn, x):
    with pytest.raises(ValueError, match=rf"no gradient.*'input'.*{cut}.*test_odds.py:"):
        jaxplain.gradient(lambda v: WITHOUT_SIGNAL[cut](fn(v)), x, 1)


@pytest.mark.parametrize(
    "name", [n for n in FOR_A_CLASS if n not in WITHOUT_GRADIENTS and n != "cam"]
)
def test_every_method_that_needs_a_gradient_refuses(name, fn, x):
    with pytest.raises(ValueError, match="no gradient.*convert_element_type"):
        explain(name, lambda v: WITHOUT_SIGNAL["convert_element_type"](fn(v)), x, 1)


def test_gradients_above_and_beside_a_cut(fn, x):
    """A quantised image has gradients behind it, and a straight-through estimator has them all."""

    def quantised(v):
        return fn((v * 255).astype(jnp.int32).astype(jnp.float32) / 255)

    assert jaxplain.grad_cam(quantised, x, 1).any()
    with pytest.raises(ValueError, match="no gradient"):
        jaxplain.gradient(quantised, x, 1)

    def through(v):
        return fn(v + lax.stop_gradient(jnp.round(v * 255) / 255 - v))

    expected = jax.grad(lambda v: through(v)[:, 1].sum())(x)
    got = jaxplain.gradient(through, x, 1, reduce=None)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_dense_attention_needs_gradients_between_its_layers(x):
    w = jnp.asarray(nets.convnet_params(1)["conv1"], jnp.float32)

    def network(v):
        h = jaxplain.tag(jax.nn.relu(nets.conv(v, w)), "low")
        return jaxplain.tag(nets.max_pool(jnp.round(h), (2, 2), (2, 2)), "high").mean((1, 2))

    with pytest.raises(ValueError, match="no gradient.*'low'.*round"):
        jaxplain.dense_attention(network, x, layer=["low", "high"])


# ---- probabilities --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradient", "grad-cam", "feedback", "naflow", "rise"])
@pytest.mark.parametrize("end", [jax.nn.softmax, jax.nn.sigmoid])
def test_saturated_probabilities_are_warned_of(name, end, fn, x):
    def network(v):
        return end(1e4 * fn(v))

    with pytest.warns(UserWarning, match=f"ends in a {end.__name__}.*logits") as caught:
        explain(name, network, x, 1)
    assert caught[0].filename.endswith("methods.py"), "the line that calls the explainer"


@pytest.mark.parametrize("name", ["mwp", "d-wta", "score-cam", "eigen-cam"])
def test_methods_that_do_not_mind_probabilities(name, fn, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = explain(name, lambda v: jax.nn.softmax(1e4 * fn(v)), x, 1)
    assert maps.any()


def test_logits_are_not_warned_of(fn, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxplain.gradient(lambda v: 2 * fn(v), x, 1)


# ---- large values ---------------------------------------------------------------------------


def homogeneous(v):
    """Without biases: the map of ``c x`` has the form of the map of ``x``."""
    p = {k: jnp.asarray(w, jnp.float32) for k, w in nets.convnet_params(7, channels=24).items()}
    h = jaxplain.tag(jax.nn.relu(nets.conv(v, p["conv1"], padding=(1, 1))), "act1")
    h = nets.max_pool(h, (2, 2), (2, 2))
    h = jaxplain.tag(jax.nn.relu(nets.conv(h, p["conv2"], padding=(1, 1))), "out")
    return h.mean((1, 2)) @ p["dense"]


def _formed(maps):
    leaves = [np.asarray(m, np.float64) for m in jax.tree.leaves(maps) if hasattr(m, "shape")]
    return [m / max(np.abs(m).max(), 1e-300) for m in leaves if m.ndim >= 3]


@every
def test_large_values(name):
    if name == "grad-cam++":
        pytest.skip("its weights are no homogeneous function of the activations")
    x = jnp.asarray(nets.images(11, size=12), jnp.float32)
    more = {"fit": fit("out", 24)} if CATALOGUE[name].needs == "fit" else {}
    if name == "score-cam":  # the softmax of scores is none of their form
        more["weighting"] = "increase"
    expected = _formed(explain(name, homogeneous, x, 1, **more))
    got = _formed(explain(name, homogeneous, 2.0**60 * x, 1, **more))
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("reduce", ["l2", "max_abs"])
def test_large_gradients(reduce):
    maps = jaxplain.gradient(
        lambda v: 1e30 * v.sum((1, 2)), jnp.ones((1, 2, 2, 3)), 1, reduce=reduce
    )
    np.testing.assert_allclose(maps, 1e30, rtol=1e-6)


# ---- priors over a score map ------------------------------------------------------------------


def score_map(v):
    p = {k: jnp.asarray(w, jnp.float32) for k, w in nets.convnet_params(2).items()}
    h = jaxplain.tag(jax.nn.relu(nets.conv(v, p["conv1"], (2, 2), (1, 1))), "out")
    return nets.conv(h, p["dense"][None, None])


@pytest.mark.parametrize("name", [n for n in FOR_A_CLASS if n not in ("cam", "c-cam")])
def test_a_prior_over_a_score_map(name, x):
    """One that is the spread of a class itself gives the map of the class; so with several."""
    several = jnp.asarray([[0, 2], [1, 3]])
    spread = jax.nn.softmax(score_map(x), axis=(1, 2))
    prior = jnp.stack([spread * jax.nn.one_hot(several[:, k], 4)[:, None, None] for k in (0, 1)], 1)
    more = {"layer": "out"} if name == "naflow" else {}
    expected = np.asarray(explain(name, score_map, x, several, **more))
    got = np.asarray(explain(name, score_map, x, prior, **more))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4 * expected.max())
    assert expected.max() > 0
    close(got, expected)
    if name not in ("mwp", "gradient", "occlusion", "naflow"):  # the others take it alike
        return
    one = np.asarray(explain(name, score_map, x, np.asarray(prior[:, 1]), **more))
    close(one, expected[:, 1])


def test_who_takes_a_signal_says_that_it_may_say_where():
    functions = {getattr(jaxplain, m.function) for m in CATALOGUE.values()}
    taking = [f for f in functions if "(B, K, N)" in " ".join(f.__doc__.split())]
    assert len(taking) > 10
    for function in taking:
        assert "(B, K, H', W', N)" in " ".join(function.__doc__.split()), function.__name__


def test_a_prior_of_another_size(x):
    with pytest.raises(
        ValueError, match=r"\(2, 4, 4, 4\).*\(2, targets, 4, 4, 4\).*\(2, 3, 4, 4\)"
    ):
        jaxplain.gradient(score_map, x, np.ones((2, 3, 4, 4), np.float32))


# ---- ties ---------------------------------------------------------------------------------------

POOLS = {
    "window": lambda v: nets.max_pool(v, (2, 2), (2, 2)),
    "reshaped": lambda v: v.reshape(len(v), 2, 2, 2, 2, -1).max((2, 4)),
    "channels first": lambda v: jnp.moveaxis(
        jnp.moveaxis(v, -1, 1).reshape(len(v), -1, 2, 2, 2, 2).max((3, 5)), 1, -1
    ),
    "axes kept": lambda v: (
        v.reshape(len(v), 2, 2, 2, 2, -1).max((2, 4), keepdims=True).reshape(len(v), 2, 2, -1)
    ),
    "axis by axis": lambda v: jnp.amax(jnp.amax(v.reshape(len(v), 2, 2, 2, 2, -1), 4), 2),
    "stacked": lambda v: jnp.stack([v[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).max(0),
    "in pairs": lambda v: functools.reduce(
        jnp.maximum, [v[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    ),
    "least of the negated": lambda v: -(-v).reshape(len(v), 2, 2, 2, 2, -1).min((2, 4)),
    "lesser of the negated": lambda v: (
        -functools.reduce(jnp.minimum, [-v[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    ),
}


@pytest.mark.parametrize("method", [jaxplain.excitation_backprop, jaxplain.winner_take_all])
@pytest.mark.parametrize("pool", POOLS)
def test_ties_have_one_winner(method, pool):
    weight = jnp.asarray([[1.0, 2.0], [3.0, 1.0]])
    maps = method(
        lambda v: POOLS[pool](v).mean((1, 2)) @ weight, jnp.ones((1, 4, 4, 2)), 0, layer="input"
    )
    # Of every window of equals its first; d-WTA takes one window too.
    firsts = np.zeros((4, 4))
    firsts[::2, ::2] = 0.25
    if method is jaxplain.winner_take_all:
        firsts = np.zeros((4, 4))
        firsts[0, 0] = 1
    np.testing.assert_allclose(maps[0], firsts, atol=1e-6)


@pytest.mark.parametrize(
    "greatest",
    [
        lambda v: v.max((1, 2)),
        lambda v: v.max((1, 2), keepdims=True).reshape(len(v), -1),
        lambda v: jnp.amax(jnp.amax(v, 2), 1),
        lambda v: v.reshape(len(v), 9, 3).max(1),
    ],
    ids=["at once", "axes kept", "axis by axis", "flattened"],
)
def test_ties_of_a_maximum_over_space(greatest):
    maps = jaxplain.excitation_backprop(
        lambda v: greatest(v) @ jnp.eye(3), jnp.ones((2, 3, 3, 3)), 1, layer="input"
    )
    expected = np.zeros((2, 3, 3))
    expected[:, 0, 0] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)


# ---- winners ------------------------------------------------------------------------------------


def positions(x):
    return jax.nn.relu(x @ jnp.asarray(nets.normal(3, 3, 6), x.dtype))


def of_one_image(image):
    """Matrices times vectors: `jax.vmap` puts the images last, and leaves them there."""
    pooled = positions(image).mean((0, 1))
    hidden = jax.nn.relu(jnp.asarray(nets.normal(4, 7, 6), pooled.dtype) @ pooled)
    return jnp.asarray(nets.normal(5, 4, 7), pooled.dtype) @ hidden


def windowed(x):
    """A dense layer of windows, whose number is images times windows."""
    h = positions(x).reshape(len(x), 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6)
    h = jax.nn.relu(h @ jnp.asarray(nets.normal(4, 6, 6), h.dtype))
    return h.reshape(len(x), 16, 6).mean(1) @ jnp.asarray(nets.normal(5, 6, 4), h.dtype)


def attention(x):
    h = positions(x).reshape(len(x), 16, 6)
    weights = jax.nn.softmax(h @ h.swapaxes(1, 2))
    return (weights @ h)[:, 3] @ jnp.asarray(nets.normal(5, 6, 4), h.dtype)


@pytest.mark.parametrize("network", [jax.vmap(of_one_image), windowed, attention])
def test_each_image_has_its_own_winner(network):
    x = jnp.asarray(nets.normal(2, 3, 4, 4, 3), jnp.float32)
    for target in range(4):
        maps = jaxplain.winner_take_all(network, x, target, layer="relu:0")
        alone = [
            jaxplain.winner_take_all(network, x[i : i + 1], target, layer="relu:0")[0]
            for i in range(3)
        ]
        assert np.array_equal(maps, alone)
        assert set(np.unique(maps.sum((1, 2)))) <= {0, 1}
    assert maps.any()


def test_the_winner_of_attention_is_the_token_of_the_largest_share():
    x = jnp.asarray(nets.normal(2, 3, 4, 4, 3), jnp.float32)
    maps = jaxplain.winner_take_all(attention, x, 0, layer="relu:0")
    h = np.asarray(positions(x)).reshape(3, 16, 6)
    weights = np.asarray(jax.nn.softmax(h @ h.swapaxes(1, 2)))[:, 3]
    read = (weights[:, :, None] * h).sum(1)
    channel = (read * nets.normal(5, 6, 4)[:, 0]).argmax(1)
    token = [(weights[i] * h[i, :, c]).argmax() for i, c in enumerate(channel)]
    assert maps.reshape(3, 16).argmax(1).tolist() == token


def test_winners_of_images_that_cannot_be_told_apart_are_refused():
    def mixed(x):
        h = positions(x).reshape(2, 24, 6) @ jnp.ones((6, 4))
        return h.reshape(len(x), 16, 4).mean(1)

    x = jnp.asarray(nets.normal(2, 3, 4, 4, 3), jnp.float32)
    with pytest.raises(jaxplain.UnsupportedOperationError, match="where the images lie"):
        jaxplain.winner_take_all(mixed, x, 0, layer="input")


def test_winners_behind_a_scan():
    kernel = jnp.asarray(nets.normal(4, 1, 6, 6), jnp.float32)

    def head(h):
        return h.mean((1, 2)) @ jnp.asarray(nets.normal(5, 6, 4), h.dtype)

    def scanned(x):
        return head(jax.lax.scan(lambda h, k: (jax.nn.relu(h @ k), None), positions(x), kernel)[0])

    x = jnp.asarray(nets.normal(2, 3, 4, 4, 3), jnp.float32)
    for layer in (None, "input"):
        maps = jaxplain.winner_take_all(scanned, x, 1, layer=layer)
        plain = jaxplain.winner_take_all(
            lambda x: head(jax.nn.relu(positions(x) @ kernel[0])), x, 1, layer=layer
        )
        assert np.array_equal(maps, plain) and maps.any()
