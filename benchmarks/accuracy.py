"""Top-1 and top-5 accuracy of the pretrained networks on a folder of ImageNet photographs.

    python -m benchmarks.accuracy FOLDER SYNSETS [NETWORK | NETWORK=FILE ...]

The names of the photographs begin with the WordNet number of their class; SYNSETS is a text file of
these numbers in the order of the networks' outputs. NETWORK=FILE converts a file of weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxplain import models

BATCH = 25


def accuracy(network: nnx.Module, files: list[Path], truth: np.ndarray) -> tuple[int, int]:
    """How many photographs have their class first, and among the first five."""
    graph, state = nnx.split(network)
    scores = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    first = five = 0
    for start in range(0, len(files), BATCH):
        batch = slice(start, start + BATCH)
        x = jnp.concatenate(
            [models.preprocess(Image.open(f), network.config) for f in files[batch]]
        )
        order = np.argsort(np.asarray(scores(state, x)), -1)[:, ::-1]
        first += int((order[:, 0] == truth[batch]).sum())
        five += int((order[:, :5] == truth[batch, None]).any(1).sum())
    return first, five


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("synsets", type=Path)
    parser.add_argument("networks", nargs="*", default=["efficientnet_lite0"])
    arguments = parser.parse_args()
    synsets = arguments.synsets.read_text().split()
    files = sorted(arguments.folder.iterdir())
    truth = np.array([synsets.index(f.name.split("_")[0].split(".")[0]) for f in files])
    for text in arguments.networks:
        name, _, file = text.partition("=")
        network = (
            models.from_pretrained(file, network=name) if file else models.from_pretrained(name)
        )
        first, five = accuracy(network, files, truth)
        print(
            f"{name:24}{first / len(files):7.1%} top 1 {five / len(files):7.1%} top 5  "
            f"({first} and {five} of {len(files)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
