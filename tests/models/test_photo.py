"""The photograph that ships with jaxplain: what the network sees in it, and where."""

import numpy as np
import pytest
from PIL import Image

import jaxplain
from jaxplain import models
from jaxplain.cli import explain

CATS = ("tabby", "tiger cat", "Egyptian cat")


@pytest.fixture(scope="module")
def network():
    return models.from_pretrained("efficientnet_lite0")


@pytest.fixture(scope="module")
def photo():
    with Image.open(explain.example_photo()) as file:
        return np.asarray(file.convert("RGB"))


@pytest.fixture(scope="module")
def x(network, photo):
    return models.preprocess(photo, network.config, crop=False)


def test_the_file_is_small_and_square(photo):
    assert photo.shape == (448, 448, 3)
    assert explain.example_photo().stat().st_size < 80_000


def test_both_objects_are_the_two_top_classes(network, x):
    scores = np.asarray(network(x))[0]
    top = {network.config.class_names[i] for i in scores.argsort()[::-1][:2]}
    assert top == {"Egyptian cat", "espresso"}


def _left_share(maps):
    """The share of each map's positive mass on the left half, a middle column counting to both."""
    maps = np.maximum(np.asarray(maps), 0)
    edges = np.clip(maps.shape[-1] / 2 - np.arange(maps.shape[-1]), 0, 1)
    return (maps * edges).sum((-2, -1)) / maps.sum((-2, -1))


@pytest.mark.parametrize("layer", [None, "default"])
def test_contrastive_excitation_backprop_tells_cat_from_cup(network, x, layer):
    config = network.config
    layer = config.layer("excitation") if layer == "default" else layer
    names = [*CATS, "espresso"]
    targets = np.array([[models.class_index(name, config.class_names) for name in names]])
    maps = jaxplain.excitation_backprop(network, x, targets, layer=layer, contrastive=True)[0]
    on_own_half = np.where(
        [name in CATS for name in names], _left_share(maps), 1 - _left_share(maps)
    )
    for name, one, share in zip(names, np.asarray(maps), on_own_half, strict=True):
        column = np.unravel_index(one.argmax(), one.shape)[1] + 0.5
        assert (column < one.shape[1] / 2) == (name in CATS), name
        assert share >= 0.9, (name, share)
