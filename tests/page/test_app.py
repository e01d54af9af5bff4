"""The page on which one explains pictures, in a real browser, with a small network."""

import sys
import urllib.error
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxplain
from jaxplain import cli
from jaxplain.core.extras import MissingPackageError
from jaxplain.page.studio import MOST_PIXELS, PictureError, Studio, code_of, read_picture

EVIL = "<img src=x onerror=alert(1)>"
NAMES = [EVIL, *(f"thing {i}" for i in range(1, 8))]
_FIRST = jax.random.normal(jax.random.key(0), (3, 3, 3, 8)) * 0.3
_HEAD = jax.random.normal(jax.random.key(1), (8, 8))


def network(x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, _FIRST, (4, 4), "SAME", dimension_numbers=numbers)
    x = jaxplain.tag(jax.nn.relu(x), "one")
    x = jaxplain.tag(jnp.tanh(x) * jnp.linspace(-1, 1, 8)[:, None], "two")
    return x.mean((1, 2)) @ _HEAD


def preprocess(picture):
    return jax.image.resize(jnp.asarray(picture, jnp.float32) / 255 - 0.5, (32, 32, 3), "linear")


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        Image.fromarray(photo(i)).save(folder / f"photo{i}.png")
    Image.fromarray(photo(0)).save(folder / f"{EVIL}.png")
    (folder / "text.png").write_text("This is no picture.")
    Image.new("1", (10_000, 10_000)).save(folder / "large.png")
    return folder


@pytest.fixture(scope="module")
def studio():
    return Studio(network, class_names=NAMES, preprocess=preprocess)


@pytest.fixture(scope="module")
def address(browser):
    pytest.importorskip("gradio", reason="gradio is not installed")
    page = jaxplain.app(
        network, class_names=NAMES, preprocess=preprocess, methods=["grad-cam", "gradient"]
    )
    yield page.local_url
    page.close()


# -- what is computed ----------------------------------------------------------------------------


def test_maps_are_those_of_explain(studio):
    found = studio.explain(photo(0), ["grad-cam", "gradient"], [3, 5], against=True, layer="one")
    methods = {"grad-cam": {"layer": "one"}, "gradient": {"layer": "one"}}
    options = {"class_names": NAMES, "preprocess": preprocess}
    wanted = jaxplain.explain(photo(0), network, methods, [3, 5], **options)
    for name in methods:
        np.testing.assert_allclose(found.maps[name], wanted.maps[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    signal = np.zeros((1, 8), np.float32)
    signal[0, [3, 5]] = 1, -1
    maps = jaxplain.grad_cam(network, preprocess(photo(0))[None], signal, layer="one")
    np.testing.assert_allclose(found.maps["grad-cam-against"], maps[0], rtol=1e-4, atol=1e-6)
    assert [row.name for row in studio.layers(photo(0))] == ["one", "two"]


def test_code_makes_the_same(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(0)).save("a.png")
    found = studio.explain(photo(0), ["gradient"], ["top1"], name="a.png")
    names = {"network": network, "class_names": NAMES, "preprocess": preprocess}
    text = code_of(studio, ["gradient"], found, None)
    assert len(text.splitlines()) == 5
    exec(text, names)
    with np.load("maps.npz") as stored:
        np.testing.assert_allclose(
            stored["maps/gradient"], found.maps["gradient"], rtol=1e-4, atol=1e-6
        )
    assert (tmp_path / "maps.png").is_file()


def test_refusals(studio, files, capsys, monkeypatch):
    with pytest.raises(PictureError, match=r"This picture cannot be read: it holds no whole image"):
        read_picture(files / "text.png")
    with pytest.raises(PictureError, match=rf"10000 x 10000 pixels, and at most {MOST_PIXELS} are"):
        read_picture(files / "large.png")
    found = studio.explain(photo(0), ["legrad", "gradient"], ["top1"])
    assert list(found.methods) == ["gradient"] and list(found.left_out) == ["LeGrad"]
    with pytest.raises(ValueError, match="The page explains classes, and vit_small_patch14_dino"):
        config = jaxplain.models.ModelConfig("vit_small_patch14_dinov2", 8, (0.0,), (1.0,))
        Studio(network, config=config, said="vit_small_patch14_dinov2")
    assert cli.main(["app", "--methods", "pfv"]) == 2
    assert "unknown method 'pfv'" in capsys.readouterr().err
    assert cli.main(["app", "--others", "resnet51"]) == 2
    assert "--others resnet51: there is no network of this name" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingPackageError, match=r"needs the package gradio; install it .*\[app"):
        jaxplain.app(network)


# -- in the browser ------------------------------------------------------------------------------


@pytest.fixture
def opened(address, visit):
    def opened(**options):
        options = {"selector": "#picture input[type=file]", "state": "attached", **options}
        return visit(address, **options)

    return opened


def drop(page, path):
    page.locator("#picture input[type=file]").set_input_files(path)


def replace(page, path):
    page.locator("#picture button[aria-label='Remove Image']").click()
    drop(page, path)


def pixels(page, which=0):
    """The picture of a map."""
    data = page.locator("#maps img").nth(which).get_attribute("src")
    return np.asarray(Image.open(urllib.request.urlopen(data)))


def changed(page, do):
    """Does something, and waits for other maps."""
    shown = "[...document.querySelectorAll('#maps img')].map((one) => one.src + one.alt).join()"
    before = page.evaluate(shown)
    do()
    page.wait_for_function(f"(before) => {shown} && {shown} !== before", arg=before)


def stored(page, folder):
    """The maps that the page offers for download."""
    with page.expect_download() as waited:
        page.locator("#npz").click()
    path = folder / "got.npz"
    waited.value.save_as(path)
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def test_from_drop_to_download(opened, files, tmp_path):
    page = opened()
    changed(page, lambda: drop(page, files / "photo0.png"))
    x = preprocess(photo(0))[None]
    ranked = np.argsort(-np.asarray(network(x)[0]))
    assert page.locator("#top label").count() == 5
    assert page.locator("#top label").first.inner_text().startswith(NAMES[ranked[0]])
    found = stored(page, tmp_path)
    assert found["targets"].tolist() == [ranked[0]]
    wanted = jaxplain.grad_cam(network, x, ranked[:1])
    np.testing.assert_allclose(found["maps/grad-cam"], wanted, rtol=1e-4, atol=1e-6)

    first = pixels(page)
    changed(page, lambda: page.locator("#top label").nth(1).click())
    assert (pixels(page) != first).any()
    found = stored(page, tmp_path)
    wanted = jaxplain.grad_cam(network, x, ranked[1:2])
    np.testing.assert_allclose(found["maps/grad-cam"], wanted, rtol=1e-4, atol=1e-6)

    second = pixels(page)
    layer = page.locator("#layer input[type=range]")
    layer.focus()
    changed(page, lambda: page.keyboard.press("ArrowRight"))
    assert "Layer: one" in page.locator("#layer").inner_text()
    wanted = jaxplain.grad_cam(network, x, ranked[1:2], layer="one")
    found = stored(page, tmp_path)
    np.testing.assert_allclose(found["maps/grad-cam"], wanted, rtol=1e-4, atol=1e-6)
    assert (pixels(page) != second).any()
    # The value under the cursor is that of the map.
    image = page.locator("#maps img").first
    image.scroll_into_view_if_needed()
    image.hover(position={"x": 3, "y": 3})
    said = page.locator(".jp-value").first
    said.filter(has_text="at row 0, column 0 of 8 x 8").wait_for()
    assert float(said.inner_text().split()[0]) == pytest.approx(float(wanted[0, 0, 0]), rel=1e-3)

    opacity = page.locator("#opacity input[type=range]")
    opacity.focus()
    changed(page, lambda: page.keyboard.press("Home"))
    bare = pixels(page)
    assert np.abs(bare[..., :3].astype(int) - photo(0)).max() <= 1
    with page.expect_download() as waited:
        page.locator("#png").click()
    with Image.open(waited.value.path()) as sheet:
        assert sheet.size == (80, 30)
    assert "jaxplain.explain('photo0.png', network, methods" in page.locator("#code").inner_text()


def test_any_class_against_another(opened, files):
    page = opened()
    changed(page, lambda: drop(page, files / "photo1.png"))
    page.locator("#class input").fill("thing 6")
    changed(page, lambda: page.keyboard.press("Enter"))
    assert "thing 6" in page.locator("#maps .jp-class").first.inner_text()
    page.locator("#against input").fill(EVIL)
    changed(page, lambda: page.keyboard.press("Enter"))
    rows = page.locator("#maps .jp-class").all_inner_texts()
    assert len(rows) == 3 and rows[2] == f"thing 6 against {EVIL}"
    assert page.locator("#maps img").count() == 6


def test_bad_files_get_a_sentence(opened, files):
    for name, words in (
        ("text.png", "it holds no whole image in one of the formats"),
        ("large.png", f"it has 10000 x 10000 pixels, and at most {MOST_PIXELS} are read"),
    ):
        page = opened()
        drop(page, files / name)
        page.locator("#status [role=alert]").filter(has_text=words).wait_for()
        assert str(files) not in page.locator("#status").inner_text()
        changed(page, lambda page=page: replace(page, files / "photo0.png"))
        assert page.locator("#status [role=alert]").count() == 0


def test_two_visitors_at_once(opened, files, tmp_path):
    pages = [opened(), opened()]
    for i, page in enumerate(pages):
        drop(page, files / f"photo{i}.png")
    for i, page in enumerate(pages):
        page.wait_for_selector("#maps img")
        found = stored(page, tmp_path)
        assert (found["image"] == photo(i)).all()
    before = pages[1].locator("#maps").inner_html()
    changed(pages[0], lambda: pages[0].locator("#top label").nth(2).click())
    assert pages[1].locator("#maps").inner_html() == before


def test_hostile_names_do_nothing_and_nothing_is_asked_of_others(opened, files, address):
    page = opened()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    changed(page, lambda: drop(page, files / f"{EVIL}.png"))
    page.locator("#class input").fill(EVIL)
    changed(page, lambda: page.keyboard.press("Enter"))
    assert page.locator("[onerror]").count() == 0
    page.reload()
    page.wait_for_selector("#picture input[type=file]", state="attached")
    assert len(asked) > 5
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "../../etc/passwd", __file__])
def test_no_file_but_its_own_is_served(address, path):
    for prefix in ("gradio_api/file=", "file=", "static/", "assets/"):
        with pytest.raises(urllib.error.HTTPError) as found:
            urllib.request.urlopen(f"{address}{prefix}{path}")
        assert found.value.code in (403, 404)


@pytest.mark.parametrize("width,scheme", [(1280, "dark"), (390, "light")])
def test_accessible_and_no_wider_than_the_screen(opened, files, serious, width, scheme):
    page = opened(width=width, scheme=scheme)
    assert serious(page) == []
    changed(page, lambda: drop(page, files / "photo0.png"))
    for _ in range(20):  # what is still fading in has less contrast
        if not (found := serious(page)):
            break
        page.wait_for_timeout(250)
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
