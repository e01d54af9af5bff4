"""The networks of the second set of oracle files: transformers and modern CNNs."""

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


def _rotated(x: jax.Array, base: float) -> jax.Array:
    """Rotary embedding of (B, heads, tokens, d): pairs (i, i + d/2), angle t * base^(-2i/d)."""
    d = x.shape[-1]
    frequency = float(base) ** (-2 * jnp.arange(d // 2) / d)
    angle = (jnp.arange(x.shape[-2])[:, None] * frequency).astype(x.dtype)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attention(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    def heads(name: str) -> jax.Array:
        y = x @ p[f"{name}/weight"]
        y = y + p[f"{name}/bias"] if o["bias"] else y
        y = y.reshape(*y.shape[:-1], -1, o["head_dim"]).swapaxes(1, 2)
        if o["qk_norm"] and name in "qk":
            scale = jnp.sqrt((y * y).mean(-1, keepdims=True) + 1e-6)
            y = y / scale * p[f"{name}_norm/gamma"]
        return _rotated(y, o["rotary"]["base"]) if o["rotary"] and name in "qk" else y

    q, k, v = map(heads, "qkv")
    if o["kv_heads"] != o["heads"]:
        k, v = (jnp.repeat(y, o["heads"] // o["kv_heads"], 1) for y in (k, v))
    scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(jnp.asarray(o["head_dim"], x.dtype))
    if o["relative_bias"]:
        scores = scores + p["relative_bias"]
    if o["mask"]:
        windows = o["windows"]
        by_image = scores.reshape(-1, windows, *scores.shape[1:])
        scores = (by_image + p["mask"][:, None]).reshape(scores.shape)
    weights = tag(jax.nn.softmax(scores), f"{o['name']}.weights")
    out = (weights @ v).swapaxes(1, 2)
    out = out.reshape(*out.shape[:2], -1) @ p["o/weight"]
    return out + p["o/bias"] if o["bias"] else out


def _windows(o: Mapping[str, Any], x: jax.Array) -> jax.Array:
    (h, w), (b, height, width, c) = o["size"], x.shape
    x = x.reshape(b, height // h, h, width // w, w, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h * w, c)


def _unwindowed(o: Mapping[str, Any], x: jax.Array) -> jax.Array:
    (h, w), (height, width) = o["size"], o["grid"]
    x = x.reshape(-1, height // h, width // w, h, w, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), height, width, -1)


def _prefixed(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    tokens = p["tokens"].reshape(1, -1, x.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:])), x], 1)


def _merged(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    corners = ((0, 0), (1, 0), (0, 1), (1, 1))
    return jnp.concatenate([x[:, i::2, j::2] for i, j in corners], -1)


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
    "sigmoid": lambda o, p, x: jax.nn.sigmoid(x),
    "to_map": lambda o, p, x: x.reshape(len(x), *o["grid"], x.shape[-1]),
    "prefix_tokens": _prefixed,
    "pos_embed": lambda o, p, x: x + p["value"],
    "select_token": lambda o, p, x: x[:, o["index"]],
    "attention": _attention,
    "window_partition": lambda o, p, x: _windows(o, x),
    "window_reverse": lambda o, p, x: _unwindowed(o, x),
    "roll": lambda o, p, x: jnp.roll(x, o["shift"], (1, 2)),
    "patch_merge": _merged,
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
