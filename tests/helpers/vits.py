"""One small vision transformer in every framework, and with attention in many spellings.

Images 16 x 24 in patches of 8: a grid of 2 x 3, a class token and a register in front; two blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HEIGHT, WIDTH, PATCH, PREFIX, GRID = 16, 24, 8, 2, (2, 3)
DIM, HEADS, HIDDEN, CLASSES, EPS = 12, 3, 16, 4, 1e-6
TOKENS = PREFIX + GRID[0] * GRID[1]
SIZE = DIM // HEADS
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def weights(seed: int = 0, depth: int = 2) -> dict[str, Any]:
    """The weights, NumPy arrays in float64; those of the blocks are stacked."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rng.normal(size=shape) * scale

    def dense(n: int, m: int, *lead: int) -> dict:
        return {"w": normal(*lead, n, m, scale=n**-0.5), "b": normal(*lead, m, scale=0.1)}

    def norm(*lead: int) -> dict:
        return {"w": 1 + normal(*lead, DIM, scale=0.3), "b": normal(*lead, DIM, scale=0.1)}

    block = {"norm1": norm(depth), "norm2": norm(depth)}
    block |= {name: dense(DIM, DIM, depth) for name in "qkvo"}
    block |= {"mlp1": dense(DIM, HIDDEN, depth), "mlp2": dense(HIDDEN, DIM, depth)}
    for name in "qk":
        block[name]["w"] *= 2
    return {
        "patch": {"w": normal(PATCH, PATCH, 3, DIM, scale=0.1), "b": normal(DIM, scale=0.1)},
        "prefix": normal(PREFIX, DIM, scale=1),
        "position": normal(TOKENS, DIM, scale=0.5),
        "blocks": block,
        "norm": norm(),
        "head": dense(DIM, CLASSES),
    }


def images(seed: int = 1, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, HEIGHT, WIDTH, 3))


def block_weights(p: dict, i: int) -> dict:
    return jax.tree.map(lambda w: w[i], p["blocks"])


def depth(p: dict) -> int:
    return len(p["blocks"]["q"]["b"])


# -- as a plain function ---------------------------------------------------------------------------


def layer_norm(x: jax.Array, p: dict) -> jax.Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + EPS) * p["w"] + p["b"]


def linear(x: jax.Array, p: dict) -> jax.Array:
    return x @ p["w"] + p["b"]


def einsum_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """``(B, N, heads, d)`` three times to the same."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / SIZE**0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


def block(x: jax.Array, p: dict, attend: Attend) -> jax.Array:
    y = layer_norm(x, p["norm1"])
    q, k, v = (linear(y, p[n]).reshape(*y.shape[:2], HEADS, SIZE) for n in "qkv")
    x = x + linear(attend(q, k, v).reshape(y.shape), p["o"])
    y = jax.nn.gelu(linear(layer_norm(x, p["norm2"]), p["mlp1"]), approximate=False)
    return x + linear(y, p["mlp2"])


def embed(x: jax.Array, p: dict) -> jax.Array:
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, p["patch"]["w"], (PATCH, PATCH), "VALID", dimension_numbers=dims
    )
    y = (y + p["patch"]["b"]).reshape(len(x), -1, DIM)
    prefix = jnp.broadcast_to(p["prefix"], (len(x), *p["prefix"].shape))
    return jnp.concatenate([prefix, y], 1) + p["position"]


def class_token(x: jax.Array, p: dict) -> jax.Array:
    return linear(layer_norm(x, p["norm"])[:, 0], p["head"])


def plain(
    p: dict,
    attend: Attend = einsum_attention,
    loop: str = "python",
    head: Callable = class_token,
    dtype: Any = None,
) -> Callable[[jax.Array], jax.Array]:
    """The network as a function; ``loop`` is ``"python"``, ``"scan"``, ``"remat"`` or ``"jit"``."""
    p = jax.tree.map(lambda w: jnp.asarray(w, dtype), p)

    def fn(x: jax.Array) -> jax.Array:
        x = embed(x, p)
        one = {"remat": jax.checkpoint, "jit": jax.jit}.get(loop, lambda f: f)(
            lambda x, own: block(x, own, attend)
        )
        if loop in ("scan", "scan of remat"):
            step = jax.checkpoint(one) if loop == "scan of remat" else one
            x, _ = lax.scan(lambda x, own: (step(x, own), None), x, p["blocks"])
        else:
            for i in range(depth(p)):
                x = one(x, block_weights(p, i))
        return head(x, p)

    return fn


# -- in the frameworks -----------------------------------------------------------------------------


def nnx_vit(p: dict) -> Any:
    from flax import nnx

    kind = {"dtype": jnp.float64, "param_dtype": jnp.float64}

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm1 = nnx.LayerNorm(DIM, epsilon=EPS, rngs=rngs, **kind)
            self.attention = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs, **kind)
            self.norm2 = nnx.LayerNorm(DIM, epsilon=EPS, rngs=rngs, **kind)
            self.mlp1 = nnx.Linear(DIM, HIDDEN, rngs=rngs, **kind)
            self.mlp2 = nnx.Linear(HIDDEN, DIM, rngs=rngs, **kind)

        def __call__(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.mlp2(nnx.gelu(self.mlp1(self.norm2(x)), approximate=False))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.patch = nnx.Conv(
                3, DIM, (PATCH, PATCH), (PATCH, PATCH), padding="VALID", rngs=rngs, **kind
            )
            self.prefix = nnx.Param(jnp.asarray(p["prefix"]))
            self.position = nnx.Param(jnp.asarray(p["position"]))
            self.blocks = nnx.List([Block(rngs) for _ in range(depth(p))])
            self.norm = nnx.LayerNorm(DIM, epsilon=EPS, rngs=rngs, **kind)
            self.head = nnx.Linear(DIM, CLASSES, rngs=rngs, **kind)

        def __call__(self, x):
            y = self.patch(x).reshape(len(x), -1, DIM)
            prefix = jnp.broadcast_to(self.prefix[...], (len(x), PREFIX, DIM))
            y = jnp.concatenate([prefix, y], 1) + self.position[...]
            for one in self.blocks:
                y = one(y)
            return self.head(self.norm(y)[:, 0])

    net = Net(nnx.Rngs(0))

    def fill(layer, own, shape=None):
        name = "scale" if hasattr(layer, "scale") else "kernel"
        target = getattr(layer, name)
        target[...] = jnp.asarray(own["w"]).reshape(target.shape)
        layer.bias[...] = jnp.asarray(own["b"]).reshape(layer.bias.shape)

    for i, one in enumerate(net.blocks):
        own = block_weights(p, i)
        for name in ("norm1", "norm2", "mlp1", "mlp2"):
            fill(getattr(one, name), own[name])
        for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
            fill(getattr(one.attention, name), own[short])
    for name in ("patch", "norm", "head"):
        fill(getattr(net, name), p[name])
    return net


def linen_vit(p: dict) -> Any:
    from flax import linen

    kind = {"dtype": jnp.float64, "param_dtype": jnp.float64}

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = linen.Conv(
                DIM, (PATCH, PATCH), (PATCH, PATCH), padding="VALID", name="patch", **kind
            )(x).reshape(len(x), -1, DIM)
            prefix = jnp.broadcast_to(jnp.asarray(p["prefix"]), (len(x), PREFIX, DIM))
            y = jnp.concatenate([prefix, y], 1) + jnp.asarray(p["position"])
            for i in range(depth(p)):
                n = linen.LayerNorm(epsilon=EPS, name=f"norm1_{i}", **kind)(y)
                y = y + linen.MultiHeadDotProductAttention(HEADS, name=f"attn_{i}", **kind)(n)
                n = linen.LayerNorm(epsilon=EPS, name=f"norm2_{i}", **kind)(y)
                n = linen.gelu(linen.Dense(HIDDEN, name=f"mlp1_{i}", **kind)(n), approximate=False)
                y = y + linen.Dense(DIM, name=f"mlp2_{i}", **kind)(n)
            y = linen.LayerNorm(epsilon=EPS, name="norm", **kind)(y)
            return linen.Dense(CLASSES, name="head", **kind)(y[:, 0])

    def named(own, name="kernel", shape=(), bias=()):
        return {
            name: jnp.asarray(own["w"]).reshape(shape or own["w"].shape),
            "bias": jnp.asarray(own["b"]).reshape(bias or own["b"].shape),
        }

    params = {"patch": named(p["patch"]), "norm": named(p["norm"], "scale")}
    params["head"] = named(p["head"])
    for i in range(depth(p)):
        own = block_weights(p, i)
        for name in ("norm1", "norm2"):
            params[f"{name}_{i}"] = named(own[name], "scale")
        for name in ("mlp1", "mlp2"):
            params[f"{name}_{i}"] = named(own[name])
        params[f"attn_{i}"] = {
            **{
                name: named(own[name[0]], shape=(DIM, HEADS, SIZE), bias=(HEADS, SIZE))
                for name in ("query", "key", "value")
            },
            "out": named(own["o"], shape=(HEADS, SIZE, DIM)),
        }
    return lambda x: Net().apply({"params": params}, x)


def haiku_vit(p: dict) -> Any:
    import haiku as hk

    def forward(x):
        y = hk.Conv2D(DIM, PATCH, PATCH, padding="VALID", name="patch")(x)
        y = y.reshape(len(x), -1, DIM)
        prefix = jnp.broadcast_to(jnp.asarray(p["prefix"]), (len(x), PREFIX, DIM))
        y = jnp.concatenate([prefix, y], 1) + jnp.asarray(p["position"])
        for i in range(depth(p)):
            n = hk.LayerNorm(-1, True, True, eps=EPS, name=f"norm1_{i}")(y)
            start = hk.initializers.VarianceScaling(1.0)
            attention = hk.MultiHeadAttention(
                HEADS, SIZE, w_init=start, model_size=DIM, name=f"attn_{i}"
            )
            y = y + attention(n, n, n)
            n = hk.LayerNorm(-1, True, True, eps=EPS, name=f"norm2_{i}")(y)
            n = jax.nn.gelu(hk.Linear(HIDDEN, name=f"mlp1_{i}")(n), approximate=False)
            y = y + hk.Linear(DIM, name=f"mlp2_{i}")(n)
        y = hk.LayerNorm(-1, True, True, eps=EPS, name="norm")(y)
        return hk.Linear(CLASSES, name="head")(y[:, 0])

    net = hk.without_apply_rng(hk.transform(forward))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, HEIGHT, WIDTH, 3)))
    found = {}
    for module, leaves in shapes.items():
        name, _, i = module.split("/")[0].partition("_")
        own = block_weights(p, int(i)) if i else p
        if "/" in module:
            name = {"query": "q", "key": "k", "value": "v", "linear": "o"}[module.split("/")[1]]
        found[module] = {
            k: jnp.asarray(own[name]["b" if k in ("b", "offset") else "w"]).reshape(v.shape)
            for k, v in leaves.items()
        }
    return lambda x: net.apply(found, x)


def equinox_vit(p: dict) -> Any:
    import equinox as eqx

    key = jax.random.key(0)

    def dense(own):
        layer = eqx.nn.Linear(*own["w"].shape, key=key)
        new = jnp.asarray(own["w"]).T, jnp.asarray(own["b"])
        return eqx.tree_at(lambda m: (m.weight, m.bias), layer, new)

    def norm(own):
        layer = eqx.nn.LayerNorm(DIM, eps=EPS)
        new = jnp.asarray(own["w"]), jnp.asarray(own["b"])
        return eqx.tree_at(lambda m: (m.weight, m.bias), layer, new)

    def attention(own):
        use = dict.fromkeys((f"use_{n}_bias" for n in ("query", "key", "value", "output")), True)
        layer = eqx.nn.MultiheadAttention(HEADS, DIM, key=key, **use)
        return eqx.tree_at(
            lambda m: (m.query_proj, m.key_proj, m.value_proj, m.output_proj),
            layer,
            tuple(dense(own[n]) for n in "qkvo"),
        )

    patch = eqx.nn.Conv2d(3, DIM, PATCH, PATCH, key=key)
    new = jnp.asarray(p["patch"]["w"].transpose(3, 2, 0, 1)), jnp.asarray(p["patch"]["b"])
    patch = eqx.tree_at(lambda m: (m.weight, m.bias), patch, (new[0], new[1][:, None, None]))
    blocks = [block_weights(p, i) for i in range(depth(p))]
    layers = [
        {n: (norm if "norm" in n else dense)(own[n]) for n in ("norm1", "norm2", "mlp1", "mlp2")}
        | {"attention": attention(own)}
        for own in blocks
    ]
    last, head = norm(p["norm"]), dense(p["head"])

    def one(x):  # one image, channels first, as Equinox has it
        y = patch(x.transpose(2, 0, 1)).reshape(DIM, -1).T
        y = jnp.concatenate([jnp.asarray(p["prefix"]), y]) + jnp.asarray(p["position"])
        for layer in layers:
            n = jax.vmap(layer["norm1"])(y)
            y = y + layer["attention"](n, n, n)
            n = jax.vmap(layer["mlp1"])(jax.vmap(layer["norm2"])(y))
            y = y + jax.vmap(layer["mlp2"])(jax.nn.gelu(n, approximate=False))
        return head(last(y[0]))

    return jax.vmap(one)


def keras_vit(p: dict) -> Any:
    import keras

    kind = {"dtype": keras.dtype_policies.get("float64")}

    class Tokens(keras.layers.Layer):
        def call(self, y):
            prefix = keras.ops.broadcast_to(p["prefix"], (y.shape[0], PREFIX, DIM))
            y = keras.ops.concatenate([keras.ops.cast(prefix, "float64"), y], 1)
            return y + keras.ops.cast(p["position"], "float64")

    inputs = keras.Input((HEIGHT, WIDTH, 3), dtype="float64", batch_size=2)
    patch = keras.layers.Conv2D(DIM, PATCH, PATCH, **kind)
    y = Tokens(**kind)(keras.layers.Reshape((-1, DIM), **kind)(patch(inputs)))
    filled = [(patch, p["patch"])]
    for i in range(depth(p)):
        own = block_weights(p, i)
        norm1 = keras.layers.LayerNormalization(epsilon=EPS, **kind)
        norm2 = keras.layers.LayerNormalization(epsilon=EPS, **kind)
        attention = keras.layers.MultiHeadAttention(HEADS, SIZE, **kind)
        mlp1 = keras.layers.Dense(HIDDEN, **kind)
        mlp2 = keras.layers.Dense(DIM, **kind)
        n = norm1(y)
        y = keras.layers.Add(**kind)([y, attention(n, n)])
        n = keras.layers.Activation("gelu", **kind)(mlp1(norm2(y)))
        y = keras.layers.Add(**kind)([y, mlp2(n)])
        filled += [(norm1, own["norm1"]), (norm2, own["norm2"])]
        filled += [(mlp1, own["mlp1"]), (mlp2, own["mlp2"])]
        parts = [own[name][leaf] for name in "qkvo" for leaf in "wb"]
        attention.set_weights(
            [w.reshape(v.shape) for w, v in zip(parts, attention.weights, strict=True)]
        )
    last = keras.layers.LayerNormalization(epsilon=EPS, **kind)
    head = keras.layers.Dense(CLASSES, **kind)
    model = keras.Model(inputs, head(last(y)[:, 0]))
    for layer, own in [*filled, (last, p["norm"]), (head, p["head"])]:
        layer.set_weights([own["w"].reshape(layer.weights[0].shape), own["b"]])
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    return lambda x: model.stateless_call(trained, others, x, training=False)[0]


FRAMEWORKS: dict[str, Callable[[dict], Any]] = {
    "nnx": nnx_vit,
    "linen": linen_vit,
    "haiku": haiku_vit,
    "equinox": equinox_vit,
    "keras": keras_vit,
}
