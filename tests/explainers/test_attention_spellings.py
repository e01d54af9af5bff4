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
    )
}  # fmt: skip
SPELLINGS |= {
    f.__name__: functools.partial(plain, softmax=f)
    for f in (two_sums, shifted, by_logarithm, by_log_softmax, nothing_masked, where_argument)
}
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


def every_map(fn, x=None):
    """The maps of all methods, from one compiled program."""
    x = images() if x is None else x
    model = jaxplain.trace(fn, x)
    return jax.jit(
        lambda x: {
            m: call(model, x, 1, layer="input", channels=True) for m, call in METHODS.items()
        }
    )(x)


@functools.cache
def maps(name):
    attend = plain if name == "plain" else SPELLINGS[name]
    return every_map(network(attend))


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_has_the_same_maps(x64, name):
    for method, expected in maps("plain").items():
        got = maps(name)[method]
        assert np.abs(expected).max() > 1e-3, method
        assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max(), method


def close(got, expected, tolerance=1e-6):
    got, expected = np.asarray(got), np.asarray(expected)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


MASK = np.triu(np.ones((TOKENS, TOKENS), bool))


def masked(softmax):
    return functools.partial(plain, softmax=softmax)


@pytest.mark.parametrize("value", [-1e9, -100.0, -np.inf])
def test_masks(x64, value):
    """Whether the mask is added or chosen; with -100 what is left of it counts as nothing."""
    added = masked(lambda z: jax.nn.softmax(z + jnp.where(MASK, 0.0, value)))
    chosen = masked(lambda z: jax.nn.softmax(jnp.where(MASK, z, value)))
    argument = masked(lambda z: jax.nn.softmax(z, where=MASK))
    expected = every_map(network(argument))
    for attend in (added, chosen):
        got = every_map(network(attend))
        for method in METHODS:
            close(got[method], expected[method])


def test_rows_that_are_masked_whole_give_numbers(x64):
    """A row without a key: its weights are NaN, and left out by the network afterwards."""
    mask = MASK & (np.arange(TOKENS) != 3)[:, None]

    def attend(x):
        def softmax(z):
            weights = jax.nn.softmax(jnp.where(mask, z, -jnp.inf))
            return jnp.where(mask.any(-1, keepdims=True), weights, 0)

        return plain(x, softmax)

    def kept(x):
        return plain(x, lambda z: jax.nn.softmax(z, where=mask))

    got, expected = every_map(network(attend)), every_map(network(kept))
    for method in METHODS:
        close(got[method], expected[method])


def test_grouped_queries(x64):
    """Two query heads on one key-value head: the same map as with the head repeated."""

    def keys_of_one_head(x, repeat):
        q, (k, v) = split(x, "q"), (split(x, n)[:, :, :1] for n in "kv")
        if repeat:
            k, v = (jnp.repeat(y, HEADS, 2) for y in (k, v))
        return out(jax.nn.dot_product_attention(q, k, v, implementation="xla"))

    def by_group(x):
        q, (k, v) = split(x, "q"), (split(x, n)[:, :, 0] for n in "kv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkd->bhqk", q, k) / math.sqrt(SIZE))
        return out(jnp.einsum("bhqk,bkd->bqhd", weights, v))

    expected = every_map(network(by_group))
    for repeat in (True, False):
        got = every_map(network(functools.partial(keys_of_one_head, repeat=repeat)))
        for method in METHODS:
            close(got[method], expected[method])


def _half(v):
    """The value, with half of its gradient."""
    return v / 2 + jax.lax.stop_gradient(v / 2)


def test_talking_heads_by_hand(x64):
    """Heads are mixed before the softmax and behind it: linear layers of the weights."""
    before, after = nets.normal(40, HEADS, HEADS), nets.normal(41, HEADS, HEADS)
    stop = jax.lax.stop_gradient

    def attend(x, half=lambda v: v):
        q, k, v = (split(x, n).swapaxes(1, 2) for n in "qkv")
        scores = jnp.einsum("bhqk,hg->bgqk", half(q @ k.swapaxes(-1, -2)) / 2, before)
        weights = jnp.einsum("bhqk,hg->bgqk", jax.nn.softmax(scores), after)
        return out(half(weights @ v).swapaxes(1, 2))

    def held(x):
        """The network with AttnLRP's gradient in place of its own."""

        def norm_(v):
            mean, var = v.mean(-1, keepdims=True), v.var(-1, keepdims=True)
            return (v - mean) / stop(jnp.sqrt(var + 1e-6)) * GAMMA

        b = len(x)
        y = x.reshape(b, 3, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, 9, 12) @ EMBED
        y = jnp.concatenate([jnp.broadcast_to(TOKEN, (b, 1, WIDTH)), y], 1)
        y = y + attend(norm_(y), _half)
        z = norm_(y) @ UP
        z = z * stop(jax.nn.gelu(z, approximate=False) / z)
        return norm_(y + z @ DOWN)[:, 0] @ HEAD

    x = images()
    np.testing.assert_allclose(held(x), network(attend)(x), rtol=1e-12)
    expected = x * jax.grad(lambda x: held(x)[:, 1].sum())(x)
    close(jaxplain.lrp(network(attend), x, 1, channels=True), expected, 1e-10)


def test_linear_attention(x64):
    """``phi(q) (phi(k)^T v) / (phi(q) sum phi(k))``: the divisor is held; CP-LRP holds ``phi``."""
    stop = jax.lax.stop_gradient

    def attend(x, half=lambda v: v, gate=lambda v: v, divide=lambda a, b: a / b):
        q, k, v = (split(x, n).swapaxes(1, 2) for n in "qkv")
        q, k = (gate(jax.nn.elu(y) + 1) for y in (q, k))
        total = half(q @ half(k.swapaxes(-1, -2) @ v))
        return out(divide(total, q @ k.sum(2)[..., None]).swapaxes(1, 2))

    def reciprocal(a, b):
        return a * (1 / b)

    def fn(x, attend):
        y = attend(x.reshape(len(x), 9, 12) @ EMBED)
        return y.mean(1) @ HEAD

    x = images()

    def secant(y):  # AttnLRP's gradient of elu + 1
        return y * stop(jax.nn.elu(y) / y) + 1

    def uniform(x):
        q, k, v = (split(x, n).swapaxes(1, 2) for n in "qkv")
        q, k = secant(q), secant(k)
        total = _half(q @ _half(k.swapaxes(-1, -2) @ v))
        return out((total / stop(q @ k.sum(2)[..., None])).swapaxes(1, 2))

    def values(x):
        return attend(x, gate=stop, divide=lambda a, b: a / stop(b))

    for composite, held in (("attn_lrp", uniform), ("cp_lrp", values)):
        score = lambda x, held=held: fn(x, held)[:, 1].sum()  # noqa: E731
        for divide in (lambda a, b: a / b, reciprocal):
            spelt = functools.partial(attend, divide=divide)
            got = jaxplain.lrp(
                lambda x, spelt=spelt: fn(x, spelt), x, 1, composite=composite, channels=True
            )
            close(got, x * jax.grad(score)(x), 1e-10)


def test_bfloat16(x64):
    """With the softmax in float32, as most have it."""

    def attend(x):
        q, k, v = (split(x, n).swapaxes(1, 2) for n in "qkv")
        scores = (q @ k.swapaxes(-1, -2)).astype(jnp.float32) / math.sqrt(SIZE)
        return out((jax.nn.softmax(scores).astype(x.dtype) @ v).swapaxes(1, 2))

    half = every_map(network(attend, jnp.bfloat16), images().astype(jnp.bfloat16))
    for method, exact in maps("plain").items():
        got = half[method]
        assert got.dtype == jnp.bfloat16
        correlation = np.corrcoef(np.asarray(got, float).ravel(), np.asarray(exact).ravel())[0, 1]
        assert correlation > 0.99, method


def test_the_default_and_the_table_that_says_so(x64):
    x, fn = images(), network(plain)
    np.testing.assert_array_equal(
        jaxplain.lrp(fn, x, 1), jaxplain.lrp(fn, x, 1, composite="attn_lrp")
    )
    table = jaxplain.coverage(fn, x)
    assert table.rule_set == "attn_lrp" and "rules are those of 'attn_lrp'" in str(table)
    rules = {row.name: row.rule for row in table}
    assert rules["matmul"] == "SharedProduct(products='uniform')"
    assert rules["softmax"] == "HeldStatistics()" and rules["gelu"] == "Secant()"
    assert rules["dense"] == "plain gradient"
    simple = lambda x: jax.nn.relu(x).mean((1, 2))  # noqa: E731
    assert jaxplain.coverage(simple, x).rule_set == "epsilon_plus"
    with pytest.raises(jaxplain.UnsupportedOperationError, match="take 'attn_lrp' or 'cp_lrp'"):
        jaxplain.lrp(fn, x, 1, composite="epsilon")


def test_a_fused_kernel_is_refused_with_the_way_out():
    from jax.extend.core import Primitive

    kernel = Primitive("dot_product_attention_fwd_wrapper")
    kernel.def_abstract_eval(lambda q, k, v: jax.core.ShapedArray(q.shape, q.dtype))

    @jax.custom_vjp
    def attention(q, k, v):
        return kernel.bind(q, k, v)

    attention.defvjp(lambda q, k, v: (attention(q, k, v), (q, k, v)), lambda saved, g: (g, g, g))

    def fn(x):
        y = x.reshape(len(x), 9, 12)
        return attention(y, y, y).mean(1)

    with pytest.raises(jaxplain.UnsupportedOperationError, match='implementation="xla"'):
        jaxplain.coverage(fn, images(jnp.float32), "attn_lrp")


def test_attn_lrp_conserves_without_biases(x64):
    """Softmax and products hand on all; what norms add up to is taken from what they divide by."""

    def attend(x):
        q, k, v = ((x @ P[n]).reshape(*x.shape[:2], HEADS, SIZE).swapaxes(1, 2) for n in "qkv")
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(SIZE))
        y = (weights @ v).swapaxes(1, 2).reshape(x.shape) @ P["o"]
        return jaxplain.tag(y, "attention")

    def fn(x):
        y = jaxplain.tag(x.reshape(len(x), 9, 12) @ EMBED, "tokens")
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True))
        y = jaxplain.tag(y + attend(y), "mixed")
        y = jaxplain.tag(y + jax.nn.silu(y @ UP) @ DOWN, "block")
        return y.mean(1) @ HEAD

    x = images()
    table = jaxplain.conservation(fn, x, 1, composite="cp_lrp")
    assert [row.layer for row in table] == ["input", "tokens", "mixed", "block"]
    np.testing.assert_allclose(np.stack(list(table.shares.values())), 1, rtol=1e-10)
    figure = jaxplain.viz.score_bars(table.shares, "share of the score")
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([1.0] * 4)
    # Softmax of a sum of logits that is not zero absorbs: AttnLRP's own rule, not the rest.
    shares = jaxplain.conservation(fn, x, [[0, 1]] * 2, composite="attn_lrp").shares
    assert shares["block"].shape == (2, 2)
    np.testing.assert_allclose(shares["block"], 1, rtol=1e-10)
    np.testing.assert_allclose(shares["mixed"], 1, rtol=1e-10)
    assert np.abs(shares["input"] - 1).max() > 1e-3
    np.testing.assert_allclose(shares["input"], shares["tokens"], rtol=1e-10)
    one = jaxplain.conservation(fn, x, 1, layer="mixed", composite="attn_lrp", seed="one")
    np.testing.assert_allclose(one.shares["mixed"], shares["mixed"][:, 1], rtol=1e-10)
    with pytest.raises(ValueError, match="empty sequence"):
        jaxplain.conservation(fn, x, layer=[])
    with pytest.raises(ValueError, match="one of 'score', 'one'"):
        jaxplain.conservation(fn, x, seed="logit")


def test_signals_at_a_part_alone_are_those_at_all(x64, monkeypatch):
    """Where the class token alone is read, layers are pulled back at its row, with equal maps."""
    from jaxplain.core import assignment, interpreter

    x, fn = images(), network(fused)
    rules = jaxplain.rules.excitation_rules()
    graph = jaxplain.trace(fn, x).graph
    parts = assignment.dense_parts(graph, rules, None, tuple(graph.outputs))
    # the queries and keys, the tokens behind attention and in the MLP
    assert [p[1:] for p in parts.values()] == [
        ((0, TOKENS), (2 * WIDTH, 3 * WIDTH)),
        ((0, 1), (0, WIDTH)),
        ((0, 1), (0, 2 * WIDTH)),
        ((0, 1), (0, WIDTH)),
    ]
    with_parts = {name: call(fn, x, 1, layer="input") for name, call in METHODS.items()}
    monkeypatch.setattr(interpreter, "dense_parts", lambda *_: {})
    for name, call in METHODS.items():
        close(call(network(fused), x, 1, layer="input"), with_parts[name], 1e-12)


def test_explanations_are_differentiable_and_take_many_targets(x64):
    x, fn = images(), network(fused)
    for name in ("attn_lrp", "c_mwp"):
        call = METHODS[name]
        many = call(fn, x, [[0, 1, 2]] * 2, layer="input")
        close(many[:, 1], call(fn, x, 1, layer="input"), 1e-10)
        chunked = call(fn, x, [[0, 1, 2]] * 2, layer="input", class_chunk=2)
        close(chunked, many, 1e-10)
        slope = jax.grad(lambda x, call=call: (call(fn, x, 1, layer="input") ** 2).sum())(x)
        assert np.isfinite(np.asarray(slope)).all() and float(jnp.abs(slope).max()) > 0, name
