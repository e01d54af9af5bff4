"""Principal Feature Visualisation: the authors' numbers, both routes, streams, derivatives."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

import jaxplain
from jaxplain.explainers._principal import route_costs
from jaxplain.explainers._stages import names, stages


@pytest.fixture(scope="module")
def fn():
    params = {k: jnp.asarray(v, jnp.float32) for k, v in nets.convnet_params(3).items()}
    return nets.convnet(params)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(nets.images(0, batch=8), jnp.float32)


def relative(got, expected):
    """Largest difference over the whole array, relative to its largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


# -- the authors' code ------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["flat", "hierarchical"])
@pytest.mark.parametrize("name", ["vggish", "conv4"])
def test_the_authors_numbers(x64, oracles, name, weighting):
    with np.load(oracles / f"{name}.npz") as z:
        arrays = {k: z[k] for k in z.files}
    meta = json.loads(str(arrays["meta"]))
    params = {k[7:]: jnp.asarray(v, float) for k, v in arrays.items() if k.startswith("params/")}
    fn, x = nets.from_ops(meta["ops"], params), jnp.asarray(arrays["x"], float)
    cases = {
        c["id"].split(".")[2]: c for c in meta["cases"] if c["id"].startswith(f"pfv.{weighting}.")
    }
    assert set(cases) >= {"v", "rgb"}
    expected = {key: arrays[f"case/{c['id']}/expected"] for key, c in cases.items()}
    mode = {"flat": "sum", "hierarchical": "hierarchical"}[weighting]
    method = {"flat": "svd", "hierarchical": "covariance"}[weighting]
    # The default layers are the ones that the authors' code was given.
    got = jaxplain.pfv(fn, x, weighting=mode, method=method)
    signs = np.sign((np.asarray(got.weighted) * expected["v"]).sum((0, 1, 2)))
    aligned = dataclasses.replace(got.basis, directions=got.basis.directions * signs)
    got = jaxplain.pfv_apply(fn, x, basis=aligned)
    assert relative(got.weighted, expected["v"]) <= cases["v"]["tolerance"]
    assert relative(got.colours, expected["rgb"]) <= cases["rgb"]["tolerance"]
    if weighting == "flat":
        assert relative(got.components, expected["components"]) <= 1e-5
        assert relative(got.weights, expected["weight_map"]) <= 1e-5


def test_equations_written_out(fn, x):
    """Eqs. 1 to 7 in NumPy; the upsampling is the only thing shared with the package."""
    _, acts = jaxplain.capture(fn, ["act1", "out"])(x)
    f = np.asarray(acts["out"], np.float64).reshape(-1, 6)
    centred = f - f.mean(0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    d = (u * s)[:, :3].reshape(8, 4, 4, 3)
    largest = np.abs(vt[:3]).argmax(1)
    signs = np.sign(vt[np.arange(3), largest])
    d = d * signs
    a = np.asarray(acts["act1"], np.float64).sum(-1)
    up = np.asarray(jax.image.resize(d, (8, 8, 8, 3), "bilinear"), np.float64)
    v = a[..., None] * up
    z = np.clip((v - v.mean()) / v.std(), -1, 1)
    result = jaxplain.pfv(fn, x)
    assert relative(result.components, d) < 1e-5
    assert relative(result.weights, a) < 1e-6
    assert relative(result.weighted, v) < 1e-5
    assert relative(result.colours, (z - z.min()) / (z.max() - z.min())) < 1e-5
    assert relative(result.basis.singular_values, s[:3]) < 1e-5


# -- the two routes ---------------------------------------------------------------------------


def test_routes_agree_at_the_size_of_vgg16():
    """Features of 32 images at conv5_3: 6272 rows of 512 channels, with a falling spectrum."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, 513) ** -0.7
    mix = np.linalg.qr(rng.normal(size=(512, 512)))[0]
    rows = np.maximum(rng.normal(size=(32 * 14 * 14, 512)) * spectrum @ mix, 0)
    rows[:, 100:140] = 0  # dead channels, as behind any ReLU
    features = jnp.asarray(rows.reshape(32, 14, 14, 512), jnp.float32)

    def fn(x):
        return jaxplain.tag(x * 1.0, "conv5_3").mean((1, 2))

    svd, covariance = (
        jaxplain.pfv(fn, features, layer="conv5_3", weight_layers=(), method=method)
        for method in ("svd", "covariance")
    )
    assert relative(covariance.components, svd.components) < 1e-4
    assert relative(covariance.colours, svd.colours) < 1e-4
    assert relative(covariance.basis.singular_values, svd.basis.singular_values) < 1e-4


def primitives(fn, x, **options):
    jaxpr = jax.make_jaxpr(lambda x: jaxplain.pfv(fn, x, **options).weighted)(x)
    return str(jaxpr)


def test_the_cheaper_route_is_taken(fn, x):
    assert route_costs(32 * 196, 512)["covariance"].flops < route_costs(32 * 196, 512)["svd"].flops
    assert route_costs(49, 512)["svd"].flops < route_costs(49, 512)["covariance"].flops
    assert "eigh" in primitives(fn, x)

    def wide(x):
        return jaxplain.tag(jnp.tile(x, (1, 1, 1, 400)), "features").mean((1, 2))

    small = jnp.ones((1, 2, 2, 3))
    text = primitives(wide, small, layer="features", weight_layers=())
    assert "svd" in text and "eigh" not in text


def test_each_direction_has_its_largest_loading_positive(fn, x):
    for method in ("svd", "covariance"):
        directions = np.asarray(jaxplain.pfv(fn, x, method=method).basis.directions)
        assert (directions[np.abs(directions).argmax(0), np.arange(3)] > 0).all()
        assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-5)


# -- streams ----------------------------------------------------------------------------------


def test_a_stream_of_batches_is_fitted_as_their_union(fn, x):
    batches = [x[:3], x[3:4], x[4:7], x[7:]]
    basis, union = jaxplain.pfv_fit(fn, batches), jaxplain.pfv(fn, x)
    assert relative(basis.directions, union.basis.directions) < 1e-4
    assert relative(basis.singular_values, union.basis.singular_values) < 1e-4
    assert relative(jaxplain.pfv_apply(fn, x, basis=basis).colours, union.colours) < 1e-4


@pytest.mark.parametrize("weighting", ["sum", "hierarchical"])
def test_colours_do_not_depend_on_the_order(fn, x, weighting):
    order = np.random.default_rng(1).permutation(8)
    one = jaxplain.pfv(fn, x, weighting=weighting).colours
    other = jaxplain.pfv(fn, x[order], weighting=weighting).colours
    assert relative(other, one[order]) < 1e-4
    batches = [x[:2], x[2:4], x[4:6], x[6:]]
    forwards = jaxplain.pfv_fit(fn, batches, weighting=weighting)
    backwards = jaxplain.pfv_fit(fn, batches[::-1], weighting=weighting)
    first = jaxplain.pfv_apply(fn, x[:2], basis=forwards).colours
    assert relative(jaxplain.pfv_apply(fn, x[:2], basis=backwards).colours, first) < 1e-4
    assert relative(first, one[:2]) < 1e-4  # and they are those of the whole set


def test_an_image_keeps_its_colours_in_any_batch(fn, x):
    basis = jaxplain.pfv_fit(fn, [x])
    together = jaxplain.pfv_apply(fn, x, basis=basis).colours[2:3]
    alone = jaxplain.pfv_apply(fn, x[2:3], basis=basis).colours
    assert relative(alone, together) < 1e-5
    unscaled = jaxplain.pfv_fit(fn, iter([x]), scale=False)
    assert unscaled.scale is None
    assert (
        relative(jaxplain.pfv_apply(fn, x, basis=unscaled).colours, jaxplain.pfv(fn, x).colours)
        < 1e-4
    )


def test_sharded_batches(fn, x):
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs eight devices")
    mesh = jax.sharding.Mesh(np.array(devices[:8]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    sharded = jax.device_put(x, sharding)
    basis, whole = jaxplain.pfv_fit(fn, [sharded]), jaxplain.pfv_fit(fn, [x])
    assert relative(basis.directions, whole.directions) < 1e-4
    assert (
        relative(
            jaxplain.pfv_apply(fn, sharded, basis=basis).colours,
            jaxplain.pfv_apply(fn, x, basis=whole).colours,
        )
        < 1e-4
    )


# -- transformations and numbers --------------------------------------------------------------


@pytest.mark.parametrize("method", ["svd", "covariance"])
def test_derivative(x64, method):
    """Against central differences, with dead channels and fewer rows than channels (svd)."""
    rng = np.random.default_rng(2)
    mix = jnp.asarray(rng.normal(size=(3, 9)) * (np.arange(9) < 6))

    def fn(x):
        return jaxplain.tag(jnp.sin(x @ mix), "features").mean((1, 2))

    x = jnp.asarray(rng.normal(size=(1, 2, 3, 3)))
    target = jnp.asarray(rng.normal(size=(1, 2, 3, 2)))

    def loss(x):
        result = jaxplain.pfv(
            fn, x, layer="features", weight_layers=(), components=2, method=method
        )
        return (result.weighted * target).sum() + result.basis.singular_values[1]

    direction = jnp.asarray(rng.normal(size=x.shape))
    step = 1e-5
    expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert np.isclose((jax.grad(loss)(x) * direction).sum(), expected, rtol=1e-6)


def test_under_jit_and_in_bfloat16(fn, x):
    plain = jaxplain.pfv(fn, x)
    jitted = jax.jit(lambda x: jaxplain.pfv(fn, x))(x)
    assert relative(jitted.colours, plain.colours) < 1e-4
    params = {k: jnp.asarray(v, jnp.bfloat16) for k, v in nets.convnet_params(3).items()}
    half = jaxplain.pfv(nets.convnet(params), x.astype(jnp.bfloat16))
    assert half.colours.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(half.weighted, np.float32)).all()
    assert relative(half.weights, plain.weights) < 0.03


def test_a_constant_image_gives_finite_zeros():
    def fn(x):
        return jaxplain.tag(x * 1.0, "features").mean((1, 2))

    def loss(x):
        result = jaxplain.pfv(fn, x, layer="features", weight_layers=())
        return result.weighted.sum(), result

    slope, result = jax.grad(loss, has_aux=True)(jnp.full((2, 3, 3, 4), 0.5))
    assert not np.asarray(result.components).any() and not np.asarray(result.colours).any()
    assert np.isfinite(np.asarray(slope)).all()


# -- layers and errors ------------------------------------------------------------------------


def test_default_layers(fn, x):
    graph = jaxplain.trace(fn, x).graph
    assert names(graph, stages(graph)) == ["act1", "out"]
    default = jaxplain.pfv(fn, x)
    named = jaxplain.pfv(fn, x, layer="out", weight_layers=["act1"])
    assert np.array_equal(default.colours, named.colours)
    lower = jaxplain.pfv(fn, x, layer="mid")  # weight layers before it only
    assert lower.components.shape == (8, 4, 4, 3)
    assert np.array_equal(lower.weights, default.weights)


def test_default_layers_of_strided_residual_blocks():
    def fn(x):
        h = jax.nn.relu(nets.conv(2 * x - 1, jnp.ones((3, 3, 3, 4)), (2, 2), (1, 1)))
        h = jaxplain.tag(h, "stem")
        inner = jax.nn.relu(nets.conv(h, jnp.ones((1, 1, 4, 4))))
        inner = nets.conv(inner, jnp.ones((3, 3, 4, 8)), (2, 2), (1, 1))
        h = jax.nn.relu(inner + nets.conv(h, jnp.ones((1, 1, 4, 8)), (2, 2)))
        return jaxplain.tag(h, "block").mean((1, 2))

    graph = jaxplain.trace(fn, jnp.ones((1, 16, 16, 3))).graph
    assert names(graph, stages(graph)) == ["stem", "block"]


def test_errors(fn, x):
    with pytest.raises(ValueError, match="method must be one of"):
        jaxplain.pfv(fn, x, method="qr")
    with pytest.raises(ValueError, match="weighting must be one of"):
        jaxplain.pfv(fn, x, weighting="flat")
    with pytest.raises(ValueError, match="components must be an int from 1 to 6"):
        jaxplain.pfv(fn, x, components=7)
    with pytest.raises(ValueError, match="'gap' has shape"):
        jaxplain.pfv(fn, x, layer="gap")
    with pytest.raises(ValueError, match="no weight layer"):
        jaxplain.pfv(fn, x, layer="act1")
    with pytest.raises(jaxplain.UnknownLayerError, match="no convolution"):
        jaxplain.pfv(lambda x: x.mean((1, 2)), x)
    with pytest.raises(TypeError, match="iterator"):
        jaxplain.pfv_fit(fn, iter([x]))
    with pytest.raises(ValueError, match="batches is empty"):
        jaxplain.pfv_fit(fn, [])
    with pytest.raises(TypeError, match="PFVBasis"):
        jaxplain.pfv_apply(fn, x, basis=None)
    basis = jaxplain.pfv_fit(fn, [x])
    with pytest.raises(ValueError, match="basis is one of 6 channels"):
        jaxplain.pfv_apply(fn, x, basis=dataclasses.replace(basis, layer="input", weight_layers=()))
    with pytest.raises(ValueError, match="NaN"):
        jaxplain.pfv(fn, np.asarray(x.at[0, 0, 0, 0].set(jnp.nan)))
