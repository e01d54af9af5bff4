"""Attention in many spellings, with one set of weights: the same map from every rule set."""

from __future__ import annotations

import functools
import math
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is first imported

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from flax import nnx

import jaxplain

pytestmark = pytest.mark.usefixtures("quick_compile")

HEADS, SIZE, WIDTH, TOKENS, CLASSES = 2, 4, 8, 10, 3
P = {
    name: nets.normal(i, WIDTH, WIDTH, scale=WIDTH**-0.5)
    for i, name in enumerate(("q", "k", "v", "o"))
}
P |= {f"{name}b": nets.normal(9 + i, WIDTH, scale=0.3) for i, name in enumerate("qkvo")}
UP, DOWN = (
    nets.normal(20, WIDTH, 2 * WIDTH, scale=0.4),
    nets.normal(21, 2 * WIDTH, WIDTH, scale=0.4),
)
EMBED, HEAD = nets.normal(22, 12, WIDTH, scale=0.5), nets.normal(23, WIDTH, CLASSES)
TOKEN, GAMMA = nets.normal(24, 1, 1, WIDTH), nets.normal(25, WIDTH)


def norm(x, dtype):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6) * jnp.asarray(GAMMA, dtype)


def network(attend, dtype=jnp.float64):
    """Images (B, 6, 6, 3) to scores: one block of a ViT with a class token."""

    def fn(x):
        b = len(x)
        x = x.reshape(b, 3, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, 9, 12)
        x = x @ jnp.asarray(EMBED, dtype)
        x = jnp.concatenate([jnp.broadcast_to(jnp.asarray(TOKEN, dtype), (b, 1, WIDTH)), x], 1)
        x = x + attend(norm(x, dtype))
        y = jax.nn.gelu(norm(x, dtype) @ jnp.asarray(UP, dtype), approximate=False)
        x = jaxplain.tag(x + y @ jnp.asarray(DOWN, dtype), "block")
        return norm(x, dtype)[:, 0] @ jnp.asarray(HEAD, dtype)

    return fn


def split(x, name):
    y = x @ jnp.asarray(P[name], x.dtype) + jnp.asarray(P[f"{name}b"], x.dtype)
    return y.reshape(*x.shape[:-1], HEADS, SIZE)


def out(y):
    y = y.reshape(*y.shape[:2], WIDTH)
    return y @ jnp.asarray(P["o"], y.dtype) + jnp.asarray(P["ob"], y.dtype)


def plain(x, softmax=jax.nn.softmax):
    q, k, v = (split(x, n).swapaxes(1, 2) for n in "qkv")
    return out((softmax(q @ k.swapaxes(-1, -2) / math.sqrt(SIZE)) @ v).swapaxes(1, 2))


def einsum(x):
    q, k, v = (split(x, n) for n in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q / math.sqrt(SIZE), k)
    return out(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v))


def fused(x):
    w = jnp.concatenate([jnp.asarray(P[n]) for n in "qkv"], 1)
    b = jnp.concatenate([jnp.asarray(P[f"{n}b"]) for n in "qkv"])
    y = (x @ w + b).reshape(*x.shape[:2], 3, HEADS, SIZE)
    q, k, v = jnp.moveaxis(y, 2, 0).swapaxes(2, 3)
    return out((jax.nn.softmax(q @ k.swapaxes(-1, -2) * SIZE**-0.5) @ v).swapaxes(1, 2))


def library(x):
    return out(jax.nn.dot_product_attention(*(split(x, n) for n in "qkv"), implementation="xla"))


def by_head(x):
    """One head and one image at a time, under ``vmap``."""
    q, k, v = (split(x, n) for n in "qkv")

    def one(q, k, v):
        return jax.nn.softmax(q @ k.T / math.sqrt(SIZE)) @ v

    return out(jax.vmap(jax.vmap(one, 1, 1))(q, k, v))


def two_sums(z):
    e = jnp.exp(z)
    return e / e.sum(-1, keepdims=True)


def shifted(z):
    e = jnp.exp(z - z.max(-1, keepdims=True))
    return e * (1 / jnp.sum(e, -1, keepdims=True))


def by_logarithm(z):
    return jnp.exp(z - jax.nn.logsumexp(z, -1, keepdims=True))


def by_log_softmax(z):
    return jnp.exp(jax.nn.log_softmax(z))


def nothing_masked(z):
    return jax.nn.softmax(jnp.where(jnp.ones(z.shape[-2:], bool), z, -1e9))


def where_argument(z):
    return jax.nn.softmax(z, where=jnp.ones(z.shape[-2:], bool))


def in_nnx(x):
    kind = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    layer = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, **kind)
    for part, n in (("query", "q"), ("key", "k"), ("value", "v")):
        getattr(layer, part).kernel[...] = jnp.asarray(P[n]).reshape(WIDTH, HEADS, SIZE)
        getattr(layer, part).bias[...] = jnp.asarray(P[f"{n}b"]).reshape(HEADS, SIZE)
    layer.out.kernel[...] = jnp.asarray(P["o"]).reshape(HEADS, SIZE, WIDTH)
    layer.out.bias[...] = jnp.asarray(P["ob"])
    return layer(x)


def in_linen(x):
    layer = linen.MultiHeadDotProductAttention(
        HEADS, dtype=jnp.float64, param_dtype=jnp.float64, deterministic=True
    )
    names = {"query": "q", "key": "k", "value": "v"}
    tree = {
        part: {
            "kernel": jnp.asarray(P[n]).reshape(WIDTH, HEADS, SIZE),
            "bias": jnp.asarray(P[f"{n}b"]).reshape(HEADS, SIZE),
        }
        for part, n in names.items()
    }
    tree["out"] = {
        "kernel": jnp.asarray(P["o"]).reshape(HEADS, SIZE, WIDTH),
        "bias": jnp.asarray(P["ob"]),
    }
    return layer.apply({"params": tree}, x, x)


def in_haiku(x):
    layer = hk.without_apply_rng(
        hk.transform(
            lambda x: hk.MultiHeadAttention(
                HEADS, SIZE, model_size=WIDTH, w_init=hk.initializers.Constant(0.0), name="a"
            )(x, x, x)
        )
    )
    names = {"query": "q", "key": "k", "value": "v", "linear": "o"}
    tree = {
        f"a/{part}": {"w": jnp.asarray(P[n]), "b": jnp.asarray(P[f"{n}b"])}
        for part, n in names.items()
    }
    return layer.apply(tree, x)


def in_equinox(x):
    layer = eqx.nn.MultiheadAttention(
        HEADS,
        WIDTH,
        use_query_bias=True,
        use_key_bias=True,
        use_value_bias=True,
        use_output_bias=True,
        key=jax.random.key(0),
    )
    for part, n in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
        layer = eqx.tree_at(
            lambda m, part=part: (
                getattr(m, f"{part}_proj").weight,
                getattr(m, f"{part}_proj").bias,
            ),
            layer,
            (jnp.asarray(P[n]).T, jnp.asarray(P[f"{n}b"])),
        )
    return jax.vmap(lambda y: layer(y, y, y))(x)


@functools.cache
def _keras_layer():
    import keras

    layer = keras.layers.MultiHeadAttention(HEADS, SIZE, dtype="float64")
    layer.build((None, TOKENS, WIDTH), (None, TOKENS, WIDTH))
    values = []
    for n in "qkv":
        values += [P[n].reshape(WIDTH, HEADS, SIZE), P[f"{n}b"].reshape(HEADS, SIZE)]
    layer.set_weights([*values, P["o"].reshape(HEADS, SIZE, WIDTH), P["ob"]])
    return layer


def in_keras(x):
    layer = _keras_layer()
    weights = [v.value for v in layer.trainable_variables]
    return layer.stateless_call(weights, [], x, x)[0]


SPELLINGS = {
    f.__name__: f
    for f in (
        einsum, fused, library, by_head, in_nnx, in_linen, in_haiku, in_equinox, in_keras,
        *(
            functools.update_wrapper(functools.partial(plain, softmax=s), s)
            for s in (
                *(two_sums, shifted, by_logarithm),
                *(by_log_softmax, nothing_masked, where_argument),
            )
        ),
    )
}  # fmt: skip
SPELLINGS["jit"] = jax.jit(plain)
SPELLINGS["remat"] = jax.checkpoint(plain)


def scanned(x):
    return jax.lax.scan(lambda c, _: (plain(c), None), x, None, length=1)[0]


SPELLINGS["scan"] = scanned
METHODS = {
    "attn_lrp": functools.partial(jaxplain.lrp, composite="attn_lrp"),
    "gamma": functools.partial(
        jaxplain.lrp, composite=jaxplain.rules.composite("cp_lrp", gamma=0.25)
    ),
    "mwp": jaxplain.excitation_backprop,
    "c_mwp": functools.partial(jaxplain.excitation_backprop, contrastive=True),
}


def images(dtype=jnp.float64):
    return jnp.asarray(nets.normal(30, 2, 6, 6, 3), dtype)


@jax.jit
def _nothing(x):
    return x


@functools.cache
def maps(name):
    attend = plain if name == "plain" else SPELLINGS[name]
    model = jaxplain.trace(network(attend), images())
    return {
        m: np.asarray(call(model, images(), 1, layer="input", channels=True))
        for m, call in METHODS.items()
    }


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_has_the_same_maps(x64, name):
    for method, expected in maps("plain").items():
        got = maps(name)[method]
        assert np.abs(expected).max() > 1e-3, method
        assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max(), method
