"""Tracing: networks as others write them, nothing stale, threads, and models in place of `fn`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import threading

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
from jax.experimental import io_callback

import jaxplain
from jaxplain.explainers.catalogue import CATALOGUE

pytestmark = pytest.mark.usefixtures("quick_compile")

X = jnp.asarray(nets.images(3, batch=2, size=6), jnp.float32)


def array(seed, *shape, scale=0.5):
    return jnp.asarray(nets.normal(seed, *shape, scale=scale), jnp.float32)


def features(x, kernel):
    return jax.nn.relu(nets.conv(x, kernel, padding=(1, 1)))


def slope(fn, x=X, target=1):
    """What `jaxplain.gradient` must be at the images: jax's own gradient."""
    return jnp.abs(jax.grad(lambda x: fn(x)[:, target].sum())(x)).max(-1)


def check_gradient(fn, x=X, same_as=None):
    """The map of `fn`; an error unless it is jax's gradient, of ``same_as`` if that is given."""
    found = jaxplain.gradient(fn, x, 1, layer="input")
    assert nets.relative_error(found, slope(same_as or fn, x)) < 1e-5
    return np.asarray(found)


@contextlib.contextmanager
def compilations():
    """A list of what compiles within it."""
    found = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def equations(jaxpr):
    """All equations of a jaxpr and of those within it."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from equations(inner)


def primitives(fn, x=X):
    return [eqn.primitive.name for eqn in equations(jax.make_jaxpr(fn)(x))]


# -- inner jits ------------------------------------------------------------------------------------


def jitted_twice(seed):
    """Functions under jit within functions under jit, each of which closes over its weights."""
    kernel, mixing, head = array(seed, 3, 3, 3, 4), array(seed + 1, 4, 4), array(seed + 2, 4, 3)
    block = jax.jit(lambda h: jax.jit(lambda h: h @ mixing)(features(h, kernel)))
    return jax.jit(lambda x: jax.nn.relu(block(x)).mean((1, 2)) @ head)


def nnx_method(seed):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        @nnx.jit
        def features(self, x):
            return nnx.relu(self.conv(x))

        def __call__(self, x):
            return self.head(self.features(x).mean((1, 2)))

    return Net(nnx.Rngs(seed))


def nnx_closure(seed):
    net, step = nnx_method(seed), nnx.jit(lambda module, x: module(x))
    return lambda x: step(net, x)


def equinox_filter_jit(seed):
    conv = eqx.nn.Conv2d(3, 4, 3, padding=1, key=jax.random.key(seed))
    head = eqx.nn.Linear(4, 3, key=jax.random.key(seed + 1))
    inner = eqx.filter_jit(lambda x: jax.nn.relu(conv(x)).mean((1, 2)))
    return eqx.filter_jit(lambda x: jax.vmap(lambda x: head(inner(x)))(x.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("build", [jitted_twice, nnx_method, nnx_closure, equinox_filter_jit])
def test_weights_of_inner_jits_are_arguments_of_one_program(build):
    first, second = build(10), build(20)
    explain = jaxplain.excitation_backprop
    before, gradient = np.asarray(explain(first, X, 1, layer="input")), check_gradient(first)
    slope(second)
    with compilations() as compiled:
        after = np.asarray(explain(second, X, 1, layer="input"))
        changed = np.asarray(jaxplain.gradient(second, X, 1, layer="input"))
    assert not compiled
    assert nets.relative_error(changed, slope(second)) < 1e-5
    assert not np.allclose(before, after) and not np.allclose(gradient, changed)


# -- effects ---------------------------------------------------------------------------------------


def test_effects_change_no_map_and_happen(capsys):
    kernel, seen, means = array(1, 3, 3, 3, 4), [], []

    def quiet(x):
        return features(x, kernel).mean((1, 2))

    def noisy(x):
        h = features(x, kernel)
        jax.jit(lambda h: jax.debug.print("largest {}", h.max()))(h)
        io_callback(lambda v: means.append(float(v)), None, h.mean(), ordered=True)

        def look(count, row):
            jax.debug.callback(lambda v: seen.append(float(v)), row.sum())
            return count + 1, None

        lax.scan(look, 0, h.mean((1, 2)))
        return h.mean((1, 2))

    h = features(X, kernel)
    for explain in (jaxplain.gradient, jaxplain.excitation_backprop, jaxplain.grad_cam):
        for targets in (1, jnp.array([[0, 1], [2, 3]])):  # two targets: a vmapped backward pass
            seen.clear(), means.clear()
            expected = explain(quiet, X, targets)
            np.testing.assert_allclose(explain(noisy, X, targets), expected, atol=1e-6)
            jax.effects_barrier()
            assert f"largest {float(h.max()):.4f}"[:13] in capsys.readouterr().out
            assert np.allclose(means, [h.mean()], rtol=1e-5)
            assert np.allclose(sorted(seen), np.sort(h.mean((1, 2)).sum(-1)), rtol=1e-5)
    rows = [[row.name for row in jaxplain.layers(fn, X)] for fn in (quiet, noisy)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("callback", [io_callback, jax.pure_callback])
def test_a_callback_whose_result_the_network_needs_is_refused(callback):
    kernel = array(1, 3, 3, 3, 4)

    def fn(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return features(callback(lambda v: 2 * np.asarray(v), shape, x), kernel).mean((1, 2))

    for explain in (jaxplain.gradient, jaxplain.lrp):
        with pytest.raises(jaxplain.UnsupportedOperationError, match="callback.*test_tracing.py"):
            explain(fn, X, 1, layer="input")


# -- modules as they are ---------------------------------------------------------------------------


@dataclasses.dataclass
class Settings:
    width: int
    bounds: list


def test_modules_with_attributes_that_have_no_hash():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.settings = Settings(4, [0.1, 3.0])
            self.names = nnx.data({"scale": 2.0}) if hasattr(nnx, "data") else {"scale": 2.0}
            self.kinds = nnx.static({"act": {"relu"}}) if hasattr(nnx, "static") else {"act": "relu"}
            self.mean = np.asarray([0.2, 0.3, 0.4], np.float32)
            self.conv = nnx.Conv(3, self.settings.width, (3, 3), rngs=rngs)

        def __call__(self, x):
            low, high = self.settings.bounds
            assert "relu" in self.kinds["act"]
            h = self.conv(x - self.mean) * self.names["scale"]
            return jnp.clip(h, low, high).mean((1, 2))

    net = Net(nnx.Rngs(0))
    before = check_gradient(net)
    net.settings.bounds[0] = -3.0
    assert not np.allclose(before, check_gradient(net))
    net.mean = net.mean - 0.5
    model = jaxplain.trace(net, X)
    np.testing.assert_allclose(model(X), net(X), rtol=1e-5)
    assert "conv" in [row.name for row in jaxplain.layers(net, X, all=True)]


@pytest.mark.parametrize("explain", [jaxplain.gradient, jaxplain.excitation_backprop])
def test_keras_augmentation_is_off_and_its_seeds_are_unharmed(explain):
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras was imported with another backend than jax")
    kind = keras.layers
    augment = [kind.RandomTranslation(0.3, 0.3), kind.RandomContrast(0.5), kind.GaussianNoise(0.5)]
    body = [kind.Conv2D(4, 3, activation="relu"), kind.GlobalAveragePooling2D(), kind.Dropout(0.5)]
    head = kind.Dense(3)
    augmented = keras.Sequential([keras.Input((6, 6, 3)), *augment, *body, head])
    plain = keras.Sequential([keras.Input((6, 6, 3)), *body, head])

    def state():
        return [np.asarray(v) for v in augmented.variables]

    before = state()
    assert len(before) > len(plain.variables)  # the seeds are among them
    for fn in (augmented, lambda x: augmented(x), lambda x: augmented(x, training=True)):
        found = explain(fn, X, 1, layer="input")
        assert all(map(np.array_equal, before, state()))
    random = np.asarray(found)
    for fn in (augmented, lambda x: augmented(x, training=False)):
        found, expected = (explain(f, X, 1, layer="input") for f in (fn, plain))
        assert nets.relative_error(found, expected) < 1e-6
        assert not np.allclose(random, found)
    augmented(X, training=True)  # the seeds move on, as they should
    assert not all(map(np.array_equal, before, state()))
    assert augmented.predict(np.asarray(X), verbose=0).shape == (2, 3)


# -- nothing stale ---------------------------------------------------------------------------------

SLOPE = 1.0


class Scaled:
    power = 1.0


def stale_kinds():
    """Networks with a function that changes each: name -> (network, change)."""
    kernel, held = array(1, 3, 3, 3, 4), {"kernel": array(2, 3, 3, 3, 4)}
    host, closed = np.asarray(array(3, 3, 3, 3, 4)), array(4, 3, 3, 3, 4)
    net = nnx_method(3)

    class Net(nnx.Module):
        gain = 1.0

        def __init__(self):
            self.kernel, self.parts = nnx.Param(kernel), Settings(4, [1.0])

        def __call__(self, x):
            h = features(x, self.kernel[...])
            return self.gain * SLOPE * self.parts.bounds[0] * h.mean((1, 2))

    def change_closure():
        nonlocal closed
        closed = array(5, 3, 3, 3, 4)

    def change_in_place():
        net.head.kernel[...] = 2 * net.head.kernel[...]

    modules = [Net(), Net(), Net()]
    return {
        "closure variable": (lambda x: features(x, closed).mean((1, 2)), change_closure),
        "entry of a closed-over dict": (
            lambda x: features(x, held["kernel"]).mean((1, 2)),
            lambda: held.update(kernel=array(6, 3, 3, 3, 4)),
        ),
        "NumPy array in place": (
            lambda x: features(x, jnp.asarray(host)).mean((1, 2)),
            lambda: np.multiply(host, -2, out=host),
        ),
        "class of a closed-over object": (
            lambda x: features(x, kernel).mean((1, 2)) * Scaled.power,
            lambda: setattr(Scaled, "power", 3.0),
        ),
        "global of a module": (modules[0], lambda: globals().update(SLOPE=5.0)),
        "class attribute of a module": (modules[1], lambda: setattr(Net, "gain", 7.0)),
        "list of a module": (modules[2], lambda: modules[2].parts.bounds.__setitem__(0, 9.0)),
        "weights of a module in place": (net, change_in_place),
    }


@pytest.mark.parametrize("name", list(stale_kinds()))
def test_what_changed_is_explained_as_it_is(name):
    fn, change = stale_kinds()[name]
    capture = jaxplain.capture(fn, [])
    before, scores = check_gradient(fn), np.asarray(capture(X)[0])
    model = jaxplain.trace(fn, X)
    change()
    assert not np.allclose(before, check_gradient(fn))
    assert not np.allclose(scores, capture(X)[0])
    np.testing.assert_allclose(model(X), scores, rtol=1e-5)  # a model is what was traced


@pytest.mark.parametrize("build", [nnx_method, jitted_twice])
def test_the_default_precision_is_that_of_the_call(build):
    fn = build(1)

    def precisions(x):
        found = jax.make_jaxpr(lambda x: jaxplain.gradient(fn, x, 1, layer="input"))(x)
        return {str(e.params["precision"]) for e in equations(found) if "precision" in e.params}

    assert precisions(X) == {"None"}
    with jax.default_matmul_precision("float32"):
        assert "HIGHEST" in precisions(X).pop()
    assert precisions(X) == {"None"}


# -- scans and checkpoints -------------------------------------------------------------------------


def test_scans_stay_for_gradients_and_are_opened_for_rules():
    kernels, head = array(1, 5, 3, 3, 3, 3), array(2, 3, 4)

    def step(h, kernel):
        return h + features(h, kernel), None

    def fn(x):
        return lax.scan(step, x, kernels)[0].mean((1, 2)) @ head

    def unrolled(x):
        for kernel in kernels:
            x, _ = step(x, kernel)
        return x.mean((1, 2)) @ head

    check_gradient(fn)
    for explain in (jaxplain.gradient, jaxplain.input_x_gradient, jaxplain.integrated_gradients):
        names = primitives(lambda x, explain=explain: explain(fn, x, 1))
        assert "scan" in names and names.count("conv_general_dilated") < 10
    for explain in (jaxplain.excitation_backprop, jaxplain.guided_backprop, jaxplain.lrp):
        found, expected = (explain(f, X, 1, layer="input") for f in (fn, unrolled))
        assert nets.relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("keep", [None, jax.checkpoint_policies.dots_saveable])
def test_checkpoints_are_kept(keep):
    kernels = array(1, 3, 3, 3, 3, 3)

    def network(wrap):
        def fn(x):
            for kernel in kernels:
                x = wrap(lambda x, kernel=kernel: features(features(x, kernel), kernel))(x)
            return x.mean((1, 2))

        return fn

    def kept(wrap):
        found = jax.make_jaxpr(lambda x: jaxplain.gradient(network(wrap), x, 1))(X)
        return [e.params["policy"] for e in equations(found) if "policy" in e.params]

    def wrap(block):
        return jax.checkpoint(block, policy=keep)

    assert kept(lambda block: block) == [] and kept(wrap) == [keep] * 3
    check_gradient(network(wrap))
    for explain in (jaxplain.excitation_backprop, jaxplain.grad_cam):
        found, plain = (explain(network(w), X, 1) for w in (wrap, lambda block: block))
        assert nets.relative_error(found, plain) < 1e-6


# -- threads ---------------------------------------------------------------------------------------


def test_fifty_threads_with_fifty_networks():
    class Net(nnx.Module):
        def __init__(self, number, rngs):
            self.number = number
            setattr(self, f"stem{number}", nnx.Conv(3, 4, (1, 1), rngs=rngs))
            self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(number % 3)])
            setattr(self, f"head{number}", nnx.Linear(4, 3, rngs=rngs))

        def __call__(self, x):
            h = getattr(self, f"stem{self.number}")(x)
            for block in self.blocks:
                barrier.wait(60) if block is self.blocks[0] and first else None
                h = nnx.relu(block(h))
            return getattr(self, f"head{self.number}")(h.mean((1, 2)))

    networks = [Net(i, nnx.Rngs(i)) for i in range(50)]
    # All of those that have blocks are within their first call at once.
    barrier, first = threading.Barrier(sum(len(n.blocks) > 0 for n in networks)), True
    images = X[:1, :2, :2]

    def explain(net):
        names = [row.name for row in jaxplain.layers(net, images, all=True)]
        return names

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        found = list(pool.map(explain, networks))
    first = False
    for i, names in enumerate(found):
        paths = {f"stem{i}", f"head{i}", *(f"blocks.{k}" for k in range(i % 3))}
        assert paths == {n for n in names if n.startswith(("stem", "head", "blocks."))}
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        maps = list(pool.map(lambda net: jaxplain.gradient(net, images, 1, layer="input"), networks))
    for net, got in zip(networks[:6], maps, strict=False):
        assert nets.relative_error(got, slope(net, images)) < 1e-5


# -- modules called twice --------------------------------------------------------------------------


def shared_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.body = nnx.Sequential(nnx.Conv(3, 3, (3, 3), rngs=rngs), nnx.relu)

        def __call__(self, x):
            return self.body(self.body(x)).mean((1, 2))

    net = Net(nnx.Rngs(0))
    return net, net.body


def shared_linen():
    class Net(linen.Module):
        def setup(self):
            self.body = linen.Conv(3, (3, 3))

        def __call__(self, x):
            return self.body(linen.relu(self.body(x))).mean((1, 2))

    net = Net()
    params = net.init(jax.random.key(0), X)
    own = {"params": params["params"]["body"]}
    return (lambda x: net.apply(params, x)), lambda x: linen.Conv(3, (3, 3)).apply(own, x)


def shared_haiku():
    def forward(x):
        body = hk.Conv2D(3, 3, name="body")
        return body(jax.nn.relu(body(x))).mean((1, 2))

    net = hk.without_apply_rng(hk.transform(forward))
    params = net.init(jax.random.key(0), X)
    alone = hk.without_apply_rng(hk.transform(lambda x: hk.Conv2D(3, 3, name="body")(x)))
    return (lambda x: net.apply(params, x)), lambda x: alone.apply(params, x)


@pytest.mark.parametrize("build", [shared_nnx, shared_linen, shared_haiku])
def test_each_call_of_a_module_is_a_layer(build):
    fn, body = build()
    with pytest.raises(jaxplain.UnknownLayerError, match="'body:0'.*'body:1'"):
        jaxplain.grad_cam(fn, X, 1, layer="body")
    found = jaxplain.capture(fn, ["body:0", "body:1"])(X)[1]
    np.testing.assert_allclose(found["body:0"], body(X), rtol=1e-5, atol=1e-6)
    second = body(jax.nn.relu(body(X)))
    np.testing.assert_allclose(found["body:1"], second, rtol=1e-5, atol=1e-6)


# -- models ----------------------------------------------------------------------------------------


def convnet(seed):
    params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(seed).items()}
    return nets.convnet(params), params


@pytest.fixture(scope="module")
def traced():
    fn, _ = convnet(5)
    x = jnp.asarray(nets.images(8, batch=1), jnp.float32)
    return fn, jaxplain.trace(fn, x), x


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_explainer_takes_a_model(name, traced):
    fn, model, x = traced
    found, expected = (methods.explain(name, f, x, 1) for f in (model, fn))
    leaves = jax.tree.leaves(found)
    assert leaves and jax.tree.structure(found) == jax.tree.structure(expected)
    for got, wanted in zip(leaves, jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_model_is_a_pytree_of_its_weights(traced):
    (fn, params), x = convnet(5), traced[2]
    model = jaxplain.trace(fn, x)
    assert sorted(map(id, jax.tree.leaves(model))) == sorted(map(id, params.values()))
    np.testing.assert_allclose(model(x), fn(x), rtol=1e-5)
    assert jaxplain.trace(model, x) is model
    with pytest.raises(ValueError, match=r"traced at float32\[1, 8, 8, 3\].*float32\[2, 8, 8, 3\]"):
        jaxplain.grad_cam(model, jnp.concatenate([x, x]), 1)


def test_a_jitted_explainer_compiles_once_and_sees_new_weights(traced):
    _, model, x = traced
    targets = jnp.array([1])
    explain = jax.jit(jaxplain.grad_cam)
    before = np.asarray(explain(model, x, targets))
    other, _ = convnet(6)
    expected = np.asarray(jaxplain.grad_cam(other, x, targets))
    changed = jaxplain.trace(other, x)
    with compilations() as compiled:
        after = np.asarray(explain(changed, x, targets))
    assert not compiled and explain._cache_size() == 1
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
