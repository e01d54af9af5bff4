"""Objects found without boxes to learn from: a saliency map seeds a graph cut of the picture.

The protocol of Simonyan et al. (2014) and Cao et al. (2015, section 4.2), for any saliency map. It
runs on the host, in NumPy and SciPy; GrabCut in OpenCV (the extra ``localise``).

References: Cao et al., *Look and think twice: capturing top-down visual attention with feedback
convolutional neural networks*, ICCV 2015. Boykov and Jolly, *Interactive graph cuts for optimal
boundary and region segmentation of objects in N-D images*, ICCV 2001. Rother et al., *GrabCut*,
SIGGRAPH 2004.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxplain import postprocess
from jaxplain.core.extras import missing
from jaxplain.explainers import _graph_cut
from jaxplain.explainers._common import check_option
from jaxplain.explainers._types import Images, Network, Targets
from jaxplain.explainers.cut_names import SEGMENTATIONS, Segmentation
from jaxplain.explainers.feedback import feedback

__all__ = ["SEGMENTATIONS", "Localisation", "Segmentation", "feedback_localise", "graph_cut"]

#: The default weight of Boykov and Jolly's regional term, and of GrabCut's rounds.
_STRENGTH, _ITERATIONS = 0.1, 5


class Localisation(NamedTuple):
    """Where objects are. K targets put an axis K after the batch.

    Attributes:
        boxes: int (B, 4): left, top, right, bottom in pixels; right and bottom are the first
            outside.
        masks: bool (B, H, W), the object's pixels: one connected component.
        maps: float (B, H, W), the saliency that they come from.
    """

    boxes: np.ndarray
    masks: np.ndarray
    maps: np.ndarray


def feedback_localise(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    pixels: Any,
    foreground: float = 0.95,
    background: float = 0.3,
    segmentation: Segmentation = "boykov_jolly",
    strength: float | None = None,
    iterations: int | None = None,
    **options: Any,
) -> Localisation:
    """The box of the target's object, from its :func:`jaxplain.feedback` map (Tables 1 to 3).

    Args:
        fn, x, targets: as for :func:`jaxplain.feedback`: what the network sees.
        pixels: the same pictures as they look, uint8 (B, H, W, 3), of the images' height and width.
        foreground, background, segmentation, strength, iterations: of the graph cut. Pixels from
            the ``foreground`` quantile of the map on are object, those up to the ``background``
            quantile are not; see ``jaxplain.explainers.segmentation.graph_cut``.
        **options: ``steps``, ``mode``, ``order``, ``step_size`` of :func:`jaxplain.feedback`.

    Returns:
        A :class:`Localisation`, in the pixels of the images.

    Raises:
        ImportError: OpenCV is not installed, for GrabCut.
        ValueError, TypeError: the errors of :func:`jaxplain.feedback` and of ``graph_cut``.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, jaxplain
        >>> pixels = np.full((1, 24, 32, 3), 60, np.uint8)
        >>> pixels[0, 8:18, 10:22] = (250, 200, 30)
        >>> weight = jnp.zeros((3, 2)).at[0, 0].set(1.0)
        >>> def fn(x):                        # class 0: how much red, weighed by its square
        ...     return jax.nn.relu(x * x - 0.1).mean((1, 2)) @ weight
        >>> x = jnp.asarray(pixels / 255.0)
        >>> jaxplain.feedback_localise(fn, x, 0, pixels=pixels).boxes.tolist()
        [[10, 8, 22, 18]]
    """
    cut = {"segmentation": segmentation, "strength": strength, "iterations": iterations}
    _check(foreground, background, **cut)
    pixels = np.asarray(pixels)
    if pixels.shape != np.shape(x) or pixels.shape[-1:] != (3,):
        raise ValueError(
            f"pixels must be the images as they look, of shape (B, H, W, 3) like x "
            f"{np.shape(x)}, not {pixels.shape}"
        )
    maps = np.asarray(feedback(fn, x, targets, **options), np.float32)
    flat = maps.reshape(len(pixels), -1, *maps.shape[-2:])
    masks = np.stack(
        [
            [
                graph_cut(one, picture, foreground=foreground, background=background, **cut)
                for one in row
            ]
            for row, picture in zip(flat, pixels, strict=True)
        ]
    )
    boxes = postprocess.tightest_box(masks).astype(int)
    return Localisation(boxes.reshape(*maps.shape[:-2], 4), masks.reshape(maps.shape), maps)


def graph_cut(
    saliency: Any,
    pixels: Any,
    *,
    foreground: float = 0.95,
    background: float = 0.3,
    segmentation: Segmentation = "boykov_jolly",
    strength: float | None = None,
    iterations: int | None = None,
) -> np.ndarray:
    """The most salient object's pixels: the largest component of a graph-cut colour segmentation.

    Pixels from the ``foreground`` quantile of the saliency on are object, those up to the
    ``background`` quantile are not (ties go with the quantile); a graph cut decides on the others
    by their colours and edges.

    Args:
        saliency: (H, W), higher where the object is.
        pixels: uint8 (H, W, 3), the picture.
        foreground, background: quantiles, 0 <= background < foreground < 1.
        segmentation: ``"boykov_jolly"``, the one minimum cut that Cao et al. name, with the seeds'
            colours as models (mixtures of Gaussians) and the lowest energy exactly; or
            ``"grabcut"``, which makes models and cut anew several times.
        strength: of ``"boykov_jolly"``: the weight of a pixel's colour (nats of the two models)
            against the edge to a neighbour of its colour, which counts 1. Default: 0.1.
        iterations: of ``"grabcut"``: how often colour models and cut are made anew. Default: 5.

    Returns:
        bool (H, W); it holds at least one pixel.

    Raises:
        ImportError: OpenCV is not installed, for GrabCut.
        TypeError: pixels are not uint8.
        ValueError: shapes that do not fit, quantiles out of order, an option of the other
            segmentation, or a saliency that is not finite or that nowhere exceeds its background
            quantile, as a constant one.
    """
    _check(foreground, background, segmentation, strength, iterations)
    saliency, pixels = np.asarray(saliency, np.float32), np.asarray(pixels)
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels must be uint8, 0 to 255, not {pixels.dtype}")
    if saliency.ndim != 2 or pixels.shape != (*saliency.shape, 3):
        raise ValueError(
            f"pixels must have the shape (H, W, 3) of the saliency map (H, W), not "
            f"{pixels.shape} and {saliency.shape}"
        )
    if not np.isfinite(saliency).all():
        raise ValueError("the saliency holds NaN or infinity; every pixel must be finite")
    low, high = np.quantile(saliency, (background, foreground))
    sure, not_it = (saliency >= high) & (saliency > low), saliency <= low
    if not sure.any():
        raise ValueError(
            f"no pixel is more salient than the {background:.0%} quantile: the map is "
            "constant there, and has no foreground to start from"
        )
    if segmentation == "boykov_jolly":
        weight = _STRENGTH if strength is None else strength
        found = _graph_cut.minimise(_graph_cut.energy(pixels, sure, not_it, weight))
        return _largest_component(found.reshape(saliency.shape))
    return _largest_component(_grab_cut(pixels, sure, not_it, iterations or _ITERATIONS))


def _check(
    foreground: float,
    background: float,
    segmentation: str,
    strength: float | None,
    iterations: int | None,
) -> None:
    """Finds what is wrong with the options, and whether OpenCV is there if it is needed."""
    check_option("segmentation", segmentation, SEGMENTATIONS)
    if not 0 <= background < foreground < 1:
        raise ValueError(
            "quantiles must be 0 <= background < foreground < 1, not background "
            f"{background} and foreground {foreground}"
        )
    if segmentation == "boykov_jolly":
        if iterations is not None:
            raise ValueError(
                "iterations is an option of segmentation='grabcut'; 'boykov_jolly' cuts once"
            )
        if strength is not None and not (np.isfinite(strength) and strength >= 0):
            raise ValueError(f"strength must be a finite number of at least 0, not {strength}")
        return
    if strength is not None:
        raise ValueError("strength is an option of segmentation='boykov_jolly', not of 'grabcut'")
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    _opencv()


def _grab_cut(
    pixels: np.ndarray, foreground: np.ndarray, background: np.ndarray, iterations: int
) -> np.ndarray:
    cv2 = _opencv()
    labels = np.full(foreground.shape, cv2.GC_PR_BGD, np.uint8)
    labels[background] = cv2.GC_BGD
    labels[foreground] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # the colour models start from k-means
    models = np.zeros((2, 1, 65))
    cv2.grabCut(
        np.ascontiguousarray(pixels), labels, None, *models, iterations, cv2.GC_INIT_WITH_MASK
    )
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest of the parts that touch, at a corner too; the first of several."""
    from scipy import ndimage

    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=labels)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise missing("localise", "opencv-python-headless", "GrabCut") from error
    return cv2
