"""`jaxplain explain` of several images, of a similarity, with boxes, and of all layers."""

import functools
import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain import cli, models, viz
from jaxplain.cli import explain
from jaxplain.models.few_shot import FewShotNet
from jaxplain.viz import panel


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """What the panel was given: images and rows."""
    found = {}

    def keep(images, rows, **more):
        found["images"], found["rows"] = images, rows
        return panel(images, rows, **more)

    monkeypatch.setattr("jaxplain.viz.panel", keep)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return found


class Pooled(nnx.Module):
    """Colours of the picture: an embedding whose neighbours are known."""

    def __init__(self):
        self.conv = nnx.Conv(3, 3, (1, 1), use_bias=False, rngs=nnx.Rngs(0))
        self.conv.kernel[...] = np.eye(3, dtype=np.float32)[None, None]
        self.config = models.ModelConfig("pooled", 16, (0.0,), (255.0,), outputs=3)

    def __call__(self, x):
        x = jaxplain.tag(nnx.relu(self.conv(x)), "first")
        x = jaxplain.tag(nnx.avg_pool(x, (2, 2), (2, 2)), "pool")
        return x.mean((1, 2))


def write(path, colour, *, at=slice(None)):
    """A black picture with a square of a colour."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[at, at] = colour
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def episode(tmp_path):
    """A query of a red square, and one picture of each of five classes, the third red."""
    colours = [(0, 255, 0), (0, 0, 255), (255, 30, 0), (0, 255, 255), (255, 255, 255)]
    query = write(tmp_path / "query.png", (250, 0, 20), at=slice(0, 6))
    return query, [write(tmp_path / f"c{i}" / "shot.png", c) for i, c in enumerate(colours)]


def test_an_episode_predicts_the_most_similar_of_five(episode, shown, monkeypatch, capsys):
    monkeypatch.setattr(explain, "load_model", lambda *_: Pooled())
    query, support = episode
    argv = ["explain", query, "--methods", "naflow,gradient,mwp,grad-cam,c-mwp"]
    argv += [word for path in support for word in ("--reference", path)]
    argv += ["--layer", "pool", "--set", "naflow.solver.damping=0.1"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{query}: pooled finds most similar"
    order = [line.split()[1] for line in lines[1:6]]
    assert order[0] == support[2] and set(order) == set(support)
    cosine = np.dot((250, 0, 20), (255, 30, 0)) / np.hypot(250, 20) / np.hypot(255, 30)
    assert float(lines[1].split()[0]) == pytest.approx(cosine, abs=1e-3)
    # The query beside its prediction, and the other way round, each with its own picture.
    labels = [f"query.png: like {support[2]}  {cosine:.3f}", f"{support[2]}: like query.png  "]
    own = [label for label in shown["rows"] if "NAFlow" not in label]
    assert len(own) == 2 and own[0] == labels[0] and own[1].startswith(labels[1])
    titles = ["Gradient (the same everywhere)", "MWP", "Grad-CAM", "c-MWP"]  # a global pool follows
    assert list(shown["rows"][own[0]]) == titles
    flows = [label for label in shown["rows"] if "NAFlow (solver.damping=0.1): like" in label]
    assert len(flows) == 2 and all(list(shown["rows"][f]) == ["pool"] for f in flows)
    assert (shown["images"][own[1]] == (255, 30, 0)).all()


def test_maps_of_a_similarity_lie_where_the_pictures_agree(tmp_path, monkeypatch, shown):
    """Only what is red makes the picture like a red one, and blue speaks against it."""
    monkeypatch.setattr(explain, "load_model", lambda *_: Pooled())
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8], pixels[8:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "both.png")
    maps, overlay = [], viz.overlay
    monkeypatch.setattr(viz, "overlay", lambda *a, **k: maps.append(a[1]) or overlay(*a, **k))
    red = write(tmp_path / "red.png", (255, 0, 0))
    argv = ["explain", str(tmp_path / "both.png"), "--reference", red]
    assert cli.main([*argv, "--methods", "hires-cam,mwp", "--layer", "pool"]) == 0
    hires, mwp = maps[:2]  # of the query; those of the reference follow
    assert (hires[:4] > 0).all() and (hires[4:] < 0).all()
    np.testing.assert_allclose(mwp[:4].sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(mwp[4:], 0)


def test_the_few_shot_network_and_all_of_its_layers(tmp_path, monkeypatch, shown):
    net = FewShotNet("conv4net", rngs=nnx.Rngs(0))
    net.config = models.entries.find("conv4net").config
    monkeypatch.setattr(explain, "load_model", lambda *_: net)
    one, two = (
        write(tmp_path / f"{c[0]}.png", c, at=slice(3, 9)) for c in ((255, 0, 9), (9, 90, 0))
    )
    argv = ["explain", one, "--reference", two, "--methods", "naflow", "--layer", "all"]
    assert cli.main([*argv, "--set", "naflow.solver.iterations=2"]) == 0
    row, other = shown["rows"].values()
    names = list(row)
    assert names == list(other) and names[0] == "pool4" and names[-1] == "conv0"
    # Each block's pool, activation (conv1 to conv4), batch norm and, of the first, convolution.
    assert names == [n for i in (4, 3, 2, 1) for n in (f"pool{i}", f"conv{i}", f"bn{i - 1}")] + [
        "conv0"
    ]
    argv[-1] = "conv2,conv4"
    assert cli.main([*argv, "--set", "naflow.solver.iterations=2"]) == 0
    assert [list(row) for row in shown["rows"].values()] == [["conv2", "conv4"]] * 2


def test_pictures_share_the_colours_of_pfv(tmp_path, monkeypatch, shown):
    monkeypatch.setattr(explain, "load_model", lambda *_: Pooled())
    called, pfv = [], jaxplain.pfv

    @functools.wraps(pfv)  # its signature tells the command line what can be set
    def watched(fn, x, **options):
        called.append(x)
        return pfv(fn, x, **options)

    monkeypatch.setattr(sys.modules["jaxplain.explainers.pfv"], "pfv", watched)
    rng = np.random.default_rng(0)
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / "one.png"))
        pixels = rng.integers(0, 256, (20, 30 if folder == "a" else 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    argv = ["explain", *paths, "--methods", "pfv,gradient", "--class", "top1"]
    argv += ["--set", "pfv.layer=pool", "--set", "pfv.weight_layers="]
    assert cli.main(argv) == 0
    (batch,) = called
    assert batch.shape == (2, 16, 16, 3)
    titles = list(shown["rows"])
    assert (
        len(titles) == 4
        and [t.startswith(paths[i // 2]) for i, t in enumerate(titles)] == [True] * 4
    )
    assert shown["images"][titles[0]].shape == (20, 30, 3)
    assert shown["images"][titles[-1]].shape == (20, 20, 3)


def test_boxes_are_drawn_around_what_is_above_the_threshold(tmp_path, monkeypatch, shown):
    monkeypatch.setattr(explain, "load_model", lambda *_: Pooled())
    path = write(tmp_path / "red.png", (255, 0, 0), at=slice(4, 12))
    argv = ["explain", path, "--methods", "hires-cam", "--class", "0", "--layer", "first"]
    assert cli.main([*argv, "--boxes", "1"]) == 0
    ((picture,),) = (row.values() for row in shown["rows"].values())
    green = (picture == (0, 1, 0)).all(-1)
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 11, 4, 11)
    assert not green[7:9, 7:9].any()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--reference", "IMAGE", "--class", "1"], "--class has no effect"),
        (["--reference", "IMAGE", "--methods", "pfv"], "pfv explains no similarity"),
        (["--reference", "no.png"], "no such file"),
        (["--boxes", "-1"], "must not be negative"),
        (["--boxes", "1", "--methods", "pfv"], "--boxes has no effect"),
        (["--methods", "mwp", "--layer", "all"], "only naflow takes the layer 'all'"),
    ],
)
def test_mistakes(argv, words, tmp_path, monkeypatch, shown, capsys):
    monkeypatch.setattr(explain, "load_model", lambda *_: Pooled())
    image = write(tmp_path / "red.png", (255, 0, 0))
    assert cli.main(["explain", image, *(image if a == "IMAGE" else a for a in argv)]) == 2
    assert words in capsys.readouterr().err
