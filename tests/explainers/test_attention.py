"""Attention methods: whatever the framework and the spelling, by their formulas, or refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
import vits

import jaxplain
from jaxplain.core import UnsuitableNetworkError

TARGETS = jnp.asarray([1, 2])
METHODS = {
    "attention_rollout": jaxplain.attention_rollout,
    "transformer_attribution": jaxplain.transformer_attribution,
    "relevance": functools.partial(jaxplain.transformer_attribution, relevance=True),
    "legrad": jaxplain.legrad,
    "grad_cam": functools.partial(jaxplain.grad_cam, relu=False),
}
SCALE = vits.SIZE**-0.5


@pytest.fixture(scope="module")
def weights():
    return vits.weights()


@pytest.fixture
def x(x64):
    return jnp.asarray(vits.images())


def every_map(fn, x) -> dict:
    """The maps of all methods, from one compiled program."""
    model = jaxplain.trace(fn, x)
    return jax.jit(lambda x: {name: method(model, x, TARGETS) for name, method in METHODS.items()})(
        x
    )


@functools.cache
def expected() -> dict:
    """The maps of the plain network."""
    return every_map(vits.plain(vits.weights()), jnp.asarray(vits.images()))


def check(fn, x, tolerance=1e-6):
    for name, got in every_map(fn, x).items():
        assert got.shape == (2, *vits.GRID)
        assert nets.relative_error(got, expected()[name]) < tolerance, name


@pytest.mark.parametrize("framework", vits.FRAMEWORKS)
def test_every_framework(framework, weights, x):
    if framework in ("haiku", "equinox", "keras"):
        pytest.importorskip(framework)
    check(vits.FRAMEWORKS[framework](weights), x)


@pytest.mark.parametrize("loop", ["scan of remat", "jit"])
def test_scan_remat_and_jit(loop, weights, x):
    check(vits.plain(weights, loop=loop), x, 1e-12)


# -- spellings -------------------------------------------------------------------------------------


def batched_heads(q, k, v):
    """PyTorch's: images and heads in one axis, the softmax written out, values on the left."""
    q, k, v = (t.swapaxes(1, 2).reshape(-1, vits.TOKENS, vits.SIZE) for t in (q, k, v))
    scores = jax.lax.dot_general(q * SCALE, k, (((2,), (2,)), ((0,), (0,))))
    e = jnp.exp(scores - scores.max(-1, keepdims=True))
    a = e / e.sum(-1, keepdims=True)
    out = jax.lax.dot_general(v, a, (((1,), (2,)), ((0,), (0,))))
    out = out.reshape(-1, vits.HEADS, vits.SIZE, vits.TOKENS)
    return out.transpose(0, 3, 1, 2)


def keys_first(q, k, v):
    """The softmax over the third of four axes, heads last."""
    a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bqkh", q, k) * SCALE, axis=2)
    return jnp.einsum("bqkh,bkhd->bqhd", a, v)


def masked(q, k, v):
    """A mask that hides nothing, a bias of zeros, and a cast of the weights."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE + jnp.zeros((vits.TOKENS,) * 2)
    mask = jnp.ones((vits.TOKENS, vits.TOKENS), bool)
    a = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.einsum("bhqk,bkhd->bqhd", jnp.where(mask, a, 0).astype(v.dtype), v)


def mapped(q, k, v):
    """One head of one image at a time."""

    def one(q, k, v):
        return jax.nn.softmax(q @ k.T * SCALE) @ v

    return jax.vmap(jax.vmap(one, 1, 1))(q, k, v)


def mixed_heads(q, k, v):
    """Talking heads whose mixings, with their biases, change nothing."""
    eye, bias = jnp.asarray(np.eye(vits.HEADS)), jnp.asarray(np.zeros((vits.HEADS, 1, 1)))
    scores = jnp.einsum("bhqk,hg->bgqk", jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE, eye)
    a = jnp.einsum("bhqk,hg->bgqk", jax.nn.softmax(scores + bias), eye) + bias
    return jnp.einsum("bhqk,bkhd->bqhd", a, v)


def fused(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


@pytest.mark.parametrize("attend", [batched_heads, keys_first, masked, mapped, mixed_heads, fused])
def test_every_spelling(attend, weights, x):
    fn = vits.plain(weights, attend)
    check(fn, x, 1e-6 if attend is fused else 1e-10)  # jax's own has its softmax in float32
    captured = jaxplain.capture(fn, ["attention:-1"])(x)[1]["attention:-1"]
    plain = jaxplain.capture(vits.plain(weights), ["attention:1"])(x)[1]["attention:1"]
    assert captured.shape == (2, vits.HEADS, vits.TOKENS, vits.TOKENS)
    np.testing.assert_allclose(captured, plain, atol=1e-6)


def test_grouped_queries(weights, x):
    """Heads that share keys and values: the weights' heads lie as the queries' do."""

    def grouped(q, k, v):
        return jax.nn.dot_product_attention(q, k[:, :, :1], v[:, :, :1])

    def repeated(q, k, v):
        return vits.einsum_attention(q, *(jnp.repeat(t[:, :, :1], vits.HEADS, 2) for t in (k, v)))

    names = ["attention:0", "attention:1"]
    got, wanted = (
        jaxplain.capture(vits.plain(weights, f), names)(x)[1] for f in (grouped, repeated)
    )
    for name in names:
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-6)
    maps = (jaxplain.legrad(vits.plain(weights, f), x, TARGETS) for f in (grouped, repeated))
    np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-8)


def multiplied_and_summed(q, k, v):
    q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))
    scores = (q[:, :, :, None] * k[:, :, None]).sum(-1) / q.shape[-1] ** 0.5
    return (jax.nn.softmax(scores)[..., None] * v[:, :, None]).sum(3).transpose(0, 2, 1, 3)


def test_attention_as_products_and_sums_is_explained_alike_or_refused(weights, x):
    """Rules see its softmax and gates; methods that need the matrix of weights see none."""
    fn, plain = vits.plain(weights, multiplied_and_summed), vits.plain(weights)
    for explain in (
        jaxplain.lrp,
        functools.partial(jaxplain.lrp, composite="cp_lrp"),
        functools.partial(jaxplain.excitation_backprop, layer="input"),
        functools.partial(jaxplain.input_x_gradient, layer="input"),
    ):
        got, expected = explain(fn, x, 1), explain(plain, x, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
    for method in (jaxplain.attention_rollout, jaxplain.legrad, jaxplain.transformer_attribution):
        with pytest.raises(jaxplain.UnsuitableNetworkError, match="the network has no attention"):
            method(fn, x, 1)
    with pytest.raises(jaxplain.UnknownLayerError, match="several last layers"):
        jaxplain.grad_cam(fn, x, 1)


def test_rows_that_are_masked_whole(weights, x):
    """A register that may look at nothing: no NaN, and it keeps what it has."""
    mask = jnp.ones((vits.TOKENS, vits.TOKENS), bool).at[1].set(False)

    def attend(q, k, v, safe):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE
        if safe:
            a = jax.nn.softmax(scores, where=mask)
        else:
            a = jnp.nan_to_num(jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)))
        return jnp.einsum("bhqk,bkhd->bqhd", a, v)

    for method in ("attention_rollout", "transformer_attribution", "legrad"):
        one, two = (
            METHODS[method](vits.plain(weights, functools.partial(attend, safe=safe)), x, TARGETS)
            for safe in (True, False)
        )
        assert np.isfinite(one).all() and float(one.max()) > 0
        if method == "attention_rollout":  # NaNs that only a mask hides have no gradient
            np.testing.assert_allclose(two, one, rtol=1e-10)


# -- formulas --------------------------------------------------------------------------------------


def attention_of(fn, x):
    names = [f"attention:{i}" for i in range(2)]
    return [np.asarray(a) for a in jaxplain.capture(fn, names)(x)[1].values()]


def as_maps(rows):
    return rows[:, vits.PREFIX :].reshape(len(rows), *vits.GRID)


def rollout(parts):
    matrix = np.eye(vits.TOKENS)
    for a in parts:
        mixed = a + np.eye(vits.TOKENS)
        matrix = mixed / mixed.sum(-1, keepdims=True) @ matrix
    return matrix


def test_rollout_of_heads_discards_and_blocks(weights, x):
    fn = vits.plain(weights)
    parts = attention_of(fn, x)
    for heads in ("mean", "max", "min"):
        fused = [getattr(a, heads)(1) for a in parts]
        got = jaxplain.attention_rollout(fn, x, heads=heads)
        np.testing.assert_allclose(got, as_maps(rollout(fused)[:, 0]), rtol=1e-10)
    kept = []
    for a in parts:
        flat = a.mean(1).reshape(len(a), -1)
        least = np.sort(flat)[:, int(0.9 * flat.shape[1]), None]
        kept.append(np.where(flat >= least, flat, 0).reshape(a[:, 0].shape))
    got = jaxplain.attention_rollout(fn, x, discard=0.9)
    np.testing.assert_allclose(got, as_maps(rollout(kept)[:, 0]), rtol=1e-10)
    got = jaxplain.attention_rollout(fn, x, blocks=[-1])
    np.testing.assert_allclose(got, as_maps(rollout([parts[1].mean(1)])[:, 0]), rtol=1e-10)


def test_rollout_rows_sum_to_one(weights, x):
    """Without class token and registers all of a row is in the map."""
    bare = weights | {
        "prefix": weights["prefix"][:0],
        "position": weights["position"][vits.PREFIX :],
    }

    def mean(x, p):
        return vits.linear(vits.layer_norm(x, p["norm"]).mean(1), p["head"])

    fn = vits.plain(bare, head=mean)
    for options in ({}, {"heads": "max"}, {"discard": 0.5}, {"blocks": [0]}):
        maps = jaxplain.attention_rollout(fn, x, **options)
        np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-12)


def test_attribution_of_some_blocks(weights, x):
    fn = vits.plain(weights)
    a = attention_of(fn, x)[1]
    g = np.asarray(jaxplain.gradient(fn, x, TARGETS, layer="attention:1", reduce=None))
    matrix = np.eye(vits.TOKENS) + np.maximum(a * g, 0).mean(1)
    for blocks in (range(1, 2), [-1]):
        got = jaxplain.transformer_attribution(fn, x, TARGETS, blocks=blocks)
        np.testing.assert_allclose(got, as_maps(matrix[:, 0]), rtol=1e-9)


def distilled(x, p):
    """DeiT: the mean of the scores of a class token and a distillation token."""
    y = vits.layer_norm(x, p["norm"])
    return (vits.linear(y[:, 0], p["head"]) + vits.linear(y[:, 1], p["head"])) / 2


def averaged(x, p):
    """The mean of the patches, registers left out."""
    return vits.linear(vits.layer_norm(x, p["norm"])[:, vits.PREFIX :].mean(1), p["head"])


def both(x, p):
    """DINOv2: the class token beside the mean of the patches."""
    y = vits.layer_norm(x, p["norm"])
    y = jnp.concatenate([y[:, 0], y[:, vits.PREFIX :].mean(1)], -1)
    return y @ jnp.concatenate([p["head"]["w"]] * 2)


@pytest.mark.parametrize(
    ("head", "rows"), [(distilled, [0, 1]), (averaged, range(2, 8)), (both, [0])]
)
def test_whose_row_the_map_is(head, rows, weights, x):
    fn = vits.plain(weights, head=head)
    matrix = rollout([a.mean(1) for a in attention_of(fn, x)])
    got = jaxplain.attention_rollout(fn, x)
    np.testing.assert_allclose(got, as_maps(matrix[:, list(rows)].mean(1)), rtol=1e-10)


def pooled(x, p):
    """SigLIP: a learned query looks at all tokens; a perceptron beside it."""
    y = vits.layer_norm(x, p["norm"])
    own = vits.block_weights(p, 0)
    k, v = (vits.linear(y, own[n]).reshape(*y.shape[:2], vits.HEADS, vits.SIZE) for n in "kv")
    q = jnp.broadcast_to(p["prefix"][:1].reshape(1, 1, vits.HEADS, vits.SIZE), (len(x), 1, 3, 4))
    z = vits.einsum_attention(q, k, v).reshape(len(x), 1, -1)
    z = z + vits.linear(jax.nn.gelu(vits.linear(z, own["mlp1"])), own["mlp2"])
    return vits.linear(z[:, 0], p["head"])


def test_a_learned_query_that_pools(weights, x):
    fn = vits.plain(weights, head=pooled)
    last = np.asarray(jaxplain.capture(fn, ["attention:2"])(x)[1]["attention:2"])
    assert last.shape == (2, vits.HEADS, 1, vits.TOKENS)
    matrix = rollout([a.mean(1) for a in attention_of(fn, x)])
    got = jaxplain.attention_rollout(fn, x)
    np.testing.assert_allclose(got, as_maps((last.mean(1) @ matrix)[:, 0]), rtol=1e-10)
    g = jaxplain.gradient(fn, x, TARGETS, layer="attention:2", reduce=None)
    relu = np.maximum(np.asarray(g), 0).mean((1, 2))
    got = jaxplain.legrad(fn, x, TARGETS, blocks=[-1])  # the pooling's own weights
    np.testing.assert_allclose(got, as_maps(relu), rtol=1e-9)
    assert jaxplain.legrad(fn, x, TARGETS).shape == (2, *vits.GRID)
    assert jaxplain.transformer_attribution(fn, x, TARGETS).shape == (2, *vits.GRID)


# -- what holds of every method --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention_rollout", "transformer_attribution", "legrad"])
def test_classes_batches_jit_and_half_precision(name, weights):
    method = METHODS[name]
    x = jnp.asarray(vits.images(), jnp.float32)
    fn = vits.plain(weights, dtype=jnp.float32)
    targets = jnp.asarray([[0, 3], [2, 1]])
    maps = jax.jit(lambda x, t: method(fn, x, t))(x, targets)
    assert maps.shape == (2, 2, *vits.GRID) and maps.dtype == jnp.float32
    turned = method(jaxplain.trace(fn, x), x[::-1], targets[::-1, ::-1])[::-1, ::-1]
    np.testing.assert_allclose(turned, maps, rtol=1e-3, atol=1e-7)
    if name != "attention_rollout":
        chunked = method(fn, x, targets, class_chunk=1)
        np.testing.assert_allclose(chunked, maps, rtol=1e-3, atol=1e-7)
    half = method(vits.plain(weights, dtype=jnp.bfloat16), x.astype(jnp.bfloat16), targets)
    correlation = np.corrcoef(np.ravel(half.astype(jnp.float32)), np.ravel(maps))[0, 1]
    assert np.isfinite(half).all() and correlation > 0.99, correlation
    slope = jax.grad(lambda x: method(fn, x, 1).var())(x)
    assert np.isfinite(slope).all() and slope.any()


# -- layers ----------------------------------------------------------------------------------------


def test_names_of_layers(weights, x):
    fn = vits.plain(weights)
    for loop in ("python", "scan"):
        fn = vits.plain(weights, loop=loop)
        names = ["block:-1", "block:0", "tokens:0", "tokens:1", "tokens:-1"]
        acts = jaxplain.capture(fn, names)(x)[1]
        assert all(acts[n].shape == (2, vits.TOKENS, vits.DIM) for n in names)
        p = jax.tree.map(jnp.asarray, weights)
        last = vits.layer_norm(acts["block:-1"], p["norm"])
        np.testing.assert_allclose(acts["tokens:-1"], last, rtol=1e-6, atol=1e-9)
        norm = vits.layer_norm(acts["block:0"], vits.block_weights(p, 1)["norm1"])
        np.testing.assert_allclose(acts["tokens:1"], norm, rtol=1e-6, atol=1e-9)
    default, named = (
        jaxplain.grad_cam(fn, x, TARGETS, layer=layer) for layer in (None, "tokens:1")
    )
    np.testing.assert_array_equal(default, named)
    rows = jaxplain.layers(fn, x, all=True)
    both = {name for row in rows for name in (row.name, *row.also)}
    assert {"attention:0", "attention:1", "block:0", "block:1", "tokens:2"} <= both
    for method in (jaxplain.grad_cam, jaxplain.gradient):
        with pytest.raises(ValueError, match=r"'attention:0' holds attention weights"):
            method(fn, x, 1, layer="attention:0")
    with pytest.raises(jaxplain.core.UnknownLayerError, match="2 of 'attention', numbered 0 to 1"):
        jaxplain.capture(fn, ["attention:2"])(x)
    with pytest.raises(jaxplain.core.UnknownLayerError, match="the network has no 'attention'"):
        jaxplain.capture(lambda x: x.mean((1, 2)), ["attention:0"])(x)


def test_a_grid_that_is_not_square_with_registers():
    """416 x 608 at patch 14: 29 x 43, a class token and four registers."""
    rng = np.random.default_rng(0)
    patch = jnp.asarray(rng.normal(size=(14, 14, 3, 8)), jnp.float32)
    first = jnp.asarray(rng.normal(size=(1, 5, 8)), jnp.float32)

    def fn(x):
        dims = ("NHWC", "HWIO", "NHWC")
        t = jax.lax.conv_general_dilated(x, patch, (14, 14), "VALID", dimension_numbers=dims)
        t = t.reshape(len(x), -1, 8)
        t = jnp.concatenate([jnp.broadcast_to(first, (len(x), 5, 8)), t], 1)
        t = t + jax.nn.softmax(t @ t.swapaxes(1, 2)) @ t
        return t[:, 0]

    x = jax.ShapeDtypeStruct((1, 416, 608, 3), jnp.float32)
    for method in (jaxplain.attention_rollout, jaxplain.legrad, jaxplain.grad_cam):
        options = {"layer": "block:0"} if method is jaxplain.grad_cam else {}
        maps = jax.eval_shape(lambda x, m=method, o=options: m(fn, x, 1, **o), x)
        assert maps.shape == (1, 29, 43)


def test_tokens_of_which_nothing_is_known(weights, x):
    order = np.arange(vits.TOKENS)

    def shuffled(p):
        def fn(x):
            y = vits.embed(x, p)[:, order]
            for i in range(2):
                y = vits.block(y, vits.block_weights(p, i), vits.einsum_attention)
            return vits.class_token(y, p)

        return fn

    fn = shuffled(jax.tree.map(jnp.asarray, weights))
    with pytest.raises(ValueError, match=r"8 tokens.*tokens=\(height, width\)"):
        jaxplain.attention_rollout(fn, x)
    got = jaxplain.legrad(fn, x, TARGETS, tokens=lambda v: v[:, 2:].reshape(len(v), 2, 3, -1))
    np.testing.assert_allclose(got, expected()["legrad"], rtol=1e-9)
    with pytest.raises(ValueError, match=r"tokens=\(2, 3\) does not fit the tokens of shape"):
        jaxplain.attention_rollout(fn, x, tokens=(2, 3))
    with pytest.raises(ValueError, match=r"known to be 'tokens 2x3 \+ 2': leave it out"):
        jaxplain.attention_rollout(vits.plain(weights), x, tokens=(2, 4))


def test_features_of_tokens(weights, x):
    """PFV and Dense Attention look at the last tokens, without class token and register."""
    fn = vits.plain(weights)
    acts = jaxplain.capture(fn, ["tokens:-1"])(x)[1]["tokens:-1"][:, vits.PREFIX :]
    flat = np.asarray(acts - acts.mean((0, 1))).reshape(-1, vits.DIM)
    direction = np.linalg.svd(flat, full_matrices=False)[2][0]
    got = np.asarray(jaxplain.pfv(fn, x, components=1).components)[..., 0].ravel()
    wanted = flat @ direction
    np.testing.assert_allclose(got * np.sign(got @ wanted), wanted, rtol=1e-6, atol=1e-9)
    dense = jaxplain.dense_attention(fn, x)
    assert [m.shape for m in dense.layers.values()] == [(2, *vits.GRID)]


# -- refusals --------------------------------------------------------------------------------------


def test_networks_for_which_the_product_is_not_defined(weights, x):
    p = jax.tree.map(jnp.asarray, weights)
    own = vits.block_weights(p, 0)

    def one(y):
        return vits.block(y, own, vits.einsum_attention)

    def coarser(x):
        y = one(vits.embed(x, p))[:, :4]
        return one(y)[:, 0]

    def side_by_side(x):
        y = vits.embed(x, p)
        return (one(y) + one(2 * y))[:, 0]

    def between(x):
        y = one(vits.embed(x, p))
        y = y + (y[:, 2:].mean(1, keepdims=True))
        return one(y)[:, 0]

    cases = {
        coarser: "among 8 tokens, and .* among 4",
        side_by_side: "stand side by side",
        between: "mixes tokens between them too",
        (lambda x: x.mean((1, 2))): "the network has no attention",
    }
    for fn, words in cases.items():
        for method in ("attention_rollout", "transformer_attribution", "legrad"):
            with pytest.raises(UnsuitableNetworkError, match=words):
                METHODS[method](fn, x, 1)


def test_channels_are_no_tokens(x):
    """Cross-covariance attention (XCiT), and a mixture of experts."""

    def covariance(x):
        t = x.reshape(len(x), -1, 3)
        return (t + (jax.nn.softmax(t.swapaxes(1, 2) @ t) @ t.swapaxes(1, 2)).swapaxes(1, 2)).sum(1)

    with pytest.raises(UnsuitableNetworkError, match="no attention"):
        jaxplain.attention_rollout(covariance, x)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"heads": "sum"}, ValueError, "heads must be one of 'mean', 'max', 'min'"),
        ({"discard": 1.0}, ValueError, "discard must be a fraction"),
        ({"blocks": [2]}, ValueError, "there is no block 2: the network has 2"),
        ({"blocks": []}, ValueError, "blocks is empty"),
        ({"blocks": 1}, TypeError, "blocks must be a sequence of ints"),
        ({"blocks": [0.5]}, TypeError, "blocks must be ints"),
    ],
)
def test_options_that_are_none(options, error, words, weights, x):
    with pytest.raises(error, match=words):
        jaxplain.attention_rollout(vits.plain(weights), x, **options)


# -- windows ---------------------------------------------------------------------------------------


def windowed(p, by_hand, shift):
    """Two blocks of attention within windows of 2 x 2 on a map of 4 x 4, the second one shifted.

    By hand: attention among all tokens, with a mask that hides other windows.
    """

    def partition(y):
        return y.reshape(-1, 2, 2, 2, 2, y.shape[-1]).swapaxes(2, 3).reshape(-1, 4, y.shape[-1])

    def reverse(y):
        return y.reshape(-1, 2, 2, 2, 2, y.shape[-1]).swapaxes(2, 3).reshape(-1, 4, 4, y.shape[-1])

    def heads(y, own, mask):
        q, k, v = (
            vits.linear(y, own[n]).reshape(*y.shape[:2], vits.HEADS, vits.SIZE) for n in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SCALE
        scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
        out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return vits.linear(out.reshape(y.shape), own["o"])

    def attend(y, own, moved):
        if by_hand:
            rows, columns = np.divmod(np.arange(16), 4)
            numbers = (rows - moved) % 4 // 2 * 2 + (columns - moved) % 4 // 2
            mask = numbers[:, None] == numbers
            return heads(y.reshape(len(y), 16, -1), own, mask).reshape(y.shape)
        y = jnp.roll(y, (-moved, -moved), (1, 2))
        return jnp.roll(reverse(heads(partition(y), own, None)), (moved, moved), (1, 2))

    def fn(x):
        y = x @ p["patch"]["w"][0, 0]
        for i, moved in enumerate((0, shift)):
            own = vits.block_weights(p, i)
            y = y + attend(vits.layer_norm(y, own["norm1"]), own, moved)
            z = jax.nn.gelu(vits.linear(vits.layer_norm(y, own["norm2"]), own["mlp1"]))
            y = y + vits.linear(z, own["mlp2"])
        return vits.linear(vits.layer_norm(y, p["norm"]).mean((1, 2)), p["head"])

    return fn


def test_windows_taken_apart_by_hand(weights, x64):
    p = jax.tree.map(jnp.asarray, weights)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 4, 3)))
    fns = [windowed(p, by_hand, 1) for by_hand in (False, True)]
    np.testing.assert_allclose(fns[0](x), fns[1](x), rtol=1e-10)
    for method in (
        jaxplain.grad_cam,
        jaxplain.layer_cam,
        functools.partial(jaxplain.lrp, composite="attn_lrp"),
    ):
        got, wanted = (method(fn, x, TARGETS) for fn in fns)
        assert got.shape == (2, 4, 4) and jnp.abs(wanted).max() > 0
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-12)
    named = jaxplain.capture(fns[0], ["attention:1"])(x)[1]["attention:1"]
    assert named.shape == (2 * 4, vits.HEADS, 4, 4)
    with pytest.raises(UnsuitableNetworkError, match="is attention within windows"):
        jaxplain.attention_rollout(fns[0], x)
