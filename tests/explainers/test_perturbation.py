"""Occlusion and RISE: by hand, by a loop over windows, and by the statistics of the masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxplain
from jaxplain.explainers.perturbation import draw_masks, make_mask

RNG = np.random.default_rng(0)
W = RNG.normal(size=(7, 5, 3, 4))


def linear(x):
    """Scores that are linear in the pixels."""
    return jnp.einsum("bhwc,hwcn->bn", x, jnp.asarray(W, x.dtype))


def network(x):
    h = jax.nn.relu(nets.conv(x, jnp.asarray(W[:3, :3, :, :], x.dtype), padding=(1, 1)))
    return jnp.tanh(h.mean((1, 2))) + 3


@pytest.fixture
def x(x64):
    return jnp.asarray(RNG.uniform(-1, 1, (2, 7, 5, 3)))


def test_occlusion_is_a_loop_over_windows(x):
    """Windows cut by the border, a pixel's mean over those that cover it, a baseline image."""
    baseline = jnp.asarray(RNG.normal(size=x.shape))
    total, count = np.zeros((2, 7, 5)), np.zeros((7, 5))
    for top in (0, 2, 4):
        for left in (0, 3):
            inside = np.zeros((7, 5))
            inside[top : top + 3, left : left + 4] = 1
            hidden = jnp.where(inside[None, :, :, None] > 0, baseline, x)
            drop = np.asarray(network(x) - network(hidden))[:, 1]
            total, count = total + drop[:, None, None] * inside, count + inside
    got = jaxplain.occlusion(
        network, x, 1, window=(3, 4), stride=(2, 3), baseline=baseline, batch_size=4
    )
    np.testing.assert_allclose(got, total / count, rtol=1e-9, atol=1e-13)


def test_occlusion_of_single_pixels_is_input_x_gradient(x):
    got = jaxplain.occlusion(linear, x, [[0, 2], [3, 1]], window=1)
    expected = jaxplain.input_x_gradient(linear, x, [[0, 2], [3, 1]])
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_occlusion_of_nothing_is_zero(x):
    assert not np.asarray(jaxplain.occlusion(network, x, 1, window=3, baseline=x)).any()


def test_one_window_over_everything(x):
    got = jaxplain.occlusion(network, x, 1, window=(7, 5))
    drop = np.asarray(network(x) - network(0 * x))[:, 1]
    np.testing.assert_allclose(got, np.broadcast_to(drop[:, None, None], (2, 7, 5)), rtol=1e-9)


def rise_masks(key, masks, shape, grid, probability):
    drawn = draw_masks(key, masks, shape, grid, probability)
    return np.asarray(jax.vmap(lambda c, s: make_mask(c, s, shape))(*drawn))


def test_masks_have_their_probability_everywhere():
    """Values in [0, 1]; the mean at every pixel is the probability, whatever the shift."""
    masks = rise_masks(jax.random.key(0), 8000, (20, 13), (4, 3), 0.3)
    assert masks.shape == (8000, 20, 13) and masks.min() >= 0 and masks.max() <= 1 + 1e-6
    # A pixel's value has a standard deviation of at most sqrt(0.3 * 0.7); five standard errors.
    assert np.abs(masks.mean(0) - 0.3).max() < 5 * np.sqrt(0.21 / 8000)
    # Neighbours are alike, pixels two cells apart are independent.
    centred = masks - masks.mean(0)
    near, far = ((centred[:, 0] * centred[:, d]).mean() for d in (1, 13))
    variance = np.square(centred[:, 0]).mean()
    assert near > 0.9 * variance and abs(far) < 0.05 * variance


def test_rise_is_the_paper_s_sum(x64):
    """By hand from the masks, and what it tends to: weight * Var(M) / probability of each pixel."""
    weight = np.array([8.0, 2.0, -4.0, 0.0])
    fn = lambda x: x[:, 0, :, 0] @ jnp.asarray(weight)[:, None] + 5  # noqa: E731
    x, key, n = jnp.ones((1, 1, 4, 1)), jax.random.key(3), 4000
    # A grid much finer than the image: the pixels' values are independent.
    masks = rise_masks(key, n, (1, 4), (1, 40), 0.4)[:, 0]
    scores = masks @ weight + 5
    paper = jaxplain.rise(
        fn, x, 0, key=key, samples=n, grid=(1, 40), probability=0.4, centre=False, batch_size=64
    )
    np.testing.assert_allclose(paper[0, 0], scores @ masks / (n * 0.4), rtol=1e-6)
    maps = jaxplain.rise(fn, x, 0, key=key, samples=n, grid=(1, 40), probability=0.4, batch_size=64)
    np.testing.assert_allclose(
        maps[0, 0], (scores - scores.mean()) @ masks / (n * 0.4), rtol=1e-5, atol=1e-6
    )
    error = scores.std() * masks.std() / 0.4 / np.sqrt(n)
    np.testing.assert_allclose(maps[0, 0], weight * masks.var(0) / 0.4, atol=5 * error)


def test_a_constant_score_does_not_change_the_centred_map(x):
    key = jax.random.key(1)
    low = jaxplain.rise(network, x, 1, key=key, samples=30, grid=3)
    high = jaxplain.rise(lambda v: network(v) + 100, x, 1, key=key, samples=30, grid=3)
    np.testing.assert_allclose(high, low, atol=1e-9)


def test_rise_is_reproducible_and_its_masks_do_not_depend_on_the_batch(x):
    call = lambda v, t, seed=5, **o: np.asarray(  # noqa: E731
        jaxplain.rise(network, v, t, key=jax.random.key(seed), samples=10, grid=(3, 2), **o)
    )
    maps = call(x, [[0, 1], [3, 2]])
    np.testing.assert_array_equal(maps, call(x, [[0, 1], [3, 2]]))
    np.testing.assert_allclose(maps[1:, 1], call(x[1:], 2, batch_size=3), rtol=1e-9)
    assert np.abs(maps - call(x, [[0, 1], [3, 2]], seed=6)).max() > 1e-3


CALLS = {
    "occlusion": {"window": 3},
    "rise": {"key": jax.random.key(0), "samples": 6, "grid": 2},
}


@pytest.mark.parametrize("method", CALLS)
def test_jit_slopes_and_half_precision(method):
    call = lambda v: getattr(jaxplain, method)(network, v, 1, **CALLS[method])  # noqa: E731
    x = jnp.asarray(RNG.uniform(-1, 1, (2, 7, 5, 3)), jnp.float32)
    maps = call(x)
    np.testing.assert_allclose(jax.jit(call)(x), maps, rtol=1e-4, atol=1e-5)
    assert np.isfinite(np.asarray(jax.grad(lambda v: jnp.square(call(v)).sum())(x))).all()
    half = call(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert np.abs(np.asarray(half, np.float32) - np.asarray(maps)).max() < 0.1


@pytest.mark.parametrize("method", CALLS)
def test_score_maps_and_shards(method):
    """A fully convolutional network, whose batch is spread over two devices."""
    w = jnp.asarray(W[:3, :3], jnp.float32)
    fn = lambda v: nets.conv(v, w)  # noqa: E731
    call = lambda v: getattr(jaxplain, method)(fn, v, 2, **CALLS[method])  # noqa: E731
    x = jnp.asarray(nets.images(1, size=5), jnp.float32)
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    whole = call(x)
    assert whole.shape == (2, 5, 5) and np.asarray(whole).any()
    spread = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))(x)
    np.testing.assert_allclose(spread, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        ("occlusion", {"window": 32}, ValueError, "images of 7 x 5, not be 32 x 32"),
        ("occlusion", {"window": 2, "stride": 3}, ValueError, "must not exceed window"),
        ("occlusion", {"window": (1, 2, 3)}, ValueError, "an int or a pair"),
        ("occlusion", {"window": 0}, ValueError, "window must be at least 1"),
        ("occlusion", {"window": 2, "baseline": np.ones(2)}, ValueError, "does not broadcast"),
        ("rise", {"samples": 0}, ValueError, "samples must be at least 1"),
        ("rise", {"grid": 1.5}, TypeError, "grid must be an int"),
        ("rise", {"probability": 0.0}, ValueError, r"must be in \(0, 1\]"),
        ("rise", {"baseline": np.ones((3, 7, 5, 3))}, ValueError, "does not broadcast"),
    ],
)
def test_errors(x, method, options, error, match):
    key = {"key": jax.random.key(0)} if method == "rise" else {}
    with pytest.raises(error, match=match):
        getattr(jaxplain, method)(linear, x, 0, **key, **options)
