"""Function transformations: they keep values, and compose with what JAX does to functions."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxplain
from jaxplain.rules.composites import composite

COLLECTIVES = re.compile(
    r"\b(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast)"
)

#: Methods whose backward pass has rules of its own.
RULE_METHODS = {
    "mwp": lambda fn, x, t=1: jaxplain.excitation_backprop(fn, x, t, layer="input"),
    "c_mwp": lambda fn, x, t=1: jaxplain.excitation_backprop(
        fn, x, t, layer="input", contrastive=True
    ),
    "torchray": lambda fn, x, t=1: jaxplain.excitation_backprop(
        fn, x, t, layer="input", residual="signed", form="plain", fold_scales=False
    ),
    "d_wta": lambda fn, x, t=1: jaxplain.winner_take_all(fn, x, t, layer="input"),
    "guided": lambda fn, x, t=1: jaxplain.guided_backprop(fn, x, t),
    "deconvnet": lambda fn, x, t=1: jaxplain.deconvnet(fn, x, t),
    "lrp_epsilon_plus": lambda fn, x, t=1: jaxplain.lrp(fn, x, t),
    "lrp_gamma": lambda fn, x, t=1: jaxplain.lrp(fn, x, t, composite="gamma"),
    "lrp_flat": lambda fn, x, t=1: jaxplain.lrp(fn, x, t, composite="epsilon_plus_flat"),
}
METHODS = RULE_METHODS | {
    "gradient": lambda fn, x, t=1: jaxplain.gradient(fn, x, t),
    "integrated_gradients": lambda fn, x, t=1: jaxplain.integrated_gradients(fn, x, t, steps=3),
    "grad_cam": lambda fn, x, t=1: jaxplain.grad_cam(fn, x, t),
    "cam": lambda fn, x, t=1: jaxplain.cam(fn, x, t),
    "layer_cam": lambda fn, x, t=1: jaxplain.layer_cam(fn, x, t),
    "guided_grad_cam": lambda fn, x, t=1: jaxplain.guided_grad_cam(fn, x, t),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_rule_method = pytest.mark.parametrize("method", RULE_METHODS.values(), ids=RULE_METHODS)


def arrays(params, dtype=None):
    return {k: jnp.asarray(v, dtype) for k, v in params.items()}


def images(seed=0, batch=2, dtype=None):
    return jnp.asarray(nets.images(seed, batch=batch), dtype)


def convnet(seed=0, dtype=None):
    return nets.convnet(arrays(nets.convnet_params(seed), dtype))


# ---- an empty rule set --------------------------------------------------------------------------

SPELLINGS = {
    "relu": jax.nn.relu,
    "maximum": lambda v: jnp.maximum(v, 0),
    "where": lambda v: jnp.where(v > 0, v, 0),
    "clip": lambda v: jnp.clip(v, 0),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid_gate": lambda v: v * jax.nn.sigmoid(v.mean((1, 2), keepdims=True)),
    "lrn": lambda v: nets.lrn(v, 5, 1e-2, 0.75, 1.0),
    "softmax": jax.nn.softmax,
    "sort": lambda v: jnp.sort(v, axis=-1),
    "remat": jax.checkpoint(lambda v: jnp.tanh(v) * v),
    "loop": lambda v: lax.fori_loop(0, 3, lambda i, u: jnp.sin(u) + v, v),
}


@pytest.mark.parametrize("activation", SPELLINGS.values(), ids=SPELLINGS)
def test_empty_rule_set_is_vjp(activation):
    """Bit for bit, also where units are exactly 0."""
    p = arrays(nets.convnet_params(3))

    def fn(x):
        h = activation(nets.conv(x, p["conv1"], padding=(1, 1)) + p["bias1"])
        h = activation(nets.max_pool(h, (2, 2), (2, 2)) + nets.conv(h, p["conv2"], (2, 2), (1, 1)))
        return h.mean((1, 2)) @ p["dense"] + p["bias3"]

    def pulled(f):
        def run(x, g):
            y, pull = jax.vjp(f, x)
            return y, pull(g)[0]

        return jax.jit(run)

    x = images(1).at[0].set(0.0)
    g = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), x.dtype)
    got = pulled(jaxplain.with_rules(fn, jaxplain.RuleSet({})))(x, g)
    for mine, theirs in zip(got, pulled(fn)(x, g), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["epsilon_plus", "excitation_backprop"])
def test_rules_keep_values(name):
    fn, x = convnet(), images()
    ruled = jaxplain.with_rules(fn, composite(name))
    np.testing.assert_array_equal(jax.jit(ruled)(x), jax.jit(fn)(x))


# ---- scan ---------------------------------------------------------------------------------------


def blocks(depth=3, channels=6):
    rng = np.random.default_rng(4)
    p = nets.convnet_params(4)
    stacked = {
        "w": jnp.asarray(rng.normal(size=(depth, 3, 3, channels, channels)) / 7),
        "b": jnp.asarray(0.1 * rng.normal(size=(depth, channels))),
    }

    def block(h, q):
        return jax.nn.relu(jax.nn.relu(nets.conv(h, q["w"], padding=(1, 1)) + q["b"]) + h)

    def scanned(h):
        return lax.scan(lambda h, q: (block(h, q), None), h, stacked)[0]

    def unrolled(h):
        for i in range(depth):
            h = block(h, jax.tree.map(lambda v, i=i: v[i], stacked))
        return h

    def net(body):
        def fn(x):
            h = jax.nn.relu(nets.conv(x, jnp.asarray(p["conv1"]), padding=(1, 1)))
            return body(h).mean((1, 2)) @ jnp.asarray(p["dense"])

        return fn

    return net(scanned), net(unrolled)


@every_rule_method
def test_scan_equals_unrolled(x64, method):
    scanned, unrolled = blocks()
    x = images(5)
    assert nets.relative_error(method(scanned, x), method(unrolled, x)) < 1e-10


# ---- jit, vmap, sharding, precision -------------------------------------------------------------


@every_method
def test_inside_jit_and_vmap(x64, method):
    fn, x = convnet(), images(2, batch=4)
    expected = method(fn, x)
    inside = jax.jit(lambda v: method(fn, v))(x)
    assert nets.relative_error(inside, expected) < 1e-10
    mapped = jax.vmap(lambda v: method(fn, v))(x.reshape(2, 2, 8, 8, 3))
    assert nets.relative_error(mapped.reshape(expected.shape), expected) < 1e-10


@pytest.fixture(scope="module")
def mesh():
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    return Mesh(np.array(jax.devices()[:8]), ("batch",))


@every_method
def test_sharded_batch(mesh, fully_compiled, method):
    """Same maps as on one device, and no communication between the devices."""
    fn, x = convnet(), images(6, batch=8)
    expected = method(fn, x, None)
    sharded = jax.device_put(x, NamedSharding(mesh, P("batch")))
    got = method(fn, sharded, None)
    assert nets.relative_error(got, expected) < 2e-5
    text = jax.jit(lambda v: method(fn, v, None)).lower(sharded).compile().as_text()
    assert not COLLECTIVES.findall(text)


def test_inside_shard_map(mesh):
    """Where the zero of a ReLU arrives through pvary."""
    fn, x = convnet(), images(6, batch=8)
    for name in ("mwp", "guided", "lrp_epsilon_plus"):
        one = lambda v, m=RULE_METHODS[name]: m(fn, v)  # noqa: E731
        mapped = jax.shard_map(one, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
        assert nets.relative_error(jax.jit(mapped)(x), one(x)) < 2e-5, name


@every_method
def test_bfloat16(method):
    maps = method(convnet(dtype=jnp.bfloat16), images(7, dtype=jnp.bfloat16))
    assert maps.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(maps, np.float32)).all()


@every_method
def test_finite_on_a_black_image(method):
    """No unit has an excitatory input."""
    assert np.isfinite(method(convnet(), jnp.zeros((2, 8, 8, 3)))).all()


# ---- compiled once, never stale -----------------------------------------------------------------

_compiled: list[str] = []


def _listen(event: str, seconds: float, **_) -> None:
    if event.endswith("backend_compile_duration"):
        _compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


def compilations(call) -> int:
    before = len(_compiled)
    jax.block_until_ready(call())
    return len(_compiled) - before


@every_method
def test_second_call_does_not_compile(method):
    fn = convnet(seed=8)
    first, second = images(8), images(9)
    targets = jnp.asarray([1, 2]), jnp.asarray([0, 3])
    assert compilations(lambda: method(fn, first, targets[0])) > 0, "the listener hears nothing"
    assert compilations(lambda: method(fn, second, targets[1])) == 0


@pytest.mark.parametrize("kind", ["replaced", "numpy, in place"])
@every_rule_method
def test_sees_weights_changed_in_a_closure(method, kind):
    old, new = nets.convnet_params(10), nets.convnet_params(11)
    state = {k: np.float32(v) for k, v in old.items()}
    if kind == "replaced":
        state = arrays(state)
    fn, x = nets.convnet(state), images(10)
    # Awaited: JAX may still be reading the arrays that are changed in place below.
    before = jax.block_until_ready(method(fn, x))
    for key, value in new.items():
        if kind == "replaced":
            state[key] = jnp.asarray(value)
        else:
            state[key][...] = value
    after = []
    assert compilations(lambda: after.append(method(fn, x))) == 0
    expected = method(convnet(11), x)
    assert nets.relative_error(expected, before) > 1e-2, "the weights make no difference"
    assert nets.relative_error(after[0], expected) < 1e-5


def test_sees_weights_changed_in_a_module():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
            self.dense = nnx.Linear(6, 4, rngs=rngs)

        def __call__(self, x):
            return self.dense(nnx.relu(self.conv(x)).mean((1, 2)))

    net, other, x = Net(nnx.Rngs(0)), Net(nnx.Rngs(1)), images(12)
    explain = RULE_METHODS["mwp"]
    before = explain(net, x)
    nnx.update(net, nnx.state(other))
    after = []
    assert compilations(lambda: after.append(explain(net, x))) == 0
    assert nets.relative_error(after[0], explain(other, x)) < 1e-6
    assert nets.relative_error(before, after[0]) > 1e-2


def test_mode_of_a_module_is_not_stale():
    """A module's static attributes are part of the function."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, use_running_average=False, rngs=rngs)
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.dense(jax.nn.relu(self.norm(x)).mean((1, 2)))

    net, x = Net(nnx.Rngs(0)), images(13)
    net.eval()
    evaluated = jaxplain.gradient(net, x, 0, reduce=None)
    expected = jax.grad(lambda v: net(v)[:, 0].sum())(x)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-6)


# ---- differentiating an explanation -------------------------------------------------------------


@pytest.mark.parametrize("contrastive", [False, True], ids=["mwp", "c_mwp"])
@pytest.mark.parametrize("layer", ["pool", "input"])
def test_gradient_of_a_map(x64, layer, contrastive):
    """Of a scalar loss on the map, with respect to every weight, against finite differences."""
    params = arrays(nets.convnet_params(14))
    x = images(14)
    shape = (2, 4, 4, 6) if layer == "pool" else (2, 8, 8, 3)
    coefficients = jnp.asarray(np.random.default_rng(1).normal(size=shape))

    @jax.jit
    def loss(p):
        maps = jaxplain.excitation_backprop(
            nets.convnet(p),
            x,
            jnp.asarray([0, 2]),
            layer=layer,
            channels=True,
            contrastive=contrastive,
        )
        return jnp.sum(coefficients * maps**2)

    slope = jax.grad(loss)(params)
    assert all(np.isfinite(v).all() for v in slope.values())
    rng, h = np.random.default_rng(2), 1e-6
    for name, value in params.items():
        direction = rng.normal(size=value.shape)
        ahead, behind = (loss({**params, name: value + s * h * direction}) for s in (1, -1))
        numeric = float((ahead - behind) / (2 * h))
        exact = float(jnp.sum(slope[name] * direction))
        assert exact == pytest.approx(numeric, rel=1e-5, abs=1e-8 * abs(float(loss(params)))), name


def test_gradient_of_a_map_with_empty_denominators(x64):
    """Units without any excitatory input give no NaN."""
    params = arrays(nets.convnet_params(15))
    params["conv2"] = params["conv2"].at[..., 0].set(-1.0)
    params["bias2"] = params["bias2"].at[0].set(50.0)
    x = images(15)

    def loss(p):
        return jnp.sum(jaxplain.excitation_backprop(nets.convnet(p), x, 1, layer="input") ** 2)

    assert all(np.isfinite(v).all() for v in jax.grad(loss)(params).values())


# ---- what networks are written with --------------------------------------------------------------


def test_softmax_on_top_changes_nothing_but_the_seed(x64):
    """Its shift by the maximum is part of it, and takes no share of the signal."""
    fn, x = convnet(16), images(16)
    signal = jax.nn.one_hot(jnp.asarray([2, 0]), 4, dtype=float)
    expected = jaxplain.excitation_backprop(fn, x, signal, layer="input")
    got = jaxplain.excitation_backprop(lambda v: jax.nn.softmax(fn(v)), x, signal, layer="input")
    assert nets.relative_error(got, expected) < 1e-10


@pytest.mark.parametrize(
    "form",
    [
        lambda h: jnp.stack([h, h], 1).mean(1),
        lambda h: jnp.tile(h, (1, 2, 1, 1)),
        lambda h: jnp.concatenate(jnp.unstack(h[:, None], axis=2), 1),
        lambda h: jnp.roll(h, 1, 2),
    ],
    ids=["stack", "tile", "unstack", "roll"],
)
def test_operations_that_only_move_values_conserve(x64, form):
    def fn(v):
        return form(jax.nn.relu(v)).mean((1, 2)) @ jnp.asarray([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])

    x = images(17)
    maps = jaxplain.excitation_backprop(fn, x, 1, layer="input")
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-10)
    assert not [
        r for r in jaxplain.coverage(fn, x, jaxplain.rules.excitation_rules()) if r.kind == "opaque"
    ]


@pytest.mark.parametrize("axis", [1, 2])
def test_norm_whose_vmap_moves_its_axes(x64, axis):
    """As `flax.nnx.dot_product_attention` has its softmax; the signal passes to the same units."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.nn.relu(jax.random.normal(keys[0], (2, 5, 5, 4)))
    w, head = jax.random.normal(keys[1], (4, 6)), jax.random.normal(keys[2], (6, 3))

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)

    def network(norm, x):
        return norm(jax.nn.relu(x @ w)).mean((1, 2)) @ head

    # Height and width change places, which the mean over both undoes.
    moving = partial(network, jax.vmap(norm, in_axes=axis, out_axes=3 - axis))
    targets = jnp.array([[1, 2], [0, 1]])
    for explain in (partial(jaxplain.excitation_backprop, layer="input"), jaxplain.lrp):
        expected = explain(partial(network, norm), x, targets)
        np.testing.assert_allclose(explain(moving, x, targets), expected, rtol=1e-9, atol=1e-12)
