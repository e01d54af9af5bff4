"""`jaxplain.explain`: its maps are the explainers' own, and what is saved comes back."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from squares import SIZE, Net, picture

import jaxplain
from jaxplain import data, models
from jaxplain.explanation import drawing

PHOTO = picture(np.random.default_rng(3), (40, 60), [(0, 5, 5, 25, 25)])
METHODS = {
    "grad_cam": None,
    "gradient": {"reduce": "l2", "layer": ["relu:0", "input"]},
    "pfv": {"weight_layers": ()},
    "dense-attention": {},
    "naflow": None,
    "mine": lambda network, x, targets: -jnp.ones((1, targets.shape[1], 2, 3)),
}


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(scope="module")
def found(net):
    return jaxplain.explain(PHOTO, net, METHODS, ["red ball", 2])


def test_maps_are_those_of_the_functions(found, net):
    x = models.preprocess(PHOTO, net.config, crop=False)
    classes = jnp.array([[0, 2]])
    own = jaxplain.grad_cam(net, x, classes, layer=net.config.layer("last"))
    np.testing.assert_array_equal(found.maps["grad-cam"], own[0])
    layers = jaxplain.gradient(net, x, classes, layer=["relu:0", "input"], reduce="l2")
    for layer, maps in layers.items():
        np.testing.assert_array_equal(found.maps[f"gradient/{layer}"], maps[0])
    np.testing.assert_array_equal(found.map("gradient", "mug", part="input"), layers["input"][0, 1])
    np.testing.assert_array_equal(found.map("gradient", 2), layers["relu:0"][0, 1])
    colours = jaxplain.pfv(net, x, weight_layers=()).colours[0]
    np.testing.assert_array_equal(found.map("pfv"), colours)
    assert found.maps["dense-attention/layers/relu:0"].shape == (SIZE, SIZE)
    assert found.maps["naflow/relu:0"].shape == (2, SIZE, SIZE)
    assert all(array.dtype == np.float32 for array in found.maps.values())
    assert found.methods["mine"].style == "signed" and found.methods["grad-cam"].style == "heat"


def test_classes_and_scores(found, net):
    scores = np.asarray(net(models.preprocess(PHOTO, net.config, crop=False))[0])
    assert found.targets == (0, 2) and found.class_names == ("red ball", "blue cup, mug")
    np.testing.assert_allclose(found.scores, scores[[0, 2]], rtol=1e-6)
    np.testing.assert_allclose(found.probabilities, jax.nn.softmax(scores)[jnp.array([0, 2])], 1e-6)
    assert [row[1] for row in found.predictions] == scores.argsort()[::-1].tolist()
    top = jaxplain.explain(PHOTO, net, "gradient", "top1")
    assert top.targets == (int(scores.argmax()),) and list(top.maps) == ["gradient"]


@pytest.mark.parametrize("name", ["x.npz", "folder"])
def test_what_is_saved_comes_back(found, tmp_path, name):
    found.save(tmp_path / name)
    again = jaxplain.Explanation.load(tmp_path / name)
    assert list(again.maps) == list(found.maps)
    for key, array in found.maps.items():
        np.testing.assert_array_equal(again.maps[key], array)
    for key in ("name", "model", "targets", "class_names", "labels", "left_out"):
        assert getattr(again, key) == getattr(found, key)
    for key in ("image", "scores", "probabilities"):
        np.testing.assert_array_equal(getattr(again, key), getattr(found, key))
    assert list(again.predictions) == list(found.predictions)
    for ours, theirs in zip(again.methods.values(), found.methods.values(), strict=True):
        assert (ours.title, ours.style, ours.layer) == (theirs.title, theirs.style, theirs.layer)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_has_a_manifest_and_an_overlay_for_each_map(found, tmp_path):
    folder = tmp_path / "bundle"
    found.save(folder, dpi=50)
    said = json.loads((folder / "manifest.json").read_text())
    assert said["model"] == "net" and said["versions"]["jaxplain"] == jaxplain.__version__
    assert [one["index"] for one in said["classes"]] == [0, 2]
    gradient = said["methods"]["gradient"]
    assert gradient["options"]["reduce"] == "l2" and gradient["layer"] == ["relu:0", "input"]
    assert gradient["maps"] == {"relu:0": [2, SIZE, SIZE], "input": [2, SIZE, SIZE]}
    pictures = [name for method in said["methods"].values() for name in method["overlays"]]
    assert len(pictures) == len(set(pictures)) == 2 + 4 + 2 + 2 + 2 + 2
    for name in pictures:
        with Image.open(folder / name) as image:
            assert image.size == (60, 40)
    with pytest.raises(FileExistsError, match="exists already"):
        found.save(folder)
    with pytest.raises(ValueError, match="no explanation that save wrote"):
        jaxplain.Explanation.load(folder / "manifest.json")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="no explanation that save wrote"):
        jaxplain.Explanation.load(tmp_path / "other.npz")


def test_pictures(found, tmp_path):
    overlay = found.overlay("grad-cam", "red ball", cmap="viridis")
    assert overlay.dtype == np.uint8 and overlay.shape == PHOTO.shape
    assert (overlay != found.overlay("grad-cam", "red ball")).any()
    np.testing.assert_array_equal(np.asarray(found.to_pil("grad-cam", 0, cmap="viridis")), overlay)
    figure = found.figure(cmap="viridis", colour_bar=True)
    assert figure.dpi == 200
    bars = [axes.images[0].cmap.name for axes in figure.axes[-3:]]
    assert bars == ["viridis", "gray", "RdBu_r"]
    width, height = figure.get_size_inches()
    shown = found.to_pil(colour_bar=True)
    assert abs(shown.width - 200 * width) <= 1 and abs(shown.height - 200 * height) <= 1
    found.save(tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_it_shows_itself_in_a_notebook(net):
    named = [*net.config.class_names[:2], "<b>cup</b>"]
    found = jaxplain.explain(PHOTO, net, ["gradient"], 2, class_names=named)
    assert found._repr_png_().startswith(b"\x89PNG")
    text = found._repr_html_()
    assert "data:image/png;base64," in text and "explained by net" in text
    assert "&lt;b&gt;cup&lt;/b&gt;" in text and "<b>cup" not in text


def test_all_leaves_out_what_the_network_does_not_allow(net):
    found = jaxplain.explain(PHOTO, net, "all", 0)
    without = ["Fitted CAM", "PFV", "Attention rollout", "Transformer attribution", "LeGrad"]
    assert set(found.left_out) == set(without) and "fit=" in found.left_out["Fitted CAM"]
    assert "pfv" not in found.methods and found.maps["layer-cam"].shape == (1, SIZE, SIZE)
    assert "Fitted CAM left out" in found._repr_html_()


def test_several_pictures_have_names_and_one_basis(net, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    both = jaxplain.explain(
        [tmp_path / "a.png", PHOTO[:, ::-1]], net, {"pfv": {"weight_layers": ()}}, 0
    )
    assert [one.name for one in both] == ["a.png", "image 1"]
    x = jnp.concatenate(
        [models.preprocess(p, net.config, crop=False) for p in (PHOTO, PHOTO[:, ::-1])]
    )
    colours = jaxplain.pfv(net, x, weight_layers=()).colours
    for one, own in zip(both, colours, strict=True):
        np.testing.assert_allclose(one.maps["pfv/colours"], own, atol=1e-6)
    titles = [text.get_text().replace("\n", " ") for text in drawing.figure(both).texts]
    assert titles == [f"{name}: PFV (weight_layers=())" for name in ("a.png", "image 1")]


def test_networks_of_ones_own(net):
    """A function without a config: its input, or how it takes a picture, must be given."""
    fn = lambda x: net(x)  # noqa: E731
    x = models.preprocess(PHOTO, net.config, crop=False)
    by_config = jaxplain.explain(PHOTO, fn, ["gradient"], 0, config=net.config)
    by_input = jaxplain.explain(np.asarray(x[0]), fn, ["gradient"], 0)
    by_function = jaxplain.explain(
        Image.fromarray(PHOTO),
        fn,
        ["gradient"],
        0,
        preprocess=lambda p: data.normalise(data.resize_image(p, (SIZE, SIZE)), net.config),
    )
    np.testing.assert_array_equal(by_config.maps["gradient"], by_input.maps["gradient"])
    np.testing.assert_allclose(
        by_function.maps["gradient"], by_input.maps["gradient"], atol=2e-2, rtol=0.1
    )
    assert by_input.class_names == ("class 0",) and by_config.model == "net"
    assert by_input.image.shape == (SIZE, SIZE, 3) and by_function.image.shape == PHOTO.shape


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n: jaxplain.explain(PHOTO, n, "gradcm"), "did you mean grad-cam"),
        (lambda n: jaxplain.explain(PHOTO, n, []), "no method given"),
        (
            lambda n: jaxplain.explain(PHOTO, n, {"lrp": {"compsite": "x"}}),
            "did you mean composite",
        ),
        (lambda n: jaxplain.explain(PHOTO, n, ["rise"], layer="relu:0"), "rise takes no layer"),
        (lambda n: jaxplain.explain(PHOTO, n, ["mwp"], layer="rleu:0"), "rleu:0"),
        (lambda n: jaxplain.explain(PHOTO, n, ["gradient"], "top9"), "top1 to top3"),
        (lambda n: jaxplain.explain(PHOTO, n, ["gradient"], "bal"), "red ball"),
        (lambda n: jaxplain.explain(PHOTO, n, ["fitted-cam"], 0), "fit_cam"),
        (lambda n: jaxplain.explain(PHOTO, n, ["mwp"], class_names=["a"]), "1 class names for 3"),
        (lambda n: jaxplain.explain(PHOTO.astype(int), n), "uint8 (H, W, 3)"),
        (lambda n: jaxplain.explain(np.zeros((2, 4, 4, 3)), n), "(1, H, W, C)"),
        (lambda n: jaxplain.explain([], n), "no image"),
        (lambda n: jaxplain.explain(PHOTO, lambda x: n(x), ["mwp"]), "give preprocess="),
        (lambda n: jaxplain.explain(PHOTO, n, {"mine": lambda *a: jnp.ones((1, 4, 4))}, 0), "maps"),
    ],
)
def test_mistakes_are_said_in_a_sentence(net, call, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        call(net)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(found):
    for call, words in (
        (lambda: found.map("gradcam++"), "no method 'gradcam++'"),
        (lambda: found.map("grad-cam", "green ball"), "was not explained; those are red ball"),
        (lambda: found.map("grad-cam", 1), "those are 0, 2"),
        (lambda: found.map("gradient", 0, part="conv:0"), "'relu:0', 'input'"),
        (lambda: found.map("pfv", 0), "knows no class"),
        (lambda: found.save("x.xyz"), "png"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


def test_to_xarray(found):
    xarray = pytest.importorskip("xarray")
    made = found.to_xarray()
    assert isinstance(made, xarray.Dataset) and set(made.data_vars) == set(found.maps)
    cam = made["grad-cam"].sel(target=2)
    np.testing.assert_array_equal(cam, found.map("grad-cam", 2))
    assert made.class_name.values.tolist() == list(found.class_names)
    np.testing.assert_allclose(cam[f"rows_{SIZE}"][:2], [0.5 / SIZE, 1.5 / SIZE])
    assert made["pfv/colours"].dims[-1] == "colour" and made.attrs["model"] == "net"


def test_xarray_is_named_where_it_is_missing(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(ImportError, match=r"xarray.*\[xarray\]"):
        found.to_xarray()


def test_nnx_networks_stay_as_they_are():
    """A module with batch statistics is explained in the mode that it is in, and not changed."""

    class Normed(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return nnx.relu(self.norm(self.conv(x))).mean((1, 2))

    net = Normed()
    before = jax.tree.map(np.asarray, nnx.state(net))
    found = jaxplain.explain(np.ones((8, 8, 3), np.float32), net, ["grad-cam"], 1)
    assert found.model == "Normed"
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(net)))
