"""The batch engine's throughput: how much of its time the device computes.

`python -m benchmarks.throughput WEIGHTS FOLDER` explains the images of a folder with c-MWP on BVLC
GoogLeNet, ``--repeat`` times over, and prints the share of the wall time during which a compiled
program ran. The second line is stricter: the time that the same batches take when nothing is read
or written beside them, over the wall time.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import jaxplain
from jaxplain import data, models
from jaxplain.engine.programs import Programs


class Repeated:
    """A data set's records, several times over."""

    def __init__(self, source: data.Source, times: int):
        self.source, self.times = source, times
        self.name, self.class_names = f"{source.name} x {times}", source.class_names

    def __len__(self) -> int:
        return len(self.source) * self.times

    def __getitem__(self, index: int) -> data.Record:
        return self.source[index % len(self.source)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="bvlc_googlenet.caffemodel")
    parser.add_argument("folder", type=Path, help="of images")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--multiple", type=int, default=16)
    arguments = parser.parse_args()
    network = models.from_pretrained(
        arguments.weights, network="bvlc_googlenet", fully_convolutional=True
    )
    config = network.config
    source = Repeated(data.ImageFolder(arguments.folder), arguments.repeat)
    layer = config.layer("excitation")
    explain = functools.partial(jaxplain.excitation_backprop, layer=layer, contrastive=True)

    def prepare(record: data.Record) -> np.ndarray:
        shape = data.aspect_shape(record.size, 224, arguments.multiple)
        return data.resize_image(record.image, shape, config.interpolation)

    def to_input(pixels: jax.Array) -> jax.Array:
        return data.normalise(pixels, config)

    print(
        f"jax {jax.__version__} on {jax.default_backend()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} before"
    )
    with tempfile.TemporaryDirectory() as folder:
        # What the engine has compiled is not compiled again for the second measurement.
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        run = jaxplain.explain_dataset(
            network,
            source,
            f"{folder}/maps",
            {"c-MWP": explain},
            prepare=prepare,
            to_input=to_input,
            batch_size=arguments.batch_size,
        )
        working = run.seconds - run.compile_seconds
        print(
            f"{run.records} images in {run.seconds:.1f} s, of which {run.compile_seconds:.1f} s "
            f"compiled {run.programs} programs; {run.records / working:.2f} images a second\n"
            f"a compiled program ran for {100 * run.compute_seconds / working:.1f} % of the "
            f"other {working:.1f} s, load {os.getloadavg()[0]:.1f}"
        )
        size = arguments.batch_size
        batches = [b.pixels for b in data.batches(data.load(source, prepare), size, [])]
        programs = Programs(
            network, {"c-MWP": explain}, to_input, None, None, size, jax.local_devices()
        )
        alone = compute_alone(programs, batches)
    print(
        f"the same batches alone: {alone:.1f} s, {100 * alone / working:.1f} %, load "
        f"{os.getloadavg()[0]:.1f}"
    )


def compute_alone(programs: Programs, batches: list[np.ndarray]) -> float:
    """Seconds that the batches take one after the other, read and compiled beforehand."""
    labels = np.zeros((len(batches[0]), 0), np.int32)
    for pixels in {pixels.shape: pixels for pixels in batches}.values():
        jax.block_until_ready(programs(pixels, labels)[0])
    start = time.perf_counter()
    for pixels in batches:
        jax.block_until_ready(programs(pixels, labels)[0])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
