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
    """Rotary embedding of (B, N, heads, head_dim): pairs (i, i + d/2) turn with the position."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * base ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention_weights(o: Mapping[str, Any], p: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weights (B, heads, queries, keys) of an attention op, and its values, head by head."""

    def heads(name: str, count: int) -> jax.Array:
        y = x @ p[f"{name}/weight"] + (p[f"{name}/bias"] if o["bias"] else 0)
        return y.reshape(*x.shape[:2], count, o["head_dim"])

    q, k, v = heads("q", o["heads"]), heads("k", o["kv_heads"]), heads("v", o["kv_heads"])
    if o["qk_norm"]:
        norm, pairs = {"eps": 1e-6}, (("q", q), ("k", k))
        q, k = (_rms_norm(norm, {"gamma": p[f"{n}_norm/gamma"]}, t) for n, t in pairs)
    if o["rotary"]:
        q, k = _rotated(q, o["rotary"]["base"]), _rotated(k, o["rotary"]["base"])
    shared = o["heads"] // o["kv_heads"]
    k, v = jnp.repeat(k, shared, 2), jnp.repeat(v, shared, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / o["head_dim"] ** 0.5
    if o["relative_bias"]:
        scores = scores + p["relative_bias"]
    if o["mask"]:
        windows = scores.reshape(-1, o["windows"], *scores.shape[1:])
        scores = (windows + p["mask"][:, None]).reshape(scores.shape)
    return jax.nn.softmax(scores), v


def _attention(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    weights, v = attention_weights(o, p, x)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*x.shape[:2], -1)
    return out @ p["o/weight"] + (p["o/bias"] if o["bias"] else 0)


def _prefix_tokens(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    tokens = p["tokens"].reshape(1, o["count"], x.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:])), x], 1)


def _window_partition(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    (b, height, width, c), (h, w) = x.shape, o["size"]
    parts = x.reshape(b, height // h, h, width // w, w, c).swapaxes(2, 3)
    return parts.reshape(-1, h * w, c)


def _window_reverse(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    (height, width), (h, w) = o["grid"], o["size"]
    parts = x.reshape(-1, height // h, width // w, h, w, x.shape[-1]).swapaxes(2, 3)
    return parts.reshape(-1, height, width, x.shape[-1])


def _patch_merge(o: Mapping[str, Any], p: Params, x: jax.Array) -> jax.Array:
    parts = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    return jnp.concatenate(parts, -1)


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
    "prefix_tokens": _prefix_tokens,
    "pos_embed": lambda o, p, x: x + p["value"].reshape(1, *x.shape[1:]),
    "select_token": lambda o, p, x: x[:, o["index"]],
    "attention": _attention,
    "window_partition": _window_partition,
    "window_reverse": _window_reverse,
    "roll": lambda o, p, x: jnp.roll(x, o["shift"], (1, 2)),
    "patch_merge": _patch_merge,
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
