"""From a saliency map to a box: seeds, graph cut, largest component, tightest box."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import postprocess
from jaxplain.explainers import segmentation


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


def test_seeds_grow_to_the_object():
    """Five per cent of the pixels are seeds; colours give the rest of the object, not its twin."""
    pytest.importorskip("cv2")
    mask = segmentation.graph_cut(blob(), picture())
    assert mask.shape == (40, 48) and mask.dtype == bool
    assert postprocess.tightest_box(mask).tolist() == [12, 9, 32, 23]
    assert mask.sum() == 20 * 14
    np.testing.assert_array_equal(
        segmentation.graph_cut(blob(), picture()), mask
    )  # no random start
    np.testing.assert_array_equal(segmentation.graph_cut(7 * blob(), picture()), mask)


def test_seeds_are_the_quantiles(monkeypatch):
    """What is handed to OpenCV: above 95 % object, up to 30 % background, open between."""
    cv2 = pytest.importorskip("cv2")
    seen = []

    def cut(pixels, labels, *rest):
        seen.append(labels.copy())

    monkeypatch.setattr(cv2, "grabCut", cut)
    saliency = np.random.default_rng(1).permutation(40 * 48).reshape(40, 48)
    segmentation.graph_cut(saliency, picture())
    labels = seen[0]
    assert (labels == cv2.GC_FGD).sum() == 96 and saliency[labels == cv2.GC_FGD].min() == 1824
    assert (labels == cv2.GC_BGD).sum() == 576 and saliency[labels == cv2.GC_BGD].max() == 575
    assert set(np.unique(labels)) == {cv2.GC_FGD, cv2.GC_BGD, cv2.GC_PR_BGD}
    # Ties: a map that is 0 nearly everywhere, and one that is at its maximum over a tenth.
    sparse = np.zeros((40, 48))
    sparse[:2, :3] = [[1, 2, 3], [4, 5, 6]]
    segmentation.graph_cut(sparse, picture())
    assert (seen[1] == cv2.GC_FGD).sum() == 6 and (seen[1] == cv2.GC_BGD).sum() == 1914
    sparse[:4] = 6
    segmentation.graph_cut(sparse, picture())
    assert (seen[2] == cv2.GC_FGD).sum() == 4 * 48


def test_largest_component():
    cv2 = pytest.importorskip("cv2")
    mask = np.zeros((10, 12), bool)
    mask[1:3, 1:3] = mask[3, 3] = True  # 5 pixels that touch at a corner
    mask[6:8, 6:8] = True
    largest = segmentation._largest_component(cv2, mask)
    assert largest.sum() == 5 and postprocess.tightest_box(largest).tolist() == [1, 1, 4, 4]


def test_feedback_localise_finds_the_cued_object():
    """Two objects and two classes: each class finds its own."""
    pytest.importorskip("cv2")
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
    with pytest.raises(ImportError, match=r"OpenCV.*pip install .*\[localise\]"):
        segmentation.graph_cut(blob(), picture())
    with pytest.raises(ImportError, match="OpenCV"):
        jaxplain.feedback_localise(None, None, pixels=None)


def test_errors():
    pytest.importorskip("cv2")
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
