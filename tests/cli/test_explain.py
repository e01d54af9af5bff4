"""The command line in process: every kind of bad input, and the default run from end to end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain import cli, models
from jaxplain.cli import explain
from jaxplain.cli.common import read_image
from jaxplain.explainers import catalogue
from jaxplain.explanation import computing, drawing, explaining
from jaxplain.rules import Gamma, composite
from jaxplain.viz import panel


def _error(capsys, *argv):
    """The one line that the user sees; checks that it is one line, and the exit status."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]  # but for progress
    assert len(lines) == 1 and lines[0].startswith("jaxplain: error: "), err
    return lines[0]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    if "explained.png" not in {p.name for p in Path.cwd().iterdir()}:
        assert list(Path.cwd().iterdir()) == []  # nothing half-written


def test_the_command_line_knows_every_method_of_the_catalogue():
    for name, method in catalogue.CATALOGUE.items():
        for spelling in (name.replace("-", "_").upper(), *method.aliases):
            assert explain._choose_methods(spelling) == ([name], False)
    assert explain._choose_methods("all") == (list(catalogue.CATALOGUE), True)
    assert set(catalogue.DEFAULT) <= set(catalogue.METHODS)
    assert set(drawing.ROWS) == set(computing.COMPUTED)
    assert set(drawing.ROWS) == {n for n, m in catalogue.CATALOGUE.items() if m.rows}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "COMMAND"),
        (("explian",), "explain"),
        (("explain", "--bogus"), "--bogus"),
        (("explain", "--methods", "gradcm"), "did you mean grad-cam"),
        (("explain", "--methods", "mwp,guided_backprp"), "guided-backprop"),
        (("explain", "--methods", ","), "no method"),
        (("explain", "--methods", "mwp,rise", "--layer", "x"), "--layer x: rise takes no layer"),
        (("explain", "--methods", "pfv", "--layer", "a,b"), "pfv is explained at one layer"),
        (("explain", "missing.jpg"), "no such file: missing.jpg"),
        (("explain", "."), "folder"),
        (("explain", "--output", "missing/a.png"), "does not exist"),
        (("explain", "--output", "."), "folder"),
        (("explain", "--output", "a.txt"), ".png"),
        (("layers", "--model", "efficientnet_lite"), "efficientnet_lite0"),
        (("explain", "--model", "efficientnet_lite"), "efficientnet_lite0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, argv, words):
    assert words in _error(capsys, *argv)


def test_a_missing_file_suggests_its_neighbour(capsys, image):
    assert "image.png" in _error(capsys, "explain", str(image.with_name("imgae.png")))


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_what_is_not_an_image(capsys, image, content):
    path = image.with_name("broken.png")
    path.write_bytes(image.read_bytes()[:2000] if content == "cut" else content)
    line = _error(capsys, "explain", str(path))
    assert "not an image" in line and "broken.png" in line


def test_a_pipe_is_not_waited_for(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    line = _error(capsys, "explain", str(tmp_path / "pipe.png"))
    assert "pipe.png is not an image that can be read: it is a named pipe, not a file" in line


def test_images_of_all_kinds_become_upright_rgb(tmp_path):
    ramp = np.linspace(0, 255, 20).astype(np.uint8).reshape(4, 5)
    Image.fromarray(ramp).save(tmp_path / "gray.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = np.zeros((4, 5, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    turned = Image.fromarray(np.repeat(ramp[..., None], 3, -1))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("gray.png", "deep.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), ramp[..., None].repeat(3, -1))
    assert (read_image(tmp_path / "clear.png") == 255).all()
    assert read_image(tmp_path / "turned.png").shape == (5, 4, 3)


NAMES = ["tabby cat", "tiger, Panthera tigris", "crane", "cup", "crane"]
PROBABILITIES = np.array([0.1, 0.5, 0.05, 0.3, 0.05])


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (["top2"], [1, 3]),
        (["top1", "cup"], [1, 3]),
        (["Tabby_Cat", "0", "panthera tigris"], [0, 1]),
        (["tiger, Panthera tigris"], [1]),
        (["4"], [4]),
    ],
)
def test_classes_by_name_index_and_rank(asked, chosen):
    assert explaining.choose_classes(asked, NAMES, PROBABILITIES) == chosen


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("cat", "tabby cat"),
        ("tabbi cat", "tabby cat"),
        ("crane", "2"),
        ("5", "0 to 4"),
        ("-1", "0 to 4"),
        ("top0", "top1 to top5"),
        ("top6", "top1 to top5"),
    ],
)
def test_wrong_classes(asked, words):
    with pytest.raises(ValueError) as caught:
        explaining.choose_classes([asked], NAMES, PROBABILITIES)
    assert words in str(caught.value)


def test_help_and_version(capsys):
    for argv in (["--version"], ["--help"], ["explain", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("jaxplain ") and "grad-cam++" in out


def test_help_loads_no_drawing_and_no_checkpoint_library():
    code = (
        "import sys; from jaxplain import cli\n"
        "try: cli.main(['explain', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'matplotlib', 'PIL', 'orbax'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "[]"


class Small(nnx.Module):
    """A network that compiles quickly, dressed as one of the zoo's."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(8, 4, rngs=rngs)
        names = ("tabby cat", "espresso", "tea cup", "crane")
        self.config = models.ModelConfig("small", 32, (127.0,), (128.0,), class_names=names)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))
        x = nnx.relu(self.second(x))
        return self.classifier(x.mean((1, 2)))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(explain, "load_model", lambda *_: Small())


def test_unknown_layer_and_class_of_a_network(capsys, small):
    assert "espresso" in _error(capsys, "explain", "--class", "espreso", "--methods", "mwp")
    line = _error(capsys, "explain", "--layer", "frist", "--methods", "grad-cam")
    assert "frist" in line and "first" in line


def test_all_methods_on_another_image(capsys, small, image):
    argv = [
        "explain",
        str(image),
        "--methods",
        "all",
        "--class",
        "top1",
        "--output",
        "explained.png",
    ]
    assert cli.main(argv) == 0
    left_out = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.partition(" left out")[0] for line in left_out] == [
        *("Fitted CAM", "Attention rollout", "Transformer attribution", "LeGrad"),
    ]
    assert "--fit" in left_out[0] and all("no attention" in line for line in left_out[1:])
    with Image.open("explained.png") as panel:
        assert panel.width > 900


def test_methods_with_rows_of_their_own(capsys, small, image, monkeypatch):
    """NAFlow has one row per class, Dense Attention two and PFV one for all; CAM can be fitted."""
    rows = {}
    monkeypatch.setattr(
        "jaxplain.viz.panel", lambda _, given, **more: rows.update(given) or panel(_, given, **more)
    )
    (image.parent / "more").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(image.parent / "more" / f"{i}.png")
    argv = [
        "explain",
        str(image),
        "--class",
        "top1",
        "--class",
        "espresso",
        "--fit",
        str(image.parent / "more"),
        "--methods",
        "naflow,dense_attention,pfv,fitted-cam,cam",
    ]
    assert cli.main(argv) == 0
    espresso = next(label for label in rows if label.startswith("espresso"))
    assert list(rows[espresso]) == ["Fitted CAM", "CAM"]
    assert list(rows[f"NAFlow: {espresso}"]) == ["relu:1", "relu:0"]
    assert list(rows["Dense Attention, each layer"]) == ["2: relu:1", "1: relu:0"]
    assert list(rows["Dense Attention, combined"]) == ["layers 21"]
    assert list(rows["PFV"]) == ["principal features", "activation weights"]
    # The network ends in a global pool and a dense layer, so that the fit is CAM but for the ridge.
    both = [rows[espresso][title] for title in ("Fitted CAM", "CAM")]
    assert np.abs(both[0] - both[1]).mean() < 0.05
    assert "fitted on 9 photographs" in capsys.readouterr().err


def test_composites_of_lrp(capsys, small, image, monkeypatch):
    """Named ones get the box of the network's pixels; one's own is found in this folder."""
    called, lrp = [], jaxplain.lrp
    monkeypatch.setattr(
        "jaxplain.lrp", lambda *args, **options: called.append(options) or lrp(*args, **options)
    )
    argv = ["explain", str(image), "--methods", "lrp", "--class", "top1", "--set"]
    assert cli.main([*argv, "lrp.composite=epsilon_gamma_box"]) == 0
    assert cli.main([*argv, "lrp.composite=alpha2_beta1"]) == 0
    Path("my_rules.py").write_text(
        "from jaxplain.rules import Gamma, ZBox, lrp_rules\n"
        "def mild(*, eps=1e-3):\n"
        "    return lrp_rules(Gamma(gamma=0.1, eps=eps), first=ZBox(eps=eps), eps=eps)\n"
        "def nothing():\n"
        "    return 3\n"
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    assert cli.main([*argv, "lrp.composite=my_rules:mild"]) == 0
    boxed, named, own = called
    assert named == {"composite": composite("alpha2_beta1")}
    assert own["composite"].rules["linear"] == Gamma(gamma=0.1, eps=1e-3)
    config = Small().config
    low, high = (np.asarray(v) * config.scale + config.mean for v in own["box"])
    np.testing.assert_allclose(low, 0, atol=1e-9)
    np.testing.assert_allclose(high, 255)
    np.testing.assert_array_equal(own["box"], boxed["box"])

    for name, words in {
        "epsilon_plsu": "epsilon_plus",
        "my_rules:wild": "no 'wild'",
        "my_rule:mild": "no module 'my_rule'",
        "my_rules:nothing": "must return a RuleSet, not int",
    }.items():
        assert words in _error(capsys, *argv, f"lrp.composite={name}")


def test_a_method_at_several_layers_and_each_at_its_own(small, image, monkeypatch):
    rows = {}
    monkeypatch.setattr(
        "jaxplain.viz.panel", lambda _, given, **more: rows.update(given) or panel(_, given, **more)
    )
    argv = ["explain", str(image), "--class", "espresso", "--methods", "mwp,gradient,lrp"]
    argv += ["--layer", "relu:0,relu:1", "--set", "lrp.layer=input"]
    assert cli.main([*argv, "--set", "gradient.reduce=l2"]) == 0
    label, mwp, gradient = rows
    assert mwp == f"MWP: {label}" and gradient == f"Gradient (reduce=l2): {label}"
    assert [list(row) for row in rows.values()] == [
        ["LRP (layer=input)"],
        ["relu:0", "relu:1"],
        ["relu:0", "relu:1 (the same everywhere)"],  # a global pool follows
    ]


def test_a_map_that_marks_no_place_says_so():
    flat = np.full((3, 4), 0.3, np.float32)
    assert drawing.of_no_place(flat) == " (the same everywhere)"
    assert drawing.of_no_place(0 * flat) == " (empty)"
    flat[1, 2] *= 1.001
    assert drawing.of_no_place(flat) == drawing.of_no_place(-flat) == ""


def test_what_takes_no_layer_is_left_out_of_all(capsys, small, image, monkeypatch):
    few = {n: catalogue.METHODS[n] for n in ("occlusion", "gradient")}
    monkeypatch.setattr(explain, "CATALOGUE", few)
    assert cli.main(["explain", str(image), "--methods", "all", "--layer", "relu:0"]) == 0
    assert "left out, for they take no layer: occlusion" in capsys.readouterr().err


def test_fitting_without_photographs(capsys, small, image):
    assert "--fit FOLDER" in _error(capsys, "explain", str(image), "--methods", "fitted-cam")
    assert "no effect" in _error(capsys, "explain", str(image), "--fit", ".")
    empty = _error(capsys, "explain", str(image), "--methods", "fitted-cam", "--fit", ".")
    assert "no image files" in empty


@pytest.mark.parametrize("error", [jaxplain.UnsupportedOperationError, ValueError])
def test_all_leaves_out_what_a_network_does_not_allow(capsys, small, image, monkeypatch, error):
    def refuse(*_, **__):
        raise error("no global pool")

    monkeypatch.setattr(jaxplain, "cam", refuse)
    assert "no global pool" in _error(capsys, "explain", str(image), "--methods", "cam")
    few = {n: catalogue.METHODS[n] for n in ("cam", "gradient")}
    monkeypatch.setattr(explain, "CATALOGUE", few)
    assert cli.main(["explain", str(image), "--methods", "all"]) == 0
    assert "CAM left out: no global pool" in capsys.readouterr().err


def test_maps_and_pictures_of_several_images(capsys, small, image, monkeypatch):
    """`--save-maps` writes what `jaxplain.explain` gives; `--format`, `--dpi` and `--cmap` hold."""
    other = image.with_name("other.png")
    Image.fromarray(255 - read_image(image)).save(other)
    argv = ["explain", str(image), "--methods", "grad-cam", "--class", "espresso"]
    drawn = [*argv, "--format", "jpg", "--dpi", "100", "--cmap", "viridis", "--colour-bar"]
    assert cli.main([*drawn, "--save-maps", "one.npz"]) == 0
    with Image.open("explained.jpg") as small_picture:
        assert small_picture.format == "JPEG" and small_picture.width < 450
    one = jaxplain.Explanation.load("one.npz")
    own = jaxplain.explain(image, Small(), ["grad-cam"], "espresso")
    np.testing.assert_array_equal(one.maps["grad-cam"], own.maps["grad-cam"])
    assert one.class_names == ("espresso",) and one.name == "image.png"
    both = [*argv[:2], str(other), *argv[2:], "--output", "explained.png", "--save-maps", "both"]
    assert cli.main(both) == 0
    assert sorted(p.name for p in Path("both").iterdir()) == ["000_image", "001_other"]
    again = jaxplain.Explanation.load("both/000_image")
    np.testing.assert_array_equal(again.maps["grad-cam"], own.maps["grad-cam"])
    assert capsys.readouterr().out.splitlines()[-1] == "wrote both"
    for more, words in (
        (["--save-maps", "both"], "exists already"),
        (["--save-maps", "maps.txt"], "NAME.npz"),
        (["--save-maps", "no/where.npz"], "does not exist"),
        (["--format", "pdf", "--output", "a.png"], "does not agree"),
        (["--cmap", "virdis"], "viridis"),
        (["--dpi", "0"], "must be positive"),
    ):
        assert words in _error(capsys, *argv, *more)


def test_default_run_writes_a_panel_and_says_what_it_saw(capsys):
    assert cli.main(["explain"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "espresso" in out and "%" in lines[1] and lines[-1] == "wrote explained.png"
    assert len(lines) == 7  # a heading, five classes, the file
    assert "MWP" in err
    with Image.open("explained.png") as panel:
        assert panel.width > 900 and panel.height > 300
    assert [p.name for p in Path.cwd().iterdir()] == ["explained.png"]


def test_layers_prints_the_table(capsys):
    assert cli.main(["layers"]) == 0
    out = capsys.readouterr().out
    table, _, marks = out.partition("\n\n")
    rows = table.splitlines()
    assert "1 x 224 x 224 x 3" in rows[1] and "B H W C" in rows[1]
    assert any(row.startswith("head ") and "winner, last" in row for row in rows)
    assert "excitation: blocks.4.2, the default of mwp, c-mwp" in marks.splitlines()
    assert cli.main(["layers", "--all"]) == 0
    whole = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    short, every = ({row.split()[0] for row in found[1:]} for found in (rows, whole))
    assert short < every and {"classifier", "avgpool", "avg_pool:0"} <= every - short
    assert not any(":" in name for name in short)
