"""Fixation maps and scores against loops written from their definitions, and cases done by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxplain.evaluation import fixations as fx


@pytest.fixture(scope="module")
def maps():
    """Saliency with ties, a density and points, two of each, 9 x 7 pixels."""
    rng = np.random.default_rng(0)
    saliency = np.round(rng.normal(size=(2, 9, 7)), 1)
    density = rng.gamma(0.5, size=(2, 9, 7))
    points = (rng.uniform(size=(2, 9, 7)) < 0.2) * rng.integers(1, 4, (2, 9, 7))
    return saliency, density, points.astype(float)


# -- fixation maps ----------------------------------------------------------------------------


def brute_fixation_map(fixations, shape, sigma, size):
    counts = np.zeros(shape)
    for row, column, duration in fixations:
        if 0 <= round(row) < shape[0] and 0 <= round(column) < shape[1]:
            counts[round(row), round(column)] += duration
    counts /= counts.max()
    middle = (size - 1) / 2
    kernel = np.array(
        [
            [np.exp(-((a - middle) ** 2 + (b - middle) ** 2) / (2 * sigma**2)) for b in range(size)]
            for a in range(size)
        ]
    )
    kernel /= kernel.sum()
    # MATLAB's conv2(..., "same"): the full convolution, from floor(size / 2) on.
    full = np.zeros((shape[0] + size - 1, shape[1] + size - 1))
    for i, j in np.argwhere(counts):
        full[i : i + size, j : j + size] += counts[i, j] * kernel
    start = size // 2
    return full[start : start + shape[0], start : start + shape[1]]


@pytest.mark.parametrize("size", [80, 9])
def test_fixation_map(x64, size):
    rng = np.random.default_rng(1)
    sigma = size / 4
    points = np.column_stack(
        [rng.uniform(-4, 44, 30), rng.uniform(-4, 34, 30), rng.uniform(80, 600, 30)]
    )
    points[3, :2] = points[4, :2] = 12.0, 9.0  # durations add up
    got = fx.fixation_map(points, (40, 30), sigma=sigma, size=size)
    assert np.allclose(got, brute_fixation_map(points, (40, 30), sigma, size), atol=1e-12)
    filled = np.concatenate([points, np.zeros((5, 3))])  # zeros count nothing
    assert np.allclose(fx.fixation_map(filled, (40, 30), sigma=sigma, size=size), got)
    half = jax.vmap(lambda p: fx.fixation_map(p, (40, 30), sigma=sigma, size=size))(
        jnp.stack([points, 2 * points[..., :] * np.array([0.5, 0.5, 1.0])])
    )
    assert np.allclose(half[0], half[1])  # only the durations' ratios matter


def test_fixation_map_without_fixations_is_zero():
    assert not np.asarray(fx.fixation_map(jnp.zeros((4, 3)), (6, 5))).any()
    assert not np.asarray(fx.fixation_map(jnp.array([[-9.0, 2.0, 100.0]]), (6, 5))).any()


def test_fixation_map_errors():
    with pytest.raises(ValueError, match="row, column and duration"):
        fx.fixation_map(jnp.zeros((4, 2)), (6, 5))
    with pytest.raises(TypeError, match="float"):
        fx.fixation_map(jnp.zeros((4, 3), int), (6, 5))
    with pytest.raises(ValueError, match="sigma"):
        fx.fixation_map(jnp.zeros((4, 3)), (6, 5), sigma=0)
    with pytest.raises(ValueError, match="at least 1"):
        fx.fixation_map(jnp.zeros((4, 3)), (6, 0))


# -- scores from their definitions ------------------------------------------------------------


def brute_auc(saliency, points):
    """Judd's curve, threshold by threshold."""
    fixated, others = saliency[points > 0], saliency[points <= 0]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(fixated), reverse=True):
        curve.append(((others >= threshold).mean(), (fixated >= threshold).mean()))
    curve.append((1.0, 1.0))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(curve, curve[1:], strict=False))


def brute_nss(saliency, points):
    total = weight = 0.0
    for i, j in np.argwhere(points):
        total += points[i, j] * (saliency[i, j] - saliency.mean()) / saliency.std()
        weight += points[i, j]
    return total / weight


def brute_sim(p, q):
    p, q = (v - v.min() for v in (p, q))
    p, q = (v / v.sum() for v in (p, q))
    return sum(min(a, b) for a, b in zip(p.ravel(), q.ravel(), strict=True))


def brute_mae(p, q):
    return sum(abs(a - b) for a, b in zip(p.ravel(), q.ravel(), strict=True)) / p.size


def brute_kl(p, q):
    return scipy.stats.entropy(q.ravel() / q.sum(), p.ravel() / p.sum())


BRUTE = {
    "mae": brute_mae,
    "nss": brute_nss,
    "auc_judd": brute_auc,
    "sim": brute_sim,
    "kl": brute_kl,
    "cc": lambda p, q: scipy.stats.pearsonr(p.ravel(), q.ravel())[0],
}


@pytest.mark.parametrize("name", fx.SCORES)
def test_score_by_its_definition(x64, maps, name):
    saliency, density, points = maps
    saliency = np.abs(saliency) + 0.01 if name == "kl" else saliency
    truth = points if name in ("nss", "auc_judd") else density
    expected = [BRUTE[name](s, t) for s, t in zip(saliency, truth, strict=True)]

    @jax.jit
    def scores(saliency, truth):  # leading axes broadcast, or are mapped over
        score = fx.SCORES[name]
        return score(saliency[:, None], truth[None, :]), jax.vmap(score)(saliency, truth)

    table, mapped = scores(jnp.asarray(saliency), jnp.asarray(truth))
    assert table.dtype == np.float64 and table.shape == (2, 2)
    assert np.allclose(np.diagonal(table), expected, rtol=1e-9)
    assert np.allclose(mapped, expected, rtol=1e-9)


def test_auc_with_ties_is_the_mean_over_random_jitter(x64):
    """Judd's code adds noise to break ties; its mean is what entering together gives."""
    rng = np.random.default_rng(2)
    saliency = rng.integers(0, 3, (6, 6)).astype(float)
    points = np.zeros((6, 6))
    points[rng.integers(0, 6, 12), rng.integers(0, 6, 12)] = 1
    trials = [brute_auc(saliency + 1e-6 * rng.uniform(size=(6, 6)), points) for _ in range(1000)]
    # Each of n untied points adds half a false-alarm step of 1 / n, as joined curves do.
    tied, n = float(fx.auc_judd(jnp.asarray(saliency), jnp.asarray(points))), points.sum()
    assert tied <= np.mean(trials) + 0.005
    assert np.mean(trials) - tied < 1 / n


# -- by hand ----------------------------------------------------------------------------------


BY_HAND = {  # score -> (map, truth, value)
    "mae": [((0, 1, 0.5, 0), (1, 1, 0, 0), 0.375)],
    "nss": [  # mean 2, deviation sqrt(2): the fixated 4 and 2 lie at sqrt(2) and 0
        ((0, 2, 2, 4), (0, 1, 0, 1), 2**-0.5),
        ((0, 2, 2, 4), (0, 3, 0, 1), 2**0.5 / 4),
    ],
    "auc_judd": [
        ((1, 2, 3, 4), (0, 0, 1, 1), 1.0),
        # inverted: points (1, .5) and (1, 1), and Judd's straight line from (0, 0) to the first
        ((4, 3, 2, 1), (0, 0, 1, 1), 0.25),
        ((1, 1, 1, 1), (0, 0, 0, 1), 0.5),
        # thresholds 3 and 1: the points (0, .5) and (1, 1)
        ((3, 2, 2, 1), (1, 0, 0, 1), 0.75),
    ],
    "cc": [
        ((1, 2, 3, 4), (2, 4, 6, 8), 1.0),
        ((0, 1, 0, 1), (7, 5, 7, 5), -1.0),
        ((0, 1, 0, 1), (1, 1, 5, 5), 0.0),
    ],
    "sim": [((0, 1, 1, 0), (0, 1, 3, 0), 0.75), ((0, 1, 0, 0), (0, 0, 1, 0), 0.0)],
    "kl": [((1, 3, 0, 0), (3, 1, 0, 0), 0.5 * np.log(3)), ((2, 2, 2, 2), (5, 5, 5, 5), 0.0)],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_scores_by_hand(name):
    maps, truth, expected = (
        np.array(column, np.float32) for column in zip(*BY_HAND[name], strict=True)
    )
    got = jax.jit(fx.SCORES[name])(maps[:, None], truth[:, None])
    assert np.allclose(got, expected, atol=1e-6)


def test_the_centre_map_scores_above_chance_for_points_at_the_centre():
    centre = fx.centre_map((20, 30))
    points = jnp.zeros((20, 30)).at[9:11, 14:16].set(1)
    assert float(fx.auc_judd(centre, points)) > 0.99 and float(fx.nss(centre, points)) > 2
    assert np.allclose(centre, centre[::-1, ::-1]) and centre.shape == (20, 30)


@pytest.mark.parametrize("name", fx.SCORES)
def test_degenerate_maps_stay_finite(name):
    """Constant and zero maps, in bfloat16 too, with their derivatives."""
    score = fx.SCORES[name]
    truth = jnp.zeros((5, 4)).at[2, 1].set(1)
    chance = {"nss": 0, "cc": 0, "auc_judd": 0.5}
    both = jax.jit(jax.value_and_grad(score))
    for saliency in (jnp.zeros((5, 4)), jnp.full((5, 4), 1 / 3), jnp.full((5, 4), 1e30)):
        value, slope = both(saliency, truth)
        assert np.isfinite(value) and np.isfinite(np.asarray(slope)).all()
        if name in chance:
            assert float(value) == pytest.approx(chance[name], abs=1e-3)
    ramp = jnp.linspace(0, 1, 20).reshape(5, 4)
    assert np.isfinite(both(ramp, jnp.zeros((5, 4)))[0])  # no fixation
    half = jax.jit(score)(ramp.astype(jnp.bfloat16), truth)
    assert half.dtype == jnp.float32 and np.isfinite(half)


def test_errors():
    one = jnp.ones((4, 4))
    with pytest.raises(ValueError, match="same H and W"):
        fx.mae(one, jnp.ones((4, 5)))
    with pytest.raises(TypeError, match="float"):
        fx.cc(jnp.ones((4, 4), int), one)
    for score in (fx.nss, fx.auc_judd):
        with pytest.raises(ValueError, match="no fixation"):
            score(one, jnp.zeros((4, 4)))
    with pytest.raises(ValueError, match="every pixel is fixated"):
        fx.auc_judd(one, one)
    with pytest.raises(ValueError, match="eps"):
        fx.kl(one, one, eps=0)
    with pytest.raises(ValueError, match="sigma"):
        fx.centre_map((4, 4), sigma=-1)
