"""An identity between any two operations of a network changes no map of any method."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import methods
import nets
import numpy as np
import pytest
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxplain
from jaxplain.explainers.catalogue import METHODS

#: In double precision the maps of the network with and without identities are equal to this.
CLOSE = 1e-9


@jax.custom_jvp
def _own_derivative(v):
    return v


_own_derivative.defjvp(lambda primals, tangents: (primals[0], tangents[0]))


@jax.custom_vjp
def _own_pullback(v):
    return v


_own_pullback.defvjp(lambda v: (v, None), lambda _, g: (g,))


def _two_barriers(v):
    return lax.optimization_barrier((v, v.sum()))[0]


def _there_and_back(v):
    order = (*range(1, v.ndim), 0)
    return v.transpose(order).transpose(tuple(np.argsort(order)))


def _sharded(v):
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    return lax.with_sharding_constraint(v, NamedSharding(mesh, P("batch")))


IDENTITIES = {
    "tag": lambda v: jaxplain.tag(v, "here"),
    "copy": jnp.copy,
    "wider": lambda v: v.astype(jnp.float64).astype(v.dtype),
    "reduce_precision": lambda v: lax.reduce_precision(v, 11, 52),
    "barrier": lax.optimization_barrier,
    "barrier of two": _two_barriers,
    "sharding": _sharded,
    "device_put": jax.device_put,
    "layout": lambda v: with_layout_constraint(v, Layout(tuple(range(v.ndim)))),
    "reshape": lambda v: v.reshape(v.size).reshape(v.shape),
    "expand and squeeze": lambda v: v[..., None, None].squeeze((-1, -2)),
    "transposes": _there_and_back,
    "times one": lambda v: v * 1,
    "one times": lambda v: jnp.ones_like(v) * v,
    "plus zero": lambda v: 0 + v,
    "minus zero": lambda v: v - jnp.zeros(()),
    "by one": lambda v: v / 1,
    "checkpoint": jax.checkpoint(lambda v: v * 1),
    "jit": jax.jit(lambda v: v),
    "custom_jvp": _own_derivative,
    "custom_vjp": _own_pullback,
    "slice": lambda v: lax.slice(v, (0,) * v.ndim, v.shape),
    "concatenate": lambda v: lax.concatenate([v], 0),
    "pad": lambda v: lax.pad(v, jnp.zeros((), v.dtype), [(0, 0, 0)] * v.ndim),
}
EVERY = functools.reduce(lambda f, g: lambda v: g(f(v)), IDENTITIES.values())


@functools.cache
def network(which):
    """Convolutions with batch norm, one before its layer, pools, additions, a gate; ``which`` at
    every joint, between the steps of a batch norm too."""
    p = {k: jnp.asarray(v) for k, v in nets.convnet_params(3).items()}
    rng = np.random.default_rng(0)
    mean, scale, shift = (jnp.asarray(rng.normal(size=6)) for _ in range(3))
    second = jnp.asarray(rng.normal(size=(6, 6)) / 3)

    def norm(v):
        return which(which(which(v - mean) * scale) + shift)

    def net(x):
        h = which(jax.nn.relu(norm(which(nets.conv(which(x), p["conv1"], padding=(1, 1))))))
        h = which(nets.max_pool(h, (2, 2), (2, 2)))
        branch = which(nets.conv(which(jax.nn.relu(norm(h))), p["conv2"], padding=(1, 1)))
        h = which(which(branch + p["bias2"]) + h)
        gate = which(jax.nn.sigmoid(which(which(h.mean((1, 2), keepdims=True)) @ second)))
        h = which(jax.nn.relu(which(h * gate)))
        pooled = which(lax.reduce_window(h, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9)
        h = jaxplain.tag(which(pooled + h), "last")
        return which(which(which(h.mean((1, 2))) @ p["dense"]) + p["bias3"])

    return net


#: Methods that need a network without gates or without batch norms before their layer.
PLAIN = {"cam", "naflow"}


def call(method, options, fn, x):
    return getattr(jaxplain, method)(fn, x, jnp.asarray([1, 3]), **options)


def options_of(name):
    entry = METHODS[name]
    options = dict(entry.options) | ({"layer": "last"} if entry.at_layer else {})
    if entry.random:
        options["key"] = jax.random.key(0)
    small = {"smooth-grad": {"samples": 2}, "integrated-gradients": {"steps": 2}}
    small |= {"rise": {"samples": 4}, "occlusion": {"window": 4, "stride": 4}}
    small |= methods.NOT_EMPTY
    if name in ("cam", "c-cam"):
        options["layer"] = "last"
    return entry.function, options | small.get(name, {})


@pytest.mark.parametrize("name", [name for name in METHODS if name in methods.OF_ANY_NETWORK])
def test_every_identity_at_every_joint(x64, name):
    """All of them together, for every method of the catalogue."""
    method, options = options_of(name)
    x = jnp.asarray(nets.images(4, batch=2))
    want = call(method, options, network(lambda v: v), x)
    got = call(method, options, network(EVERY), x)
    assert np.asarray(want).any()
    assert nets.relative_error(got, want) < CLOSE


RULES = {
    "MWP": ("excitation_backprop", {"layer": "input"}),
    "c-MWP": ("excitation_backprop", {"layer": "input", "contrastive": True}),
    "LRP": ("lrp", {"composite": "epsilon_alpha2_beta1_flat"}),
    "guided": ("guided_backprop", {}),
}


@functools.cache
def wanted(name):
    method, options = RULES[name]
    return np.asarray(
        call(method, options, network(lambda v: v), jnp.asarray(nets.images(4, batch=2)))
    )


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", RULES)
def test_one_identity_at_every_joint(x64, name, identity):
    method, options = RULES[name]
    x = jnp.asarray(nets.images(4, batch=2))
    got = call(method, options, network(IDENTITIES[identity]), x)
    assert nets.relative_error(got, wanted(name)) < CLOSE


def test_stop_gradient_is_no_identity(x64):
    x = jnp.asarray(nets.images(4, batch=2))
    for method, options in RULES.values():
        with pytest.raises(ValueError, match="no gradient gets from the scores"):
            call(method, options, network(lax.stop_gradient), x)
