"""A trained vision transformer with massive activations, explained: by every sort of method, in
float32 and bfloat16, at its own size and at that of its positions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import models

PLACE = (70, 110)
# Each explains the logit of one place, at its default layer but for the CAM, which is at tokens.
METHODS = {
    "attn_lrp": lambda fn, x: jaxplain.lrp(fn, x, 0, composite="attn_lrp"),
    "gradient": lambda fn, x: jaxplain.gradient(fn, x, 0),
    "legrad": lambda fn, x: jaxplain.legrad(fn, x, 0),
    "grad_cam": lambda fn, x: jaxplain.grad_cam(fn, x, 0, layer="blocks.11.norm1"),
    "excitation": lambda fn, x: jaxplain.excitation_backprop(fn, x, 0, layer="blocks.7"),
}


@pytest.fixture(scope="module")
def networks(test_data):
    """With float32 and bfloat16 arithmetic, from the same file."""
    file = test_data / "weights" / "vit_small_patch14_importance.safetensors"
    return [models.from_pretrained(file, dtype=dtype) for dtype in (None, jnp.bfloat16)]


@pytest.fixture(scope="module")
def photograph(test_data):
    file = test_data / "weights" / "vit_small_patch14_importance_expected.npz"
    return np.load(file)["pixels"][0]


def at(network, place=PLACE):
    return lambda x: network.logits(x)[:, place[0], place[1]]


def correlation(a, b):
    a, b = (np.asarray(v, np.float64).ravel() for v in (a, b))
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "gradient"])
def test_half_precision_in_spite_of_outliers(name, networks, photograph):
    whole, half = networks
    x = models.preprocess(photograph, whole.config)
    expected = METHODS[name](at(whole), x)
    got = METHODS[name](at(half), x.astype(jnp.bfloat16))
    assert got.shape == expected.shape and jnp.isfinite(got).all()
    assert correlation(got, expected) > 0.99


def test_single_precision_in_spite_of_outliers(networks, photograph, x64):
    network, _ = networks
    x = models.preprocess(photograph, network.config)
    _, acts = jaxplain.capture(network, ["blocks.9"])(x)
    size = np.abs(np.asarray(acts["blocks.9"]))
    assert size.max() > 50 * np.median(size)  # the outliers
    exact = METHODS["attn_lrp"](at(network), jnp.asarray(np.asarray(x, np.float64)))
    assert exact.dtype == jnp.float64
    assert correlation(METHODS["attn_lrp"](at(network), x), exact) > 0.999


def test_conservation_is_reported(networks, photograph):
    """Biases take a share at every layer; next to the scores none is lost yet."""
    network, _ = networks
    x = models.preprocess(photograph, network.config)
    layers = ["input", "blocks.0", "blocks.11", "decoder.2", "logits"]
    table = jaxplain.conservation(at(network), x, 0, layer=layers, composite="attn_lrp")
    shares = {row.layer: row.mean for row in table}
    assert list(shares) == layers and all(np.isfinite(list(shares.values())))
    assert shares["logits"] == pytest.approx(1, abs=1e-4)
    maps = jaxplain.lrp(at(network), x, 0, composite="attn_lrp", layer=["input"])
    score = float(at(network)(x)[0, 0])
    assert float(maps["input"].sum()) / score == pytest.approx(shares["input"], rel=1e-2)


def test_at_the_size_of_its_positions(networks, photograph):
    """518 x 518, that is 1370 tokens: what is explained lies where it lies at 224 x 224."""
    network, _ = networks
    large = models.preprocess(photograph, network.config)
    x = jnp.asarray(jaxplain.postprocess.resize(jnp.moveaxis(large, -1, 1), (518, 518), "bicubic"))
    x = jnp.moveaxis(x, 1, -1)
    place = tuple(round(p * 518 / 224) for p in PLACE)
    for name in ("gradient", "legrad"):
        got = METHODS[name](at(network, place), x)
        assert got.shape == ((1, 518, 518) if name == "gradient" else (1, 37, 37))
        assert jnp.isfinite(got).all() and float(jnp.abs(got).max()) > 0
    rows, columns = np.unravel_index(np.asarray(jnp.abs(got[0])).argmax(), got.shape[1:])
    assert abs(rows - place[0] / 14) < 6 and abs(columns - place[1] / 14) < 6
