"""Metrics against independent implementations in plain Python, and at every border."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.evaluation import (
    faithfulness,
    localisation,
    phrases,
    pointing,
    sanity,
    similarity,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


def random_boxes(rng, count, size=40, whole=False):
    corners = rng.uniform(-3, size + 3, (count, 2, 2))
    low, high = corners.min(1), corners.max(1)
    boxes = np.concatenate([low, high], axis=1)
    return np.float32(np.round(boxes) if whole else boxes)


def pixels_of(box, size):
    """The pixels whose centre lies in a box, one by one."""
    left, top, right, bottom = map(float, box)
    return [
        (row, column)
        for row in range(size[0])
        for column in range(size[1])
        if left <= column + 0.5 < right and top <= row + 0.5 < bottom
    ]


# -- pointing game ---------------------------------------------------------------------------------


def nearest(point, pixels):
    row, column = map(int, point)
    return min((math.hypot(row - r, column - c) for r, c in pixels), default=math.inf)


def test_hits_on_boxes_and_masks_equal_brute_force():
    rng = np.random.default_rng(0)
    size = (48, 64)
    points = rng.integers(0, 64, (60, 2)) % size
    boxes = random_boxes(rng, 180, 64).reshape(60, 3, 4)
    boxes[:20, 0, 2] = boxes[:20, 0, 0]  # some are empty
    boxes = np.clip(boxes, 0, [64, 48, 64, 48])
    valid = rng.random((60, 3)) < 0.7
    masks = np.zeros((60, *size), bool)
    expected = []
    for i in range(60):
        pixels = [p for b, v in zip(boxes[i], valid[i], strict=True) if v
                  for p in pixels_of(b, size)]  # fmt: skip
        for pixel in pixels:
            masks[i][pixel] = True
        expected.append(nearest(points[i], pixels) < 15)
    assert 10 < sum(expected) < 50
    got = jax.jit(pointing.on_boxes)(points, boxes, valid)
    assert got.tolist() == expected
    assert jax.jit(jax.vmap(pointing.on_mask))(points, masks).tolist() == expected


def test_tolerance_is_less_than_15_pixels():
    box = np.float32([[20, 20, 30, 30]])  # the pixels 20 to 29
    mask = np.zeros((60, 60), bool)
    mask[20:30, 20:30] = True
    # Beyond the corner, (9, 12) is exactly 15 pixels away, and (10, 11) 14.87, the largest distance
    # below 15 that two pixels can have.
    cases = {(20, 43): True, (20, 44): False, (43, 29): True, (44, 29): False, (25, 25): True,
             (29 + 9, 29 + 12): False, (29 + 8, 29 + 12): True, (29 + 10, 29 + 11): True,
             (5, 20): False, (6, 20): True, (20, 5): False, (20, 6): True}  # fmt: skip
    points = np.array(list(cases))
    assert pointing.on_boxes(points, box).tolist() == list(cases.values())
    assert pointing.on_mask(points, mask).tolist() == list(cases.values())
    # The pixel 29 belongs to a box as soon as its centre, 29.5, does.
    right = np.float32([29.49, 29.5, 29.51])
    boxes = np.array([[[20, 20, r, 30]] for r in right], np.float32)
    assert pointing.on_boxes(np.array([20, 43]), boxes).tolist() == [False, False, True]
    # A wider and a narrower margin: 14.9 pixels leave 15 out as well.
    assert not bool(pointing.on_mask(np.array([20, 44]), mask, 14.9))
    assert bool(pointing.on_mask(np.array([20, 44]), mask, 15.1))


def test_boxes_at_the_edge_and_empty_regions():
    corner = np.float32([[0, 0, 1, 1]])  # one pixel
    assert bool(pointing.on_boxes(jnp.array([0, 14]), corner))
    assert not bool(pointing.on_boxes(jnp.array([0, 15]), corner))
    edge = np.float32([[60, 0, 64, 48]])  # the last four columns of 48 x 64
    assert pointing.on_boxes(jnp.array([[47, 63], [0, 46], [0, 45]]), edge).tolist() == [
        True, True, False]  # fmt: skip
    for empty in ([[5, 5, 5, 9]], [[5.6, 5, 6.4, 9]]):  # no column, and no centre of one
        assert not bool(pointing.on_boxes(jnp.array([6, 5]), np.float32(empty)))
    assert not bool(pointing.on_mask(jnp.array([6, 5]), np.zeros((9, 9), bool)))
    assert not bool(pointing.on_boxes(jnp.array([6, 5]), corner, np.array([False])))


def test_maximum_ties_and_constant_maps():
    maps = np.zeros((3, 4, 5), np.float32)
    maps[0, 2, 1] = maps[0, 1, 3] = maps[0, 1, 4] = 2  # the first in row order is (1, 3)
    maps[1] = -7  # constant: points at (0, 0)
    maps[2] = -1 - np.arange(20).reshape(4, 5)[::-1, ::-1]
    assert jax.jit(pointing.maximum)(maps).tolist() == [[1, 3], [0, 0], [3, 4]]
    constant = pointing.maximum(maps[1])
    assert bool(pointing.on_boxes(constant, np.float32([[3, 0, 5, 2]])))
    assert not bool(pointing.on_boxes(constant, np.float32([[15, 0, 20, 2]])))
    rng = np.random.default_rng(1)
    noisy = rng.integers(0, 4, (50, 6, 7))  # full of ties
    for one, point in zip(noisy, pointing.maximum(noisy), strict=True):
        best = max((one[r, c], -r, -c) for r in range(6) for c in range(7))
        assert point.tolist() == [-best[1], -best[2]]


def test_centre_and_difficult():
    assert pointing.centre([[1, 1], [4, 5]]).tolist() == [[0, 0], [2, 2]]
    assert bool(pointing.is_difficult(24.999, 100, 2))
    assert not bool(pointing.is_difficult(25, 100, 2))  # a quarter is not less than a quarter
    assert not bool(pointing.is_difficult(1, 100, 1))  # nothing to be confused with


def test_accuracy_equals_counting():
    rng = np.random.default_rng(2)
    hits, classes = rng.random(300) < 0.6, rng.integers(0, 9, 300)
    counted = rng.random(300) < 0.5
    classes[classes == 4] = 5  # class 4 is never asked for
    counted[classes == 7] = False  # and of class 7 nothing counts
    result = jax.jit(pointing.accuracy, static_argnums=2)(hits, classes, 9, counted)
    shares = {}
    for c in set(classes[counted].tolist()):
        own = [h for h, k, n in zip(hits, classes, counted, strict=True) if k == c and n]
        shares[c] = sum(own) / len(own)
    assert {i for i, p in enumerate(result.per_class) if not np.isnan(p)} == set(shares)
    for c, share in shares.items():
        assert result.per_class[c] == pytest.approx(share)
    assert result.mean.item() == pytest.approx(sum(shares.values()) / len(shares))
    assert np.isnan(pointing.accuracy(hits, classes, 9, np.zeros(300, bool)).mean)


# -- localisation ----------------------------------------------------------------------------------


def iou_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def test_box_iou():
    rng = np.random.default_rng(3)
    a, b = random_boxes(rng, 12), random_boxes(rng, 9)
    a[0, 2:] = a[0, :2]  # empty
    b[0] = a[0]
    expected = [[iou_of(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(jax.jit(localisation.box_iou)(a, b), expected, atol=1e-6)


def test_mask_iou_equals_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(4)
    masks = rng.random((7, 13, 17)) < rng.random((7, 1, 1))
    masks[0], masks[1] = False, True
    encoded = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    expected = np.array(coco.iou(encoded[:4], encoded[3:], [0] * 4))
    got = localisation.mask_iou(masks[:4], masks[3:])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    boxes = random_boxes(rng, 10, 20)
    wide = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    expected = coco.iou(wide, wide, [0] * 10)
    np.testing.assert_allclose(localisation.box_iou(boxes, boxes), expected, atol=1e-5)


def test_threshold_boxes_equal_a_search():
    rng = np.random.default_rng(5)
    maps = np.float32(rng.random((6, 9, 11)) ** 6)
    maps[0] = 3  # constant: everything for alpha < 1, nothing from 1 on
    maps[1] = 0
    maps[2] = 0
    maps[2, 8, 10] = 1  # the last pixel
    got = jax.jit(localisation.threshold_boxes)(maps)
    assert got.shape == (6, 21, 4)
    for m, boxes in zip(maps, got, strict=True):
        for alpha, box in zip(np.arange(21) / 2, boxes.tolist(), strict=True):
            above = [
                (r, c)
                for r in range(9)
                for c in range(11)
                if m[r, c] > np.float32(alpha) * m.mean()
            ]
            rows, columns = zip(*above, strict=True) if above else ((0,), (0,))
            tight = [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
            assert box == (tight if above else [0, 0, 0, 0])
    assert got[0, 1].tolist() == [0, 0, 11, 9] and got[0, 2].tolist() == [0, 0, 0, 0]
    assert got[2, 20].tolist() == [10, 8, 11, 9]


def test_localised_error_and_alpha():
    truth = np.float32([[0, 0, 10, 10], [50, 50, 60, 60]])
    half = np.float32([0, 0, 10, 20])  # IoU exactly 0.5
    assert bool(localisation.is_localised(half, truth))
    assert not bool(localisation.is_localised(np.float32([0, 0, 10, 20.1]), truth))
    assert not bool(localisation.is_localised(half, truth, np.array([False, True])))
    assert not bool(localisation.is_localised(np.zeros(4, np.float32), truth))
    errors = localisation.localisation_error(np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1]], bool))
    np.testing.assert_allclose(errors, [2 / 3, 0, 1 / 3], atol=1e-6)
    assert localisation.best_alpha(errors, np.float32([1, 2, 3])).item() == 2
    assert localisation.best_alpha(np.ones(21)).item() == 0  # the smallest of several


def slow_nms(boxes, scores, limit):
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    stays = []
    while left:
        best = left.pop(0)
        stays.append(best)
        left = [i for i in left if iou_of(boxes[best], boxes[i]) <= limit]
    return stays


def test_nms_equals_the_greedy_loop():
    rng = np.random.default_rng(6)
    run = jax.jit(localisation.nms)
    for trial in range(20):
        boxes = random_boxes(rng, 24, 15)
        scores = np.float32(rng.integers(0, 6, 24))  # many ties: the first wins
        limit = (0.3, 0.5, 0.7)[trial % 3]
        expected = slow_nms(boxes.tolist(), scores.tolist(), limit)
        assert set(np.flatnonzero(run(boxes, scores, limit))) == set(expected)
    there = np.arange(24) % 2 == 0
    expected = [2 * i for i in slow_nms(boxes[::2].tolist(), scores[::2].tolist(), 0.5)]
    assert np.flatnonzero(run(boxes, scores, 0.5, there)).tolist() == sorted(expected)
    # An overlap of exactly the threshold is kept.
    twins = np.float32([[0, 0, 2, 1], [0, 0, 1, 1]])
    assert localisation.nms(twins, np.float32([1, 0]), 0.5).tolist() == [True, True]
    assert localisation.nms(twins, np.float32([1, 0]), 0.499).tolist() == [True, False]


# -- phrases ---------------------------------------------------------------------------------------


def test_scores_of_proposals_equal_sums_over_pixels():
    rng = np.random.default_rng(7)
    saliency = np.float32(rng.random((14, 18)))
    boxes = np.clip(random_boxes(rng, 15, 18), 0, [18, 14, 18, 14])
    boxes[0, 2] = boxes[0, 0]
    masks = np.zeros((15, 14, 18), bool)
    for gamma in (0.0, 0.25, 1.0):
        expected = []
        for box, mask in zip(boxes, masks, strict=True):
            pixels = pixels_of(box, (14, 18))
            for pixel in pixels:
                mask[pixel] = True
            total = sum(float(saliency[p]) for p in pixels)
            expected.append(total / len(pixels) ** gamma if pixels else -math.inf)
        np.testing.assert_allclose(phrases.score_boxes(saliency, boxes, gamma), expected, rtol=1e-5)
        got = phrases.score_segments(saliency, masks, gamma)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_phrase_map_and_union():
    rng = np.random.default_rng(8)
    words = np.float32(rng.random((3, 2, 4)))
    np.testing.assert_allclose(phrases.phrase_map(words), words.mean(0), rtol=1e-6)
    known = np.array([True, False, True])
    np.testing.assert_allclose(phrases.phrase_map(words, known), words[known].mean(0), rtol=1e-6)
    assert not phrases.phrase_map(words, np.zeros(3, bool)).any()
    boxes = np.float32([[0, 0, 5, 20], [10, 10, 20, 15]])
    assert phrases.union_box(boxes).tolist() == [0, 0, 20, 20]
    assert phrases.union_box(boxes, np.zeros(2, bool)).tolist() == [0, 0, 0, 0]
    assert bool(phrases.is_small(boxes, 1601)) and not bool(phrases.is_small(boxes, 1600))


def slow_match(boxes, scores, truth, limit):
    right, taken = [False] * len(boxes), set()
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        overlaps = [iou_of(boxes[i], t) for t in truth]
        best = overlaps.index(max(overlaps))
        if overlaps[best] >= limit and best not in taken:
            taken.add(best)
            right[i] = True
    return right


def slow_ap(scores, right, positives, eleven):
    points, found = [], 0
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    for count, i in enumerate(order, 1):
        found += right[i]
        points.append((found / positives, found / count))
    if eleven:
        tops = [max((p for r, p in points if r >= k / 10 - 1e-9), default=0) for k in range(11)]
        return sum(tops) / 11
    total, last = 0.0, 0.0
    for recall in sorted({r for r, _ in points if r > 0}):
        total += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return total


def test_matching_recall_and_average_precision():
    rng = np.random.default_rng(9)
    run = jax.jit(phrases.match, static_argnames="iou")
    ap = jax.jit(phrases.average_precision, static_argnames="eleven_points")
    recall = jax.jit(lambda b, s, t: phrases.recall_at(b, s, t, (1, 5, 10)))
    seen = set()
    for _ in range(12):
        truth = random_boxes(rng, 4, 12)
        near = truth[rng.integers(0, 4, 20)] + rng.normal(0, 1, (20, 4))
        boxes = np.float32(np.concatenate([np.minimum(near[:, :2], near[:, 2:]),
                                           np.maximum(near[:, :2], near[:, 2:])], axis=1))  # fmt: skip
        scores = np.float32(rng.integers(0, 8, 20))
        right = run(boxes, scores, truth)
        expected = slow_match(boxes.tolist(), scores.tolist(), truth.tolist(), 0.5)
        assert right.tolist() == expected
        seen.add(sum(expected))
        for positives in (4, 40):
            for eleven in (False, True):
                got = ap(scores, right, positives, eleven_points=eleven).item()
                slow = slow_ap(scores.tolist(), expected, positives, eleven)
                assert got == pytest.approx(slow, abs=1e-6)
        order = sorted(range(20), key=lambda i: -scores[i])
        hits = [iou_of(boxes[i].tolist(), truth[0].tolist()) >= 0.5 for i in order]
        assert recall(boxes, scores, truth[0]).tolist() == [any(hits[:k]) for k in (1, 5, 10)]
    assert len(seen) > 2
    there = np.arange(20) < 10
    got = phrases.average_precision(scores, right, 4, valid=there).item()
    assert got == pytest.approx(slow_ap(scores[:10].tolist(), expected[:10], 4, False), abs=1e-6)
    assert np.isnan(phrases.average_precision(scores, right, 0))
    assert phrases.average_precision(scores, np.zeros(20, bool), 3).item() == 0


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
    for image, one, target, a, b in zip(x, maps, targets, first, last, strict=True):
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
            x.astype(float), y.astype(float), data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
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
    assert [changed(n) for n in cascade.values()] == [
        {"a_last"}, {"a_last"}, {"a_last", "z_first"}]  # fmt: skip
    assert [changed(n) for n in alone.values()] == [{"a_last"}, set(), {"z_first"}]
    first, kernel = cascade["z_first"].z_first.kernel[...], net.z_first.kernel[...]
    assert (first == alone["z_first"].z_first.kernel[...]).all()
    assert abs(first.std() / kernel.std() - 1) < 0.2
    (_, only), = sanity.randomisations(net, x, key, layers=["norm"], cascading=False)  # fmt: skip
    assert changed(only) == set()
    with pytest.raises(ValueError, match="no submodule 'middle'"):
        next(sanity.randomisations(net, x, key, layers=["middle"]))
    with pytest.raises(TypeError, match="NNX modules"):
        sanity.parameter_layers(lambda x: x, x)
