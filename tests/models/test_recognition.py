"""A file of weights alone says which network it is of."""

import numpy as np
import pytest
import small_network

import jaxplain
from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.models import conversion, recognition
from jaxplain.models.entries import find
from jaxplain.weights_convert.convert import _their_shape


def foreign(name, source=0):
    """Tensors of ones for a network, as one of its sources names them; they take no memory."""
    entry = find(name)
    names = entry.sources[source].names
    shapes = wc.parameter_shapes(recognition._abstract(name, names.source, entry.outputs))
    tensors = {}
    for ours, theirs in names.resolve(shapes).items():
        parts = [theirs] if isinstance(theirs, str) else theirs
        first, *rest = _their_shape(shapes[ours], names.layout)
        for part in parts:
            shape = (first // len(parts), *rest)
            tensors[part] = np.broadcast_to(np.float32(1), shape)
    return tensors


SMALL = ("squeezenet1_0", "squeezenet1_1", "resnet18", "resnet18_npid", "cifar_resnet20")
SMALL += ("cifar_resnet32", "conv4net", "conv64f", "efficientnet_lite0", "efficientnet_lite1")
SMALL += ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2")
SMALL += ("vit_small_patch14_reg4_dinov2", "vit_small_patch14_importance", "convnext_tiny")
SMALL += ("swin_tiny_patch4_window7_224", "vit_base_patch16_clip_224")


@pytest.mark.parametrize("name", SMALL)
def test_every_source_of_a_network_is_recognised(name):
    for i in range(len(find(name).sources)):
        assert recognition.recognise(foreign(name, i)) == name


def test_tensors_that_fit_several_networks_list_them():
    """Two of Caffe's networks have tensors of the same names and shapes."""
    with pytest.raises(wc.ConversionError, match="several networks, bvlc_alexnet, caffenet: say"):
        recognition.recognise(foreign("caffenet"))


def test_what_fits_none_names_the_nearest():
    tensors = foreign("conv4net")
    del tensors["encoder.encoder.0.0.bias"]
    with pytest.raises(wc.ConversionError, match=r"nearest, conv4net, the weights .* 1 missing"):
        recognition.recognise(tensors)
    with pytest.raises(wc.ConversionError, match=r"tensors \(a ...\) are named as in no network"):
        recognition.recognise({"a": np.ones(100_000)})
    with pytest.raises(wc.ConversionError, match="nearest, cifar_resnet20.*wrong shape"):
        recognition.recognise(foreign("cifar_resnet20") | {"linear.weight": np.ones((7, 64))})


def test_classes_of_ones_own_are_counted():
    tensors = foreign("cifar_resnet20")
    tensors |= {"linear.weight": np.ones((7, 64)), "linear.bias": np.ones(7)}
    assert recognition.recognise(tensors, 7) == "cifar_resnet20"


def test_a_file_alone(tmp_path):
    np.savez(tmp_path / "weights.npz", **small_network.foreign())
    network = models.from_pretrained(tmp_path / "weights.npz")
    assert network.config.name == small_network.SMALL
    named = models.from_pretrained(tmp_path / "weights.npz", network=small_network.SMALL)
    small_network.equal(network, named)
    np.savez(tmp_path / "other.npz", a=np.ones(100_000))
    with pytest.raises(wc.CheckpointError, match=r"other.npz: the tensors \(a ...\) are named"):
        models.from_pretrained(tmp_path / "other.npz")


def test_what_jaxplain_wrote_says_it_itself(tmp_path):
    np.savez(tmp_path / "weights.npz", **small_network.foreign())
    converted = conversion.convert_file(tmp_path / "weights.npz", None)
    path = tmp_path / "own.safetensors"
    wc.export(path, converted.weights, converted.description)
    assert models.from_pretrained(path).config == converted.config


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("bvlc_googlenet.caffemodel", "bvlc_googlenet"),
        ("resnet20-12fca82f.th", "cifar_resnet20"),
        ("squeezenet_v1.1.caffemodel", "squeezenet1_1"),
    ],
)
def test_real_files(file, name, test_data):
    network = models.from_pretrained(test_data / "weights" / file)
    assert network.config.name == name
    image = np.zeros((1, network.config.input_size, network.config.input_size, 3), np.float32)
    assert jaxplain.gradient(network, image).shape == image.shape[:3]
