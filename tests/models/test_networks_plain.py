"""VGG, AlexNet and its relatives, SqueezeNet, GoogLeNet: real weights, shapes, names, numbers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nets import relative_error
from PIL import Image

from jaxplain import weights_convert as wc
from jaxplain.models import ModelConfig, layers
from jaxplain.models.alexnet import AlexNet
from jaxplain.models.entries import find
from jaxplain.models.googlenet import GoogLeNet
from jaxplain.models.squeezenet import SqueezeNet
from jaxplain.models.vgg import VGG

_VGG16 = ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1", "conv2_2"]
_VGG16 += ["relu2_2", "pool2"]
for _stage in (3, 4, 5):
    _VGG16 += [f"{kind}{_stage}_{i}" for i in (1, 2, 3) for kind in ("conv", "relu")]
    _VGG16 += [f"pool{_stage}"]
_VGG16 += ["fc6", "relu6", "fc7", "relu7"]
_INCEPTIONS = [f"inception_{x}" for x in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
_GOOGLENET = ["conv1", "pool1", "conv2", "pool2", *_INCEPTIONS[:2], "pool3", *_INCEPTIONS[2:7]]
_GOOGLENET += ["pool4", *_INCEPTIONS[7:], "pool5", "avgpool"]
_DENSE = ["fc6", "relu6", "fc7", "relu7"]

#: Registry name -> the tags in their order (None: those of another are tested), score map of an
#: image of 224 x 336 (or, where the native size is 227, of 227 x 339).
NETWORKS = {
    "vgg16": (_VGG16, (1, 4)),
    "vgg16_bn": (_VGG16, (1, 4)),
    "vgg16_caffe": (_VGG16, (1, 5)),  # 336 / 32 = 10.5, rounded up
    "vgg19": (None, (1, 4)),
    "vgg19_bn": (None, (1, 4)),
    "vgg19_caffe": (None, (1, 5)),
    "alexnet": (
        ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4", "relu4"]
        + ["conv5", "relu5", "pool5", *_DENSE],
        (1, 4),
    ),
    "bvlc_alexnet": (
        ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3"]
        + ["conv4", "relu4", "conv5", "relu5", "pool5", *_DENSE],
        (1, 5),
    ),
    "caffenet": (
        ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3", "relu3"]
        + ["conv4", "relu4", "conv5", "relu5", "pool5", *_DENSE],
        (1, 5),
    ),
    "cnn_s": (
        ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4"]
        + ["relu4", "conv5", "relu5", "pool5", *_DENSE],
        (1, 4),
    ),
    "squeezenet1_0": (
        ["conv1", "relu1", "pool1", "fire2", "fire3", "fire4", "pool4", "fire5", "fire6", "fire7"]
        + ["fire8", "pool8", "fire9", "conv10", "relu10"],
        (1, 8),
    ),
    "squeezenet1_0_caffe": (None, (1, 8)),
    "squeezenet1_1": (
        ["conv1", "relu1", "pool1", "fire2", "fire3", "pool3", "fire4", "fire5", "pool5", "fire6"]
        + ["fire7", "fire8", "fire9", "conv10", "relu10"],
        (1, 8),
    ),
    "googlenet": (_GOOGLENET, (1, 5)),
    "bvlc_googlenet": (
        _GOOGLENET[:2] + ["norm1", "conv2", "norm2"] + _GOOGLENET[3:],
        (1, 4),  # 21 columns in pool4: windows of 3 give 10, torchvision's of 2 give 11
    ),
}


def abstract(name, outputs=10, **options):
    """A network of the registry, without values."""
    options = {"dtype": None, "fully_convolutional": False, **options}
    return wc.abstract(lambda rngs: find(name).build(outputs, rngs=rngs, **options))


def randomised(abstract: nnx.Module) -> nnx.Module:
    """A network with random weights; made by NumPy, which compiles nothing."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in wc.parameter_shapes(abstract).items():
        if name.endswith("kernel"):
            array = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            array = rng.uniform(0.1, 1, size=shape)
        weights[name] = array.astype(np.float32)
    return wc.with_weights(abstract, weights)


def outline(network: nnx.Module, shape):
    """(tags, dtypes of the tagged values, shape of the output) without computing anything."""
    graph, weights = nnx.split(network)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    jaxpr = jax.make_jaxpr(lambda weights, x: nnx.merge(graph, weights)(x))(weights, images)
    named = [e for e in jaxpr.eqns if e.primitive.name == "name"]
    dtypes = {v.aval.dtype for e in named for v in e.outvars} | {jaxpr.out_avals[0].dtype}
    return [e.params["name"] for e in named], dtypes, jaxpr.out_avals[0].shape


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_named_as_in_the_papers_and_the_score_map_has_its_shape(name):
    expected, scores = NETWORKS[name]
    config = find(name).config
    size = config.input_size
    shape = (1, size, size + (336 - 224), 3)
    network = abstract(name, fully_convolutional=True, dtype=jnp.bfloat16)
    names, dtypes, out = outline(network, shape)
    assert out == (1, *scores, 10)
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    if expected is not None:
        assert names == expected
    assert {layer for _, layer in config.layers} <= set(names)


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "squeezenet1_0", "googlenet"])
def test_torchvisions_networks_take_any_size_in_the_ordinary_mode(name):
    network = abstract(name)
    for size in ((224, 224), (225, 225), (256, 192)):
        assert outline(network, (1, *size, 3))[2] == (1, 10)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "bvlc_googlenet"])
def test_fully_convolutional_equals_ordinary_at_the_native_size(name):
    size = find(name).config.input_size
    x = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    graph, weights = nnx.split(randomised(abstract(name)))
    sliding = nnx.graphdef(abstract(name, fully_convolutional=True))

    @jax.jit
    def both(weights, x):
        return nnx.merge(graph, weights)(x), nnx.merge(sliding, weights)(x)

    scores, score_map = both(weights, x)
    assert score_map.shape == (1, 1, 1, 10)
    assert np.ptp(scores) > 0
    assert relative_error(score_map[:, 0, 0], scores) < 1e-5


def test_a_sliding_dense_layer_is_the_dense_layer_of_every_window():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32)
    ordinary = layers.WindowDense(3, 2, 6, 7, rngs=nnx.Rngs(0))
    sliding = layers.WindowDense(3, 2, 6, 7, fully_convolutional=True, rngs=nnx.Rngs(0))
    got = np.asarray(sliding(x))
    assert got.shape == (2, 3, 3, 7)
    for i in range(3):
        for j in range(3):
            assert relative_error(got[:, i, j], ordinary(x[:, i : i + 3, j : j + 2])) < 1e-5
    with pytest.raises(ValueError, match="takes features of 3 x 2, not of 5 x 4"):
        ordinary(x)
    with pytest.raises(ValueError, match="3 x 2, not of 2 x 4.*larger"):
        sliding(x[:, :2])


def _windows(size, window, stride, padding, ceil_mode):
    """Spans of the windows on one axis, by going along it."""
    spans, start = [], -padding
    while start + window <= size + padding or (ceil_mode and start < size):
        if start + window - stride >= size + padding:
            break  # the one before reached the end
        spans.append((start, start + window))
        start += stride
    return spans


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 3, 0), (3, 1, 1), (3, 2, 1)]
)
def test_pools_take_caffes_and_torchs_windows(window, stride, padding, ceil_mode):
    x = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    spans = [_windows(n, window, stride, padding, ceil_mode) for n in x.shape]
    largest, average = np.zeros((2, *map(len, spans)))
    for i, (top, bottom) in enumerate(spans[0]):
        for j, (left, right) in enumerate(spans[1]):
            part = x[max(top, 0) : bottom, max(left, 0) : right]
            height = min(bottom, x.shape[0] + padding) - top
            width = min(right, x.shape[1] + padding) - left
            largest[i, j], average[i, j] = part.max(), part.sum() / (height * width)
    options = (window, stride, padding, ceil_mode)
    got = layers.max_pool(x[None, :, :, None], *options)[0, :, :, 0]
    np.testing.assert_array_equal(got, largest)
    got = layers.avg_pool(x[None, :, :, None], *options)[0, :, :, 0]
    np.testing.assert_allclose(got, average, rtol=1e-5, atol=1e-6)


def test_a_pool_that_does_not_fit_says_so():
    with pytest.raises(ValueError, match="window of 7 does not fit features of 5"):
        layers.avg_pool(jnp.zeros((1, 5, 9, 1)), 7, 1)


@pytest.mark.parametrize("size", [(7, 7), (8, 6), (14, 5)])
def test_adaptive_pool_averages_torchs_windows(size):
    x = np.random.default_rng(0).normal(size=(1, *size, 2)).astype(np.float32)
    expected = np.zeros((1, 7, 7, 2))
    for i in range(7):
        for j in range(7):
            (top, bottom), (left, right) = (
                (k * n // 7, -(-(k + 1) * n // 7)) for k, n in zip((i, j), size, strict=True)
            )
            expected[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    np.testing.assert_allclose(layers.adaptive_avg_pool(x, 7), expected, rtol=1e-5, atol=1e-6)


def test_lrn_divides_alpha_by_the_window():
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype(np.float32)
    expected = np.empty_like(x)
    for c in range(8):
        squares = (x[..., max(c - 2, 0) : c + 3] ** 2).sum(-1)
        expected[..., c] = x[..., c] / (2.0 + 0.5 / 5 * squares) ** 0.75
    np.testing.assert_allclose(layers.lrn(x, 5, 0.5, 0.75, 2.0), expected, rtol=1e-5)


def test_the_authors_squeezenet_1_0_has_a_border_of_biases():
    def shape(name):
        graph, weights = nnx.split(abstract(name, 3).conv10)
        fire9 = jnp.zeros((1, 13, 13, 512))
        return jax.eval_shape(lambda weights: nnx.merge(graph, weights)(fire9), weights).shape

    assert shape("squeezenet1_0") == (1, 13, 13, 3)
    assert shape("squeezenet1_0_caffe") == (1, 15, 15, 3)


def test_torchvisions_googlenet_takes_imagenets_normalisation_back():
    def make(rngs, **options):
        return GoogLeNet("torchvision", 3, rngs=rngs, **options)

    graph, weights = nnx.split(randomised(wc.abstract(make)))
    given = nnx.graphdef(wc.abstract(functools.partial(make, transform_input=True)))
    pixels = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = ((pixels - mean) / deviation).astype(np.float32)

    @jax.jit
    def both(weights, x, z):
        return nnx.merge(given, weights)(x), nnx.merge(graph, weights)(z)

    got, expected = both(weights, normalised, 2 * pixels - 1)
    assert np.ptp(expected) > 0
    assert relative_error(got, expected) < 1e-4


@pytest.mark.parametrize(
    ("network", "bad", "message"),
    [
        (VGG, 11, r"depths \[16, 19\], not 11"),
        (AlexNet, "caffe", "variants .*caffenet.*not 'caffe'"),
        (SqueezeNet, 1.1, "versions .*not 1.1"),
        (GoogLeNet, "bn", "variants .*torchvision.*not 'bn'"),
    ],
)
def test_an_unknown_variant_is_refused(network, bad, message):
    with pytest.raises(ValueError, match=message):
        network(bad, rngs=nnx.Rngs(0))


# Real weights.


@pytest.fixture(scope="module")
def samples(test_data):
    """150 images of ImageNet, and the number of each one's class."""
    synsets = (test_data / "weights" / "synsets.txt").read_text().split()
    files = sorted((test_data / "images" / "imagenet_samples").iterdir())
    labels = [synsets.index(f.name.split("_")[0]) for f in files]
    return [Image.open(f).convert("RGB") for f in files], np.array(labels)


def _short_side_256(picture: Image.Image, config: ModelConfig) -> np.ndarray:
    """As Caffe's users do: the whole image bilinearly to short side 256, then the centre."""
    scale = 256 / min(picture.size)
    width, height = (round(n * scale) for n in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = (height - config.input_size) // 2, (width - config.input_size) // 2
    pixels = np.asarray(picture, np.float32)[top:, left:][: config.input_size, : config.input_size]
    return ((pixels - np.float32(config.mean)) / np.float32(config.scale))[None]


def _correct(network, prepare, samples) -> tuple[int, int]:
    """How many of the samples are right: first guess, first five guesses."""
    images, labels = samples
    graph, weights = nnx.split(network)
    classify = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))
    batches = [np.concatenate([prepare(p) for p in images[i : i + 25]]) for i in range(0, 150, 25)]
    scores = np.concatenate([classify(weights, x) for x in batches])
    hits = np.argsort(-scores, axis=-1)[:, :5] == labels[:, None]
    return int(hits[:, 0].sum()), int(hits.any(-1).sum())


def test_googlenet_of_the_caffe_zoo_classifies_imagenet(test_data, samples, fully_compiled):
    tensors = wc.read(test_data / "weights" / "bvlc_googlenet.caffemodel")
    entry = find("bvlc_googlenet")
    network = abstract("bvlc_googlenet", 1000)
    names = wc.match(tensors, network, [s.names for s in entry.sources])
    weights, report = wc.convert(tensors, network, names)
    assert (report.source, report.dropped) == ("caffe", ())
    assert report.tensors == len(tensors) == 116
    assert any("BGR" in note and "conv1/7x7_s2" in note for note in report.notes)
    network = wc.with_weights(network, weights)
    first, five = _correct(network, lambda p: _short_side_256(p, entry.config), samples)
    print(f"GoogLeNet: {first} and {five} of 150 are right")
    assert abs(first - 104) <= 2 and abs(five - 137) <= 2  # 69.3 % and 91.3 %


def test_squeezenet_of_its_authors_classifies_imagenet(test_data, samples):
    tensors = wc.read(test_data / "weights" / "squeezenet_v1.1.caffemodel")
    entry = find("squeezenet1_1")
    network = abstract("squeezenet1_1", 1000)
    names = wc.match(tensors, network, [s.names for s in entry.sources])
    weights, report = wc.convert(tensors, network, names)
    assert (report.source, report.dropped) == ("caffe", ())
    changes = next(s.changes for s in entry.sources if s.names is names)
    config = ModelConfig(name="squeezenet1_1", **changes)
    network = wc.with_weights(network, weights)
    first, five = _correct(network, lambda p: _short_side_256(p, config), samples)
    print(f"SqueezeNet 1.1: {first} and {five} of 150 are right")
    assert first >= 0.55 * 150 and five >= 0.78 * 150


def test_keras_convolutions_equal_caffes(test_data):
    """The Keras file lacks conv10: a network without it is made of both files."""
    network = abstract("squeezenet1_1", 1000)
    maps = [s.names for s in find("squeezenet1_1").sources]
    caffe = wc.read(test_data / "weights" / "squeezenet_v1.1.caffemodel")
    expected, _ = wc.convert(caffe, network, wc.match(caffe, network, maps))
    keras = wc.read(test_data / "weights" / "squeezenet_v1.1_notop_keras.h5")
    names = wc.match(keras, network, maps)
    assert names.source == "keras"
    with pytest.raises(wc.ConversionError, match="2 missing") as error:
        wc.convert(keras, network, names)
    assert sorted(error.value.missing) == ["conv10/bias", "conv10/kernel"]
    keras["conv10/kernel"] = expected["conv10.kernel"]
    keras["conv10/bias"] = expected["conv10.bias"]
    got, report = wc.convert(keras, network, names)
    assert report.tensors == len(expected) == 52
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
