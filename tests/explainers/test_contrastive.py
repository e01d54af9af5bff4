"""The contrast of Excitation Backprop on DeconvNet and gradient (Zhang et al. 2018, Table 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxplain

PARAMS = nets.convnet_params(4)


@pytest.fixture
def convnet(x64):
    return nets.convnet(PARAMS), jnp.asarray(nets.images(1, size=6))


def unit(maps):
    maps = np.asarray(maps)
    return maps / np.abs(maps).sum((1, 2), keepdims=True)


@pytest.mark.parametrize("form", ["zeiler", "springenberg"])
@pytest.mark.parametrize("layer", ["input", "pool"])
def test_the_reverse_map_has_negated_top_weights(convnet, form, layer):
    fn, x = convnet
    negated = nets.convnet({**PARAMS, "dense": -PARAMS["dense"]})
    maps, reverse = (
        unit(jaxplain.deconvnet(f, x, 2, form=form, layer=layer)) for f in (fn, negated)
    )
    got = jaxplain.contrastive_deconvnet(fn, x, 2, form=form, layer=layer)
    np.testing.assert_allclose(got, maps - reverse, rtol=1e-9, atol=1e-13)
    assert np.abs(np.asarray(got)).max() > 1e-3
    np.testing.assert_allclose(np.asarray(got).sum((1, 2)), 0, atol=1e-12)


def test_the_contrast_is_at_the_classifier_even_below_a_relu(x64):
    """As in SqueezeNet, whose classifier is a convolution with a ReLU behind it."""
    x = jnp.asarray(nets.images(1, size=4))
    w = np.random.default_rng(1).normal(size=(1, 1, 3, 4))

    def fn(v, w=w):
        h = jaxplain.tag(jax.nn.relu(nets.conv(v, jnp.ones((3, 3, 3, 3)))), "h")
        return jax.nn.relu(nets.conv(h, jnp.asarray(w)) + 5).mean((1, 2))

    got = jaxplain.contrastive_deconvnet(fn, x, 1, reduce="sum", layer="h")
    forward = jaxplain.deconvnet(fn, x, 1, reduce="sum", layer="h")
    # h's own ReLU lies below the tag: the signal there is the classifier's weight, or minus that.
    np.testing.assert_allclose(got, 2 * unit(forward), rtol=1e-9)
    assert np.abs(np.asarray(got)).min() > 0.1


@pytest.mark.parametrize("reduce", ["max_abs", "l2"])
def test_contrastive_gradient_is_zero(convnet, reduce):
    """The paper's observation: the gradient's reverse map is the map negated."""
    fn, x = convnet
    maps = jaxplain.contrastive_gradient(
        fn, x, [[0, 1, 2, 3]] * 2, reduce=reduce, layer=["input", "mid"]
    )
    assert all(not np.asarray(m).any() for m in maps.values())
    assert np.asarray(jaxplain.gradient(fn, x, 0, reduce=reduce)).all()


def test_contrastive_gradient_of_the_signed_map(convnet):
    fn, x = convnet
    got = jaxplain.contrastive_gradient(fn, x, 1, reduce="sum")
    np.testing.assert_allclose(got, 2 * unit(jaxplain.gradient(fn, x, 1, reduce="sum")), rtol=1e-9)


def test_contract(convnet):
    """Targets, jit, slopes, shards, and images from which no signal returns."""
    fn, x = convnet
    maps = jaxplain.contrastive_deconvnet(
        fn, x, [[0, 1], [2, 3]], layer=["input", "mid"], class_chunk=1
    )
    assert maps["input"].shape == (2, 2, 6, 6) and maps["mid"].shape == (2, 2, 3, 3)
    call = lambda v: jaxplain.contrastive_deconvnet(fn, v, jnp.array([0, 2]))  # noqa: E731
    np.testing.assert_allclose(jax.jit(call)(x), maps["input"][:, 0], rtol=1e-9, atol=1e-13)
    alone = jaxplain.contrastive_deconvnet(fn, x[1:], 3)
    np.testing.assert_allclose(alone, maps["input"][1:, 1], rtol=1e-9, atol=1e-13)
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    one = lambda v: jaxplain.contrastive_deconvnet(fn, v, 2)  # noqa: E731
    spread = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))(x)
    np.testing.assert_allclose(spread, one(x), rtol=1e-9, atol=1e-13)
    for scale in (1.0, 0.0):
        slope = jax.grad(lambda v, s=scale: jnp.square(one(s * v)).sum())(x)
        assert np.isfinite(np.asarray(slope)).all()


def test_no_signal_and_half_precision():
    fn = lambda x: jax.nn.relu(-x).mean((1, 2)) @ jnp.ones((1, 1), x.dtype)  # noqa: E731
    x = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    for form in ("zeiler", "springenberg"):
        maps = jaxplain.contrastive_deconvnet(fn, x, 0, form=form)
        assert maps.dtype == jnp.bfloat16 and np.isfinite(np.asarray(maps, np.float32)).all()
    assert not np.asarray(maps, np.float32).any()  # the ReLU is shut


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "noh"}, "'zeiler', 'springenberg'"),
        ({"reduce": None}, "'max_abs', 'sum', 'l2'"),
        ({"classifier": "top"}, "there is no layer 'top'"),
    ],
)
def test_errors(convnet, options, match):
    fn, x = convnet
    with pytest.raises(ValueError, match=match):
        jaxplain.contrastive_deconvnet(fn, x, 0, **options)


def test_contrastive_cam_is_cam_with_another_scale(x64):
    """Of the network with negated weights CAM is the negative, so that the maximum stays."""
    x = jnp.asarray(nets.images(1, size=4))
    w = jnp.asarray(np.random.default_rng(3).normal(size=(3, 4)))

    def fn(v, sign=1):
        h = jaxplain.tag(jax.nn.relu(nets.conv(v, jnp.ones((3, 3, 3, 3)))), "h")
        return h.mean((1, 2)) @ (sign * w)

    ahead, against = (jaxplain.cam(f, x, 2) for f in (fn, lambda v: fn(v, -1)))
    got = jaxplain.contrastive_cam(fn, x, [[2, 1]] * 2, layer=["h"])["h"][:, 0]
    np.testing.assert_allclose(got, unit(ahead) - unit(against), rtol=1e-9)
    np.testing.assert_allclose(got, 2 * unit(ahead), rtol=1e-9)
    with pytest.raises(jaxplain.UnsuitableNetworkError, match="contrastive_cam needs a network"):
        jaxplain.contrastive_cam(nets.convnet(PARAMS), x, 0, layer="input")


def test_two_heads_are_one_classifier_and_an_embedding_has_none(convnet):
    fn, x = convnet
    weights = [jnp.asarray(nets.normal(i, 6, 3)) for i in (1, 2)]

    def pooled(x):
        return jaxplain.capture(fn, ["pool"])(x)[1]["pool"].mean((1, 2))

    def one(x):
        return pooled(x) @ (weights[0] + weights[1]) / 2

    def two(x):
        y = pooled(x)
        return (y @ weights[0] + y @ weights[1]) / 2

    def embedding(x):
        y = pooled(x)
        return y + jax.nn.relu(y) @ jnp.asarray(nets.normal(3, 6, 6))

    got, expected = (jaxplain.contrastive_gradient(f, x, 1, reduce="sum") for f in (two, one))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)
    for call in (
        jaxplain.contrastive_deconvnet,
        jaxplain.contrastive_gradient,
        lambda f, x, t: jaxplain.excitation_backprop(f, x, t, contrastive=True),
    ):
        with pytest.raises(jaxplain.UnsuitableNetworkError, match="this network has none"):
            call(embedding, x, 1)
    assert jaxplain.excitation_backprop(embedding, x, 1).shape[0] == len(x)
