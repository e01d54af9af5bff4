"""Records from whatever gives images by number: lists, dicts, tar files, buckets."""

import io
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from jaxplain import data

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(pixels=PIXELS):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("item", "name", "labels"),
    [
        (data.Record.make(PIXELS, "own", [2]), "own", [2]),
        (PIXELS, "0", []),
        (Image.fromarray(PIXELS), "0", []),
        (encoded(), "0", []),
        ((PIXELS, 3), "0", [3]),
        ({"image": PIXELS, "label": 3, "id": "a"}, "a", [3]),
        ({"image": {"bytes": encoded(), "path": None}, "label": np.int64(1)}, "0", [1]),
        ({"img": Image.fromarray(PIXELS), "fine_label": 7}, "0", [7]),
        ({"jpg": encoded(), "cls": b"12", "__key__": "k"}, "k", [12]),
        ({"image": PIXELS, "labels": [1, 2], "image_id": 9}, "9", [1, 2]),
    ],
)
def test_items_of_every_form(item, name, labels):
    record = data.as_source([item])[0]
    np.testing.assert_array_equal(record.image, PIXELS)
    assert record.id == name and record.labels.tolist() == labels


def test_grey_arrays_and_paths(tmp_path):
    record = data.as_source([PIXELS[..., 0]])[0]
    np.testing.assert_array_equal(record.image, np.repeat(PIXELS[..., :1], 3, -1))
    (tmp_path / "a.png").write_bytes(encoded())
    paths = data.as_source([str(tmp_path / "a.png"), tmp_path / "none.png"])
    assert paths[0].id == str(tmp_path / "a.png") and paths[0].size == (4, 6)
    before = paths.stamp(0)
    (tmp_path / "a.png").write_bytes(encoded(PIXELS[:2]))
    assert paths.stamp(0) != before and "cannot be found" in paths.stamp(1)
    with pytest.raises(data.UnreadableRecordError, match="No such file"):
        paths[1]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (PIXELS / 255, "must be uint8 .* not float64"),
        (PIXELS[..., :2], "must be uint8"),
        ("/dev/null", "it is a device"),
        (b"no image", "no whole image"),
        ({"label": 3}, "it has no image: its keys are label"),
        ({"image": PIXELS, "label": "cat"}, "no class number"),
        ({"image": PIXELS, "label": 0.5}, "no class number"),
        (None, "must be uint8"),
        ([[1], [2, 3]], "inhomogeneous"),
    ],
)
def test_what_is_no_image_is_a_failure_of_its_record(item, words):
    with pytest.raises(data.UnreadableRecordError, match=words):
        data.as_source([item])[0]


def test_sources_of_other_libraries():
    class Features(list):
        features = {"label": types.SimpleNamespace(names=["cat", "dog"])}

        def __getitem__(self, index):
            if index == 1:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    source = data.as_source(Features([{"image": PIXELS, "label": 1}, None]), name="pets")
    assert (source.name, source.class_names, len(source)) == ("pets", ("cat", "dog"), 2)
    with pytest.raises(data.UnreadableRecordError, match="record 1: image file is truncated"):
        source[1]
    assert data.as_source(source) is source
    for wrong in (iter([PIXELS]), {"image": PIXELS}, 3):
        with pytest.raises(ValueError, match="must have a length and give items by number"):
            data.as_source(wrong)


def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    columns = {"image": [{"bytes": encoded(), "path": None}] * 3, "label": [1, 0, 1]}
    pets = datasets.Dataset.from_dict(columns, features=features)
    source = data.as_source(pets, name="pets")
    assert source.class_names == ("cat", "dog") and len(source) == 3
    np.testing.assert_array_equal(source[2].image, PIXELS)
    assert [source[i].labels.tolist() for i in range(3)] == [[1], [0], [1]]


def archive(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_tar_files(tmp_path, where):
    fsspec = pytest.importorskip("fsspec")
    first = archive(
        {
            "00000.png": encoded(),
            "00000.cls": b"4",
            "00001.json": b"{}",
            "sub/00002.x.png": b"broken",
            "00003.cls": b"9",
        }
    )
    second = archive({"00000.png": encoded(PIXELS[:2])})
    for name, content in (("a-0.tar", first), ("a-1.tar", second)):
        (tmp_path / name).write_bytes(content)
        fsspec.filesystem("memory").pipe(f"/bucket/{name}", content)
    pattern = str(tmp_path / "a-*.tar") if where == "folder" else "memory://bucket/a-*.tar"
    try:
        source = data.TarFiles(pattern, class_names=list("abcde"))
        assert source.ids == ["a-0.tar/00000", "a-0.tar/sub/00002", "a-1.tar/00000"]
        assert source[0].labels.tolist() == [4] and source[2].size == (2, 6)
        np.testing.assert_array_equal(source[0].image, PIXELS)
        with pytest.raises(data.UnreadableRecordError, match="no whole image"):
            source[1]
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_tar_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no archive"):
        data.TarFiles(tmp_path / "*.tar")
    (tmp_path / "a.tar").write_bytes(archive({"a.txt": b"text"}))
    with pytest.raises(FileNotFoundError, match="hold no images"):
        data.TarFiles([tmp_path / "a.tar"])
    (tmp_path / "b.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match="no whole, uncompressed tar"):
        data.TarFiles([tmp_path / "b.tar"])


def test_a_folder_of_images_in_a_bucket():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/images/sub/b.png", encoded())
    memory.pipe("/bucket/images/a.png", b"broken")
    memory.pipe("/bucket/images/notes.txt", b"text")
    try:
        source = data.open_source("memory://bucket/images")
        assert (source.name, source.ids) == ("images", ["a.png", "sub/b.png"])
        np.testing.assert_array_equal(source[1].image, PIXELS)
        with pytest.raises(data.UnreadableRecordError, match="no whole image"):
            source[0]
        memory.pipe("/bucket/images/sub/b.png", encoded(PIXELS[:2]))
        assert data.ImageFolder("memory://bucket/images").stamp(1) != source.stamp(1)
        memory.rm("/bucket/images/a.png")
        with pytest.raises(data.UnreadableRecordError, match="no such file any more"):
            source[0]
    finally:
        memory.rm("/bucket", recursive=True)
