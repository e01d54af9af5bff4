"""The gallery's numbers and files, without a browser."""

import dataclasses
import json
import re

import numpy as np
import pytest
from bright_places import CLASSES, EVIL, Pictures, bright, explained, left
from PIL import Image

import jaxplain
from jaxplain import cli, data
from jaxplain.data import shards
from jaxplain.evaluation import stability
from jaxplain.page import gallery


def numbers(page):
    text = (page / "data.js").read_text("ascii")
    return json.loads(text.removeprefix("const GALLERY = ").removesuffix(";\n"))


def entry(page, number):
    text = (page / f"records/{number}.js").read_text("ascii")
    return json.loads(re.fullmatch(r"galleryEntry\(\d+, (.*)\)\n", text)[1])  # pyright: ignore[reportOptionalSubscript]


def test_numbers(pictures):
    found = numbers(pictures)
    columns = found["entries"]
    assert found["run"] == {"records": 150, "shown": 150, "finished": True}
    assert found["unknown"] == [] and found["failures"] == []
    # Red is told from green; of blue the network says green.
    assert columns["predicted"] == [(0, 1, 1)[i % 3] for i in range(150)] == columns["target"]
    assert columns["right"] == [i % 3 != 2 for i in range(150)]
    assert columns["labels"] == [[i % 3] for i in range(150)]
    assert found["targets"] == {"0": EVIL, "1": "cup"}
    assert found["labels"] == dict(zip("012", CLASSES, strict=True))
    # No box where another class is explained than the object's; `left` errs where it is right.
    assert columns["hit"] == [
        [None, None] if i % 3 == 2 else [True, i % 2 == 0] for i in range(150)
    ]
    for i in (0, 7):
        x = Pictures(150)[i].image[None] / np.float32(255)
        maps = [np.asarray(m(None, x, np.zeros(1, np.int32)))[0] for m in (bright, left)]
        np.testing.assert_allclose(
            columns["concentration"][i], stability.gini(np.stack(maps)), rtol=1e-3
        )
        shown = entry(pictures, i)
        np.testing.assert_allclose(shown["range"], [[m.min(), m.max()] for m in maps], rtol=1e-3)
        box = [4, 8, 14, 14] if i == 0 else [60, 8, 70, 14]
        np.testing.assert_allclose(shown["boxes"], [np.divide(box, [80, 24, 80, 24])], atol=1e-4)
        height, width, _ = shown["maps"][0]
        assert (height, width) == (24, 80)


def test_agreement_is_that_of_the_ranks(tmp_path):
    def turned(fn, x, targets):
        return -left(fn, x, targets)

    source = Pictures(8)
    for name, other, wanted in (("same", left, 1), ("opposite", turned, -1)):
        jaxplain.explain_dataset(
            lambda x: x.mean((1, 2)),
            source,
            tmp_path / name,
            {"one": left, "other": other},
            prepare=lambda record: record.image,
            to_input=lambda pixels: pixels / 255.0,
        )
        gallery(tmp_path / name, source, tmp_path / f"{name} page")
        agreement = numbers(tmp_path / f"{name} page")["entries"]["agreement"]
        np.testing.assert_allclose(agreement, [wanted] * 8, atol=1e-5)


def test_every_class_that_was_explained_is_an_entry(tmp_path):
    source = Pictures(8)
    explained(tmp_path / "fixed", source, targets=[2, 0])
    made = gallery(tmp_path / "fixed", source, tmp_path / "page")
    columns = numbers(tmp_path / "page")["entries"]
    assert (made.records, made.entries) == (8, 16)
    assert columns["target"] == [2, 0] * 8
    assert columns["record"] == [i // 2 for i in range(16)]
    assert columns["hit"][0] == [None, None] and columns["hit"][1] == [True, True]
    maps = data.open_maps(tmp_path / "fixed")
    np.testing.assert_allclose(columns["score"][:2], maps[0].scores, rtol=1e-3)

    signals = np.eye(3, dtype=np.float32)
    explained(tmp_path / "labels", source, targets=signals)
    gallery(tmp_path / "labels", source, tmp_path / "page of labels")
    found = numbers(tmp_path / "page of labels")
    assert found["entries"]["target"] == [i % 3 for i in range(8)]
    assert found["entries"]["hit"][2] == [True, True] and found["targets"]["2"] == "dog"


def test_files_are_named_by_numbers_and_texts_are_no_markup(pictures):
    files = {p.relative_to(pictures).as_posix() for p in pictures.rglob("*") if p.is_file()}
    static = {"index.html", "gallery.css", "gallery.js", "detail.js", "data.js"}
    assert static < files
    for name in files - static:
        assert re.fullmatch(r"(pictures/\d+\.jpg|records/\d+\.js|thumbnails/\d+-[01]\.jpg)", name)
    assert len(files - static) == 150 * 4
    for script in ("data.js", "records/1.js"):
        assert "<" not in (pictures / script).read_text("ascii")
    assert "default-src 'none'" in (pictures / "index.html").read_text("utf-8")
    for one, side in (("pictures/0.jpg", 80), ("thumbnails/0-1.jpg", 80)):
        with Image.open(pictures / one) as image:
            assert max(image.size) == side


def test_a_run_that_goes_on(tmp_path):
    source = Pictures(20)
    folder = explained(tmp_path / "maps", source, shards=(0, 1))
    made = gallery(folder, source, tmp_path / "page")
    assert made.records == 16
    assert numbers(tmp_path / "page")["run"] == {"records": 20, "shown": 16, "finished": False}


def test_maps_without_scores(tmp_path, monkeypatch):
    encode = shards.encode
    monkeypatch.setattr(shards, "encode", lambda one: encode(dataclasses.replace(one, scores=None)))
    source = Pictures(8)
    folder = explained(tmp_path / "maps", source)
    assert data.open_maps(folder)[0].scores is None
    made = gallery(folder, source, tmp_path / "page")
    assert made.unknown[0].startswith("Scores and predicted classes are not known: the maps were")
    columns = numbers(tmp_path / "page")["entries"]
    assert set(columns["score"]) == set(columns["right"]) == {None}
    assert columns["hit"][0] == [True, True]


def test_records_that_cannot_be_shown(tmp_path):
    class Changed(Pictures):
        def __getitem__(self, i):
            if i == 2:
                raise data.UnreadableRecordError("three", "it is broken")
            record = super().__getitem__(i)
            return dataclasses.replace(record, id="another") if i == 3 else record

    folder = explained(tmp_path / "maps", Pictures(8))
    made = gallery(folder, Changed(8), tmp_path / "page")
    assert made.records == 6
    assert [reason for _, reason in made.failures] == [
        "it is broken",
        "the data set has another image in this place than the one that was explained",
    ]
    assert numbers(tmp_path / "page")["failures"] == [list(one) for one in made.failures]

    class Gone(Pictures):
        def __getitem__(self, i):
            raise data.UnreadableRecordError(f"{i}", "it is gone")

    with pytest.raises(ValueError, match=r"None of the 8 records can be shown: .*: it is gone"):
        gallery(folder, Gone(8), tmp_path / "nothing")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps", "page"]


def test_refusals(tmp_path):
    source = Pictures(8)
    folder = explained(tmp_path / "maps", source)
    with pytest.raises(ValueError, match=r"records of the source = 8, not 9; name the data set"):
        gallery(folder, Pictures(9), tmp_path / "page")
    with pytest.raises(FileExistsError, match="exists already; name a new folder"):
        gallery(folder, source, folder)
    with pytest.raises(ValueError, match="size must be positive, not 0"):
        gallery(folder, source, tmp_path / "page", size=0)
    with pytest.raises(ValueError, match="is an address"):
        gallery(folder, source, "gs://bucket/page")
    with pytest.raises(FileNotFoundError, match="There are no maps in"):
        gallery(tmp_path / "other", source, tmp_path / "page")
    made = gallery(folder, source, tmp_path / "page", class_names=7)
    assert made.unknown[0].startswith("Whether a prediction is right is not known: There is no")
    begun = explained(tmp_path / "begun", source, shards=(5, 6))
    with pytest.raises(ValueError, match="has no maps yet"):
        gallery(begun, source, tmp_path / "another page")


def test_an_error_leaves_nothing_half_written(tmp_path):
    source = Pictures(8)
    folder = explained(tmp_path / "maps", source)

    def stop(done, total):
        assert (done, total) == (8, 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery(folder, source, tmp_path / "page", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_the_command(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(Pictures(3)[i].image).save(tmp_path / f"photos/{i}.png")
    source = data.open_source(tmp_path / "photos")
    folder = explained(tmp_path / "maps", source)
    page = tmp_path / "page"
    given = ["gallery", str(folder), "--data", str(tmp_path / "photos")]
    assert cli.main([*given, "-o", str(page)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{page}/index.html: 3 maps of 3 images; open it in a browser\n"
    assert "is right is not known: the data set has no labels" in said.err
    assert "3 of 3 images (100 %)" in said.err
    assert cli.main([*given, "-o", str(page)]) == 2
    assert f"error: {page} exists already; name a new folder" in capsys.readouterr().err
