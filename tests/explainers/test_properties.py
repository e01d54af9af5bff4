"""What must hold for every network and image: conservation, linearity, completeness, independence.

Shapes are fixed and the networks read their weights from one dict, so that an example is a draw of
numbers and does not compile.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxplain
from jaxplain.rules.composites import composite, lrp_rules
from jaxplain.rules.lrp import Epsilon, Norm

SEEDS = st.integers(0, 2**31 - 1)
examples = settings(
    max_examples=8,
    deadline=None,
    # The x64 fixture is the same for all examples of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Network:
    """A function whose weights can be redrawn."""

    def __init__(self, build):
        self.params: dict = {}
        self.fn = build(self.params)

    def set(self, params):
        self.params.update({k: jnp.asarray(v) for k, v in params.items()})
        return self.fn


CONVNET = Network(nets.convnet)


def draw(seed: int, *, bias: float = 0.1, leaky: bool = False, batch: int = 2):
    """Weights and images; with `leaky`, filter 0 of conv2 is alive by its bias alone."""
    params = nets.convnet_params(seed, bias=bias)
    if leaky:
        params["conv2"][..., 0] = -np.abs(params["conv2"][..., 0])
        params["bias2"][0] = 9.0
        params["dense"][0, 2] = 1.0  # the signal of class 2 reaches it
        params["dense"][:, 0] = -np.abs(params["dense"][:, 0])  # class 0 has no excitatory input
    return params, jnp.asarray(nets.images(seed + 1, batch=batch))


def mwp(fn, x, targets, layer, **options):
    return jaxplain.excitation_backprop(fn, x, targets, layer=layer, channels=True, **options)


def total(maps) -> np.ndarray:
    return np.asarray(maps).sum(tuple(range(1, np.ndim(maps))))


def starved(signal, denominator) -> np.ndarray:
    """The signal that arrives at units without any excitatory input."""
    return total(np.where(np.asarray(denominator) == 0, signal, 0.0))


# ---- Excitation Backprop ------------------------------------------------------------------------


@examples
@given(SEEDS, st.booleans(), st.booleans())
def test_conservation(x64, seed, leaky, prior):
    """Layer by layer the signal is what it was, less what units with a zero denominator absorb."""
    params, x = draw(seed, leaky=leaky)
    fn = CONVNET.set(params)
    signal = np.random.default_rng(seed).dirichlet(np.ones(4), 2) if prior else np.eye(4)[[0, 2]]
    maps = mwp(fn, x, jnp.asarray(signal), nets.CONVNET_LAYERS)
    _, acts = jaxplain.capture(fn, [n for n in nets.CONVNET_LAYERS if n != "input"])(x)
    positive = {k: jnp.maximum(jnp.asarray(params[k]), 0) for k in ("conv2", "dense")}
    scale = params["gamma"] / np.sqrt(params["var"] + 1e-3)  # decides what excites, with its sign
    first = jnp.maximum(jnp.asarray(params["conv1"] * scale), 0)
    lost = {
        "dense": starved(signal, acts["gap"] @ positive["dense"]),
        "add": starved(maps["sum"], np.abs(acts["mid"]) + np.abs(acts["pool"])),
        "conv2": starved(maps["mid"], nets.conv(acts["pool"], positive["conv2"], (1, 1), (1, 1))),
        "conv1": starved(maps["act1"], nets.conv(x, first, (1, 1), (1, 1))),
    }
    amount = {name: total(m) for name, m in maps.items()}
    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(amount["gap"] + lost["dense"], 1, **close)
    np.testing.assert_allclose(amount["out"], amount["gap"], **close)
    np.testing.assert_allclose(amount["sum"], amount["out"], **close)
    np.testing.assert_allclose(amount["pool"] + lost["add"] + lost["conv2"], amount["sum"], **close)
    np.testing.assert_allclose(amount["act1"], amount["pool"], **close)
    np.testing.assert_allclose(amount["input"] + lost["conv1"], amount["act1"], **close)
    assert all((np.asarray(m) >= 0).all() for m in maps.values())
    if leaky:
        assert lost["conv2"].max() > 0
        if not prior:
            assert lost["dense"][0] == 1


SEQUENTIAL = [
    {
        "name": "conv1",
        "op": "conv",
        "inputs": ["input"],
        "stride": [1, 1],
        "padding": [1, 1],
        "bias": True,
    },
    {"name": "relu1", "op": "relu", "inputs": ["conv1"]},
    {
        "name": "pool1",
        "op": "max_pool",
        "inputs": ["relu1"],
        "kernel": [3, 3],
        "stride": [2, 2],
        "padding": [0, 0],
        "ceil_mode": True,
    },
    {
        "name": "lrn",
        "op": "lrn",
        "inputs": ["pool1"],
        "size": 3,
        "alpha": 0.5,
        "beta": 0.75,
        "k": 1.0,
    },
    {
        "name": "conv2",
        "op": "conv",
        "inputs": ["lrn"],
        "stride": [2, 2],
        "padding": [1, 1],
        "bias": True,
    },
    {"name": "relu2", "op": "relu", "inputs": ["conv2"]},
    {"name": "flatten", "op": "flatten", "inputs": ["relu2"]},
    {"name": "fc1", "op": "fc", "inputs": ["flatten"]},
    {"name": "relu3", "op": "relu", "inputs": ["fc1"]},
    {"name": "fc2", "op": "fc", "inputs": ["relu3"]},
]


class _Sequential(Network):
    def __init__(self):
        self.params = {}
        # `from_ops` sorts its parameters when it is called: call it late.
        self.fn = lambda x: nets.from_ops(SEQUENTIAL, self.params)(x)


CHAIN = _Sequential()


@examples
@given(SEEDS)
def test_conservation_in_a_chain(x64, seed):
    """Convolutions, LRN, a ceil-mode pool, flatten and dense layers, at every op's output."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (3, 3, 3, 5), "conv2": (3, 3, 5, 6), "fc1": (24, 10), "fc2": (10, 3)}
    params = {}
    for name, shape in shapes.items():
        params[f"{name}/weight"] = rng.normal(size=shape)
        params[f"{name}/bias"] = rng.normal(size=shape[-1])
    fn, x = CHAIN.set(params), jnp.asarray(nets.images(seed))
    names = [o["name"] for o in SEQUENTIAL]
    maps = mwp(fn, x, 1, [*names[:-1], "input"])
    maps["fc2"] = np.eye(3)[[1, 1]]
    _, acts = jaxplain.capture(fn, names)(x)
    acts["input"] = x
    for o in SEQUENTIAL:
        (below,) = o["inputs"]
        lost = 0.0
        if o["op"] in ("conv", "fc"):
            w = jnp.maximum(jnp.asarray(params[f"{o['name']}/weight"]), 0)
            z = (
                acts[below] @ w
                if o["op"] == "fc"
                else nets.conv(acts[below], w, o["stride"], o["padding"])
            )
            lost = starved(maps[o["name"]], z)
        np.testing.assert_allclose(
            total(maps[below]) + lost,
            total(maps[o["name"]]),
            rtol=1e-10,
            atol=1e-12,
            err_msg=o["name"],
        )


@examples
@given(SEEDS, st.booleans())
def test_linear_in_the_signal(x64, seed, contrastive):
    """A mix of classes has the mix of their maps."""
    params, x = draw(seed)
    fn = CONVNET.set(params)
    mix = np.random.default_rng(seed).normal(size=(2, 4))  # of any sign
    each = mwp(fn, x, jnp.tile(jnp.arange(4), (2, 1)), "pool", contrastive=contrastive)
    mixed = mwp(fn, x, jnp.asarray(mix), "pool", contrastive=contrastive)
    assert nets.relative_error(mixed, jnp.einsum("bk,bkhwc->bhwc", mix, each)) < 1e-10


DENSE = Network(
    lambda p: lambda x: nets.mlp([p["w1"], p["w2"], p["w3"]], [p["b1"], p["b2"], p["b3"]])(x)
)


@examples
@given(SEEDS)
def test_markov_chain(x64, seed):
    """Marginal winning probabilities are expected visits of an absorbing chain, (I - Q)^-1."""
    rng = np.random.default_rng(seed)
    sizes = (5, 4, 4, 3)  # input, hidden1, hidden2, output
    params = {f"w{i}": rng.normal(size=sizes[i - 1 : i + 1]) for i in (1, 2, 3)}
    params |= {f"b{i}": 0.3 * rng.normal(size=sizes[i]) for i in (1, 2, 3)}
    fn, a0 = DENSE.set(params), rng.uniform(size=5)
    a1 = np.maximum(a0 @ params["w1"] + params["b1"], 0)
    a2 = np.maximum(a1 @ params["w2"] + params["b2"], 0)
    # States: outputs, hidden2, hidden1 (transient), inputs (absorbing).
    start = np.cumsum([0, 3, 4, 4, 5])
    step = np.zeros((16, 16))
    for i, (w, a) in enumerate(((params["w3"], a2), (params["w2"], a1), (params["w1"], a0))):
        share = a[:, None] * np.maximum(w, 0)
        z = share.sum(0)
        share = np.divide(share, z, out=np.zeros_like(share), where=z > 0)
        step[start[i] : start[i + 1], start[i + 1] : start[i + 2]] = share.T
    visits = np.linalg.inv(np.eye(11) - step[:11, :11])
    inputs = visits @ step[:11, 11:]
    maps = mwp(
        fn, jnp.asarray(a0)[None, None, None], jnp.arange(3)[None], ["hidden2", "hidden1", "input"]
    )
    np.testing.assert_allclose(maps["hidden2"][0], visits[:3, 3:7], atol=1e-12)
    np.testing.assert_allclose(maps["hidden1"][0], visits[:3, 7:11], atol=1e-12)
    np.testing.assert_allclose(maps["input"][0, :, 0, 0], inputs[:3], atol=1e-12)


@examples
@given(SEEDS)
def test_contrastive_map_and_cam(x64, seed):
    """Zhang et al. 2018, section 4.1: Eq. 13, and proportional to CAM where Z+ = Z-."""
    params, x = draw(seed, batch=1)
    _, acts = jaxplain.capture(CONVNET.set(params), ["out", "gap"])(x)
    gap, out = np.asarray(acts["gap"][0]), np.asarray(acts["out"][0])
    w = params["dense"][:, 2]
    if not ((w > 0) & (gap > 0)).any() or not ((w < 0) & (gap > 0)).any():
        return  # class 2 has no contrast for this draw

    def c_mwp(fn):
        return np.asarray(mwp(fn, x, 2, "out", contrastive=True))[0].sum(-1)

    def z(part):  # Eqs. 14 and 15
        return 1 / (out.shape[0] * out.shape[1] * (part @ gap))

    up, down = np.maximum(w, 0), np.maximum(-w, 0)
    expected = z(up) * (out @ up) - z(down) * (out @ down)
    np.testing.assert_allclose(c_mwp(CONVNET.fn), expected, atol=1e-10 * np.abs(expected).max())
    # Balance the class's weights so that Z+ = Z-.
    params["dense"][:, 2] = up * (down @ gap) / (up @ gap) - down
    fn = CONVNET.set(params)
    cam = np.asarray(jaxplain.cam(fn, x, 2))[0]
    np.testing.assert_allclose(c_mwp(fn), z(down) * cam, atol=1e-10 * np.abs(expected).max())


@examples
@given(SEEDS)
def test_contrastive_map_is_truncated(x64, seed):
    """The map without channels is the positive part of the sum over them."""
    params, x = draw(seed)
    fn = CONVNET.set(params)
    each = mwp(fn, x, 1, "pool", contrastive=True)
    summed = jaxplain.excitation_backprop(fn, x, 1, layer="pool", contrastive=True)
    np.testing.assert_allclose(summed, np.maximum(np.asarray(each).sum(-1), 0), atol=1e-12)


# ---- independence -------------------------------------------------------------------------------

INDEPENDENT = {
    "mwp": lambda fn, x, t, **o: jaxplain.excitation_backprop(fn, x, t, layer="pool", **o),
    "c_mwp": lambda fn, x, t, **o: jaxplain.excitation_backprop(
        fn, x, t, layer="pool", contrastive=True, **o
    ),
    "gradient": lambda fn, x, t, **o: jaxplain.gradient(fn, x, t, **o),
    "guided_backprop": lambda fn, x, t, **o: jaxplain.guided_backprop(fn, x, t, **o),
    "integrated_gradients": lambda fn, x, t, **o: jaxplain.integrated_gradients(
        fn, x, t, steps=3, **o
    ),
    "grad_cam": lambda fn, x, t, **o: jaxplain.grad_cam(fn, x, t, layer="pool", **o),
    "grad_cam_plus_plus": lambda fn, x, t, **o: jaxplain.grad_cam_plus_plus(
        fn, x, t, layer="pool", **o
    ),
    "lrp": lambda fn, x, t, **o: jaxplain.lrp(fn, x, t, **o),
    "d_wta": lambda fn, x, t, **o: jaxplain.winner_take_all(fn, x, t, layer="pool", **o),
}


@pytest.mark.parametrize("method", INDEPENDENT.values(), ids=INDEPENDENT)
def test_batch_neighbours(x64, method):
    """An image's map does not depend on the other images of the batch."""
    params, x = draw(21, batch=3)
    _, others = draw(22, batch=3)
    fn, targets = CONVNET.set(params), jnp.asarray([0, 3, 1])
    together = np.asarray(method(fn, x, targets))
    changed = np.asarray(method(fn, others.at[1].set(x[1]), targets))
    np.testing.assert_allclose(changed[1], together[1], rtol=1e-9, atol=1e-12)
    turned = np.asarray(method(fn, x[::-1], targets[::-1]))
    np.testing.assert_allclose(turned[::-1], together, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", INDEPENDENT.values(), ids=INDEPENDENT)
def test_classes(x64, method):
    """K classes at once, in chunks or not, are K classes one by one, in any order."""
    params, x = draw(23)
    fn, order = CONVNET.set(params), [2, 0, 3]
    targets = jnp.tile(jnp.asarray(order), (2, 1))
    together = np.asarray(method(fn, x, targets))
    chunked = np.asarray(method(fn, x, targets, class_chunk=2))
    np.testing.assert_allclose(chunked, together, rtol=1e-9, atol=1e-12)
    for k, label in enumerate(order):
        alone = np.asarray(method(fn, x, label))
        np.testing.assert_allclose(together[:, k], alone, rtol=1e-9, atol=1e-12)
    one_hot = jnp.asarray(np.eye(4)[[2, 2]])
    np.testing.assert_allclose(method(fn, x, one_hot), together[:, 0], rtol=1e-9, atol=1e-12)
    top = jnp.argmax(fn(x), axis=-1)
    np.testing.assert_allclose(method(fn, x, None), method(fn, x, top), rtol=1e-9, atol=1e-12)


# ---- integrated gradients and LRP ---------------------------------------------------------------


def _smooth(p):
    def fn(x):
        h = jax.nn.softplus(nets.conv(x, p["conv1"], padding=(1, 1)) + p["bias1"])
        h = jnp.tanh(nets.conv(h, p["conv2"], padding=(1, 1)) + p["bias2"])
        return h.mean((1, 2)) @ p["dense"] + p["bias3"]

    return fn


SMOOTH = Network(_smooth)


@examples
@given(SEEDS)
def test_integrated_gradients_are_complete(x64, seed):
    """The map adds up to the score's difference from the baseline."""
    params, x = draw(seed)
    fn = SMOOTH.set({k: params[k] for k in ("conv1", "bias1", "conv2", "bias2", "dense", "bias3")})
    baseline = 0.25
    maps = jaxplain.integrated_gradients(fn, x, 1, baseline=baseline, steps=32)
    difference = np.asarray(fn(x) - fn(jnp.full_like(x, baseline)))[:, 1]
    np.testing.assert_allclose(total(maps), difference, rtol=1e-8, atol=1e-10)


LRP_RULES = {
    "epsilon": composite("epsilon", bias=False, eps=1e-12),
    "z_plus": composite("z_plus", bias=False, eps=1e-12),
    "gamma": composite("gamma", bias=False, eps=1e-12),
    "alpha2_beta1": composite("alpha2_beta1", bias=False, eps=1e-12),
    "epsilon_plus": composite("epsilon_plus", bias=False, eps=1e-12),
    "epsilon_plus_flat": composite("epsilon_plus_flat", bias=False, eps=1e-12),
    "epsilon_gamma_box": composite("epsilon_gamma_box", bias=False, eps=1e-12, box=(0, 1)),
    "norm_pools": lrp_rules(Epsilon(eps=1e-12, bias=False), max_pool=Norm(eps=1e-12), eps=1e-12),
}


def _no_bias(p):
    """All activations are above 0 and every unit has weights of both signs: none of its two
    denominators is empty, so that no relevance is lost there."""

    def fn(x):
        h = jax.nn.softplus(nets.conv(x, p["conv1"], padding=(1, 1)))
        h = nets.max_pool(h, (2, 2), (2, 2))
        h = jax.nn.softplus(nets.conv(h, p["conv2"], padding=(1, 1)) + h)
        return h.mean((1, 2)) @ p["dense"]

    return fn


NO_BIAS = Network(_no_bias)


@pytest.mark.parametrize("rules", LRP_RULES.values(), ids=LRP_RULES)
@settings(examples, max_examples=12)
@given(SEEDS)
def test_lrp_conserves(x64, rules, seed):
    """Without biases and as epsilon goes to 0, relevance adds up to the score."""
    params, x = draw(seed, bias=0.0)
    # Mixed signs for certain: one excitatory and one inhibitory weight into every unit.
    for key in ("conv1", "conv2", "dense"):
        params[key][..., 0, :] = np.abs(params[key][..., 0, :]) + 0.1
        params[key][..., 1, :] = -np.abs(params[key][..., 1, :]) - 0.1
    fn = NO_BIAS.set({k: params[k] for k in ("conv1", "conv2", "dense")})
    maps = jaxplain.lrp(fn, x, 1, composite=rules)
    score = np.asarray(fn(x))[:, 1]
    np.testing.assert_allclose(total(maps), score, rtol=1e-6)


@examples
@given(SEEDS)
def test_excitation_backprop_is_lrp_alpha1_beta0(x64, seed):
    """Without bias, and where no branch of an addition is negative."""
    params, x = draw(seed)
    fn = CONVNET.set(params)
    rules = composite("z_plus", bias=False, eps=1e-13)
    relevance = jaxplain.lrp(fn, x, 1, composite=rules, seed="one", layer="input", channels=True)
    assert nets.relative_error(relevance, mwp(fn, x, 1, "input")) < 1e-7
