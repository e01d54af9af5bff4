"""Insertion, deletion and pixel-flipping of several methods over images: a runner.

Each method explains the class that the network predicts (Petsiuk et al. 2018), and the picture is
changed in the order of its map. A map of noise is the baseline: what an order that knows nothing
comes to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import postprocess
from jaxplain.evaluation import faithfulness
from jaxplain.evaluation.asking import predicted

__all__ = ["CURVES", "RANDOM", "FaithfulnessStudy", "faithfulness_study"]

#: Name -> what is reported of a curve.
CURVES = {"insertion": "area", "deletion": "area", "pixel_flipping": "drop"}
RANDOM = "Random order"


@dataclasses.dataclass(frozen=True, eq=False)
class FaithfulnessStudy:
    """What the measurements came to.

    Attributes:
      images: how many.
      fractions: curve -> ``(S + 1,)``, the part of the pixels that was changed.
      scores: curve -> method -> ``(images, S + 1)``.
      values: curve -> method -> ``(images,)``: area under the curve, or AOPC of pixel-flipping.
      failures: (id, reason) of images that could not be read; the caller's.
    """

    images: int
    fractions: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    values: Mapping[str, Mapping[str, np.ndarray]]
    failures: tuple[tuple[str, str], ...] = ()

    def markdown(self) -> str:
        """A row a method: means over images, with their standard errors."""
        lines = [
            "| method | insertion, higher is better | deletion, lower | pixel-flipping, higher |",
            "| --- | ---: | ---: | ---: |",
        ]
        for name in self.values["insertion"]:
            cells = (_mean(self.values[curve][name]) for curve in CURVES)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += [
            "",
            f"{self.images} images; mean and standard error. Insertion and deletion: "
            "area under the probability; pixel-flipping: mean drop of the logit "
            "(AOPC).",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; the curves are means over images."""
        return {
            "protocol": "faithfulness",
            "images": self.images,
            "failures": [list(f) for f in self.failures],
            "curves": {
                curve: {
                    "fractions": self.fractions[curve].tolist(),
                    "methods": {
                        name: {
                            "scores": self.scores[curve][name].mean(0).tolist(),
                            CURVES[curve]: self.values[curve][name].tolist(),
                        }
                        for name in self.values[curve]
                    },
                }
                for curve in CURVES
            },
        }


def faithfulness_study(
    fn: Callable,
    x: jax.Array,
    methods: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]],
    *,
    steps: int = 56,
    patch: int = 9,
    flips: int = 100,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> FaithfulnessStudy:
    """Measures insertion, deletion and pixel-flipping, for the class that the network predicts.

    Args:
      fn: images to logits.
      x: images ``(N, H, W, C)``, 0 being the mean colour.
      methods: name -> images and classes ``(B,)`` to maps ``(B, h, w)``; they are resized
        bilinearly, and ranked as they are: negative evidence last.
      steps: of insertion and deletion; patch, flips: of pixel-flipping (squares of ``patch``
        pixels, ``flips`` of them).
      batch_size: images at once.
      progress: called with the number of batches done.

    Returns:
      A `FaithfulnessStudy`; the first method is ``RANDOM``.

    Raises:
      ValueError: no method, no image, or steps out of range.
    """
    x = jnp.asarray(x)
    if not methods or not len(x):
        raise ValueError("faithfulness needs at least one method and one image")
    options = {
        "insertion": {"steps": steps},
        "deletion": {"steps": steps},
        "pixel_flipping": {"patch": patch, "steps": flips},
    }
    names = (RANDOM, *methods)
    scores: dict = {curve: {name: [] for name in names} for curve in CURVES}
    values: dict = {curve: {name: [] for name in names} for curve in CURVES}
    fractions: dict = {}
    for number, start in enumerate(range(0, len(x), batch_size), 1):
        rows = np.minimum(np.arange(start, start + batch_size), len(x) - 1)
        images, count = x[rows], min(batch_size, len(x) - start)
        classes = predicted(fn, images)
        for name in names:
            if name == RANDOM:
                maps = jax.random.uniform(jax.random.key(start), images.shape[:3])
            else:
                maps = methods[name](images, classes).astype(jnp.float32)
                maps = postprocess.resize(maps, images.shape[1:3])
            for curve, own in options.items():
                got = getattr(faithfulness, curve)(fn, images, maps, classes, **own)
                fractions[curve] = np.asarray(got.fractions)
                scores[curve][name].append(np.asarray(got.scores)[:count])
                values[curve][name].append(np.asarray(getattr(got, CURVES[curve]))[:count])
        if progress is not None:
            progress(number)
    return FaithfulnessStudy(len(x), fractions, _joined(scores), _joined(values))


def _joined(found: dict) -> dict:
    return {c: {name: np.concatenate(v) for name, v in own.items()} for c, own in found.items()}


def _mean(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ± {error:.3f}"
