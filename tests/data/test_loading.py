"""Records on their way to a network: order, batches, sizes, and the signals that ask of them."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxplain import data
from jaxplain.models import imagenet

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


def test_resized_image_is_that_of_jax_rounded():
    image = np.random.default_rng(1).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    small = data.resize_image(image, (15, 20), "bicubic")
    expected = jax.image.resize(image.astype(np.float32), (15, 20, 3), "cubic", antialias=True)
    assert small.dtype == np.uint8
    assert np.abs(small - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-3
    # Pillow rounds between its two passes too, and so differs where nothing overshoots by 1.
    linear = data.resize_image(image, (15, 20))
    pillow = Image.fromarray(image).resize((20, 15), Image.Resampling.BILINEAR)
    assert np.abs(linear.astype(int) - np.asarray(pillow)).max() <= 1
    assert data.resize_image(image, (30, 41)) is image
    with pytest.raises(ValueError, match="must be 'bilinear' or 'bicubic'"):
        data.resize_image(image, (5, 5), "nearest")
    with pytest.raises(ValueError, match="both positive"):
        data.resize_image(image, (0, 5))


def test_cues_name_the_right_imagenet_classes():
    names = imagenet.class_names()
    expected = {
        "aeroplane": ["airliner", "warplane"],
        "bicycle": ["bicycle-built-for-two", "mountain bike"],
        "bottle": ["beer bottle", "pill bottle", "pop bottle", "water bottle", "wine bottle"],
        "bus": ["minibus", "school bus", "trolleybus"],
        "cow": ["ox"],
        "diningtable": ["dining table"],
        "chair": ["barber chair", "folding chair", "rocking chair", "throne"],
        "horse": ["sorrel"],
        "motorbike": ["moped", "motor scooter"],
        "person": ["ballplayer", "groom", "scuba diver"],
        "pottedplant": ["pot"],
        "sheep": ["ram", "bighorn"],
        "sofa": ["studio couch"],
        "tvmonitor": ["monitor", "screen", "television"],
        "train": [
            "bullet train",
            "electric locomotive",
            "freight car",
            "passenger car",
            "steam locomotive",
        ],
        "elephant": ["tusker", "Indian elephant", "African elephant"],
        "zebra": ["zebra"],
        "traffic light": ["traffic light"],
        "stop sign": ["street sign"],
        "parking meter": ["parking meter"],
        "bench": ["park bench"],
        "backpack": ["backpack"],
        "umbrella": ["umbrella"],
        "handbag": ["purse"],
        "tie": ["bow tie", "Windsor tie"],
        "skis": ["ski"],
        "tennis racket": ["racket"],
        "wine glass": ["goblet"],
        "cup": ["beer glass", "coffee mug", "cup"],
        "knife": ["cleaver"],
        "spoon": ["wooden spoon"],
        "bowl": ["mixing bowl", "soup bowl"],
        "banana": ["banana"],
        "apple": ["Granny Smith"],
        "sandwich": ["cheeseburger"],
        "orange": ["orange"],
        "broccoli": ["broccoli"],
        "hot dog": ["hotdog"],
        "pizza": ["pizza"],
        "bed": ["crib", "four-poster"],
        "toilet": ["toilet seat"],
        "laptop": ["laptop", "notebook"],
        "mouse": ["mouse"],
        "remote": ["remote control"],
        "keyboard": ["computer keyboard"],
        "cell phone": ["cellular telephone"],
        "microwave": ["microwave"],
        "oven": ["stove"],
        "toaster": ["toaster"],
        "sink": ["washbasin"],
        "refrigerator": ["refrigerator"],
        "book": ["comic book", "book jacket"],
        "vase": ["vase"],
        "teddy bear": ["teddy"],
        "clock": ["analog clock", "digital clock", "wall clock"],
        "hair drier": ["hand blower"],
        "bear": ["brown bear", "American black bear", "ice bear", "sloth bear"],
        "truck": [
            "fire engine",
            "garbage truck",
            "moving van",
            "pickup",
            "tow truck",
            "trailer truck",
        ],
    }
    tables = {**data.COCO_TO_IMAGENET, **data.VOC_TO_IMAGENET}
    for name, wanted in expected.items():
        assert [names[i] for i in tables[name]] == wanted
    for first, last, name in (
        (7, 24, "bird"),
        (80, 100, "bird"),
        (127, 146, "bird"),
        (151, 268, "dog"),
        (281, 285, "cat"),
    ):
        assert set(range(first, last + 1)) <= set(tables[name])
        assert first - 1 not in tables[name] and last + 1 not in tables[name]
    assert [names[i] for i in (7, 24, 80, 100, 127, 146)] == [
        "cock",
        "great grey owl",
        "black grouse",
        "black swan",
        "white stork",
        "albatross",
    ]
    assert [names[i] for i in (151, 268, 281, 285)] == [
        "Chihuahua",
        "Mexican hairless",
        "tabby",
        "Egyptian cat",
    ]
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
