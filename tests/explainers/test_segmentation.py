"""From a saliency map to a box: seeds, graph cut, largest component, tightest box."""

from __future__ import annotations

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import postprocess
from jaxplain.explainers import _graph_cut, segmentation


def picture(seed: int = 0):
    """A noisy orange blob of 20 x 14 at (12, 9) and a smaller one of its colour, on blue."""
    rng = np.random.default_rng(seed)
    pixels = np.tile(np.array([40, 70, 160], np.float64), (40, 48, 1))
    pixels[9:23, 12:32] = (240, 150, 30)
    pixels[30:36, 38:46] = (240, 150, 30)
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def blob(centre=(16, 22), width=4.0):
    """Saliency that knows only the middle of the object."""
    y, x = np.mgrid[:40, :48]
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2))


@pytest.mark.parametrize("name", segmentation.SEGMENTATIONS)
def test_seeds_grow_to_the_object(name):
    """Five per cent of the pixels are seeds; colours give the rest of the object, not its twin."""
    if name == "grabcut":
        pytest.importorskip("cv2")
    mask = segmentation.graph_cut(blob(), picture(), segmentation=name)
    assert mask.shape == (40, 48) and mask.dtype == bool
    assert postprocess.tightest_box(mask).tolist() == [12, 9, 32, 23]
    assert mask.sum() == 20 * 14
    for scale in (1, 7):  # nothing is random, and no unit matters
        again = segmentation.graph_cut(scale * blob(), picture(), segmentation=name)
        np.testing.assert_array_equal(again, mask)


def brute_force(pixels, foreground, background, strength):
    """All labellings of a tiny picture, their energies written out pixel by pixel."""
    height, width = foreground.shape
    colours = pixels.astype(float)
    fits = [
        _graph_cut.mixture_log_density(
            _graph_cut.fit_mixture(colours[seeds]), colours.reshape(-1, 3)
        ).reshape(height, width)
        for seeds in (background, foreground)
    ]
    at = list(itertools.product(range(height), range(width)))
    pairs = [
        (p, q, ((colours[p] - colours[q]) ** 2).sum(), np.hypot(p[0] - q[0], p[1] - q[1]))
        for p, q in itertools.combinations(at, 2)
        if max(abs(p[0] - q[0]), abs(p[1] - q[1])) == 1
    ]
    variance = np.mean([square for _, _, square, _ in pairs])
    labels = (np.arange(2 ** len(at))[:, None] >> np.arange(len(at))) & 1
    labels = labels.reshape(-1, height, width).astype(bool)
    labels = labels[labels[:, foreground].all(1) & ~labels[:, background].any(1)]
    costs = np.zeros(len(labels))
    for p in at:
        if not (foreground[p] or background[p]):
            costs -= strength * np.where(labels[:, *p], fits[1][p], fits[0][p])
    for p, q, square, distance in pairs:
        apart = labels[:, *p] != labels[:, *q]
        costs += apart * np.exp(-square / (2 * variance)) / distance
    return labels, costs


@pytest.mark.parametrize("strength", [0.0, 0.01, 0.1, 1.0])
def test_the_cut_is_the_lowest_energy_of_all(strength):
    """65536 labellings of 4 x 4 pixels: none is better, and the best is what comes out."""
    sizes = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        if seed % 2:  # weak edges: the pixels have one of two colours, nearly
            pixels = (120 + 25 * (pixels > 128) + pixels // 32).astype(np.uint8)
        order = rng.permutation(16).reshape(4, 4)
        foreground, background = order < 3, order > 11
        labels, costs = brute_force(pixels, foreground, background, strength)
        found = _graph_cut.minimise(
            _graph_cut.energy(pixels, foreground, background, strength)
        ).reshape(4, 4)
        (mine,) = costs[(labels == found).all((1, 2))]  # it keeps the seeds
        assert mine == pytest.approx(costs.min(), abs=1e-6)
        np.testing.assert_array_equal(found, labels[costs.argmin()])
        sizes.add(int(found.sum()))
    assert len(sizes) > 1  # the seeds alone are not always the answer


def test_edges_decide_where_colours_do_not():
    """A row of pixels whose only edge is between the sixth and the seventh."""
    pixels = np.full((1, 10, 3), 100, np.uint8)
    pixels[:, 6:] = 160
    foreground, background = np.zeros((2, 1, 10), bool)
    foreground[0, 0], background[0, 9] = True, True
    cut = _graph_cut.energy(pixels, foreground, background, 0.0)
    assert _graph_cut.minimise(cut).tolist() == [True] * 6 + [False] * 4
    # One of nine pairs is 60 apart in each channel: sigma^2 is its square over nine.
    np.testing.assert_allclose(np.sort(cut.boundary), [np.exp(-4.5)] + [1] * 8)
    flat = _graph_cut.energy(pixels[:, :6], foreground[:, :6], background[:, 4:], 0.0)
    assert np.array_equal(flat.boundary, np.ones(5))  # no edges: all pairs cost the same


def test_mixtures_are_the_likeliest():
    """Against scikit-learn from the same start: two clear groups, and their densities."""
    mixture = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(3)
    roots = rng.normal(0, 12, (2, 3, 3))
    groups = zip((400, 200), roots, (60, 180), strict=True)
    colours = np.concatenate([rng.normal(size=(n, 3)) @ root + mean for n, root, mean in groups])
    ours = _graph_cut.fit_mixture(colours)
    theirs = mixture.GaussianMixture(
        len(ours.shares),
        reg_covar=1.0,
        tol=1e-4,
        max_iter=50,
        weights_init=ours.shares,
        means_init=ours.means,
        precisions_init=np.linalg.inv(ours.covariances),
    ).fit(colours)
    mine = _graph_cut.mixture_log_density(ours, colours)
    np.testing.assert_allclose(mine.mean(), theirs.score(colours), rtol=1e-3)
    exact = mixture.GaussianMixture(len(ours.shares))
    exact.weights_, exact.means_ = ours.shares, ours.means
    exact.precisions_cholesky_ = np.stack(
        [np.linalg.inv(np.linalg.cholesky(c)).T for c in ours.covariances]
    )
    np.testing.assert_allclose(mine, exact.score_samples(colours))
    assert ours.shares.sum() == pytest.approx(1)
    low, high = ours.means[:, 0].min(), ours.means[:, 0].max()
    assert low < 90 and high > 150
    single = _graph_cut.fit_mixture(np.full((9, 3), 7.0))
    assert len(single.shares) == 1 and single.means.tolist() == [[7, 7, 7]]
    np.testing.assert_allclose(single.covariances, [np.eye(3)])


def test_seeds_are_the_quantiles(monkeypatch):
    """What is handed to OpenCV: above 95 % object, up to 30 % background, open between."""
    cv2 = pytest.importorskip("cv2")
    seen = []

    def cut(pixels, labels, *rest):
        seen.append(labels.copy())

    monkeypatch.setattr(cv2, "grabCut", cut)
    saliency = np.random.default_rng(1).permutation(40 * 48).reshape(40, 48)
    segmentation.graph_cut(saliency, picture(), segmentation="grabcut")
    labels = seen[0]
    assert (labels == cv2.GC_FGD).sum() == 96 and saliency[labels == cv2.GC_FGD].min() == 1824
    assert (labels == cv2.GC_BGD).sum() == 576 and saliency[labels == cv2.GC_BGD].max() == 575
    assert set(np.unique(labels)) == {cv2.GC_FGD, cv2.GC_BGD, cv2.GC_PR_BGD}
    # Ties: a map that is 0 nearly everywhere, and one that is at its maximum over a tenth.
    sparse = np.zeros((40, 48))
    sparse[:2, :3] = [[1, 2, 3], [4, 5, 6]]
    segmentation.graph_cut(sparse, picture(), segmentation="grabcut")
    assert (seen[1] == cv2.GC_FGD).sum() == 6 and (seen[1] == cv2.GC_BGD).sum() == 1914
    sparse[:4] = 6
    segmentation.graph_cut(sparse, picture(), segmentation="grabcut")
    assert (seen[2] == cv2.GC_FGD).sum() == 4 * 48


def test_largest_component():
    mask = np.zeros((10, 12), bool)
    mask[1:3, 1:3] = mask[3, 3] = True  # 5 pixels that touch at a corner
    mask[6:8, 6:8] = True
    largest = segmentation._largest_component(mask)
    assert largest.sum() == 5 and postprocess.tightest_box(largest).tolist() == [1, 1, 4, 4]


def test_feedback_localise_finds_the_cued_object():
    """Two objects and two classes: each class finds its own."""
    pixels = np.full((2, 32, 40, 3), 60, np.uint8)
    pixels[0, 4:14, 5:20] = (250, 60, 60)
    pixels[0, 18:28, 22:37] = (60, 60, 250)
    pixels[1] = pixels[0, ::-1]
    colours = jnp.array([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])

    def fn(x):
        return (jax.nn.relu(x @ colours - 0.2) ** 2).mean((1, 2))

    x = jnp.asarray(pixels / 255.0, jnp.float32)
    found = jaxplain.feedback_localise(fn, x, jnp.array([[0, 1], [0, 1]]), pixels=pixels, steps=3)
    assert found.boxes.tolist() == [
        [[5, 4, 20, 14], [22, 18, 37, 28]],
        [[5, 18, 20, 28], [22, 4, 37, 14]],
    ]
    assert found.masks.shape == found.maps.shape == (2, 2, 32, 40)
    maps = jaxplain.feedback(fn, x, jnp.array([[0, 1]] * 2), steps=3)
    np.testing.assert_allclose(found.maps, maps)
    single = jaxplain.feedback_localise(fn, x, 1, pixels=pixels, steps=3)
    assert single.boxes.tolist() == found.boxes[:, 1].tolist()


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"GrabCut needs .*opencv.*pip install .*\[localise\]"):
        segmentation.graph_cut(blob(), picture(), segmentation="grabcut")
    with pytest.raises(ImportError, match="GrabCut needs"):
        jaxplain.feedback_localise(None, None, pixels=None, segmentation="grabcut")
    assert segmentation.graph_cut(blob(), picture()).any()


def test_options_of_the_other_segmentation():
    pixels = picture()
    for options, said in (
        ({"segmentation": "graphcut"}, "one of 'boykov_jolly', 'grabcut', not 'graphcut'"),
        ({"iterations": 3}, "option of segmentation='grabcut'; 'boykov_jolly' cuts once"),
        ({"strength": -1}, "strength must be a finite number of at least 0, not -1"),
        ({"segmentation": "grabcut", "strength": 1}, "option of segmentation='boykov_jolly'"),
        ({"segmentation": "grabcut", "iterations": 0}, "iterations must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=said):
            segmentation.graph_cut(blob(), pixels, **options)
        with pytest.raises(ValueError, match=said):
            jaxplain.feedback_localise(None, None, pixels=None, **options)


def test_errors():
    pixels = picture()
    with pytest.raises(ValueError, match="constant"):
        segmentation.graph_cut(np.ones((40, 48)), pixels)
    with pytest.raises(ValueError, match="finite"):
        segmentation.graph_cut(np.full((40, 48), np.nan), pixels)
    with pytest.raises(TypeError, match="uint8"):
        segmentation.graph_cut(blob(), pixels / 255.0)
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        segmentation.graph_cut(blob()[1:], pixels)
    with pytest.raises(ValueError, match="background < foreground"):
        segmentation.graph_cut(blob(), pixels, foreground=0.2)
    with pytest.raises(ValueError, match="as they look"):
        jaxplain.feedback_localise(
            lambda x: x.mean((1, 2)), jnp.ones((1, 8, 8, 3)), pixels=pixels[None]
        )
