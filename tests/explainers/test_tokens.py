"""Layers of which it is not known how maps lie in them: the user says it, or is told to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest
from tracing import compilations

import jaxplain
from jaxplain.explainers.catalogue import CATALOGUE

H, W, C = 3, 4, 5
KERNEL = jnp.asarray(nets.normal(0, 3, C, scale=0.5), jnp.float32)
HEAD = jnp.asarray(nets.normal(1, H * W * C, 4, scale=0.5), jnp.float32)
HIDDEN = jnp.asarray(nets.normal(3, H * W * C, 7, scale=0.5), jnp.float32)
TOP = jnp.asarray(nets.normal(4, 7, 4), jnp.float32)
EVERY = jnp.arange(H * W)
NAMES = sorted(
    name
    for name in CATALOGUE
    if {"layer", "tokens"} <= set(methods.parameters(name)) and name != "fitted-cam"
)


def network(blind: bool, pooled: bool = False):
    """Scores of a layer of tokens, which a gather makes that no analysis can follow, if blind."""

    def fn(x):
        h = jax.nn.relu(x @ KERNEL).reshape(len(x), H * W, C)
        h = jaxplain.tag(h[:, EVERY] if blind else h, "out")
        if pooled:
            return h.mean(1) @ HEAD[:C]
        return jax.nn.relu(h.reshape(len(x), -1) @ HIDDEN) @ TOP

    return fn


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(nets.normal(2, 2, H, W, 3), jnp.float32)


def grid(v):
    return v.reshape(len(v), H, W, C)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [(H, W), grid], ids=["pair", "function"])
def test_every_method_with_tokens_is_that_of_the_known_network(name, tokens, x):
    pooled, more = name in ("cam", "c-cam"), {"last": "out"} if name == "naflow" else {}
    if name == "pfv":
        more["weight_layers"] = ("out",)
    got, expected = (
        methods.explain(name, network(own, pooled), x, jnp.array([1, 2]), layer="out", **given)
        for own, given in ((True, {**more, "tokens": tokens}), (False, more))
    )
    first = {"pfv": lambda r: r.weighted, "dense-attention": lambda r: r.layers["out"]}
    got, expected = (first.get(name, lambda r: r)(r) for r in (got, expected))
    assert got.shape == expected.shape and float(jnp.abs(expected).max()) > 0
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_methods_are_those_at_a_layer():
    without = {
        name
        for name in CATALOGUE
        if "layer" in methods.parameters(name) and "tokens" not in methods.parameters(name)
    }
    assert without == set() and len(NAMES) > 20


def test_a_fit_at_tokens(x):
    layer = {"tokens": (H, W)}
    fit = jaxplain.fit_cam(network(True), [x, 2 * x], layer="out", **layer)
    known = jaxplain.fit_cam(network(False), [x, 2 * x], layer="out")
    np.testing.assert_allclose(fit.weight, known.weight, rtol=1e-4, atol=1e-5)
    got = jaxplain.fitted_cam(network(True), x, 1, fit=fit, **layer)
    expected = jaxplain.fitted_cam(network(False), x, 1, fit=known)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_class_token_is_left_out_by_a_function(x):
    extra = jnp.ones((1, 1, C))

    def fn(x):
        h = jnp.tanh(x @ KERNEL).reshape(len(x), H * W, C)[:, EVERY]
        h = jnp.concatenate([jnp.broadcast_to(extra, (len(x), 1, C)), h], 1)
        return jaxplain.tag(h, "out").reshape(len(x), -1) @ jnp.concatenate([HEAD[:C], HEAD])

    for method in (jaxplain.hires_cam, jaxplain.ablation_cam):
        got = method(fn, x, 1, layer="out", tokens=lambda v: grid(v[:, 1:]), relu=False)
        assert got.shape == (2, H, W)
    maps = jaxplain.hires_cam(fn, x, 1, layer="out", tokens=lambda v: grid(v[:, 1:]))
    a, g = jnp.tanh(x @ KERNEL), HEAD[:, 1].reshape(H, W, C)
    np.testing.assert_allclose(maps, (a * g).sum(-1), rtol=1e-5, atol=1e-6)


def test_ablation_leaves_alone_what_is_no_map(x):
    """The class token keeps its value when a channel of the map is set to 0."""

    def fn(x):
        h = jnp.tanh(x @ KERNEL).reshape(len(x), H * W, C)[:, EVERY]
        h = jnp.concatenate([5 + h[:, :1], h], 1)
        return jaxplain.tag(h, "out").reshape(len(x), -1) @ jnp.concatenate([HEAD[:C], HEAD])

    got = jaxplain.ablation_cam(
        fn, x, 1, layer="out", tokens=lambda v: grid(v[:, 1:]), relu=False, relative=False
    )
    a, g = jnp.tanh(x @ KERNEL), HEAD[:, 1].reshape(H, W, C)
    drop = (a * g).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(got, (drop * a).sum(-1), rtol=1e-4, atol=1e-5)


def test_cam_knows_by_the_users_word_what_the_pool_is_over(x):
    """A class token in front is left out; pooled with the patches it is not, nor one patch."""
    extra = jnp.ones((1, 1, C))

    def fn(x, pool):
        h = jnp.tanh(x @ KERNEL).reshape(len(x), H * W, C)[:, EVERY]
        h = jnp.concatenate([jnp.broadcast_to(extra, (len(x), 1, C)), h], 1)
        return pool(jaxplain.tag(h, "out")) @ HEAD[:C]

    def explain(pool, tokens=lambda v: grid(v[:, 1:])):
        return jaxplain.cam(lambda x: fn(x, pool), x, 1, layer="out", tokens=tokens)

    maps = explain(lambda h: h[:, 1:].mean(1))
    np.testing.assert_allclose(maps, jnp.tanh(x @ KERNEL) @ HEAD[:C, 1], rtol=1e-4, atol=1e-6)
    for pool, words in (
        (lambda h: h.mean(1), "tokens without a place in the image are pooled"),
        (lambda h: h[:, 2:].mean(1), "'slice' at .* comes before the pool"),
        (lambda h: h[:, 1:].max(1), "lies after it"),
    ):
        with pytest.raises(jaxplain.UnsuitableNetworkError, match=words):
            explain(pool)
    with pytest.raises(ValueError, match="which axis of 'out' the positions lie along"):
        explain(lambda h: h[:, 1:].mean(1), lambda v: grid(v[:, 1:])[:, ::-1])


def test_functions_made_anew_compile_nothing_anew_and_work_under_jit(x):
    model = jaxplain.trace(network(True), x)

    def explain(model, x):
        return jaxplain.grad_cam(model, x, 1, layer="out", tokens=lambda v: grid(v))

    first = explain(model, x)
    with compilations() as compiled:
        again = explain(model, x)
    np.testing.assert_array_equal(again, first)
    assert not compiled
    transposed = jaxplain.grad_cam(
        model, x, 1, layer="out", tokens=lambda v: grid(v)[:, ::-1]
    )  # another function of the same shape is another map
    np.testing.assert_allclose(transposed, first[:, ::-1], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(explain)(model, x), first, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (
            (4, 4),
            r"tokens=\(4, 4\) does not fit the layer 'out' of shape \(2, 12, 5\).*16 positions",
        ),
        ((0, 12), r"tokens=\(0, 12\) does not fit"),
        (lambda v: v, r"must make maps \(2, h, w, C\) of the layer 'out'.*\(2, 12, 5\)"),
        (lambda v: v.reshape(len(v), 5, 5, -1), "the function tokens fails at the layer 'out'"),
        (lambda v: grid(v * 2.0), "must only rearrange the values"),
        (lambda v: grid(v[:, EVERY * 0]), "must only rearrange the values"),
        (lambda v: grid(v[::-1]), "mixes the images"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_in_a_sentence(tokens, words, x):
    with pytest.raises(ValueError, match=words):
        jaxplain.grad_cam(network(True), x, 1, layer="out", tokens=tokens)


def test_tokens_of_a_wrong_kind_or_place_are_refused(x):
    for wrong in (12, (3, 4.0), "3x4"):
        with pytest.raises(TypeError, match=r"tokens must be a pair \(height, width\)"):
            jaxplain.layer_cam(network(True), x, 1, layer="out", tokens=wrong)
    with pytest.raises(ValueError, match="name it with layer="):
        jaxplain.grad_cam(network(True), x, 1, tokens=(H, W))
    with pytest.raises(ValueError, match="is known to be 'tokens 3x4': leave it out"):
        jaxplain.grad_cam(network(False), x, 1, layer="out", tokens=(H, W))


def test_without_tokens_the_refusal_names_layer_line_and_option(x):
    for name in ("mwp", "grad-cam", "eigen-cam", "lrp", "cam", "naflow"):
        with pytest.raises(ValueError) as caught:
            methods.explain(name, network(True), x, 1, layer="out")
        words = str(caught.value)
        assert "'out' of shape" in words and "test_tokens.py:" in words, name
        assert "tokens=(height, width)" in words and "layer=" in words, name


def test_the_default_layer_is_not_one_before_what_is_unknown(x):
    def mixed(x):
        h = jax.nn.relu(x @ KERNEL).reshape(len(x), 10, 6)  # sizes that divide nothing
        return jaxplain.tag(jnp.tanh(h), "mixed").reshape(len(x), -1) @ HEAD

    for fn, words in (
        (mixed, "'mixed' of shape (2, 10, 6)"),
        (network(True), "'out' of shape (2, 12, 5)"),
    ):
        with pytest.raises(jaxplain.UnknownLayerError) as caught:
            jaxplain.grad_cam(fn, x, 1)
        assert words in str(caught.value) and "test_tokens.py:" in str(caught.value)
        assert "tokens=(height, width)" in str(caught.value) and "layer=" in str(caught.value)
        assert jaxplain.grad_cam(fn, x, 1, layer="relu:0").shape == (2, H, W)
        # The table marks no default where explainers would refuse.
        assert not any(row.default for row in jaxplain.layers(fn, x))
    with pytest.raises(jaxplain.UnknownLayerError, match="or layer='relu:0' before it"):
        jaxplain.grad_cam(mixed, x, 1)
    assert jaxplain.grad_cam(network(False), x, 1).shape == (2, H, W)
