"""Networks for the tests, as plain functions: from an oracle file, from a seed, or by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name as tag

Params = Mapping[str, Any]


def conv(x: jax.Array, w: jax.Array, stride=(1, 1), padding=(0, 0)) -> jax.Array:
    """Cross-correlation, NHWC by HWIO; `padding` on both sides of H and of W."""
    pads = [(p, p) for p in padding]
    return lax.conv_general_dilated(
        x, w, tuple(stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pool_pads(n: int, k: int, s: int, p: int, ceil_mode: bool) -> tuple[int, int]:
    """Padding (low, high) that gives PyTorch's output size for one axis of a pool."""
    rounded = math.ceil if ceil_mode else math.floor
    out = rounded((n + 2 * p - k) / s) + 1
    if ceil_mode and (out - 1) * s >= n + p:  # the last window would start in the high padding
        out -= 1
    return p, max((out - 1) * s + k - n - p, 0)


def max_pool(x: jax.Array, kernel, stride, padding=(0, 0), ceil_mode: bool = False) -> jax.Array:
    """Max pooling of NHWC, padded with minus infinity."""
    pads = [
        pool_pads(n, k, s, p, ceil_mode)
        for n, k, s, p in zip(x.shape[1:3], kernel, stride, padding, strict=True)
    ]
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *stride, 1), ((0, 0), *pads, (0, 0))
    )


def lrn(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    """Local response normalisation over `size` neighbouring channels (the last axis)."""
    ones, lead = (1,) * (x.ndim - 1), ((0, 0),) * (x.ndim - 1)
    pads = (*lead, (size // 2, (size - 1) // 2))
    window = lax.reduce_window(x * x, 0.0, lax.add, (*ones, size), (1,) * x.ndim, pads)
    return x / (k + alpha / size * window) ** beta


def batch_norm(x: jax.Array, p: Params, eps: float) -> jax.Array:
    """Batch normalisation with stored statistics."""
    return (x - p["mean"]) / jnp.sqrt(p["var"] + eps) * p["gamma"] + p["beta"]


def _conv_op(o, p, x):
    y = conv(x, p["weight"], o["stride"], o["padding"])
    return y + p["bias"] if o["bias"] else y


def _max_pool_op(o, p, x):
    return max_pool(x, o["kernel"], o["stride"], o["padding"], o["ceil_mode"])


_OPS: dict[str, Callable[..., jax.Array]] = {
    "conv": _conv_op,
    "batch_norm": lambda o, p, x: batch_norm(x, p, o["eps"]),
    "relu": lambda o, p, x: jax.nn.relu(x),
    "leaky_relu": lambda o, p, x: jax.nn.leaky_relu(x, o["slope"]),
    "max_pool": _max_pool_op,
    "lrn": lambda o, p, x: lrn(x, o["size"], o["alpha"], o["beta"], o["k"]),
    "concat": lambda o, p, *xs: jnp.concatenate(xs, axis=-1),
    "add": lambda o, p, branch, shortcut: branch + shortcut,
    "global_avg_pool": lambda o, p, x: jnp.mean(x, axis=(1, 2), keepdims=True),
    "flatten": lambda o, p, x: x.reshape(x.shape[0], -1),
    "fc": lambda o, p, x: x @ p["weight"] + p["bias"],
}


def from_ops(ops: Sequence[Mapping[str, Any]], params: Params) -> Callable[[jax.Array], jax.Array]:
    """The function that an oracle file's `ops` describe; every op's output is tagged by its name.

    Args:
        ops: `meta["ops"]`.
        params: `{"<op>/weight": array, ...}`.
    """
    own: dict[str, dict[str, jax.Array]] = {}
    for key, value in params.items():
        op, leaf = key.split("/")
        own.setdefault(op, {})[leaf] = value

    def fn(x: jax.Array) -> jax.Array:
        values = {"input": x}
        for o in ops:
            args = [values[name] for name in o["inputs"]]
            values[o["name"]] = tag(_OPS[o["op"]](o, own.get(o["name"], {}), *args), o["name"])
        return values[ops[-1]["name"]]

    return fn


def mlp(weights: Sequence[Any], biases: Sequence[Any]) -> Callable[[jax.Array], jax.Array]:
    """Dense ReLU net on images (B, 1, 1, F); its hidden layers are tagged hidden1, hidden2 ..."""
    weights, biases = [jnp.asarray(w) for w in weights], [jnp.asarray(b) for b in biases]

    def fn(x: jax.Array) -> jax.Array:
        h = x.reshape(x.shape[0], -1)
        for i, (w, b) in enumerate(zip(weights, biases, strict=True), 1):
            h = h @ w + b
            if i < len(weights):
                h = tag(jax.nn.relu(h), f"hidden{i}")
        return h

    return fn


#: Layers of `convnet`, top first.
CONVNET_LAYERS = ("gap", "out", "sum", "mid", "pool", "act1", "input")


def convnet_params(seed: int, *, bias: float = 0.1, channels: int = 6, classes: int = 4) -> dict:
    """Weights of `convnet`, with batch-norm scales of both signs."""
    rng = np.random.default_rng(seed)
    c = channels

    def normal(*shape, fan):
        return rng.normal(size=shape) / np.sqrt(fan)

    return {
        "conv1": normal(3, 3, 3, c, fan=27),
        "bias1": bias * rng.normal(size=c),
        "gamma": rng.uniform(0.5, 1.5, c) * rng.choice([-1.0, 1.0], c),
        "beta": bias * rng.normal(size=c),
        "mean": bias * rng.normal(size=c),
        "var": rng.uniform(0.5, 1.5, c),
        "conv2": normal(3, 3, c, c, fan=9 * c),
        "bias2": bias * rng.normal(size=c),
        "dense": normal(c, classes, fan=c),
        "bias3": bias * rng.normal(size=classes),
    }


def convnet(params: Params) -> Callable[[jax.Array], jax.Array]:
    """Convolution, batch norm, ReLU, max pool, residual block, global average pool, dense."""

    def fn(x: jax.Array) -> jax.Array:
        p = params
        h = conv(x, p["conv1"], padding=(1, 1)) + p["bias1"]
        h = tag(jax.nn.relu(batch_norm(h, p, 1e-3)), "act1")
        pool = tag(max_pool(h, (2, 2), (2, 2)), "pool")
        mid = conv(pool, p["conv2"], padding=(1, 1)) + p["bias2"]
        mid = tag(jax.nn.relu(mid), "mid")
        h = tag(jax.nn.relu(tag(mid + pool, "sum")), "out")
        h = tag(jnp.mean(h, axis=(1, 2)), "gap")
        return h @ p["dense"] + p["bias3"]

    return fn


def normal(seed, *shape, scale=1.0):
    """A NumPy array, that JAX reads in the precision of the test."""
    return np.random.default_rng(seed).normal(size=shape) * scale


def images(seed: int, batch: int = 2, size: int = 8, low: float = 0.0, high: float = 1.0):
    """Uniform random images (batch, size, size, 3), float64 in NumPy."""
    return np.random.default_rng(seed).uniform(low, high, (batch, size, size, 3))


def relative_error(got: Any, expected: Any) -> float:
    """Largest difference relative to the largest value, worst over the batch (leading axis)."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        raise ValueError(f"shape {got.shape}, expected {expected.shape}")
    if not np.isfinite(got).all():
        return math.inf
    axes = tuple(range(1, got.ndim))
    scale = np.max(np.abs(expected), axis=axes, initial=0.0)
    worst = np.max(np.abs(got - expected), axis=axes, initial=0.0)
    return float(np.max(worst / np.where(scale > 0, scale, 1.0)))
