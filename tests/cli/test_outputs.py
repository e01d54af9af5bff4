"""`jaxplain explain` of networks without classes: embeddings, and maps of scores."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from small_network import filled

from jaxplain import cli
from jaxplain.cli import explain
from jaxplain.models.entries import ENTRIES
from jaxplain.models.importance import ImportanceMap
from jaxplain.models.vit import Form, VisionTransformer
from jaxplain.viz import panel

FORM = Form(8, 2, patch=4, grid=4, depth=1, head="embedding")
NAMES = {"embedding": "vit_small_patch14_dinov2", "map": "vit_small_patch14_importance"}


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """A picture, and the rows that the panel was given for it."""
    rows: dict = {}

    def keep(images, found, **options):
        rows.update(found)
        return panel(images, found, **options)

    monkeypatch.setattr("jaxplain.viz.panel", keep)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return rows


@pytest.fixture
def load(monkeypatch):
    """Lets the command find a small network under a name of the registry."""

    def put(kind):
        build = {"embedding": VisionTransformer, "map": ImportanceMap}[kind]
        outputs = {"embedding": 8, "map": 1}[kind]
        network = filled(build(FORM, outputs, rngs=nnx.Rngs(0)))
        config = ENTRIES[NAMES[kind]].config
        network.config = dataclasses.replace(config, input_size=16, outputs=outputs)
        monkeypatch.setattr(explain, "load_model", lambda *_, **__: network)
        return network

    return put


def test_an_embedding_is_no_list_of_classes(load, picture, capsys):
    load("embedding")
    assert (
        cli.main(["explain", "photo.png", "--methods", "gradient,hires-cam", "--layer", "norm"])
        == 0
    )
    out = capsys.readouterr().out
    assert "vit_small_patch14_dinov2 gives an embedding, of 8 numbers and of length" in out
    assert "%" not in out and "class 0" not in out
    (label,) = picture
    assert label.startswith("the embedding  ") and len(picture[label]) == 2


def test_numbers_of_an_embedding(load, picture, capsys):
    load("embedding")
    assert cli.main(["explain", "photo.png", "--methods", "gradient", "--class", "5"]) == 0
    assert [label[:25] for label in picture] == ["number 5 of the embedding"]
    for asked in ("8", "cat", "top2"):
        assert cli.main(["explain", "photo.png", "--methods", "gradient", "--class", asked]) == 2
        error = capsys.readouterr().err
        assert f"{asked} is no number of an embedding: give 0 to 7, or ask for its" in error


def test_places_of_a_score_map(load, picture, capsys):
    """The brightest by default; what is asked of a place is the logit, which does not saturate."""
    network = load("map")
    assert cli.main(["explain", "photo.png", "--methods", "gradient,lrp"]) == 0
    out = capsys.readouterr().out
    assert "gives a map of 16 x 16 scores, from 0." in out
    (label,) = picture
    row, column = out.rstrip().splitlines()[0].rpartition("row ")[2].split(", column ")
    assert label.startswith(f"row {row}, column {column}") and len(picture[label]) == 2
    picture.clear()
    asked = ["--class", "3,5", "--class", "15, 0", "--class", "3,5"]
    assert cli.main(["explain", "photo.png", "--methods", "gradient", *asked]) == 0
    assert [label.split("  ")[0] for label in picture] == ["row 3, column 5", "row 15, column 0"]
    for wrong in ("16,0", "top2", "cat"):
        assert cli.main(["explain", "photo.png", "--methods", "gradient", "--class", wrong]) == 2
        assert "is no place of the map: give ROW,COLUMN, below 16 and 16" in capsys.readouterr().err
    reference = ["--reference", "photo.png"]
    assert cli.main(["explain", "photo.png", "--methods", "gradient", *reference]) == 2
    assert "--reference needs an embedding" in capsys.readouterr().err
    assert network.config.outputs == 1
