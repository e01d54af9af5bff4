"""The two routes of Principal Feature Visualisation: operations, memory, time, agreement.

    python -m benchmarks.pfv                      # random features of VGG-16's conv5_3
    python -m benchmarks.pfv --images FOLDER      # VGG-16 with random weights on photographs

FLOPs are the operation counts by which `pfv` chooses (`route_costs`; XLA counts none in LAPACK),
memory is XLA's count of temporary bytes, time the best of three runs. "difference" is the largest
between the two routes' components, relative to the largest component.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from benchmarks.shaped import VGG16
from jaxplain.core import Table
from jaxplain.explainers._principal import route_costs

SHAPE = (14, 14, 512)  # conv5_3 of an image of 224 x 224
ROUTES = ("svd", "covariance")


class Row(NamedTuple):
    """One route at one batch size; `chosen` marks the default."""

    images: int
    route: str
    gflops: float
    megabytes: float
    seconds: float
    difference: float
    chosen: str


def random_features(count: int) -> np.ndarray:
    """Rectified features with a falling spectrum and some dead channels, as behind any ReLU."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count * SHAPE[0] * SHAPE[1], SHAPE[2]))
    mix = np.linalg.qr(rng.normal(size=(SHAPE[2], SHAPE[2])))[0]
    features = np.maximum(rows * np.arange(1, SHAPE[2] + 1) ** -0.7 @ mix, 0)
    features[:, ::13] = 0
    return features.reshape(count, *SHAPE).astype(np.float32)


def vgg_features(folder: Path, count: int) -> np.ndarray:
    """conv5_3 of the first photographs in a folder, by VGG-16 with random weights (He)."""
    from PIL import Image

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < count:
        raise SystemExit(f"{folder} has {len(files)} photographs, {count} are needed")
    photos = [np.asarray(Image.open(f).convert("RGB").resize((224, 224))) for f in files[:count]]
    x = (np.stack(photos).astype(np.float32) - 118) / 58
    leaves, tree = jax.tree.flatten(VGG16.parameters)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    made = [
        jax.random.normal(k, s.shape) * (2 / np.prod(s.shape[:-1])) ** 0.5
        if len(s.shape) == 4
        else jnp.zeros(s.shape)
        for k, s in zip(keys, leaves, strict=True)
    ]
    parameters = jax.tree.unflatten(tree, made)
    features = jax.jit(
        lambda p, x: jaxplain.capture(lambda image: VGG16.apply(p, image), ["relu5_3"])(x)[1][
            "relu5_3"
        ]
    )
    return np.concatenate([features(parameters, x[i : i + 4]) for i in range(0, count, 4)])


def measure(features: np.ndarray, counts: tuple[int, ...]) -> Table:
    """One `Row` per route and batch size."""

    def network(x):
        return jaxplain.tag(x * 1.0, "features").mean((1, 2))

    rows = []
    for count in counts:
        x = jnp.asarray(features[:count])
        costs = route_costs(count * SHAPE[0] * SHAPE[1], SHAPE[2])
        chosen = min(costs, key=lambda name: costs[name].flops)
        found = {}
        for route in ROUTES:
            compiled = (
                jax.jit(
                    lambda x, route=route: (
                        jaxplain.pfv(
                            network, x, layer="features", weight_layers=(), method=route
                        ).components
                    )
                )
                .lower(x)
                .compile()
            )
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                found[route] = np.asarray(compiled(x))
                seconds.append(time.perf_counter() - start)
            temporary = compiled.memory_analysis().temp_size_in_bytes
            difference = np.abs(found[route] - found["svd"]).max() / np.abs(found["svd"]).max()
            rows.append(
                Row(
                    count,
                    route,
                    costs[route].flops / 1e9,
                    temporary / 1e6,
                    min(seconds),
                    float(difference),
                    "*" if route == chosen else "",
                )
            )
    return Table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="photographs for VGG-16")
    parser.add_argument("--batches", default="1,8,32", help="batch sizes; default: %(default)s")
    arguments = parser.parse_args()
    counts = tuple(map(int, arguments.batches.split(",")))
    folder = arguments.images
    features = vgg_features(folder, max(counts)) if folder else random_features(max(counts))
    print(measure(features, counts))


if __name__ == "__main__":
    main()
