"""`jaxplain pfv`: its four forms on small pictures and the smallest residual network."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain import cli, models, viz
from jaxplain.models.entries import find

RED, BLUE = (230, 20, 20), (20, 20, 230)


def picture(path, colour, seed=0, size=(40, 48)):
    """Noise with a patch of a colour."""
    pixels = np.random.default_rng(seed).integers(0, 60, (*size, 3), dtype=np.uint8)
    pixels[8:24, 10:30] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def network(monkeypatch, tmp_path):
    entry = find("cifar_resnet20")
    net = entry.build(10, rngs=nnx.Rngs(3))
    net.config = entry.config
    monkeypatch.setattr(models, "from_pretrained", lambda *_, **__: net)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return net


@pytest.fixture
def labelled(tmp_path):
    """Two splits of two classes of ImageNet, in folders."""
    for split, count in (("train", 4), ("val", 3)):
        for wnid, colour in (("n01440764", RED), ("n01443537", BLUE)):
            for i in range(count):
                folder = tmp_path / "imagenet" / split / wnid
                picture(folder / f"{wnid}_{i}.png", colour, seed=10 * count + i)
    return str(tmp_path / "imagenet")


def run(capsys, *argv):
    status = cli.main(["pfv", *argv, "--model", "net"])
    out, err = capsys.readouterr()
    return status, out, err


def test_images_and_folders_in_one_basis(network, tmp_path, capsys, monkeypatch):
    drawn, panel = [], viz.feature_panel
    monkeypatch.setattr(viz, "feature_panel", lambda *g, **k: drawn.append(g) or panel(*g, **k))
    for i, colour in enumerate((RED, RED, BLUE)):
        picture(tmp_path / "folder" / f"{i}.png", colour, seed=i)
    paths = [str(tmp_path / "folder"), picture(tmp_path / "other.png", BLUE, seed=7)]
    for size in ("8", "3"):  # one batch; a basis fitted to batches
        assert run(capsys, "show", *paths, "--batch-size", size)[0] == 0
    (images, colours, titles), (_, fitted, _) = drawn
    assert titles == ["0.png", "1.png", "2.png", "other.png"] and images[0].shape == (40, 48, 3)
    np.testing.assert_allclose(colours, fitted, atol=2e-3)
    patch = colours[:, 10:16, 10:16].mean((1, 2))
    alike, unlike = np.abs(patch[0] - patch[1]).max(), np.abs(patch[0] - patch[2]).max()
    assert alike < unlike / 3
    with Image.open("pfv.png") as written:
        assert written.width > 400


def test_the_steps_of_figure_2(network, tmp_path, capsys, monkeypatch):
    rows, panel = {}, viz.panel
    monkeypatch.setattr(
        viz, "panel", lambda image, given: rows.update(given) or panel(image, given)
    )
    path = picture(tmp_path / "a.png", RED)
    assert run(capsys, "show", path, "--steps", "--output", "steps.png")[0] == 0
    assert list(rows["a.png"]) == ["activation map", "unweighted", "principal features"]
    assert np.abs(rows["a.png"]["unweighted"] - rows["a.png"]["principal features"]).max() > 0.05


def test_images_drawn_from_the_classes_of_a_data_set(network, labelled, capsys, monkeypatch):
    titles, panel = [], viz.feature_panel
    monkeypatch.setattr(viz, "feature_panel", lambda *g: titles.append(g[2]) or panel(*g))
    base = ("show", "--data", labelled, "--split", "train", "--classes", "goldfish,tench")
    assert run(capsys, *base, "--per-class", "2")[0] == 0
    assert titles == [["goldfish 1", "goldfish 2", "tench 1", "tench 2"]]
    assert run(capsys, *base)[0] == 0 and titles[1] == ["goldfish", "tench"]
    for more, said in (
        (["--per-class", "5"], "less than 5 images of goldfish, tench"),
        (["--classes", "goldfsh"], "no class 'goldfsh'; did you mean goldfish"),
    ):
        status, _, err = run(capsys, *base, *more)
        assert status == 2 and said in err


def test_untrained_weights_see_something_else(network, tmp_path, capsys):
    picture(tmp_path / "in" / "a.png", RED)
    picture(tmp_path / "in" / "b.png", BLUE, seed=1)
    status, out, _ = run(capsys, "untrained", str(tmp_path / "in"), "--seed", "5")
    assert status == 0 and "| a.png |" in out and out.endswith("wrote untrained.png\n")
    # With the seed of the network itself the two are one.
    same = [
        line
        for line in run(capsys, "untrained", str(tmp_path / "in"), "--seed", "3")[1].split("\n")
    ]
    assert [line for line in same if line.startswith("| a.png")] == ["| a.png | 1.000 |"]
    assert "| a.png | 1.000 |" not in out


def test_a_mistake(network, tmp_path, capsys):
    failed = picture(tmp_path / "failed.png", BLUE, seed=1)
    for i in range(2):
        picture(tmp_path / "true" / f"{i}.png", RED, seed=2 + i)
    mistaken = [picture(tmp_path / f"m{i}.png", BLUE, seed=5 + i) for i in range(3)]
    argv = ("mistake", failed, "--true", str(tmp_path / "true"), "--mistaken", *mistaken)
    status, out, _ = run(capsys, *argv, "--output", "out")
    assert status == 0 and "Missing: component" in out
    written = json.loads((tmp_path / "work/out/mistake.json").read_text())
    found = written["images"]
    assert list(found) == ["failed", "true 1", "true 2", "mistaken 1", "mistaken 2", "mistaken 3"]
    assert found["failed"]["to_mistaken"] < found["failed"]["to_true"]
    assert {p.name for p in (tmp_path / "work/out").iterdir()} == {
        *("mistake.json", "mistake.md", "mistake.png", "where.png")
    }
    status, _, err = run(capsys, "mistake", str(tmp_path / "true"), *argv[2:])
    assert status == 2 and "is a folder; name the one image" in err


def test_transfer(network, labelled, tmp_path, capsys):
    argv = ("transfer", "--data", labelled, "--split", "train", "--validation-split", "val")
    status, out, err = run(capsys, *argv, "--output", "out")
    assert status == 0 and "| tench |" in out and "left out" not in err
    written = json.loads((tmp_path / "work/out/transfer.json").read_text())
    assert np.array(written["confusion"]).tolist() == [
        [3, 0],
        [0, 3],
    ]  # red and blue are told apart
    assert {p.name for p in (tmp_path / "work/out").iterdir()} == {
        *("transfer.json", "transfer.md", "transfer.png", "features.png", "confusion.png")
    }
    swapped = ("--classes", "goldfish,hen,tench")
    status, _, err = run(capsys, *argv, "--output", "out", *swapped)
    assert status == 0 and "left out, for a split has no image of them alone: hen" in err
    written = json.loads((tmp_path / "work/out/transfer.json").read_text())
    assert list(written["classes"]) == ["goldfish", "tench"]
    assert np.array(written["confusion"]).tolist() == [[3, 0], [0, 3]]
    status, _, err = run(capsys, *argv, "--classes", "tench")
    assert status == 2 and "two classes or more" in err


def test_the_layer_and_options_of_pfv(network, tmp_path, capsys, monkeypatch):
    called, pfv = [], jaxplain.pfv
    monkeypatch.setattr(jaxplain, "pfv", lambda fn, x, **k: called.append(k) or pfv(fn, x, **k))
    path = picture(tmp_path / "a.png", RED)
    options = ("--layer", "layer2.2", "--set", "pfv.weighting=hierarchical")
    assert run(capsys, "show", path, *options)[0] == 0
    assert called == [{"weighting": "hierarchical", "layer": "layer2.2"}]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "FORM"),
        (("show",), "name images, or a data set"),
        (("show", "a.png", "--data", "x"), "and not both"),
        (("show", "a.png", "--classes", "dog"), "--classes has no effect"),
        (("show", "a.png", "--output", "a.txt"), "use one of the suffixes"),
        (("show", "a.png"), "no such file: a.png"),
        (("show", "a.png", "--set", "pfv.components=2"), "colours are three components"),
        (("show", "a.png", "--set", "mwp.residual=branch"), "mwp is not asked for"),
        (("show", "a.png", "--layer", "a,b"), "pfv is explained at one layer"),
        (("untrained",), "IMAGE"),
    ],
)
def test_mistakes_are_one_line(argv, words, network, capsys):
    status, _, err = run(capsys, *argv)
    assert status == 2 and words in err and err.count("\n") == 1


def test_untrained_needs_a_network_of_the_registry(network):
    other = models.untrained(network, seed=3)
    states = (nnx.to_flat_state(nnx.state(net)) for net in (network, other))
    for (name, a), (same, b) in zip(*states, strict=True):
        assert name == same
        np.testing.assert_array_equal(a[...], b[...])
    with pytest.raises(ValueError, match="only networks of from_pretrained"):
        models.untrained(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
