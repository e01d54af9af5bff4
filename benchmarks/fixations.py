"""Methods against human fixations: the table and bar chart of Ebrahimpour et al. (2019), Fig. 9.

    python -m benchmarks.fixations IMAGES FIXATIONS --model efficientnet_lite0 --chart mae.png

`IMAGES` and `FIXATIONS` are two folders with files of the same names: photographs, and maps (grey
pictures) or lists of fixations (`jaxplain.data.Fixations`); for MIT1003 its stimuli and its maps.
The network sees each photograph whole, stretched to its square; maps are scored at that size.
Class-wise methods explain the top class. The baselines are a Gaussian at the centre and an
empty map: people look at little of an image, so that the MAE favours maps of almost nothing.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import data, models, postprocess, viz
from jaxplain.evaluation import fixations
from jaxplain.evaluation.fixation_study import compare_with_fixations
from jaxplain.viz.charts import score_bars

CENTRE, EMPTY = "centre baseline", "empty map"


def methods_for(model) -> dict[str, Callable]:
    """Title -> images to maps, at each method's default layer of this network."""

    def explained(name: str, **options):
        method, layer = getattr(jaxplain, name), model.config.layer(name)
        if layer is not None:
            options["layer"] = layer
        return lambda x: method(model, x, **options)

    return {
        "CAM": explained("cam"),
        "Grad-CAM": explained("grad_cam"),
        "Guided Backprop": explained("guided_backprop"),
        "Guided Grad-CAM": explained("guided_grad_cam"),
        "MWP": explained("excitation_backprop"),
        "c-MWP": explained("excitation_backprop", contrastive=True),
        "PFV weights": lambda x: jaxplain.pfv(model, x).weights,
        "Dense Attention": functools.partial(_dense, model),
        CENTRE: lambda x: jnp.broadcast_to(fixations.centre_map(x.shape[1:3]), x.shape[:3]),
        EMPTY: lambda x: jnp.zeros(x.shape[:3]),
    }


def _dense(model, x) -> dict[str, jax.Array]:
    """The layers' own maps, 1 being the first, and the cumulative ones, named as in the paper."""
    own, cumulative = jaxplain.dense_attention(model, x)
    n = len(own)
    titles = {layer: "".join(map(str, range(n, i, -1))) for i, layer in enumerate(own)}
    return {
        **{f"Dense Attention {i} ({layer})": m for i, (layer, m) in enumerate(own.items(), 1)},
        **{f"Dense Attention {titles[layer]}": m for layer, m in list(cumulative.items())[:-1]},
    }


def load(images: Path, looked: Path, config) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The photographs as the network sees them, the human maps and, from lists, the points."""
    source = data.Fixations(images, looked)
    size = (config.input_size, config.input_size)
    x, truth, points = [], [], []
    for record in (source[i] for i in range(len(source))):
        x.append(models.preprocess(record.image, config, crop=False)[0])
        density = record.fixation_map
        if density is None:
            density = fixations.fixation_map(record.fixations, record.size)
            scaled = record.fixations * [size[0] / record.size[0], size[1] / record.size[1], 1]
            points.append(_count(scaled, size))
        truth.append(postprocess.resize(jnp.asarray(density), size, antialias=True))
    return jnp.stack(x), jnp.stack(truth), jnp.asarray(np.stack(points)) if points else None


def _count(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    counts = np.zeros(size, np.float32)
    for row, column, _ in points:
        if 0 <= row < size[0] and 0 <= column < size[1]:
            counts[int(row), int(column)] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of photographs")
    parser.add_argument("fixations", type=Path, help="folder of their fixation maps or lists")
    parser.add_argument("--model", default="efficientnet_lite0", metavar="NAME",
                        help="a network's name, folder or file; default: %(default)s")
    parser.add_argument("--network", metavar="NAME", help="for a file: which network it is")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="picture of the MAE to write")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    arguments = parser.parse_args()
    model = models.from_pretrained(arguments.model, network=arguments.network)
    x, truth, points = load(arguments.images, arguments.fixations, model.config)
    study = compare_with_fixations(methods_for(model), x, truth, points, progress=True)
    if arguments.markdown:
        fields = [f.replace("_", "-").upper() for f in study.table[0]._fields[1:]]
        print(f"| {model.config.name}, {len(x)} images | {' | '.join(fields)} |")
        print(f"| --- |{' ---: |' * len(fields)}")
        for name, *values in study.table:
            print(f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |")
    else:
        print(study.table)
    if arguments.chart:
        errors = {row.method: study.per_image[row.method]["mae"] for row in study.table}
        label = f"mean absolute error, {model.config.name}, {len(x)} images"
        viz.save(score_bars(errors, label, highlight=[CENTRE, EMPTY]), arguments.chart)


if __name__ == "__main__":
    main()
