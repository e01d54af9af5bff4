"""Pictures: colours mean what the style says, overlays keep the image, files are written whole."""

import matplotlib
import numpy as np
import pytest

from jaxplain import viz
from jaxplain.viz import panels

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def _colour(name, position):
    return np.asarray(matplotlib.colormaps[name](position)[:3], np.float32)


def test_heat_shows_the_positive_part_up_to_its_maximum():
    colours, values = viz.colourise(np.array([[-3.0, 0.0], [2.0, 4.0]]), "heat")
    np.testing.assert_array_equal(values, [[0, 0], [0.5, 1]])
    np.testing.assert_allclose(colours[1, 1], _colour("plasma", 1.0))
    np.testing.assert_allclose(colours[0, 0], _colour("plasma", 0.0))


def test_signed_has_zero_in_the_middle_and_red_for():
    signed = np.array([[-1.0, 0.0], [1.0, 1.0]])
    colours, values = viz.colourise(signed, "signed")
    np.testing.assert_allclose(values, signed)
    assert colours[1, 0, 0] > colours[1, 0, 2] and colours[0, 0, 0] < colours[0, 0, 2]
    np.testing.assert_allclose(colours[0, 1], _colour("RdBu_r", 0.5))
    opposite, _ = viz.colourise(-signed, "signed")
    assert opposite[1, 0, 0] < opposite[1, 0, 2]


def test_gray_is_black_at_zero_whatever_the_sign():
    colours, _ = viz.colourise(np.array([[0.0, -1.0], [1.0, 1.0]]), "gray")
    np.testing.assert_allclose(colours, [[[0] * 3, [1] * 3], [[1] * 3, [1] * 3]], atol=1e-6)


def test_coloured_maps_lie_around_mid_gray():
    gradient = np.zeros((6, 6, 3))
    gradient[1, 2, 0], gradient[4, 4, 2] = 2.0, -2.0
    colours, values = viz.colourise(gradient, "gray", (6, 6))
    assert values.shape == (6, 6, 3)
    np.testing.assert_allclose(colours[1, 2], [1.0, 0.5, 0.5])
    np.testing.assert_allclose(colours[4, 4], [0.5, 0.5, 0.0])
    np.testing.assert_allclose(colours[0, 0], [0.5, 0.5, 0.5])


@pytest.mark.parametrize("style", sorted(viz.STYLES))
@pytest.mark.parametrize("image", [IMAGE, IMAGE / 255.0])
def test_overlay_has_the_images_size_and_range(style, image):
    picture = viz.overlay(image, np.random.default_rng(1).normal(size=(3, 4)), style)
    assert picture.shape == image.shape and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1


def test_overlay_of_a_zero_map_is_the_faded_image():
    gray = np.full_like(IMAGE, 128)
    np.testing.assert_allclose(viz.overlay(gray, np.zeros((2, 2))), 128 / 255, atol=1e-6)
    for style in ("heat", "signed"):
        picture = viz.overlay(IMAGE, np.zeros((2, 2)), style)
        luminance = IMAGE @ [0.299, 0.587, 0.114]
        assert np.corrcoef(picture.mean(-1).ravel(), luminance.ravel())[0, 1] > 0.9


def test_overlay_colours_where_the_map_is():
    heat = np.zeros((3, 4))
    heat[0, 0] = 1
    near, far = (viz.overlay(IMAGE, m) for m in (heat, np.zeros((3, 4))))
    changed = np.abs(near - far).max(-1) > 1e-3
    assert changed[:4, :4].any() and not changed[8:, 8:].any()


@pytest.mark.parametrize("style", ["heat", "signed"])
def test_outliers_are_shown_unless_they_are_clipped(style):
    heat = np.random.default_rng(2).uniform(0.5, 1, (4, 4))
    outlier = heat.copy()
    outlier[1, 2] = 1000
    hidden, clipped = (viz.overlay(IMAGE, outlier, style, clip=q) for q in (100, 90))
    capped = np.where(outlier == 1000, np.percentile(outlier, 90), outlier)
    np.testing.assert_allclose(
        clipped, viz.overlay(IMAGE, np.minimum(capped, capped[1, 2]), style), atol=1e-6
    )
    assert np.abs(clipped - hidden).max() > 0.1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: viz.overlay(IMAGE, np.ones((2, 2)), clip=0), ValueError, "percentile"),
        (lambda: viz.overlay(IMAGE, np.ones((2, 2)), "hot"), ValueError, "heat"),
        (lambda: viz.overlay(IMAGE, np.ones((2, 2)), cmap="virdis"), ValueError, "viridis"),
        (lambda: viz.overlay(IMAGE[..., 0], np.ones((2, 2))), ValueError, "(H, W, 3)"),
        (lambda: viz.overlay(IMAGE.astype(int), np.ones((2, 2))), TypeError, "uint8"),
        (lambda: viz.overlay(IMAGE * 1.0, np.ones((2, 2))), ValueError, "[0, 1]"),
        (lambda: viz.overlay(IMAGE, np.ones((2, 2)), strength=2), ValueError, "strength"),
        (lambda: viz.overlay(IMAGE, np.ones((2, 2, 3))), ValueError, "(h, w)"),
        (lambda: viz.overlay(IMAGE, np.array([[np.nan]])), ValueError, "finite"),
        (lambda: viz.panel(IMAGE, {}), ValueError, "row"),
        (lambda: viz.panel(IMAGE, {"cat": {}}), ValueError, "picture"),
        (lambda: viz.panel(IMAGE, {"a": {"b": IMAGE}}, max_columns=0), ValueError, "max_columns"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_panel_labels_and_wraps_rows():
    pictures = {f"method {i}": IMAGE for i in range(5)}
    figure = viz.panel(IMAGE, {"cat": pictures, "cup": {"only": IMAGE}}, max_columns=4)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["", *pictures, "", "only"]
    assert [text.get_text() for text in figure.texts] == ["cat", "cup"]
    boxes = np.array([axes.get_position().bounds for axes in figure.axes]).round(6)
    assert len(np.unique(boxes[:, 0])) == 4  # the image, and 5 pictures in lines of 3 and 2
    assert len(np.unique(boxes[:, 1])) == 3
    again = viz.panel(IMAGE, {"cat": pictures, "cup": pictures}, colour_bars=[("heat", "viridis")])
    titles = [axes.get_title() for axes in again.axes]
    assert titles == ["", *pictures, "", *[""] * 5, ""]  # said once for both rows
    bar = again.axes[-1]
    assert bar.images[0].cmap.name == "viridis"
    assert [text.get_text() for text in bar.texts] == ["nothing", "most"]
    width, height = boxes[0, 2:] * figure.get_size_inches()
    assert width / height == pytest.approx(16 / 12, rel=1e-4)


def test_pictures_leave_no_global_state(tmp_path):
    import matplotlib.pyplot as plt

    viz.save(viz.panel(IMAGE, {"cat": {"MWP": IMAGE}}), tmp_path / "a.png")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.pdf", "a.SVG"])
def test_save_writes_every_format_and_nothing_else(tmp_path, name):
    viz.save(viz.panel(IMAGE, {"cat": {"MWP": IMAGE}}), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_size > 500


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = viz.panel(IMAGE, {"cat": {"MWP": IMAGE}})
    (tmp_path / "a.png").write_bytes(b"before")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(panels.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        viz.save(figure, tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"
    with pytest.raises(ValueError, match="png"):
        viz.save(figure, tmp_path / "a.xyz")
