"""Tracing of networks as others write them; what changed is explained as it is."""

from __future__ import annotations

import dataclasses
import functools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is first imported

import equinox as eqx
import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental import io_callback
from tracing import X, array, check_gradient, compilations, features, program, slope

import jaxplain

# -- inner jits ------------------------------------------------------------------------------------


def jitted_twice(seed):
    """Functions under jit within functions under jit, each of which closes over its weights."""
    kernel, mixing, head = array(seed, 3, 3, 3, 4), array(seed + 1, 4, 4), array(seed + 2, 4, 3)
    block = jax.jit(lambda h: jax.jit(lambda h: h @ mixing)(features(h, kernel)))
    return jax.jit(lambda x: jax.nn.relu(block(x)).mean((1, 2)) @ head)


def method_under_nnx_jit(seed):
    """Within jax.grad Flax refuses such a network: ``alone`` is the same one without the jit."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        @nnx.jit
        def features(self, x):
            return nnx.relu(self.conv(x))

        def __call__(self, x):
            return self.head(self.features(x).mean((1, 2)))

        def alone(self, x):
            return self.head(nnx.relu(self.conv(x)).mean((1, 2)))

    return Net(nnx.Rngs(seed))


def equinox_filter_jit(seed):
    conv = eqx.nn.Conv2d(3, 4, 3, padding=1, key=jax.random.key(seed))
    head = eqx.nn.Linear(4, 3, key=jax.random.key(seed + 1))
    inner = eqx.filter_jit(lambda x: jax.nn.relu(conv(x)).mean((1, 2)))
    return eqx.filter_jit(lambda x: jax.vmap(lambda x: head(inner(x)))(x.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("build", [jitted_twice, method_under_nnx_jit, equinox_filter_jit])
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


class _Same(nnx.Module):
    def __call__(self, x):
        return x


def _called(module, x):
    return module(x)


@pytest.mark.parametrize(
    "spell",
    [
        lambda net: net.alone,
        lambda net: net.__call__,
        lambda net: functools.partial(nnx.jit(_called), net),
        lambda net: functools.partial(nnx.remat(lambda x, module: module(x)), module=net),
        lambda net: functools.partial(functools.partial(lambda a, b, x: b(a(x)), _Same()), net),
    ],
)
def test_modules_whose_methods_and_partials_are_networks(spell):
    net = method_under_nnx_jit(3)
    fn = spell(net)
    for explain in (jaxplain.gradient, jaxplain.excitation_backprop, jaxplain.grad_cam):
        assert np.array_equal(explain(fn, X, 1), explain(net, X, 1))
    assert {"conv", "head"} <= {row.name for row in jaxplain.layers(fn, X, all=True)}
    np.testing.assert_allclose(net(X), net.alone(X), rtol=1e-5)


def test_a_function_that_changes_a_module_around_it_is_refused():
    class Counting(nnx.Module):
        def __init__(self):
            self.calls = nnx.BatchStat(jnp.zeros(()))

        def __call__(self, x):
            self.calls.set_value(self.calls.get_value() + 1)
            return x.mean((1, 2))

    net = Counting()
    with pytest.raises(jaxplain.UnsupportedOperationError, match="pass the module itself"):
        jaxplain.gradient(lambda x: net(x), X, 1)
    jaxplain.gradient(net, X, 1)
    assert float(net.calls.get_value()) == 0


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
            self.kinds = (
                nnx.static({"act": {"relu"}}) if hasattr(nnx, "static") else {"act": "relu"}
            )
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
    assert "conv" in [row.name for row in jaxplain.layers(net, X)]


def test_keras_augmentation_is_off_and_its_seeds_are_unharmed():
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
    for explain in (jaxplain.gradient, jaxplain.excitation_backprop):
        expected = explain(plain, X, 1, layer="input")
        for fn in (augmented, lambda x: augmented(x, training=False)):
            assert nets.relative_error(explain(fn, X, 1, layer="input"), expected) < 1e-6
    random = jaxplain.gradient(lambda x: augmented(x, training=True), X, 1, layer="input")
    assert not np.allclose(random, slope(lambda x: plain(x)))
    assert all(map(np.array_equal, before, state()))
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
    host, closed = np.array(array(3, 3, 3, 3, 4)), array(4, 3, 3, 3, 4)

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
        modules[3].kernel[...] = array(7, 3, 3, 3, 4)

    modules = [Net() for _ in range(4)]
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
        "weights of a module in place": (modules[3], change_in_place),
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


@pytest.mark.parametrize("build", [method_under_nnx_jit, jitted_twice])
def test_the_default_precision_is_that_of_the_call(build):
    fn = build(1)

    def precisions():
        found = program(lambda x: jaxplain.gradient(fn, x, 1, layer="input"))
        return {str(e.params["precision"]) for e in found if "precision" in e.params}

    assert precisions() == {"None"}
    with jax.default_matmul_precision("float32"):
        assert "HIGHEST" in precisions().pop()
    assert precisions() == {"None"}


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
        found = program(lambda x, explain=explain: explain(fn, x, 1))
        names = [eqn.primitive.name for eqn in found]
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
        found = program(lambda x: jaxplain.gradient(network(wrap), x, 1))
        return [e.params["policy"] for e in found if "policy" in e.params]

    def wrap(block):
        return jax.checkpoint(block, policy=keep)

    assert kept(lambda block: block) == [] and kept(wrap) == [keep] * 3
    check_gradient(network(wrap))
    for explain in (jaxplain.excitation_backprop, jaxplain.grad_cam):
        found, plain = (explain(network(w), X, 1) for w in (wrap, lambda block: block))
        assert nets.relative_error(found, plain) < 1e-6
