"""Pictures of principal features, dense attention and score charts: what they contain."""

import numpy as np
import pytest

from jaxplain.viz import charts
from jaxplain.viz.attention import attention_rows
from jaxplain.viz.principal_features import feature_overlay, feature_panel

IMAGE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)


def test_the_overlay_mixes_colours_with_the_grey_image():
    colours = np.zeros((6, 8, 3), np.float32)
    colours[..., 0] = 1
    picture = feature_overlay(IMAGE, colours, strength=0.5)
    grey = (IMAGE / 255 @ [0.299, 0.587, 0.114])[..., None]
    assert np.allclose(picture, 0.5 * grey + [0.5, 0, 0], atol=1e-5)
    assert np.allclose(feature_overlay(IMAGE, colours, strength=1), [1, 0, 0])
    with pytest.raises(ValueError, match=r"\(h, w, 3\)"):
        feature_overlay(IMAGE, colours[..., :2])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        feature_overlay(IMAGE, colours * 2)
    with pytest.raises(ValueError, match="strength"):
        feature_overlay(IMAGE, colours, strength=2)


def test_a_panel_shows_photo_features_and_bars():
    colours, shares = np.zeros((3, 4, 4, 3)), np.array([[0.2, 0.3, 0.5]] * 3)
    figure = feature_panel([IMAGE] * 3, colours, ["a", "b", "c"], shares=shares, max_columns=2)
    assert len(figure.axes) == 9
    bars = [axes for axes in figure.axes if axes.patches]
    assert [b.get_height() for b in bars[2].patches] == [0.2, 0.3, 0.5]
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="one length"):
        feature_panel([IMAGE], colours, ["a"])


def test_the_strip_goes_from_the_last_layer_to_the_first():
    maps = {name: np.eye(n, dtype=np.float32) for name, n in (("c1", 8), ("c2", 4), ("c3", 2))}
    rows = attention_rows(IMAGE, maps, maps, human=np.ones((12, 16), np.float32))
    assert {label: list(row) for label, row in rows.items()} == {
        "each layer": ["3: c3", "2: c2", "1: c1", "human"],
        "combined": ["layers 32", "layers 321", "human"],
    }
    assert list(attention_rows(IMAGE, {"c1": maps["c1"]}, {"c1": maps["c1"]})) == ["each layer"]
    with pytest.raises(ValueError, match="same layers"):
        attention_rows(IMAGE, maps, {"c1": maps["c1"]})


def test_bars_are_means_with_standard_errors():
    figure = charts.score_bars({"a": [1.0, 3.0], "b": [0.5]}, "error", highlight=["b"])
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 0.5]
    assert [text.get_text() for text in axes.texts] == ["2.000", "0.500"]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert figure.get_supxlabel() == "error"
    long = "error; Localisation by graph cut, top 5 predictions: a network on a set of images"
    lines = charts.score_bars({"a": [1.0]}, long).get_supxlabel().split("\n")
    assert len(lines) == 2 and " ".join(lines) == long
    with pytest.raises(ValueError, match="at least one"):
        charts.score_bars({}, "error")
    with pytest.raises(ValueError, match="finite"):
        charts.score_bars({"a": [np.nan]}, "error")
