"""Functions mapped over an axis behind the batch, against `jax.vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxplain.core.batched import batched, in_chunks

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (2, 3, 5, 4, 4))  # batch, mapped, height, width, channels
KERNEL = jax.random.normal(KEYS[1], (3, 2, 4, 6))
WEIGHT = jax.random.normal(KEYS[2], (4, 3))
HELD = jax.random.normal(KEYS[3], (2, 5, 4, 4))


def conv(x, labels=("NHWC", "HWIO", "NHWC"), kernel=KERNEL, **options):
    return lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=labels, **options)


def looped(x):
    def body(carry):
        i, v = carry
        return i + 1, conv(v)[..., :4].repeat(2, 1)[:, :5] + HELD

    # Each of the mapped ones stops when it is large enough.
    go_on = lambda carry: (jnp.abs(carry[1]).sum() < 3000) & (carry[0] < 9)  # noqa: E731
    return lax.while_loop(go_on, body, (0, x))


def scanned(x):
    def body(carry, row):
        i, total = carry
        return (i + 1, total + row * i + lax.index_in_dim(x, 0, keepdims=False)), (
            row.sum(),
            x.mean(),
            i,
        )

    return lax.scan(body, (jnp.float32(0), jnp.zeros(x.shape[1:])), HELD[..., :1] + x)


def rematerialised(x):
    return jax.grad(jax.checkpoint(lambda v: jnp.sin(conv(jnp.sin(v))).sum()))(x)


FUNCTIONS = {
    "channels last": conv,
    "strange layout": lambda x: conv(x, ("CNHW", "HWIO", "HNWC"), KERNEL[..., :2, :]),
    "channels first": lambda x: conv(x.transpose(0, 3, 1, 2), ("NCHW", "HWIO", "NCHW")),
    "groups": lambda x: conv(x, kernel=KERNEL[:, :, :2], feature_group_count=2),
    "mapped kernel": lambda x: conv(HELD, kernel=x[0, :3, :2, :, None]),
    "groups of the batch": lambda x: conv(
        x, ("NHWC", "HWIO", "NHWC"), KERNEL[..., :4], batch_group_count=2
    ),
    "derivative": jax.grad(lambda x: jnp.square(jax.nn.relu(conv(x))).sum()),
    "reshapes": lambda x: (
        x.reshape(2, -1),
        x.reshape(10, 16),
        x.reshape(-1),
        x[:1].reshape(4, 20),
    ),
    "joins": lambda x: (jnp.concatenate([x, HELD], 0), jnp.concatenate([HELD, x, x], -1)),
    "joined vectors": lambda x: jnp.concatenate([x[0, 0, 0], x[1, 0, 0]]),
    "elementwise": lambda x: (
        x * HELD,
        HELD - x,
        2 * x,
        x * x[0, 0, 0, 0],
        jnp.where(HELD > 0, x, 0),
    ),
    "chosen": lambda x: (
        jnp.where(x > 0, HELD, x),
        jnp.where(x.sum() > 0, HELD, x),
        jnp.clip(x, 0, 1),
    ),
    "products": lambda x: (x @ WEIGHT, jnp.einsum("bhwc,bhwd->bcd", x, HELD), x.sum((1, 2)).T),
    "no dependence": lambda x: (HELD.sum(), HELD),
    "numbers": lambda x: {"sum": x.sum(), "image": x[0].argmax()},
    "calls": lambda x: jax.jit(lambda x: jax.nn.silu(conv(x)))(x),
    "scan": scanned,
    "reversed scan": lambda x: lax.scan(lambda c, r: (c * r, c), x[0, 0], HELD[0], reverse=True),
    "while": looped,
    "while of a number": lambda x: lax.fori_loop(0, 3, lambda i, v: v * HELD[i % 2] + i, x),
    "branches": lambda x: lax.cond(x.sum() > 0, jnp.sin, lambda v: v * 2, x),
    "checkpoint": rematerialised,
    "random": lambda x: x + jax.random.normal(jax.random.key(3), x.shape),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_vmap_with_the_axis_elsewhere(name):
    function = FUNCTIONS[name]

    @jax.jit
    def both(x):
        plain = jax.vmap(function, in_axes=1, out_axes=0)(x)
        return batched(function)(x), jax.tree.map(
            lambda v: jnp.moveaxis(v, 0, min(1, v.ndim - 1)), plain
        )

    ours, plain = both(X)
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, None])
def test_chunks_are_the_whole(size):
    def function(x, number):
        return conv(x) * number, x.sum()

    numbers = jnp.arange(5.0)
    x = jnp.moveaxis(jax.random.normal(KEYS[0], (2, 5, 5, 4, 4)), 1, 3)
    expected = jax.vmap(function, (3, 0), (1, 0))(x, numbers)
    found = jax.jit(functools.partial(in_chunks, function, axes=(3, 0), size=size))((x, numbers))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_it_is_differentiable():
    def loss(mapped, scale):
        return jnp.sin(mapped(lambda x: conv(x * scale).sum((1, 2)))(X)).sum()

    vmapped = functools.partial(jax.vmap, in_axes=1, out_axes=1)
    chunked = lambda f: lambda x: in_chunks(f, (x,), (1,), 2)  # noqa: E731
    expected = jax.grad(functools.partial(loss, vmapped))(0.7)
    for mapped in (batched, chunked):
        np.testing.assert_allclose(
            jax.grad(functools.partial(loss, mapped))(0.7), expected, rtol=1e-4
        )


def test_a_convolution_stays_with_its_images():
    # The mapped axis goes behind the batch, and nothing is transposed on the way.
    program = str(
        jax.make_jaxpr(batched(lambda x: jax.nn.relu(conv(jax.nn.relu(conv(x))[..., :4]))))(X)
    )
    assert "transpose" not in program
    assert "6,5,4,4" in program.replace(" ", "")
