"""The derivative of max pools by shifted comparisons, against JAX's select_and_scatter."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import jaxplain

ONE = (1, 1, 1, 1)


def pool(x, *, sizes, strides, padding, least=False, dilated=ONE, dilation=ONE):
    start, chosen = (np.inf, lax.min) if least else (-np.inf, lax.max)
    start = np.asarray(start, x.dtype)
    return lax.reduce_window(x, start, chosen, sizes, strides, padding, dilated, dilation)


# (sizes, strides, padding): VGG's, ResNet's, GoogLeNet's two, channels first, odd ones, a global
# one, one that is taken axis by axis, and one with more padding than pixels.
WINDOWS = [
    ((1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))),
    ((1, 3, 3, 1), ONE, "SAME"),
    ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (0, 1), (0, 1), (0, 0))),
    ((1, 1, 3, 2), (1, 1, 2, 3), ((0, 0), (0, 0), (2, 0), (0, 1))),
    ((1, 2, 3, 1), (1, 3, 1, 1), "VALID"),
    ((1, 9, 8, 1), ONE, "VALID"),
    ((1, 8, 8, 2), (1, 3, 2, 1), "SAME"),
    ((1, 5, 5, 1), (1, 2, 2, 1), ((0, 0), (4, 4), (4, 4), (0, 0))),
]


def both(function, x, draw):
    """Values and signals of a model, and those of JAX, in one program."""
    y, plain = jax.vjp(function, x)
    again, ours = jax.vjp(jaxplain.trace(function, x), x)
    g = draw(jax.random.key(1), y.shape).astype(x.dtype)
    return (again, ours(g)[0]), (y, plain(g)[0])


def whole(key, shape):
    return jax.random.randint(key, shape, -4, 5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_it_is_what_select_and_scatter_gives(dtype):
    # Few different values, so that windows hold their maximum several times; and a corner of
    # -infinity, where the padding does. Whole numbers add up exactly in any order.
    x = whole(jax.random.key(0), (2, 9, 8, 4)).astype(dtype).at[:, :3, :3].set(-jnp.inf)

    @jax.jit
    def every(x):
        found = []
        cases = [*itertools.product((False,), WINDOWS), (True, WINDOWS[1]), (True, WINDOWS[4])]
        for least, (sizes, strides, padding) in cases if dtype == jnp.float32 else cases[1::9]:
            window = {"sizes": sizes, "strides": strides, "padding": padding, "least": least}
            found.append(both(functools.partial(pool, **window), x, whole))
        return found

    for ours, plain in every(x):
        jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_sums_are_added_in_the_same_order():
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 14, 13, 3)))

    @jax.jit
    def every(x):
        names = ("sizes", "strides", "padding")
        windows = (dict(zip(names, window, strict=True)) for window in WINDOWS[:4])
        return [both(functools.partial(pool, **w), x, jax.random.normal) for w in windows]

    for ours, plain in every(x):
        jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_no_program_scatters():
    one = functools.partial(pool, sizes=(1, 2, 2, 1), strides=(1, 2, 2, 1), padding="VALID")
    x = jnp.ones((1, 4, 4, 1))
    gradient = lambda fn: str(jax.make_jaxpr(jax.grad(lambda x: fn(x).sum()))(x))  # noqa: E731
    assert "scatter" in gradient(one)
    assert "scatter" not in gradient(jaxplain.trace(one, x))


def test_dilated_pools_have_a_derivative():
    # JAX has none; what it gives for the same values, gathered by hand, is the measure.
    x = jax.random.randint(jax.random.key(0), (1, 7, 6, 2), -2, 3).astype(jnp.float32)

    def by_hand(x, dilated, dilation):
        spread = lax.pad(x, -jnp.inf, ((0, 0, 0), (1, 0, dilated - 1), (0, 0, 0), (0, 0, 0)))
        n = spread.shape[1] - 2 * dilation
        rows = jnp.stack([spread[:, i * dilation : i * dilation + n] for i in range(3)], -1)
        place = lax.stop_gradient(rows.argmax(-1))
        return jnp.take_along_axis(rows, place[..., None], -1)[..., 0]

    for dilated, dilation in ((2, 1), (1, 2), (3, 2)):
        one = functools.partial(
            pool,
            sizes=(1, 3, 1, 1),
            strides=ONE,
            padding=((0, 0), (1, 0), (0, 0), (0, 0)),
            dilated=(1, dilated, 1, 1),
            dilation=(1, dilation, 1, 1),
        )
        y, hand = jax.vjp(lambda x: by_hand(x, dilated, dilation), x)  # noqa: B023
        again, ours = jax.vjp(jaxplain.trace(one, x), x)
        np.testing.assert_array_equal(again, y)
        g = jax.random.randint(jax.random.key(1), y.shape, -4, 5).astype(jnp.float32)
        np.testing.assert_array_equal(ours(g)[0], hand(g)[0])


def network(weight, x):
    h = pool(jnp.sin(x * weight), sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME")
    return jnp.square(h).sum((1, 2))


def test_maps_have_derivatives_in_both_modes():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 6, 5, 2), jnp.float64)
        loss = lambda weight, fn: jnp.square(fn(weight)).sum()  # noqa: E731

        def maps(weight):
            return jaxplain.gradient(functools.partial(network, weight), x, 1, reduce="sum")

        def by_jax(weight):
            return jax.grad(lambda x: network(weight, x)[:, 1].sum())(x).sum(-1)

        weight = jnp.float64(0.7)
        ours, plain = (jax.grad(loss)(weight, fn) for fn in (maps, by_jax))
        np.testing.assert_allclose(ours, plain, rtol=1e-12)
        model = jaxplain.trace(functools.partial(network, weight), x)
        pushed = [jax.jvp(fn, (x,), (x,))[1] for fn in (model, functools.partial(network, weight))]
        np.testing.assert_allclose(*pushed, rtol=1e-12)
        hessian = jax.jacfwd(jax.grad(lambda x: model(x)[0, 0]))(x)
        np.testing.assert_allclose(
            hessian, jax.hessian(lambda x: network(weight, x)[0, 0])(x), rtol=1e-10, atol=1e-12
        )


def test_the_pool_of_a_model_is_still_a_pool():
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    model = jaxplain.trace(functools.partial(network, 1.0), x)
    again = jaxplain.trace(lambda x: 2 * model(x), x)
    kinds = [[op.kind for op in m.graph.ops if op.kind == "max_pool"] for m in (model, again)]
    assert kinds == [["max_pool"]] * 2
    np.testing.assert_allclose(
        jaxplain.gradient(again, x, 0), 2 * jaxplain.gradient(model, x, 0), rtol=1e-6
    )


def test_under_shard_map_and_vmap():
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 2))
    explain = lambda x: jaxplain.gradient(functools.partial(network, 0.5), x, 0)  # noqa: E731
    split = PartitionSpec("batch")
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    sharded = jax.jit(jax.shard_map(explain, mesh=mesh, in_specs=split, out_specs=split))
    np.testing.assert_allclose(sharded(x), explain(x), rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(explain)(x.reshape(4, 2, 6, 6, 2)).reshape(8, 6, 6), explain(x), rtol=1e-6
    )
