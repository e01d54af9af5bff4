"""Readers of data sets: boxes on the right pixels, whatever the source; loading in order."""

import json
import pickle

import numpy as np
import pytest
from rectangles import RECTANGLES, picture, white_box, write

from jaxplain import data
from jaxplain.data.flickr30k import parse_phrases

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

    images = [
        dict(id=9, file_name="a.jpg", height=40, width=60),
        dict(id=4, file_name="b.jpg", height=40, width=60),
    ]
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
        annotations.append(
            dict(
                id=i,
                image_id=9 if i == 0 else 4,
                category_id=(7, 90, 3)[i],
                iscrowd=int(i == 1),
                bbox=[left, top, right - left, bottom - top],
                area=1.0,
                segmentation=shape,
            )
        )
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


def test_coco_errors_name_the_record(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    (file,) = (folder / "annotations").glob("instances_*.json")
    whole = json.loads(file.read_text())
    for change in ({"category_id": 1234}, {"bbox": [1, 2, 3]}):
        first = whole["annotations"][0] | change
        file.write_text(json.dumps(whole | {"annotations": [first, *whole["annotations"][1:]]}))
        source = data.open_source(folder)
        assert source[0].id == "b"
        with pytest.raises(data.UnreadableRecordError, match="record a: .* no known category, or"):
            source[1]


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
        "<annotation>"
        + 2
        * (
            f"<object><name>n01751748</name><bndbox><xmin>{left}</xmin><ymin>{top}"
            f"</ymin><xmax>{right - 1}</xmax><ymax>{bottom - 1}</ymax></bndbox></object>"
        )
        + "</annotation>"
    )
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
            images=name,
            image_class_labels=i + 1,
            train_test_split=i,
            classes=name.split("/")[0],
            bounding_boxes=f"{left}.0 {top}.0 {right - left}.0 {bottom - top}.0",
        ).items():
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
        "[/EN#11/people A man] in [/EN#13/scene the park] .\n"
        "[/EN#12/people/other Two people] ride .\n"
    )
    (tmp_path / "test.txt").write_text("5\n")
    write(tmp_path / "images" / "5.jpg", picture(at=RECTANGLES[0]))
    source = data.open_source(tmp_path, "test", images=tmp_path / "images")
    (record,) = source
    assert record.boxes.tolist() == [list(RECTANGLES[0]), list(RECTANGLES[1])]
    assert record.boxes[0].tolist() == white_box(record.image)
    assert [(p.text, p.groups, p.objects, p.sentence) for p in record.phrases] == [
        ("A man", ("people",), (0,), 0),
        ("the park", ("scene",), (), 0),
        ("Two people", ("people", "other"), (0, 1), 1),
    ]
    assert parse_phrases("nothing [here]") == []
    (tmp_path / "Sentences" / "5.txt").write_bytes(b"\xff")
    with pytest.raises(data.UnreadableRecordError, match="record 5: .* is not text in UTF-8"):
        source[0]
    (tmp_path / "Sentences" / "5.txt").unlink()
    with pytest.raises(data.UnreadableRecordError, match="record 5: There is no file"):
        source[0]


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
    broken = [f.stem for f, _ in source.files].index("npy")
    whole = (tmp_path / "seen" / "npy.npy").read_bytes()
    for content in (b"", b"nothing", whole[:-9], b"PK\5\6" + bytes(18)):  # the last: an empty zip
        (tmp_path / "seen" / "npy.npy").write_bytes(content)
        with pytest.raises(data.UnreadableRecordError, match="record npy: cannot read the fix"):
            source[broken]
    with pytest.raises(data.UnreadableRecordError, match=r"\(39, 60\), the image \(40, 60\)"):
        source[index]


def test_unknown_folders(tmp_path):
    with pytest.raises(ValueError, match="layout .* is none that is known"):
        data.open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder .*voc/2007, voc/2012"):
        data.open_source(tmp_path / "nowhere")


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
