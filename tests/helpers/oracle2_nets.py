"""The networks of the second set of oracle files: transformers without attention, modern CNNs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from nets import tag

Params = Mapping[str, Any]


def _conv(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    pads = [(n, n) for n in o["padding"]]
    y = lax.conv_general_dilated(
        x,
        p["weight"],
        tuple(o["stride"]),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=o["groups"],
    )
    return y + p["bias"] if o["bias"] else y


def _pool(o: Mapping[str, Any], x: jax.Array, initial: float, combine: Callable) -> jax.Array:
    pads = [(0, 0), *((n, n) for n in o["padding"]), (0, 0)]
    return lax.reduce_window(x, initial, combine, (1, *o["kernel"], 1), (1, *o["stride"], 1), pads)


def _avg_pool(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    return _pool(o, x, 0.0, lax.add) / (o["kernel"][0] * o["kernel"][1])


def _layer_norm(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + o["eps"]) * p["gamma"] + p["beta"]


def _rms_norm(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + o["eps"]) * p["gamma"]


def _group_norm(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    groups = x.reshape(*x.shape[:3], o["groups"], -1)
    mean = groups.mean((1, 2, 4), keepdims=True)
    var = groups.var((1, 2, 4), keepdims=True)
    normal = (groups - mean) / jnp.sqrt(var + o["eps"])
    return normal.reshape(x.shape) * p["gamma"] + p["beta"]


OPS: dict[str, Callable[..., jax.Array]] = {
    "conv": _conv,
    "dense": lambda o, p, x: x @ p["weight"] + p["bias"] if o["bias"] else x @ p["weight"],
    "batch_norm": lambda o, p, x: (
        (x - p["mean"]) / jnp.sqrt(p["var"] + o["eps"]) * p["gamma"] + p["beta"]
    ),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "relu": lambda o, p, x: jax.nn.relu(x),
    "relu6": lambda o, p, x: jax.nn.relu6(x),
    "gelu": lambda o, p, x: jax.nn.gelu(x, approximate=False),
    "silu": lambda o, p, x: jax.nn.silu(x),
    "hard_swish": lambda o, p, x: jax.nn.hard_swish(x),
    "hard_sigmoid": lambda o, p, x: jax.nn.hard_sigmoid(x),
    "max_pool": lambda o, p, x: _pool(o, x, -jnp.inf, lax.max),
    "avg_pool": _avg_pool,
    "add": lambda o, p, branch, shortcut: branch + shortcut,
    "mul": lambda o, p, a, b: a * b,
    "scale": lambda o, p, x: x * p["gamma"],
    "to_tokens": lambda o, p, x: x.reshape(x.shape[0], -1, x.shape[-1]),
    "mean_tokens": lambda o, p, x: x[:, o["start"] :].mean(1),
    "global_avg_pool": lambda o, p, x: x.mean((1, 2), keepdims=o["keepdims"]),
    "swap_tokens_channels": lambda o, p, x: x.swapaxes(1, 2),
}


def from_ops(ops: Sequence[Mapping[str, Any]], params: Params) -> Callable[[jax.Array], jax.Array]:
    """The function that a file's ``ops`` describe; every op's output is tagged by its name.

    Args:
        ops: ``meta["ops"]``.
        params: ``{"<op>/weight": array, ...}``.
    """
    own: dict[str, dict[str, jax.Array]] = {}
    for key, value in params.items():
        op, leaf = key.split("/", 1)
        own.setdefault(op, {})[leaf] = value

    def fn(x: jax.Array) -> jax.Array:
        values = {"input": x}
        for o in ops:
            args = [values[name] for name in o["inputs"]]
            values[o["name"]] = tag(OPS[o["op"]](o, own.get(o["name"], {}), *args), o["name"])
        return values[ops[-1]["name"]]

    return fn
