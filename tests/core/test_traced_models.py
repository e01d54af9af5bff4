"""Models in place of `fn`; names of layers where threads and repeated calls could mix them up."""

from __future__ import annotations

import concurrent.futures
import functools
import threading

import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest
from flax import nnx
from tracing import X, compilations, slope

import jaxplain

# -- threads ---------------------------------------------------------------------------------------


def test_fifty_threads_with_fifty_networks():
    class Stem(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (1, 1), rngs=rngs)

        def __call__(self, x):
            if tracing_first:
                together.wait(60)
            return self.conv(x)

    class Net(nnx.Module):
        def __init__(self, number, rngs):
            self.number = number
            setattr(self, f"stem{number}", Stem(rngs))
            self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(number % 3)])
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            h = getattr(self, f"stem{self.number}")(x)
            for block in self.blocks:
                h = nnx.relu(block(h))
            return self.head(h.mean((1, 2)))

    networks = [Net(i, nnx.Rngs(i)) for i in range(50)]
    together, tracing_first = threading.Barrier(50), True  # all are within their stems at once
    images = X[:1, :2, :2]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        tables = list(pool.map(lambda net: jaxplain.layers(net, images), networks))
        tracing_first = False
        explain = functools.partial(jaxplain.gradient, x=images, targets=1, layer="input")
        maps = list(pool.map(explain, networks[::5]))
    for i, table in enumerate(tables):
        names = {row.name for row in table} | {name for row in table for name in row.also}
        expected = {f"stem{i}.conv", *(f"blocks.{k}" for k in range(i % 3))}
        found = {n for n in names if "stem" in n or "block" in n}
        assert found - {f"stem{i}"} == expected
        again = jaxplain.layers(networks[i], images)
        assert [row.name for row in again] == [row.name for row in table]
    for net, found in zip(networks[::5], maps, strict=True):
        assert nets.relative_error(found, slope(net, images)) < 1e-5


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
    with pytest.warns(UserWarning, match=r"called 2 times.*'[\w.]*body:0', '[\w.]*body:1'"):
        bare = jaxplain.capture(fn, ["body"])(X)[1]["body"]
    np.testing.assert_allclose(bare, body(X), rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match="stands for its first call"):
        first = jaxplain.grad_cam(fn, X, 1, layer="body")
    np.testing.assert_array_equal(first, jaxplain.grad_cam(fn, X, 1, layer="body:0"))
    found = jaxplain.capture(fn, ["body:0", "body:1"])(X)[1]
    np.testing.assert_allclose(found["body:0"], body(X), rtol=1e-5, atol=1e-6)
    second = body(jax.nn.relu(body(X)))
    np.testing.assert_allclose(found["body:1"], second, rtol=1e-5, atol=1e-6)


def test_a_module_without_a_scope():
    """Linen's are without where a class's own ``__init__`` sets none of its fields."""

    class Same(linen.Module):
        def __init__(self):
            pass

        def __call__(self, x):
            return x

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Conv(3, (3, 3))(Same()(x)).mean((1, 2))

    net = Net()
    params = net.init(jax.random.key(0), X)
    found = jaxplain.gradient(lambda x: net.apply(params, x), X, 1, reduce=None)
    expected = jax.grad(lambda x: net.apply(params, x)[:, 1].sum())(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- models ----------------------------------------------------------------------------------------


def convnet(seed):
    params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(seed).items()}
    return nets.convnet(params), params


@pytest.fixture(scope="module")
def traced():
    fn, _ = convnet(5)
    x = jnp.asarray(nets.images(8, batch=1), jnp.float32)
    return fn, jaxplain.trace(fn, x), x


@pytest.mark.parametrize("name", methods.OF_ANY_NETWORK)
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
    targets = jnp.array([[0, 1, 2, 3]])
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
