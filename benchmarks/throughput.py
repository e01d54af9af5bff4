"""The batch engine's throughput: how much of its time the device computes.

`python -m benchmarks.throughput WEIGHTS FOLDER` explains the images of a folder with c-MWP on BVLC
GoogLeNet, ``--repeat`` times over, and prints the share of the wall time during which a compiled
program ran. The next line is stricter: the time that the same batches take when nothing is read
or written beside them, over the wall time. Then come the loop that one would write oneself (read,
resize, explain, save, one batch after the other), and with ``--ray`` the same run on a cluster of
Ray on this machine. Squares of one size are explained, so that the loop can be as simple as that;
``--multiple 16`` keeps the aspect, and leaves out the loop.
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
    parser.add_argument("--multiple", type=int, help="keep the aspect, in steps of so many pixels")
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    network = models.from_pretrained(
        arguments.weights, network="bvlc_googlenet", fully_convolutional=True
    )
    config = network.config
    source = Repeated(data.ImageFolder(arguments.folder), arguments.repeat)
    layer = config.layer("excitation")
    explain = functools.partial(jaxplain.excitation_backprop, layer=layer, contrastive=True)

    def prepare(record: data.Record) -> np.ndarray:
        shape = (224, 224)
        if arguments.multiple:
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
        size = sum(file.stat().st_size for file in Path(folder, "maps").iterdir())
        working = run.seconds - run.compile_seconds
        print(
            f"{run.records} images in {run.seconds:.1f} s, of which {run.compile_seconds:.1f} s "
            f"compiled {run.programs} programs; {run.records / working:.2f} images a second\n"
            f"a compiled program ran for {100 * run.compute_seconds / working:.1f} % of the "
            f"other {working:.1f} s, load {os.getloadavg()[0]:.1f}; {size / run.records:.0f} bytes "
            "a map"
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
        if not arguments.multiple:
            seconds = plain_loop(
                lambda pixels: explain(network, to_input(pixels), None),
                source,
                prepare,
                size,
                Path(folder),
            )
            print(
                f"the plain loop: {seconds:.1f} s, {len(source) / seconds:.2f} images a second, "
                f"the engine takes {100 * working / seconds:.0f} % of its time, load "
                f"{os.getloadavg()[0]:.1f}"
            )
        if arguments.ray:
            import ray

            ray.init(num_cpus=1, log_to_driver=False)
            again = jaxplain.explain_dataset(
                network,
                source,
                f"{folder}/ray",
                {"c-MWP": explain},
                prepare=prepare,
                to_input=to_input,
                batch_size=size,
                on="ray",
            )
            own = again.seconds - again.compile_seconds
            print(
                f"on Ray: {again.seconds:.1f} s, {own:.1f} s without compiling, "
                f"{100 * own / working:.0f} % of the time here, load {os.getloadavg()[0]:.1f}"
            )


def plain_loop(explain, source, prepare, size: int, folder: Path) -> float:
    """Seconds of the loop without an engine; compiled beforehand."""
    explain = jax.jit(explain)
    jax.block_until_ready(explain(np.zeros((size, 224, 224, 3), np.uint8)))
    start = time.perf_counter()
    for begin in range(0, len(source), size):
        indices = range(begin, min(begin + size, len(source)))
        pixels = [prepare(source[i]) for i in indices]
        pixels += [pixels[-1]] * (size - len(pixels))
        maps = np.asarray(explain(np.stack(pixels)))
        np.save(folder / f"{begin}.npy", maps[: len(indices)])
    return time.perf_counter() - start


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
