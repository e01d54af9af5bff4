"""Bad input and unsupported networks: each has its own clear error."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax import lax
from methods import OF_ANY_NETWORK, explain, parameters, takes_several_layers

import jaxplain
from jaxplain.core import UnknownLayerError, UnsupportedOperationError
from jaxplain.explainers.catalogue import CATALOGUE

every = pytest.mark.parametrize("name", OF_ANY_NETWORK)
every_for_a_class = pytest.mark.parametrize(
    "name", [name for name, method in OF_ANY_NETWORK.items() if method.per_class]
)


@pytest.fixture(scope="module")
def fn():
    return nets.convnet({k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(0).items()})


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(nets.images(0), jnp.float32)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_image_that_is_not_finite(name, fn, x, value):
    with pytest.raises(ValueError, match="(?i)finite|nan"):
        explain(name, fn, np.asarray(x.at[1, 2, 3, 0].set(value)), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_on_a_device_are_not_waited_for(fn, x, value):
    """Whether they are finite would only be known once they are computed: the maps show it."""
    maps = jaxplain.input_x_gradient(fn, x.at[1, 2, 3, 0].set(value), 1)
    assert np.isfinite(maps[0]).all() and not np.isfinite(maps[1]).all()


@every
def test_integer_image(name, fn):
    with pytest.raises(TypeError, match="(?i)float"):
        explain(name, fn, jnp.ones((2, 8, 8, 3), jnp.uint8), 1)


@every
def test_image_without_batch(name, fn, x):
    with pytest.raises(ValueError, match=r"(?i)\(B, H, W, C\)|4-D|four"):
        explain(name, fn, x[0], 1)


@every_for_a_class
@pytest.mark.parametrize("target", [4, -1, 1000], ids=str)
def test_class_out_of_range(name, fn, x, target):
    with pytest.raises(ValueError, match=rf"(?s){target}.*4|4.*{target}"):
        explain(name, fn, x, target)


@pytest.mark.parametrize(
    "targets",
    [
        jnp.asarray([0, 4]),
        jnp.asarray([[0, 1], [1, 9]]),
        jnp.asarray([0, 1, 2]),
        jnp.zeros((2, 2, 2), int),
        True,
    ],
    ids=["(B,) out of range", "(B, K) out of range", "wrong batch", "rank 3", "bool"],
)
def test_wrong_targets(fn, x, targets):
    with pytest.raises((ValueError, TypeError), match="(?i)class|target"):
        jaxplain.gradient(fn, x, targets)


@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (4,), (2, 2, 5)], ids=str)
def test_wrong_signal_shape(fn, x, shape):
    """The message says what was given and how many scores there are."""
    with pytest.raises(ValueError, match="(?i)signal|target") as error:
        jaxplain.excitation_backprop(fn, x, jnp.ones(shape))
    assert str(shape) in str(error.value) and "4" in str(error.value)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "layer" in parameters(name)])
def test_unknown_layer(name, fn, x):
    several = [["pool", "poool"]] if takes_several_layers(name) else []
    for layer in ["poool", *several]:
        with pytest.raises(UnknownLayerError, match="(?s)'poool'.*'pool'"):
            explain(name, fn, x, 1, layer=layer)
    assert issubclass(UnknownLayerError, ValueError)


def test_unknown_layer_elsewhere(fn, x):
    for call in (
        lambda: jaxplain.capture(fn, ["poool"])(x),
        lambda: jaxplain.split(fn, "poool", x),
    ):
        with pytest.raises(UnknownLayerError, match="'pool'"):
            call()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mwp", {"residual": "propotional"}),
        ("mwp", {"form": "unsigned"}),
        ("mwp", {"normalise": "half"}),
        ("deconvnet", {"form": "zeilr"}),
        ("c-deconvnet", {"form": "zeilr"}),
        ("integrated-gradients", {"steps": 0}),
        ("smooth-grad", {"noise": -1.0}),
        ("smooth-grad", {"samples": 0}),
        ("rise", {"samples": 0}),
        ("feedback", {"mode": "softly"}),
        ("feedback", {"order": "random"}),
        ("score-cam", {"weighting": "soft"}),
        ("guided-grad-cam", {"resize": "bicubic"}),
        ("full-grad", {"rescale": "image"}),
        ("grad-cam++", {"eps": -1.0}),
        ("relevance-cam", {"composite": "z_pluss"}),
        ("pfv", {"weighting": "mean"}),
        ("lrp", {"composite": "epsilon_pluss"}),
        ("lrp", {"composite": "epsilon_gamma_box"}),
        ("lrp", {"seed": "logit"}),
        *((name, {"reduce": "mean"}) for name in CATALOGUE if "reduce" in parameters(name)),
        *(
            (name, {"class_chunk": 0})
            for name in OF_ANY_NETWORK
            if "class_chunk" in parameters(name)
        ),
        *((name, {"batch_size": 0}) for name in CATALOGUE if "batch_size" in parameters(name)),
        *((name, {"layer": ()}) for name in CATALOGUE if takes_several_layers(name)),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_unknown_option(name, options, fn, x):
    with pytest.raises((ValueError, TypeError)) as error:
        explain(name, fn, x, 1, **options)
    value = next(iter(options.values()))
    if isinstance(value, str) and value != "epsilon_gamma_box":
        assert value in str(error.value), "the message repeats the value"
    assert "\n" not in str(error.value)


def test_scores_of_a_wrong_shape(x):
    for scores in (lambda v: v.sum(), lambda v: v.sum((1, 2, 3)), lambda v: v.sum(1)):
        with pytest.raises(ValueError, match="(?i)scores"):
            jaxplain.gradient(scores, x, 0)


def test_layer_that_the_scores_do_not_need(fn, x):
    """A constant has no layers; the error is not one of JAX's own."""
    with pytest.raises(ValueError):
        jaxplain.excitation_backprop(lambda v: jnp.ones((2, 4)), x, 0)


# ---- operations that rules cannot see through ---------------------------------------------------


@jax.custom_vjp
def foreign(h):
    """Mixes channels and hides a ReLU."""
    return jax.nn.relu(h @ jnp.ones((6, 6), h.dtype))


foreign.defvjp(
    lambda h: (foreign(h), foreign(h) > 0),
    lambda is_open, g: (jnp.where(is_open, g, 0) @ jnp.ones((6, 6), g.dtype),),
)


def _while(h):
    def body(state):
        i, v = state
        return i + 1, jnp.maximum(v, 0) * 0.5

    return lax.while_loop(lambda s: s[0] < s[1].shape[0] + 1, body, (0, h))[1]


def _cond(h):
    return lax.cond(h.sum() > 0, lambda v: jax.nn.relu(v), lambda v: v * v, h)


HIDING = {
    "while": _while,
    "cond": _cond,
    "custom_vjp": foreign,
    "sort": functools.partial(jnp.sort, axis=-1),
}


def _network(hiding):
    w = jnp.asarray(nets.convnet_params(1)["conv1"], jnp.float32)
    dense = jnp.asarray(nets.convnet_params(1)["dense"], jnp.float32)
    return lambda v: hiding(nets.conv(v, w)).mean((1, 2)) @ dense  # the line that errors name


@pytest.mark.parametrize("name", [name for name, method in CATALOGUE.items() if method.opens])
@pytest.mark.parametrize("primitive", HIDING)
def test_unsupported_operation(name, primitive, x):
    """The error names the primitive, the user's line and a remedy."""
    if primitive == "sort" and CATALOGUE[name].opens == "relus":
        pytest.skip("a sort hides no ReLU: its gradient is right")
    with pytest.raises(UnsupportedOperationError, match=primitive) as error:
        # By default a map is of the last layer, which lies behind what hides the ReLU.
        below = {"layer": "input"} if "layer" in parameters(name) else {}
        explain(name, _network(HIDING[primitive]), x, 1, **below)
    message = str(error.value)
    assert "test_errors.py:" in message
    assert len(message) > 60, "where is the remedy?"


@pytest.mark.parametrize("primitive", ["cond", "custom_vjp", "sort"])
def test_gradient_needs_no_rules(primitive, x):
    """The plain gradient goes through whatever JAX can differentiate."""
    network = _network(HIDING[primitive])
    got = jaxplain.gradient(network, x, 0, reduce=None)
    expected = jax.grad(lambda v: network(v)[:, 0].sum())(x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_unsupported_off_the_path(x):
    """An operation that the image does not reach is no obstacle."""
    w = jnp.asarray(nets.convnet_params(1)["conv1"], jnp.float32)

    def network(v):
        return jax.nn.relu(nets.conv(v, jnp.sort(w, axis=-1))).mean((1, 2))

    assert np.isfinite(jaxplain.excitation_backprop(network, x, 0)).all()


def test_split_where_a_shortcut_bypasses(fn, x):
    with pytest.raises(ValueError, match="(?i)bypass|skip|cut|around"):
        jaxplain.split(fn, "mid", x)


def test_override_that_matches_nothing(fn, x):
    from jaxplain.rules.lrp import Epsilon

    rules = jaxplain.RuleSet({"linear": Epsilon()}, overrides={"no_such_layer": Epsilon()})
    with pytest.raises(ValueError, match="no_such_layer"):
        jaxplain.lrp(fn, x, 1, composite=rules)
