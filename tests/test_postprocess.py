"""Postprocessing against torch, OpenCV, SciPy and jax.image, and its promises as pure functions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxplain import postprocess

pytestmark = pytest.mark.usefixtures("x64")


def _cam(x):
    return postprocess.resize(postprocess.normalise_min_max(x, 1e-7), (5, 7))


@pytest.mark.parametrize(
    ("case", "function"),
    [
        ("fact.resize_half_pixel", lambda x: postprocess.resize(x, (5, 7))),
        ("fact.resize_align_corners", lambda x: postprocess.resize(x, (5, 7), align_corners=True)),
        ("fact.resize_nearest", lambda x: postprocess.resize(x, (5, 7), "nearest")),
        ("fact.resize_cam", _cam),
        ("fact.resize_cam", lambda x: postprocess.apply("pytorch_grad_cam", x, (5, 7))),
    ],
)
def test_oracles(oracles, case, function):
    tiny = np.load(oracles / "tiny.npz")
    meta = json.loads(str(tiny["meta"]))
    tolerance = next(c["tolerance"] for c in meta["cases"] if c["id"] == case)
    expected = tiny[f"case/{case}/expected"]
    got = np.asarray(function(jnp.asarray(tiny[f"case/{case}/x"], jnp.float64)))
    assert got.dtype == np.float64
    assert np.max(np.abs(got - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.mark.parametrize("shape", [(13, 17), (1, 1), (14, 2)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_resize_equals_jax_image(shape, method, antialias):
    maps = jax.random.normal(jax.random.key(0), (2, 7, 9), jnp.float64)
    got = postprocess.resize(maps, shape, method, antialias=antialias)
    expected = jax.image.resize(maps, (2, *shape), method, antialias=antialias)
    np.testing.assert_allclose(got, expected, atol=1e-6)  # jax.image computes weights in float32


def test_bicubic_reproduces_quadratics_inside():
    # Keys' kernel with a = -0.5 is exact for polynomials of degree two; a = -0.75 is not.
    x = jnp.arange(16.0)[None, :] ** 2
    got = postprocess.resize(x, (1, 64), "bicubic")[0]
    where = (np.arange(64) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(got[12:52], where[12:52] ** 2, atol=1e-10)


def test_align_corners_keeps_corners_and_handles_single_pixels():
    maps = jax.random.normal(jax.random.key(1), (3, 4), jnp.float64)
    for method in ("bilinear", "bicubic"):
        got = postprocess.resize(maps, (11, 8), method, align_corners=True)
        np.testing.assert_allclose(got[np.ix_([0, -1], [0, -1])], maps[np.ix_([0, -1], [0, -1])])
    assert postprocess.resize(maps, (1, 1), align_corners=True)[0, 0] == maps[0, 0]
    np.testing.assert_allclose(
        postprocess.resize(maps[:1, :1], (4, 5)), jnp.full((4, 5), maps[0, 0])
    )


@pytest.mark.parametrize(
    ("border", "mode"), [("reflect", "reflect"), ("edge", "nearest"), ("zero", "constant")]
)
@pytest.mark.parametrize("shape", [(40, 61), (5, 90)])
def test_blur_equals_scipy(border, mode, shape):
    maps = np.random.default_rng(0).normal(size=(2, *shape))
    sigma = 0.05 * max(shape)
    expected = [
        ndimage.gaussian_filter(m, sigma, mode=mode, radius=int(np.ceil(4 * sigma))) for m in maps
    ]
    got = postprocess.gaussian_blur(jnp.asarray(maps), 0.05, border=border)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_blur_with_reflect_keeps_the_sum_and_zero_sigma_the_map():
    maps = jax.random.uniform(jax.random.key(2), (3, 31, 20), jnp.float64)
    blurred = postprocess.gaussian_blur(maps, 0.1)
    np.testing.assert_allclose(blurred.sum((1, 2)), maps.sum((1, 2)), rtol=1e-12)
    assert (postprocess.gaussian_blur(maps, 0.0) == maps).all()


def test_normalisations():
    maps = jnp.array([[[1.0, -4.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(postprocess.normalise_max(maps)[0], [[0.25, -1], [0, 0.5]])
    np.testing.assert_allclose(
        postprocess.normalise_min_max(maps)[0], [[5 / 6, 0], [4 / 6, 1]], rtol=1e-12
    )
    np.testing.assert_array_equal(
        postprocess.normalise_percentile(maps, 100)[0], [[0.25, -1], [0, 0.5]]
    )
    for function in (
        postprocess.normalise_max,
        postprocess.normalise_min_max,
        postprocess.normalise_percentile,
    ):
        np.testing.assert_array_equal(function(maps)[1], np.zeros((2, 2)))
        gradient = jax.grad(lambda m, function=function: function(m).sum())(maps)
        assert np.isfinite(gradient).all()


def test_percentile_of_a_sparse_map_falls_back_to_the_maximum():
    maps = jnp.zeros((20, 20)).at[3, 4].set(5.0)
    np.testing.assert_array_equal(postprocess.normalise_percentile(maps, 90), maps / 5)


@pytest.mark.parametrize("preset", sorted(postprocess.PRESETS))
def test_presets_are_pure_functions_of_single_maps(preset):
    maps = jax.random.normal(jax.random.key(3), (2, 3, 7, 5), jnp.float64)
    expected = postprocess.apply(preset, maps, (28, 30))
    assert expected.shape == (2, 3, 28, 30)

    def one(m):
        return postprocess.apply(preset, m, (28, 30))

    np.testing.assert_allclose(jax.jit(one)(maps), expected, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(jax.vmap(one))(maps), expected, atol=1e-12)
    assert one(maps.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert one(maps.astype(jnp.float32)).dtype == jnp.float32


def test_presets_take_the_papers_settings():
    maps = jax.random.normal(jax.random.key(4), (7, 7), jnp.float64)
    bicubic = jax.image.resize(maps, (224, 300), "bicubic")
    np.testing.assert_allclose(
        postprocess.apply("pointing_game_eb", maps, (224, 300)), bicubic, atol=1e-5
    )
    blurred = ndimage.gaussian_filter(np.asarray(bicubic), 0.02 * 300, mode="reflect", truncate=4)
    np.testing.assert_allclose(
        postprocess.apply("pointing_game_gradient", maps, (224, 300)), blurred, atol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: postprocess.resize(m, (4, 4), "cubic"), ValueError, "bicubic"),
        (lambda m: postprocess.resize(m, (0, 4)), ValueError, "positive"),
        (lambda m: postprocess.resize(m, (4,)), ValueError, "(height, width)"),
        (lambda m: postprocess.resize(m, (4, 4), "nearest", antialias=True), ValueError, "nearest"),
        (lambda m: postprocess.resize(m[0], (4, 4)), ValueError, "(..., H, W)"),
        (lambda m: postprocess.resize(m.astype(int), (4, 4)), TypeError, "float"),
        (lambda m: postprocess.gaussian_blur(m, -1.0), ValueError, "sigma"),
        (lambda m: postprocess.gaussian_blur(m, float("nan")), ValueError, "sigma"),
        (lambda m: postprocess.gaussian_blur(m, truncate=0), ValueError, "truncate"),
        (lambda m: postprocess.gaussian_blur(m, border="wrap"), ValueError, "reflect"),
        (lambda m: postprocess.normalise_percentile(m, 0), ValueError, "percentile"),
        (lambda m: postprocess.apply("pointing", m, (4, 4)), ValueError, "pointing_game_eb"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error) as caught:
        call(jnp.ones((3, 3)))
    assert words in str(caught.value)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_tightest_box(array):
    masks = np.zeros((2, 3, 5, 7), bool)
    masks[0, 0, 1:4, 2] = masks[0, 1, 4, 6] = True
    masks[1, 2, [0, 3], [5, 1]] = True
    boxes = postprocess.tightest_box(array(masks))
    assert isinstance(boxes, type(array(masks))) and boxes.dtype == np.float32
    assert boxes[0].tolist() == [[2, 1, 3, 4], [6, 4, 7, 5], [0, 0, 0, 0]]
    assert boxes[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 6, 4]]
    assert postprocess.tightest_box(array(masks[0, 0])).tolist() == [2, 1, 3, 4]
