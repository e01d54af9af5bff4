"""TensorFlow Datasets, prepared on disk in the features of the real ones, and read back."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rectangles import RECTANGLES, picture, white_box

from jaxplain import data


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
            yield (
                f"{i}",
                {
                    "image": png(picture(height, width, at)),
                    "image/filename": f"{i:06d}.jpg",
                    "objects": [one],
                    "labels": ["dog"],
                    "labels_no_difficult": [] if i == 2 else ["dog"],
                },
            )
        yield (
            "none",
            {
                "image": png(picture()),
                "image/filename": "000009.jpg",
                "objects": [],
                "labels": [],
                "labels_no_difficult": [],
            },
        )

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
            ImportError, match=r"TensorFlow to prepare it .*pip install .*\[data-prepare\]"
        ):
            data.TFDS("coco/2017", "validation", tmp_path)
        with pytest.raises(ImportError, match="voc/2007 is not prepared"):
            data.TFDS("voc/2007:4.0.0", "test", tfds_voc)


def test_tfds_coco_birds_and_imagenet(tmp_path):
    left, top, right, bottom = RECTANGLES[2]

    def box(tfds):
        return tfds.features.BBox(top / 40, left / 60, bottom / 40, right / 60)

    def coco(tfds):
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "image/filename": tfds.features.Text(),
                "image/id": np.int64,
                "objects": tfds.features.Sequence(
                    {
                        "id": np.int64,
                        "area": np.int64,
                        "bbox": tfds.features.BBoxFeature(),
                        "label": tfds.features.ClassLabel(num_classes=80),
                        "is_crowd": np.bool_,
                    }
                ),
            }
        )

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
        yield (
            "a",
            {
                "image": png(picture(at=RECTANGLES[2])),
                "image/filename": "x/Bird_1.jpg",
                "label": 6,
                "label_name": "bird",
                "bbox": box(tfds),
                "segmentation_mask": png(mask[..., 0]),
            },
        )

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
