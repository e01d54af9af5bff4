"""The pointing game over a data set, against the protocol written out for one image at a time."""

import argparse
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jaxplain import cli, data, models, postprocess
from jaxplain.cli.datasets import Aspect
from jaxplain.cli.evaluate import PROTOCOLS
from jaxplain.evaluation.studies import questions
from jaxplain.evaluation.studies.pointing import PointingMethod, pointing_game
from jaxplain.explainers.calling import explainer

SIZES = ((60, 90), (90, 60), (64, 64), (50, 100))
CLASSES = ("aeroplane", "bicycle", "bird")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """VOCdevkit with 16 noisy images of one to four objects; some are marked as difficult."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for i in range(16):
        height, width = SIZES[i % 4]
        image = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        parts = ""
        for _ in range(rng.integers(1, 5)):
            label = int(rng.integers(0, 3))
            side = int(rng.integers(6, 24))
            left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            image[top : top + side, left : left + side, label] += 60
            parts += (
                f"<object><name>{CLASSES[label]}</name><difficult>{int(rng.random() < 0.2)}"
                f"</difficult><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                f"<xmax>{left + side}</xmax><ymax>{top + side}</ymax></bndbox></object>"
            )
        Image.fromarray(image).save(root / "JPEGImages" / f"{i:06d}.jpg", quality=95)
        (root / "Annotations" / f"{i:06d}.xml").write_text(f"<annotation>{parts}</annotation>")
    return root


class WithMasks:
    """The same records with a mask each object instead of its box."""

    def __init__(self, source):
        self.source, self.class_names, self.name = source, source.class_names, "masks"

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        r = self.source[index]
        masks = data.boxes_to_masks(r.boxes, r.size)
        return data.Record.make(r.image, r.id, r.labels, r.boxes, masks, r.difficult)


def prepare(record):
    return data.resize_image(record.image, data.aspect_shape(record.size, 32, 8))


@jax.jit
def explain(x, signals):
    """Maps of a quarter of the resolution: the mean of the channels that the signal weights."""
    b, h, w, _ = x.shape
    cells = x.reshape(b, h // 4, 4, w // 4, 4, 3).mean((2, 4))
    return jnp.einsum("bhwc,bkc->bkhw", cells, signals[..., :3])


@jax.jit
def at_pixels(x, signals):
    """Signed maps of full resolution, which look at another class's channel, and so often miss."""
    return jnp.einsum("bhwc,bkc->bkhw", x, jnp.roll(signals[..., :3], 1, axis=-1)) - 0.3


def play_slowly(source, signals, method, blur, masks):
    """{class: [(hit, difficult)]}, one question at a time."""
    answers = {}
    for record in source:
        present = sorted(set(record.labels.tolist()))
        for label in present:
            own = [i for i, k in enumerate(record.labels) if k == label]
            if all(record.difficult[i] for i in own) or not signals[label].any():
                continue
            x = jnp.asarray(prepare(record)[None], jnp.float32) / 255
            preset = "pointing_game_gradient" if blur else "pointing_game_eb"
            large = postprocess.apply(
                preset, method(x, signals[label][None, None])[0, 0], record.size
            )
            row, column = divmod(int(np.argmax(large)), record.size[1])
            regions = data.boxes_to_masks(record.boxes[own], record.size)
            pixels = np.argwhere(regions.any(0))
            hit = min(math.hypot(row - r, column - c) for r, c in pixels) < 15
            total = regions.sum()  # all boxes have whole pixels
            hard = total < record.size[0] * record.size[1] / 4 and len(present) > 1
            middle = (record.size[0] // 2, record.size[1] // 2)
            centre = min(math.hypot(middle[0] - r, middle[1] - c) for r, c in pixels) < 15
            answers.setdefault(label, []).append((hit, hard, centre))
    return answers


@pytest.mark.parametrize("masks", [False, True])
def test_table_equals_the_protocol_written_out(folder, masks):
    source = data.VOC(folder)
    signals = np.zeros((20, 4), np.float32)
    signals[0, 0] = signals[2, 2] = 1  # bicycles cannot be asked for
    methods = {"coarse": PointingMethod(explain), "fine": PointingMethod(at_pixels, blur=True)}
    played = WithMasks(source) if masks else source
    done = []
    table = pointing_game(
        played,
        prepare,
        lambda p: p.astype(jnp.float32) / 255,
        signals,
        methods,
        batch_size=3,
        progress=lambda *counts: done.append(counts),
    )
    assert table.details["region"] == ("masks" if masks else "boxes")
    assert table.details["images"] == 16
    assert done == sorted(done) and 0 < done[0][0] < done[-1][0] == 16
    assert {total for _, total in done} == {16}
    for name, method in methods.items():
        answers = play_slowly(source, signals, method.explain, method.blur, masks)
        everything, hard = table.results[name]
        for label in (0, 2):
            own = answers[label]
            assert everything.trials[label] == len(own)
            assert everything.hits[label] == sum(h for h, _, _ in own)
            assert hard.trials[label] == sum(d for _, d, _ in own)
            assert hard.hits[label] == sum(h and d for h, d, _ in own)
            assert table.results["Center"][0].hits[label] == sum(c for _, _, c in own)
        shares = [np.mean([h for h, _, _ in answers[k]]) for k in (0, 2)]
        assert everything.mean.item() == pytest.approx(np.mean(shares))
    assert set(table.details["not_asked"]) == {"bicycle"}


def test_classes_that_are_all_difficult_are_left_out(folder):
    left_out = kept = 0
    for record in data.VOC(folder):
        asked = {q.label: q for q in questions.questions(data.Item(0, record, None))}
        for label in set(record.labels.tolist()):
            flags = record.difficult[record.labels == label]
            assert (label in asked) == (not flags.all())
            left_out += flags.all()
            if label in asked and flags.any():  # then the difficult ones count as well
                kept += 1
                assert len(questions.boxes_of(asked[label])) == len(flags)
    assert left_out and kept


@pytest.mark.parametrize("masks", [False, True])
def test_borders_by_hand(masks):
    """The maximum is the one bright pixel; images are played at their own size."""
    box = [20, 20, 30, 30]  # the pixels 20 to 29
    cases = [  # (bright pixel, box, hit)
        ((20, 43), box, True),
        ((20, 44), box, False),  # 14 and 15 pixels
        ((39, 40), box, True),
        ((38, 41), box, False),  # 14.87, the last below 15, and 15
        ((25, 25), box, True),
        (None, box, False),  # constant: the first pixel counts
        (None, [14, 0, 20, 5], True),
        (None, [15, 0, 20, 5], False),
        ((59, 59), [45, 45, 60, 60], True),
        ((0, 59), [59, 14, 60, 20], True),
        ((0, 59), [59, 15, 60, 20], False),
        ((5, 5), [5, 5, 5, 9], False),  # an empty box
    ]
    records = []
    for i, (bright, corners, _) in enumerate(cases):
        image = np.full((60, 60, 3), 9, np.uint8)
        if bright is not None:
            image[bright] = 200
        # A class of which all is marked as difficult is not asked for, and makes no other harder.
        boxes = np.float32([corners, [0, 0, 60, 60]])
        regions = data.boxes_to_masks(boxes, (60, 60)) if masks else None
        records.append(data.Record.make(image, f"{i}", [0, 1], boxes, regions, [False, True]))

    class Source(list):
        name, class_names = "cases", ("a", "b")

    def play(records):
        return pointing_game(
            Source(records),
            lambda r: r.image,
            lambda p: p.astype(jnp.float32),
            np.eye(2, dtype=np.float32),
            {"pixel": PointingMethod(lambda x, s: x[:, None, ..., 0])},
            batch_size=len(cases),
        )

    everything, hard = play(records).results["pixel"]
    assert everything.trials.tolist() == [len(cases), 0]
    assert everything.hits.tolist() == [sum(hit for _, _, hit in cases), 0]
    # Difficult: small, and with another class present, be it one that is not asked for.
    assert hard.trials.tolist() == [len(cases), 0]
    for record, (bright, corners, hit) in zip(records, cases, strict=True):
        assert play([record]).results["pixel"][0].hits[0] == hit, (bright, corners)
    bare = data.Record.make(records[0].image, "bare", [0])
    with pytest.raises(ValueError, match="bare has neither boxes nor masks"):
        play([bare])
    other = data.Record.make(
        records[0].image,
        "other",
        [0],
        [box],
        None if masks else data.boxes_to_masks([box], (60, 60)),
    )
    with pytest.raises(ValueError, match="some records have masks and others none"):
        play([records[0]] * len(cases) + [other])
    with pytest.raises(ValueError, match="there was no question"):
        play([data.Record.make(records[0].image, "none", [1], [box], None, [True])])


def test_command(folder, tmp_path, monkeypatch, capsys):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
            self.head = nnx.Linear(4, 20, rngs=nnx.Rngs(1))
            self.config = models.ModelConfig(
                "net",
                32,
                (127.0,),
                (128.0,),
                interpolation="bilinear",
                class_names=data.VOC_CLASSES,
                outputs=20,
            )

        def __call__(self, x):
            return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))

    monkeypatch.setattr(models, "from_pretrained", lambda *a, **k: Net())
    (folder / "JPEGImages" / "zz.jpg").write_bytes(b"no picture")
    (folder / "Annotations" / "zz.xml").write_text("<annotation></annotation>")
    asked = [
        "evaluate",
        "pointing",
        "--data",
        str(folder),
        "--model",
        "net",
        "--short",
        "32",
        "--multiple",
        "8",
        "--methods",
        "c-mwp,saliency",
        "--output",
        str(tmp_path),
    ]
    try:
        assert cli.main(asked) == 0
    finally:
        (folder / "JPEGImages" / "zz.jpg").unlink()
        (folder / "Annotations" / "zz.xml").unlink()
    out, err = capsys.readouterr()
    assert "Pointing game: net on VOC2007" in out and "| c-MWP |" in out and "| Center |" in out
    assert "could not be read: zz" in err
    written = json.loads((tmp_path / "pointing.json").read_text())
    assert written["images"] == 16 and written["failures"][0][0] == "zz"
    assert set(written["methods"]) == {"Center", "c-MWP", "Gradient"}
    everything = written["methods"]["Gradient"]["all"]
    low, high = everything["interval"]
    assert 0 <= low < everything["hits"] / everything["trials"] < high <= 1
    share = f"({everything['hits']} / {everything['trials']}: {100 * low:.1f} to {100 * high:.1f})"
    assert share in out
    one = everything["per_class"]["bird"]
    assert one["accuracy"] == pytest.approx(one["hits"] / one["trials"])
    assert "| Gradient |" in (tmp_path / "pointing.md").read_text()
    assert (tmp_path / "pointing.png").stat().st_size > 5000


@pytest.mark.parametrize("protocol, short", [("pointing", 224), ("phrases", 300)])
def test_the_default_keeps_the_aspect(protocol, short):
    parser = argparse.ArgumentParser()
    (found,) = (p for p in PROTOCOLS if p.name == protocol)
    found.add_options(parser)
    needed = ["--data", "d", "--model", "m", *(["--images", "i"] if protocol == "phrases" else [])]
    config = models.ModelConfig("net", 32, (0.0,), (1.0,))
    record = data.Record.make(np.zeros((333, 500, 3), np.uint8), "a")
    exact = short * 500 / 333
    coarse = short + 16 * round((exact - short) / 16)
    for multiple, width in (([], exact), (["--multiple", "16"], coarse)):
        arguments = parser.parse_args([*needed, *multiple])
        assert Aspect(arguments, config)(record).shape == (short, round(width), 3)


def test_a_shape_that_fills_no_batch_is_not_padded():
    """Nor has a shape that does fill one a second program for what is left."""
    boxes = [[1, 1, 9, 9]]
    tall, wide = np.zeros((20, 10, 3), np.uint8), np.zeros((10, 20, 3), np.uint8)
    records = [data.Record.make(tall, f"t{i}", [0], boxes) for i in range(5)]
    records += [data.Record.make(wide, f"w{i}", [0], boxes) for i in range(3)]
    asked = questions.Questions(Listed(records), lambda r: r.image, np.eye(1), batch_size=4)
    found = [(len(g.questions), g.pixels.shape, g.signals.shape) for g in asked]
    assert found == [
        (4, (4, 20, 10, 3), (4, 1, 1)),
        (1, (4, 20, 10, 3), (4, 1, 1)),
        (3, (3, 10, 20, 3), (3, 1, 1)),
    ]


class Listed(list):
    """Records as a source."""

    name, class_names = "a list", ("thing",)


def test_command_says_what_is_wrong(folder, capsys):
    base = ["evaluate", "pointing", "--data", str(folder), "--model", "efficientnet_lite0"]
    for extra, said in (
        (["--methods", "mvp"], "unknown method 'mvp'"),
        (["--short", "0"], "--short must be positive"),
        (["--split", "test"], "There is no file"),
    ):
        assert cli.main(base + extra) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["evaluate", "pointing", "--data", "nowhere", "--model", "vgg16"]) == 2
    assert "no folder nowhere" in capsys.readouterr().err


def test_programs_are_dropped_before_linux_runs_out_of_maps(folder, tmp_path, monkeypatch):
    def play():
        signals = np.eye(20, 4, dtype=np.float32)
        pointing_game(
            data.VOC(folder),
            prepare,
            lambda p: p.astype(jnp.float32) / 255,
            signals,
            {"coarse": PointingMethod(explain)},
            batch_size=3,
        )

    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(questions, "_MAP_LIMIT", tmp_path / "limit")
    (tmp_path / "limit").write_text("1000000000\n")  # this process has many programs itself
    play()
    assert not cleared
    (tmp_path / "limit").write_text("10\n")
    play()
    assert cleared
    monkeypatch.setattr(questions, "_MAPS", tmp_path / "no Linux")
    cleared.clear()
    play()
    assert not cleared


def test_questions_about_an_image_stand_together():
    """By powers of two where they fill a group; every question is asked once, signals its own."""
    counts = [3, 1, 5, 2, 3, 3, 1, 1, 2]
    records = [
        data.Record.make(
            np.full((8, 8, 3), i, np.uint8), f"{i}", list(range(n)), [[1, 1, 5, 5]] * n
        )
        for i, n in enumerate(counts)
    ]

    class Source(list):
        name, class_names = "a list", tuple("abcde")

    asked = questions.Questions(Source(records), lambda r: r.image, np.eye(5), batch_size=4)
    found, widths = [], []
    for group in asked:
        images, width = group.signals.shape[:2]
        assert images * width <= 4 and len(group.full) == images * width
        widths.append((images, width))
        rows = np.asarray(group.signals).reshape(-1, 5).argmax(1)
        shown = np.repeat(np.asarray(group.pixels)[:, 0, 0, 0], width)
        assert rows.tolist() == [q.label for q in group.full]
        assert shown.tolist() == [int(q.item.record.id) for q in group.full]
        found += [(q.item.record.id, q.label) for q in group.questions]
    assert sorted(found) == [(f"{i}", k) for i, n in enumerate(counts) for k in range(n)]
    assert set(widths) == {(4, 1), (2, 2), (1, 4)}


def test_methods_share_a_forward_pass_and_give_the_same_maps():
    """One program's maps are those of each method for each question, in fewer operations."""
    net = nnx.Sequential(
        *(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), nnx.relu),
        *(nnx.Conv(8, 8, (3, 3), rngs=nnx.Rngs(1)), nnx.relu, lambda x: x.mean((1, 2))),
        nnx.Linear(8, 5, rngs=nnx.Rngs(2)),
    )
    methods = {
        name: functools.partial(explainer(name, None), net)
        for name in ("mwp", "c-mwp", "gradient", "lrp", "grad-cam", "occlusion")
    }
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    signals = jax.random.normal(jax.random.key(1), (2, 2, 5))
    together = questions.together(methods)
    maps = together(x, signals)
    assert list(maps) == list(methods)
    for name, method in methods.items():
        each = [[method(x[i : i + 1], signals[i : i + 1, k])[0] for k in (0, 1)] for i in (0, 1)]
        np.testing.assert_allclose(maps[name], each, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"flat must give maps \(2, 2, 'h', 'w'\), not \(2, 16"):
        questions.together({"flat": lambda x, s: x[..., 0]})(x, signals)
