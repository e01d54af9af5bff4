"""NAFlow on ResNet-18 and ResNet-50: time an image, residual and iterations of every block.

`python -m benchmarks.naflow` leads the last feature map of one image of 224 x 224 back through all
blocks. The weights are random; each batch norm's statistics are measured on smooth random images,
one batch norm after the other, so that the activations keep their scale as in a trained network.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain
from jaxplain.models.layers import BatchNorm
from jaxplain.models.resnet import DEPTHS, ResNet

IMAGE = 224
#: The bound of the relative normal-equation residual |J^T (J x - y)| / |J^T y|.
RESIDUAL = 1e-2


class _Measuring(BatchNorm):
    """Takes its statistics from its input."""

    def __call__(self, x: jax.Array) -> jax.Array:
        self.mean[...] = x.mean((0, 1, 2))
        self.var[...] = x.var((0, 1, 2))
        return super().__call__(x)


def smooth_images(seed: int, count: int, size: int) -> jax.Array:
    """Random images (count, size, size, 3) with the spectrum of photographs, of variance 1."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])[None, :, :, None]
    noise = np.fft.fft2(rng.normal(size=(count, size, size, 3)), axes=(1, 2))
    images = np.fft.ifft2(noise / np.maximum(f, 1 / size), axes=(1, 2)).real
    return jnp.asarray(images / images.std((1, 2), keepdims=True), jnp.float32)


def calibrated(network: nnx.Module, size: int, seed: int = 0) -> nnx.Module:
    """Random batch-norm weights, and statistics measured on random images."""
    rng = np.random.default_rng(seed)
    norms = [m for _, m in nnx.iter_modules(network) if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.scale[...] = jnp.asarray(rng.uniform(0.3, 1.0, norm.scale.shape), jnp.float32)
        norm.bias[...] = jnp.asarray(rng.normal(-0.1, 0.1, norm.bias.shape), jnp.float32)
        norm.__class__ = _Measuring
    network(smooth_images(seed + 1, 4, size))
    for norm in norms:
        norm.__class__ = BatchNorm
    return network


def blocks(depth: int) -> list[str]:
    """The names of a ResNet's blocks, the first one first."""
    return [f"layer{i}.{j}" for i, n in enumerate(DEPTHS[depth], 1) for j in range(n)]


def measure(depth: int, solver: jaxplain.LeastSquares, size: int = IMAGE) -> None:
    """Print the table of one network."""
    network = calibrated(ResNet(depth, rngs=nnx.Rngs(0)), size)
    x, layers = smooth_images(7, 1, size), blocks(depth)
    times, processor = [], []
    for _ in range(2):
        start, used = time.perf_counter(), time.process_time()
        flow = jax.block_until_ready(
            jaxplain.naflow(network, x, layer=layers, solver=solver, details=True)
        )
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    print(
        f"\nResNet-{depth}, one image of {size} x {size}: {times[1]:.1f} s an image, "
        f"{processor[1]:.1f} s of processor time; the first call took {times[0]:.1f} s\n"
        f"{'layer':12}{'residual':>10}{'iterations':>12}"
    )
    for name in flow.maps:
        residual, steps = float(flow.residuals[name][0]), int(flow.iterations[name][0])
        print(f"{name:12}{residual:10.1e}{steps:12d}")
    worst = max(float(r[0]) for r in flow.residuals.values())
    finite = all(bool(jnp.isfinite(m).all()) for m in flow.maps.values())
    print(
        f"worst residual {worst:.1e} (bound {RESIDUAL}), maps {'' if finite else 'NOT '}finite, "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, nargs="*", default=[18, 50], choices=sorted(DEPTHS))
    parser.add_argument("--tolerance", type=float, default=jaxplain.LeastSquares().tolerance)
    parser.add_argument("--iterations", type=int, default=jaxplain.LeastSquares().iterations)
    parser.add_argument("--damping", type=float, default=jaxplain.LeastSquares().damping)
    parser.add_argument("--size", type=int, default=IMAGE)
    arguments = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.default_backend()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} before"
    )
    solver = jaxplain.LeastSquares(
        tolerance=arguments.tolerance, iterations=arguments.iterations, damping=arguments.damping
    )
    for depth in arguments.depth:
        measure(depth, solver, arguments.size)
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
