"""Faithfulness, similarity of maps and randomisation, against plain Python and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.evaluation import similarity
from jaxplain.evaluation.studies import faithfulness, sanity

# -- faithfulness ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quadratic():
    weights = jnp.asarray(np.random.default_rng(10).normal(size=(6 * 5 * 3, 4)), jnp.float32)
    return lambda x: jnp.tanh(x.reshape(x.shape[0], -1) @ weights * 0.3)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(11)
    x = np.float32(rng.normal(size=(3, 6, 5, 3)))
    maps = np.float32(rng.integers(0, 7, (3, 6, 5)))  # with ties
    return x, maps, np.array([3, 0, 2])


def slow_curve(fn, x, maps, targets, first, last, counts, patch, probability):
    scores = []
    for one, target, a, b in zip(maps, targets, first, last, strict=True):
        height, width = one.shape
        squares = {}
        for r in range(height):
            for c in range(width):
                squares.setdefault((r // patch, c // patch), []).append((r, c))
        order = sorted(squares, key=lambda s: -sum(float(one[p]) for p in squares[s]))
        row = []
        for count in counts:
            changed = a.copy()
            for square in order[:count]:
                for pixel in squares[square]:
                    changed[pixel] = b[pixel]
            out = np.asarray(fn(changed[None])[0], np.float64)
            out = np.exp(out) / np.exp(out).sum() if probability else out
            row.append(out[target])
        scores.append(row)
    return np.array(scores)


@pytest.mark.parametrize("kind", ["deletion", "insertion", "pixel_flipping"])
def test_curves_equal_one_change_at_a_time(kind, quadratic, pictures):
    x, maps, targets = pictures
    other = np.float32(np.random.default_rng(12).normal(size=x.shape))
    run = getattr(faithfulness, kind)
    if kind == "pixel_flipping":
        curve = run(quadratic, x, maps, targets, patch=2, steps=5, baseline=other)
        expected = slow_curve(quadratic, x, maps, targets, x, other, range(6), 2, False)
        fractions = np.arange(6) / 9  # 3 x 3 squares of 2 x 2, the last column cut
        drop = (expected[:, :1] - expected).mean(1)
        np.testing.assert_allclose(curve.drop, drop, atol=1e-5)
    else:
        curve = run(quadratic, x, maps, targets, steps=7, baseline=other, chunk=3)
        counts = [round(30 * i / 7) for i in range(8)]
        ends = (x, other) if kind == "deletion" else (other, x)
        expected = slow_curve(quadratic, x, maps, targets, *ends, counts, 1, True)
        fractions = np.array(counts) / 30
        area = ((expected[:, 1:] + expected[:, :-1]) / 2 * np.diff(fractions)).sum(1)
        np.testing.assert_allclose(curve.area, area, atol=1e-5)
    np.testing.assert_allclose(curve.scores, expected, atol=1e-5)
    np.testing.assert_allclose(curve.fractions, fractions, atol=1e-6)


def test_curve_ends_and_top_class(quadratic, pictures):
    x, maps, _ = pictures
    curve = faithfulness.deletion(quadratic, x, maps, steps=30, score="logit")
    top = np.asarray(quadratic(x))
    np.testing.assert_allclose(curve.scores[:, 0], top.max(1), rtol=1e-5)
    empty = quadratic(jnp.zeros_like(x))[jnp.arange(3), top.argmax(1)]
    np.testing.assert_allclose(curve.scores[:, -1], empty, atol=1e-6)
    with pytest.raises(ValueError, match="images' shape"):
        faithfulness.deletion(quadratic, x, maps[:, :3], 0)
    with pytest.raises(ValueError, match="at most 9"):
        faithfulness.pixel_flipping(quadratic, x, maps, 0, patch=2, steps=10)


# -- similarity and sanity -------------------------------------------------------------------------


def slow_ranks(values):
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def test_rank_correlation():
    rng = np.random.default_rng(13)
    a = np.float32(rng.integers(0, 5, (4, 5, 6)))  # with ties
    b = np.float32(a + rng.normal(0, 2, a.shape))
    b[3] = 7  # constant
    got = jax.jit(similarity.rank_correlation)(a, b)
    for x, y, value in zip(a[:3], b[:3], got, strict=False):
        expected = np.corrcoef(slow_ranks(x.ravel()), slow_ranks(y.ravel()))[0, 1]
        assert value.item() == pytest.approx(expected, abs=1e-5)
    assert got[3] == 0
    assert similarity.rank_correlation(a, -a).tolist() == pytest.approx([-1] * 4, abs=1e-5)


def test_ssim_and_hog_equal_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    feature = pytest.importorskip("skimage.feature")
    rng = np.random.default_rng(14)
    a = np.float32(rng.random((2, 56, 70)))
    b = np.float32(np.clip(a + rng.normal(0, 0.3, a.shape), 0, 1))
    got = jax.jit(similarity.ssim)(a, b)
    for x, y, value in zip(a, b, got, strict=True):
        expected = metrics.structural_similarity(
            x.astype(float),
            y.astype(float),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx(expected, abs=1e-5)
    features = jax.jit(similarity.hog)(a)
    for x, got in zip(a, features, strict=True):
        expected = feature.hog(x.astype(float), pixels_per_cell=(16, 16))
        np.testing.assert_allclose(got, expected, atol=2e-4)
    expected = np.corrcoef(features[0], np.asarray(similarity.hog(b[0])))[0, 1]
    assert similarity.hog_similarity(a[0], b[0]).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_window_by_window():
    rng = np.random.default_rng(15)
    a, b = np.float32(rng.random((2, 12, 13)))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    values = []
    for r in range(2):
        for c in range(3):
            x, y = (m[r : r + 11, c : c + 11].astype(float) for m in (a, b))
            mx, my = (kernel * x).sum(), (kernel * y).sum()
            vx, vy = (kernel * (x - mx) ** 2).sum(), (kernel * (y - my) ** 2).sum()
            both = (kernel * (x - mx) * (y - my)).sum()
            top = (2 * mx * my + 0.01**2) * (2 * both + 0.03**2)
            values.append(top / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2)))
    assert similarity.ssim(a, b).item() == pytest.approx(np.mean(values), abs=1e-5)
    assert similarity.ssim(a, a).item() == pytest.approx(1)


def test_hog_of_a_constant_map_and_of_stripes():
    flat = jnp.ones((48, 48))
    assert similarity.hog_similarity(flat, flat).item() == 0
    stripes = jnp.asarray(np.tile([0.0, 0, 1, 1], (48, 12)), jnp.float32)
    cells = np.asarray(similarity.hog(stripes)).reshape(9, 9)
    # Only horizontal gradients: all weight in the first bin, the same in each of the cells.
    assert (cells[:, 0] > 0.19).all() and not cells[:, 1:].any()


class _Net:
    """Made in a function, so that flax is imported only here."""

    def __new__(cls):
        from flax import nnx

        class Net(nnx.Module):
            def __init__(self, rngs):
                # Names whose alphabetical order is not the order of use.
                self.z_first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
                self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
                self.a_last = nnx.Linear(4, 3, rngs=rngs)

            def __call__(self, x):
                return self.a_last(jax.nn.relu(self.norm(self.z_first(x))).mean((1, 2)))

        return Net(nnx.Rngs(0))


def test_randomisation_from_the_top_down():
    from flax import nnx

    net, x = _Net(), jnp.ones((1, 6, 6, 3))
    assert sanity.parameter_layers(net, x) == ["a_last", "norm", "z_first"]

    def changed(other):
        pairs = zip(jax.tree.leaves(nnx.state(net)), jax.tree.leaves(nnx.state(other)), strict=True)
        paths = [p for p, _ in nnx.to_flat_state(nnx.state(net))]
        return {p[0] for p, (a, b) in zip(paths, pairs, strict=True) if (a != b).any()}

    key = jax.random.key(3)
    cascade = dict(sanity.randomisations(net, x, key))
    alone = dict(sanity.randomisations(net, x, key, cascading=False))
    # The scale and offset of a new batch norm are constant, so that they are drawn as they are.
    assert [changed(n) for n in cascade.values()] == [{"a_last"}, {"a_last"}, {"a_last", "z_first"}]
    assert [changed(n) for n in alone.values()] == [{"a_last"}, set(), {"z_first"}]
    first, kernel = cascade["z_first"].z_first.kernel[...], net.z_first.kernel[...]
    assert (first == alone["z_first"].z_first.kernel[...]).all()
    assert abs(first.std() / kernel.std() - 1) < 0.2
    ((_, only),) = sanity.randomisations(net, x, key, layers=["norm"], cascading=False)
    assert changed(only) == set()
    with pytest.raises(ValueError, match="no submodule 'middle'"):
        next(sanity.randomisations(net, x, key, layers=["middle"]))
    with pytest.raises(TypeError, match="NNX modules"):
        sanity.parameter_layers(lambda x: x, x)
