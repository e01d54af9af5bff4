"""LRP: rules worked out by hand on one layer, conservation, and relations to other methods."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxplain
from jaxplain.rules.composites import COMPOSITES, composite, lrp_rules
from jaxplain.rules.lrp import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    WSquare,
    ZBox,
    ZPlus,
)

RULES = {
    "epsilon": Epsilon,
    "z_plus": ZPlus,
    "alpha2_beta1": lambda **k: AlphaBeta(alpha=2, beta=1, **k),
    "gamma": Gamma,
    "w_square": WSquare,
    "flat": lambda eps, bias: Flat(eps=eps),
    "z_box": lambda eps, bias: ZBox(low=-1.0, high=2.0, eps=eps),
}

#: z = (2 - 3 + 1, 6 + 2 - 2) = (0, 6) without, (1, 4) with the bias; relevance above is (2, 12).
A = np.array([2.0, -1.0, 1.0])
W = np.array([[1.0, 3.0], [3.0, -2.0], [1.0, -2.0]])
B = np.array([1.0, -2.0])
R = np.array([2.0, 12.0])


def layer(rule, bias=B):
    def fn(x):
        z = x[:, 0, 0, :] @ jnp.asarray(W)
        return z if bias is None else z + jnp.asarray(bias)

    maps = jaxplain.lrp(
        fn,
        jnp.asarray(A)[None, None, None],
        jnp.asarray(R)[None],
        composite=lrp_rules(rule),
        seed="one",
        channels=True,
    )
    return np.asarray(maps)[0, 0, 0]


BY_HAND = {
    # R / z = 2, 3
    "epsilon": (Epsilon(eps=0.0), [2 * 2 + 3 * 6, 2 * -3 + 3 * 2, 2 * 1 + 3 * -2]),
    # (a w)+ = [[2, 6], [0, 2], [1, 0]], sums 3, 8; with b+ 4, 8
    "z_plus": (ZPlus(eps=0.0), [1 + 9, 3, 0.5]),
    "z_plus, no bias": (ZPlus(eps=0.0, bias=False), [4 / 3 + 9, 3, 2 / 3]),
    # (a w)- = [[0, 0], [-3, 0], [0, -2]], sums -3, -2; with b- -3, -4
    "alpha2 beta1": (AlphaBeta(alpha=2, beta=1, eps=0.0), [2 * 10, 2 * 3 - 2, 2 * 0.5 - 6]),
    # z > 0: a w + (a w)+ = [[4, 12], [-3, 4], [2, -2]]; b + b+ = 2, -2; sums 5, 12
    "gamma": (Gamma(gamma=1.0, eps=0.0), [1.6 + 12, -1.2 + 4, 0.8 - 2]),
    # a (w + w+) = [[4, 12], [-6, 2], [2, -2]]; b as it is: sums 1, 10
    "gamma, plain": (Gamma(gamma=1.0, eps=0.0, form="plain"), [8 + 14.4, -12 + 2.4, 4 - 2.4]),
    # a w+ = [[2, 6], [-3, 0], [1, 0]] + b: sums 1, 4
    "z_plus, plain": (ZPlus(eps=0.0, form="plain"), [4 + 18, -6, 2]),
    # squares [[1, 9], [9, 4], [1, 4]] + b^2: sums 12, 21
    "w_square": (WSquare(eps=0.0), [2 / 12 + 12 * 9 / 21, 18 / 12 + 48 / 21, 2 / 12 + 48 / 21]),
    "flat": (Flat(eps=0.0), [2 / 3 + 4] * 3),
    # a w + w+ - 2 w- = [[3, 9], [0, 6], [2, 2]]: sums 5, 17
    "z_box": (ZBox(low=-1.0, high=2.0, eps=0.0), [1.2 + 108 / 17, 72 / 17, 0.8 + 24 / 17]),
}


@pytest.mark.parametrize(("rule", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_one_layer_by_hand(x64, rule, expected):
    np.testing.assert_allclose(layer(rule), expected, rtol=1e-12, atol=1e-12)


def test_the_gamma_rule_where_z_is_negative(x64):
    # With the weights and biases negated, z < 0 and every share is what it was.
    def shares(sign):
        def fn(x):
            return x[:, 0, 0, :] @ jnp.asarray(sign * W) + jnp.asarray(sign * B)

        return jaxplain.lrp(
            fn,
            jnp.asarray(A)[None, None, None],
            jnp.asarray(R)[None],
            composite=lrp_rules(Gamma(gamma=0.5)),
            seed="one",
            channels=True,
        )

    np.testing.assert_allclose(shares(-1), shares(1), rtol=1e-12)


def test_rules_agree_where_they_should(x64):
    np.testing.assert_allclose(layer(AlphaBeta(alpha=1, beta=0)), layer(ZPlus()))
    np.testing.assert_allclose(layer(Gamma(gamma=0.0)), layer(Epsilon()))
    np.testing.assert_allclose(layer(Gamma(gamma=1e9)), layer(ZPlus()), rtol=1e-5)
    np.testing.assert_allclose(layer(Epsilon(bias=False), B), layer(Epsilon(), None))
    np.testing.assert_allclose(layer(ZPlus(), np.array([-1.0, -2.0])), layer(ZPlus(bias=False)))
    np.testing.assert_allclose(
        layer(ZBox(low=(-1, -1, -1), high=(2, 2, 2))), layer(ZBox(low=-1, high=2))
    )


def test_padding_takes_no_share(x64):
    """A 3 x 3 convolution of ones on 2 x 2 pixels: each output sees 4 pixels, not 9."""
    fn = lambda x: nets.conv(x, jnp.ones((3, 3, 1, 1)), padding=(1, 1)).sum((1, 2))  # noqa: E731
    for rule in (Flat(eps=0.0), WSquare(eps=0.0), ZBox(low=0.0, high=1.0, eps=0.0)):
        maps = jaxplain.lrp(fn, jnp.ones((1, 2, 2, 1)), 0, composite=lrp_rules(rule, eps=0.0))
        np.testing.assert_allclose(maps, 4.0)


@pytest.fixture
def convnet(x64):
    return nets.convnet(nets.convnet_params(11)), jnp.asarray(nets.images(12))


PARAMS: dict = {}
SEEDED = nets.convnet(PARAMS)
LAYERS = ("gap", "out", "sum", "act1", "input")


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**31 - 1), name=st.sampled_from(sorted(RULES)))
def test_conservation(x64, seed, name):
    """Without biases every layer's relevance is the score, for a network without dead units."""
    params = {k: np.asarray(v) for k, v in nets.convnet_params(seed).items()}
    PARAMS.update({k: jnp.asarray(v) for k, v in params.items()})
    x = jnp.asarray(nets.images(seed + 1))
    rules = lrp_rules(RULES[name](eps=1e-14, bias=False), eps=1e-14)
    maps = jaxplain.lrp(SEEDED, x, 1, layer=LAYERS, composite=rules, channels=True)
    _, acts = jaxplain.capture(SEEDED, ["out", "sum", "mid"])(x)
    if name in ("w_square", "flat"):
        # These give relevance to dead units; an addition of two zeros has nothing to share it by.
        above = np.asarray(maps["sum"])
        kept = above[np.asarray(acts["sum"]) != 0].sum()
    total = {k: np.asarray(v).sum(tuple(range(1, v.ndim))) for k, v in maps.items()}
    score = np.asarray(SEEDED(x))[:, 1]
    size = max(np.abs(np.asarray(v)).sum() for v in maps.values())
    close = {"rtol": 1e-6, "atol": 1e-9 * size}
    if name in ("w_square", "flat"):
        np.testing.assert_allclose(total["act1"].sum(), kept, **close)
        np.testing.assert_allclose(total["input"], total["act1"], **close)
        return
    live = np.asarray(acts["sum"]).any()
    if not live:
        return
    for k in LAYERS:
        starved = name in ("z_plus", "alpha2_beta1", "z_box")
        if not starved:
            np.testing.assert_allclose(total[k], score, err_msg=k, **close)
    np.testing.assert_allclose(total["input"], total["act1"], **close)


def test_excitation_backprop_is_alpha1_beta0_without_bias(convnet):
    """On a chain of layers; where branches meet, both share by the non-negative values."""
    fn, x = convnet
    rules = composite("excitation_backprop", bias=False, eps=0.0)
    layers = ["pool", "act1", "input"]
    got = jaxplain.lrp(fn, x, 1, layer=layers, composite=rules, seed="one", channels=True)
    expected = jaxplain.excitation_backprop(fn, x, 1, layer=layers, channels=True)
    for name in layers:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-14)


def test_epsilon_tends_to_input_x_gradient(convnet):
    fn, x = convnet
    got = jaxplain.lrp(fn, x, 1, composite=composite("epsilon", eps=1e-12))
    expected = jaxplain.input_x_gradient(fn, x, 1)
    assert nets.relative_error(got, expected) < 1e-6


def test_seed(convnet):
    fn, x = convnet
    score = fn(x)[:, 1, None, None]
    one = jaxplain.lrp(fn, x, 1, seed="one")
    np.testing.assert_allclose(jaxplain.lrp(fn, x, 1), one * score, rtol=1e-10, atol=1e-14)


def squeeze_and_excitation():
    """A map times its own gate, and the images for it."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))

    def fn(x):
        gate = jaxplain.tag(jax.nn.sigmoid(x.mean((1, 2), keepdims=True) @ w), "gate")
        return (jaxplain.tag(x * 1.0, "map") * gate).sum((1, 2))

    return fn, jnp.asarray(nets.images(0, size=4))


def test_products_share_equally(x64):
    """By the uniform rule; the relevance is conserved."""
    fn, x = squeeze_and_excitation()
    rules = lrp_rules(Epsilon(eps=1e-14), products="uniform", eps=1e-14)
    maps = jaxplain.lrp(fn, x, 1, layer=["gate", "map"], composite=rules, channels=True)
    half = np.asarray(fn(x))[:, 1] / 2
    # The map's own relevance is its half; what flows on through the gate reaches x, not "map".
    np.testing.assert_allclose(np.asarray(maps["gate"]).sum((1, 2, 3)), half, rtol=1e-9)
    np.testing.assert_allclose(np.asarray(maps["map"]).sum((1, 2, 3)), half, rtol=1e-9)


def test_a_gate_is_a_constant(x64):
    """In the composites: all relevance goes to the feature."""
    fn, x = squeeze_and_excitation()
    maps = jaxplain.lrp(fn, x, 1, layer=["gate", "map"], composite="epsilon", channels=True)
    assert not np.asarray(maps["gate"]).any()
    whole = np.asarray(fn(x))[:, 1]
    np.testing.assert_allclose(np.asarray(maps["map"]).sum((1, 2, 3)), whole, rtol=1e-4)


def test_norm_on_max_pools_is_their_gradient(convnet):
    fn, x = convnet
    got = jaxplain.lrp(
        fn, x, 1, composite=lrp_rules(ZPlus(eps=1e-12), max_pool=Norm(eps=1e-12), eps=1e-12)
    )
    expected = jaxplain.lrp(fn, x, 1, composite=composite("z_plus", eps=1e-12))
    assert nets.relative_error(got, expected) < 1e-6


@pytest.mark.parametrize("name", sorted(COMPOSITES))
def test_composites(convnet, name):
    fn, x = convnet
    options = {"box": (0.0, 1.0)} if name == "epsilon_gamma_box" else {}
    maps = jaxplain.lrp(fn, x, [[0, 1]] * 2, composite=name, **options)
    assert maps.shape == (2, 2, 8, 8) and np.isfinite(np.asarray(maps)).all()
    inside = jax.jit(lambda v: jaxplain.lrp(fn, v, 1, composite=name, **options))(x)
    np.testing.assert_allclose(inside, maps[:, 1], rtol=1e-7, atol=1e-9 * np.abs(maps).max())
    # A dead image: zeros under every ReLU, so denominators of 0 everywhere.
    loss = lambda v: jaxplain.lrp(fn, v, 1, composite=name, **options).sum()  # noqa: E731
    for image in (x, jnp.zeros_like(x)):
        assert np.isfinite(np.asarray(jax.grad(loss)(image))).all()


def test_bfloat16():
    params = {k: jnp.asarray(v, jnp.bfloat16) for k, v in nets.convnet_params(11).items()}
    x = jnp.asarray(nets.images(12), jnp.bfloat16)
    maps = jaxplain.lrp(nets.convnet(params), x, 1)
    assert maps.dtype == jnp.bfloat16 and np.isfinite(np.asarray(maps, np.float32)).all()
    exact = jaxplain.lrp(nets.convnet(nets.convnet_params(11)), x.astype(jnp.float32), 1)
    assert nets.relative_error(np.asarray(maps, np.float32), exact) < 0.2


def test_rules_are_values():
    assert Epsilon(eps=0.1) == Epsilon(eps=0.1) and hash(Gamma(gamma=0.5)) == hash(Gamma(gamma=0.5))
    assert ZBox(low=np.zeros(3), high=[1.0] * 3) == ZBox(low=(0.0,) * 3, high=(1.0,) * 3)
    boxed = [composite("epsilon_gamma_box", box=box) for box in ((0, 1), (0.0, np.float32(1)))]
    assert boxed[0] == boxed[1] and hash(boxed[0]) == hash(boxed[1])
    assert "Epsilon(eps=1e-06, bias=True)" in repr(composite("epsilon"))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"composite": "epsilon_pluss"}, ValueError, "did you mean one of epsilon_plus"),
        ({"composite": "epsilon_gamma_box"}, ValueError, r"needs box=\(low, high\)"),
        ({"composite": "epsilon_gamma_box", "box": (0, 1, 2)}, ValueError, r"not \(0, 1, 2\)"),
        ({"composite": "epsilon_gamma_box", "box": 1}, ValueError, r"must be \(low, high\), not 1"),
        ({"box": (0, 1)}, ValueError, "a ZBox, and composite 'epsilon_plus' has none"),
        ({"composite": composite("flat"), "box": (0, 1)}, ValueError, "a ZBox, and this rule set"),
        ({"composite": lrp_rules(ZPlus(), first=ZBox())}, ValueError, r"needs box=\(low, high\)"),
        ({"composite": Epsilon()}, TypeError, "a name or a RuleSet"),
        ({"seed": "logit"}, ValueError, "'score' or 'one'"),
    ],
)
def test_errors(convnet, options, error, match):
    fn, x = convnet
    with pytest.raises(error, match=match):
        jaxplain.lrp(fn, x, 0, **options)


def test_form_and_kind_are_checked(convnet):
    fn, x = convnet
    with pytest.raises(ValueError, match="'signed' or 'plain'"):
        Gamma(form="captum")
    with pytest.raises(jaxplain.UnsupportedOperationError, match="no linear operation, which Eps"):
        jaxplain.lrp(fn, x, 0, composite=jaxplain.RuleSet({"add": Epsilon()}))


def _centred_first(v, gamma, beta):
    mean = v.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(v - mean).mean(-1, keepdims=True) + 1e-6)
    return (v - mean) * (inverse * gamma) + beta


def _affine_last(v, gamma, beta):
    mean = v.mean(-1, keepdims=True)
    return (v - mean) / jnp.sqrt(jnp.square(v - mean).mean(-1, keepdims=True) + 1e-6) * gamma + beta


def _one_shift(v, gamma, beta):
    """With the mean within the shift, as Keras has it."""
    mean = v.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(v).mean(-1, keepdims=True) - mean**2 + 1e-6) * gamma
    return v * factor + (beta - mean * factor)


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma", "alpha2_beta1", "flat"])
def test_a_norm_has_its_map_however_it_is_written(name, x64):
    """Whether its scale and shift are operations of their own makes no difference."""
    draw = np.random.default_rng(4).normal
    kernel, weight = draw(size=(3, 3, 3, 6)), draw(size=(6, 5))
    gamma, beta = draw(size=(2, 6))
    x = jnp.asarray(draw(size=(2, 8, 8, 3)))

    def maps(norm):
        def fn(x):
            dims = ("NHWC", "HWIO", "NHWC")
            a = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
            return norm(a.mean((1, 2)), gamma, beta) @ weight

        rules = composite(name, eps=1e-12)
        return np.asarray(jaxplain.lrp(fn, x, 1, composite=rules, layer="input"))

    expected = maps(_centred_first)
    for norm in (_affine_last, _one_shift):
        assert np.abs(maps(norm) - expected).max() < 1e-8 * np.abs(expected).max()
