"""Metrics against independent implementations in plain Python, and at every border."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.evaluation import localisation, phrases, pointing


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
        pixels = [
            p for b, v in zip(boxes[i], valid[i], strict=True) if v for p in pixels_of(b, size)
        ]
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
    cases = {
        (20, 43): True,
        (20, 44): False,
        (43, 29): True,
        (44, 29): False,
        (25, 25): True,
        (29 + 9, 29 + 12): False,
        (29 + 8, 29 + 12): True,
        (29 + 10, 29 + 11): True,
        (5, 20): False,
        (6, 20): True,
        (20, 5): False,
        (20, 6): True,
    }
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
        True,
        True,
        False,
    ]
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
        boxes = np.float32(
            np.concatenate(
                [np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], axis=1
            )
        )
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
