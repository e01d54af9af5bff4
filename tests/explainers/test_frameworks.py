"""One network, one set of weights, six ways to write it: the same map from every method.

The network: convolution, batch norm, ReLU, max pool, convolution, residual add, ReLU, global
average pool, dense. Weights and statistics are drawn once, in float64.
"""

from __future__ import annotations

import collections
import functools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is first imported

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxplain
from jaxplain.rules.composites import composite

CHANNELS, CLASSES, EPS = 6, 4, 1e-3
#: Written differently by the frameworks (transposes, reshapes, how a norm or bias is spelt).
SPELLING = {"structural", "scale", "bias"}


def weights() -> dict:
    return nets.convnet_params(7, channels=CHANNELS, classes=CLASSES)


def build_plain(p):
    return nets.convnet({k: jnp.asarray(v) for k, v in p.items()})


def build_nnx(p):
    class Net(nnx.Module):
        def __init__(self, rngs):
            kind = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": rngs}
            self.conv1 = nnx.Conv(3, CHANNELS, (3, 3), **kind)
            self.norm = nnx.BatchNorm(CHANNELS, use_running_average=True, epsilon=EPS, **kind)
            self.conv2 = nnx.Conv(CHANNELS, CHANNELS, (3, 3), **kind)
            self.dense = nnx.Linear(CHANNELS, CLASSES, **kind)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.conv1(x)))
            x = jaxplain.tag(nnx.max_pool(x, (2, 2), strides=(2, 2)), "pool")
            x = nnx.relu(nnx.relu(self.conv2(x)) + x)
            return self.dense(jaxplain.tag(x, "out").mean(axis=(1, 2)))

    net = Net(nnx.Rngs(0))
    for layer, kernel, bias in (
        ("conv1", "conv1", "bias1"),
        ("conv2", "conv2", "bias2"),
        ("dense", "dense", "bias3"),
    ):
        getattr(net, layer).kernel[...] = jnp.asarray(p[kernel])
        getattr(net, layer).bias[...] = jnp.asarray(p[bias])
    net.norm.scale[...], net.norm.bias[...] = jnp.asarray(p["gamma"]), jnp.asarray(p["beta"])
    net.norm.mean = nnx.BatchStat(jnp.asarray(p["mean"]))  # made as float32 whatever the dtype
    net.norm.var = nnx.BatchStat(jnp.asarray(p["var"]))
    return net


def build_linen(p):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            kind = {"dtype": jnp.float64, "param_dtype": jnp.float64}
            x = linen.Conv(CHANNELS, (3, 3), name="conv1", **kind)(x)
            norm = linen.BatchNorm(use_running_average=True, epsilon=EPS, name="norm", **kind)
            x = linen.relu(norm(x))
            x = jaxplain.tag(linen.max_pool(x, (2, 2), strides=(2, 2)), "pool")
            y = linen.relu(linen.Conv(CHANNELS, (3, 3), name="conv2", **kind)(x))
            x = jaxplain.tag(linen.relu(y + x), "out").mean(axis=(1, 2))
            return linen.Dense(CLASSES, name="dense", **kind)(x)

    variables = {
        "params": {
            "conv1": {"kernel": p["conv1"], "bias": p["bias1"]},
            "norm": {"scale": p["gamma"], "bias": p["beta"]},
            "conv2": {"kernel": p["conv2"], "bias": p["bias2"]},
            "dense": {"kernel": p["dense"], "bias": p["bias3"]},
        },
        "batch_stats": {"norm": {"mean": p["mean"], "var": p["var"]}},
    }
    variables = jax.tree.map(jnp.asarray, variables)
    return lambda x: Net().apply(variables, x)


def build_equinox(p):
    class Net(eqx.Module):
        conv1: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        pool: eqx.nn.MaxPool2d
        conv2: eqx.nn.Conv2d
        dense: eqx.nn.Linear

        def __init__(self, key):
            self.conv1 = eqx.nn.Conv2d(3, CHANNELS, 3, padding=1, key=key)
            self.norm = eqx.nn.BatchNorm(CHANNELS, "batch", eps=EPS, mode="batch")
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.conv2 = eqx.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, key=key)
            self.dense = eqx.nn.Linear(CHANNELS, CLASSES, key=key)

        def __call__(self, x, state):  # one image, (C, H, W)
            x, _ = self.norm(self.conv1(x), state, inference=True)
            x = jaxplain.tag(self.pool(jax.nn.relu(x)), "pool")
            x = jax.nn.relu(jax.nn.relu(self.conv2(x)) + x)
            return self.dense(jaxplain.tag(x, "out").mean(axis=(1, 2)))

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    oihw = (3, 2, 0, 1)
    net = eqx.tree_at(
        lambda n: (
            n.conv1.weight,
            n.conv1.bias,
            n.norm.weight,
            n.norm.bias,
            n.conv2.weight,
            n.conv2.bias,
            n.dense.weight,
            n.dense.bias,
        ),
        net,
        tuple(
            map(
                jnp.asarray,
                (
                    p["conv1"].transpose(oihw),
                    p["bias1"][:, None, None],
                    p["gamma"],
                    p["beta"],
                    p["conv2"].transpose(oihw),
                    p["bias2"][:, None, None],
                    p["dense"].T,
                    p["bias3"],
                ),
            )
        ),
    )
    state = state.set(net.norm.batch_state_index, (jnp.asarray(p["mean"]), jnp.asarray(p["var"])))
    net = eqx.nn.inference_mode(net)

    def fn(x):
        one = jax.vmap(net, in_axes=(0, None), out_axes=0, axis_name="batch")
        return one(x.transpose(0, 3, 1, 2), state)

    return fn


def build_haiku(p, order="NHWC"):
    def forward(x, is_training=False):
        last = order == "NHWC"
        x = x if last else x.transpose(0, 3, 1, 2)
        axes, window = ((1, 2), (2, 2, 1)) if last else ((2, 3), (1, 2, 2))
        x = hk.Conv2D(CHANNELS, 3, data_format=order, name="conv1")(x)
        how = {"decay_rate": 0.9, "eps": EPS, "data_format": order}
        x = jax.nn.relu(hk.BatchNorm(True, True, **how, name="norm")(x, is_training))
        x = jaxplain.tag(hk.max_pool(x, window, window, "VALID"), "pool")
        y = jax.nn.relu(hk.Conv2D(CHANNELS, 3, data_format=order, name="conv2")(x))
        x = jaxplain.tag(jax.nn.relu(y + x), "out").mean(axis=axes)
        return hk.Linear(CLASSES, name="dense")(x)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), is_training=True)
    given = {
        "conv1": {"w": p["conv1"], "b": p["bias1"]},
        "norm": {"scale": p["gamma"], "offset": p["beta"]},
        "conv2": {"w": p["conv2"], "b": p["bias2"]},
        "dense": {"w": p["dense"], "b": p["bias3"]},
    }
    params = {
        m: {k: jnp.asarray(given[m][k]).reshape(v.shape) for k, v in leaves.items()}
        for m, leaves in params.items()
    }
    # The moving averages keep their corrected value under "average".
    state = {
        m: {
            k: jnp.asarray(p["mean" if "mean" in m else "var"]).reshape(v.shape)
            if k == "average"
            else v
            for k, v in leaves.items()
        }
        for m, leaves in state.items()
    }
    return lambda x: net.apply(params, state, x)[0]


def build_keras(p, order="channels_last"):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras was imported with another backend than jax")

    kind = {"dtype": keras.dtype_policies.get("float64")}
    spatial = {"data_format": order, **kind}
    last = order == "channels_last"

    def tagged(name):
        def same(shape):
            return shape

        return keras.layers.Lambda(lambda x: jaxplain.tag(x, name), output_shape=same, **kind)

    inputs = keras.Input((8, 8, 3), dtype="float64")
    conv1 = keras.layers.Conv2D(CHANNELS, 3, padding="same", **spatial)
    norm = keras.layers.BatchNormalization(axis=-1 if last else 1, epsilon=EPS, **kind)
    conv2 = keras.layers.Conv2D(CHANNELS, 3, padding="same", **spatial)
    dense = keras.layers.Dense(CLASSES, **kind)
    x = inputs if last else keras.layers.Permute((3, 1, 2), **kind)(inputs)
    x = keras.layers.ReLU(**kind)(norm(conv1(x)))
    x = tagged("pool")(keras.layers.MaxPooling2D(2, **spatial)(x))
    y = keras.layers.Activation("relu", **kind)(conv2(x))
    x = keras.layers.ReLU(**kind)(keras.layers.Add(**kind)([y, x]))
    x = keras.layers.GlobalAveragePooling2D(**spatial)(tagged("out")(x))
    model = keras.Model(inputs, dense(x))
    conv1.set_weights([p["conv1"], p["bias1"]])
    norm.set_weights([p["gamma"], p["beta"], p["mean"], p["var"]])
    conv2.set_weights([p["conv2"], p["bias2"]])
    dense.set_weights([p["dense"], p["bias3"]])
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    return lambda x: model.stateless_call(trained, others, x, training=False)[0]


def build_channels_first(p):
    """The plain network with its channels in front, as those from PyTorch have them."""
    p = {k: jnp.asarray(v) for k, v in p.items()}

    def conv(x, w):
        numbers = ("NCHW", "HWIO", "NCHW")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)

    def per_channel(v):
        return v[:, None, None]

    def fn(x):
        h = conv(x.transpose(0, 3, 1, 2), p["conv1"]) + per_channel(p["bias1"])
        h = (h - per_channel(p["mean"])) / per_channel(jnp.sqrt(p["var"] + EPS))
        h = jax.nn.relu(h * per_channel(p["gamma"]) + per_channel(p["beta"]))
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        pool = jaxplain.tag(h, "pool")
        h = jax.nn.relu(conv(pool, p["conv2"]) + per_channel(p["bias2"]))
        h = jaxplain.tag(jax.nn.relu(h + pool), "out")
        return h.mean((2, 3)) @ p["dense"] + p["bias3"]

    return fn


BUILDERS = {
    "plain": build_plain,
    "channels first": build_channels_first,
    "nnx": build_nnx,
    "linen": build_linen,
    "equinox": build_equinox,
    "haiku": build_haiku,
    "haiku NCHW": functools.partial(build_haiku, order="NCHW"),
    "keras": build_keras,
    "keras channels first": functools.partial(build_keras, order="channels_first"),
}
#: Equinox maps its layers over the images: there the tag is seen with its channels in front too.
CHANNELS_FIRST = ("channels first", "equinox", "haiku NCHW", "keras channels first")
FRAMEWORKS = [name for name in BUILDERS if name != "plain"]

#: Options that reach what a method's own do not.
MORE = {
    "mwp": [
        {"layer": "pool"},
        {"layer": "input", "channels": True},
        {"layer": "pool", "residual": "branch"},
        {"layer": "pool", "residual": "magnitude"},
        {"layer": "pool", "residual": "signed", "form": "plain", "fold_scales": False},
    ],
    "c-mwp": [{"layer": "pool", "channels": True}],
    "d-wta": [{"layer": "pool"}],
    "gradient": [{"layer": "pool", "reduce": None}],
    "deconvnet": [{"form": "springenberg"}],
    "grad-cam": [{"layer": "pool"}],
    "x-grad-cam": [{"layer": "pool"}],
    "layer-cam": [{"layer": "pool"}],
    "hires-cam": [{"layer": "pool"}],
    "pfv": [{"layer": "out", "weight_layers": ["pool"], "weighting": "hierarchical"}],
    "lrp": [{"channels": True}, {"composite": "epsilon_plus_flat"}, {"layer": "pool"}],
}
#: Keras has constants in float32, and a difference of scores is smaller than they are.
LESS_EXACT = {("occlusion", name): 1e-5 for name in ("keras", "keras channels first")}
CALLS = [
    (name, options) for name in methods.OF_ANY_NETWORK for options in ({}, *MORE.get(name, ()))
]


@pytest.fixture(scope="module")
def built():
    """Networks built so far; they are built under x64, by the first test that asks."""
    return {}


@pytest.fixture
def network(x64, built):
    def get(framework: str):
        if framework not in built:
            built[framework] = BUILDERS[framework](weights())
        return built[framework]

    return get


@pytest.fixture
def x(x64):
    return jnp.asarray(nets.images(3))


def explain(name: str, options: dict, fn, x) -> list[np.ndarray]:
    if "layer" in methods.parameters(name) and "layer" not in options:
        # By default some explain several layers, whose names are the framework's.
        annotation = methods.parameters(name)["layer"].annotation
        options = options | ({"layer": ["pool", "out"]} if annotation == "Layers" else {})
    found = methods.explain(name, fn, x, jnp.asarray([1, 3]), **options)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scores(framework, network, x):
    scores = network(framework)(x)
    assert scores.dtype == jnp.float64
    assert nets.relative_error(scores, network("plain")(x)) < 1e-6  # keras has float32 constants


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "options"), CALLS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CALLS)]
)
def test_maps(framework, name, options, network, x, built):
    key = (name, repr(options))
    if key not in built:
        built[key] = explain(name, options, network("plain"), x)
    found = explain(name, options, network(framework), x)
    for maps, expected in zip(found, built[key], strict=True):
        assert np.abs(expected).max() > 0
        assert nets.relative_error(maps, expected) < LESS_EXACT.get((name, framework), 1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_coverage(framework, network, x):
    """The same operations are found and get the same rules, however they are spelt."""

    def counts(fn):
        got = jaxplain.coverage(fn, x, composite("epsilon_plus")).counts
        return {key: n for key, n in got.items() if key[0] not in SPELLING}

    expected = counts(network("plain"))
    # Two convolutions, the mean and the dense layer; three ReLUs; one pool; one addition.
    totals = collections.Counter()
    for (kind, _), n in expected.items():
        totals[kind] += n
    assert totals == {"linear": 4, "activation": 3, "max_pool": 1, "add": 1}
    assert counts(network(framework)) == expected


def test_layer_names(network, x):
    """Tags are seen in every framework, with the shape that they have there."""
    for framework in BUILDERS:
        table = {entry.name: entry.shape for entry in jaxplain.layers(network(framework), x)}
        if framework in CHANNELS_FIRST:
            assert table["pool"] == table["out"] == (2, CHANNELS, 4, 4), framework
        else:
            assert table["pool"] == table["out"] == (2, 4, 4, CHANNELS), framework
