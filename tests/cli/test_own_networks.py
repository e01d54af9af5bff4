"""`--model MODULE:NAME` and `--classes`: networks of one's own, in every command."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
import weight_files as wf
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain import cli, models

MODULE = '''
import functools
import jax, jax.numpy as jnp
from flax import linen, nnx
from jaxplain import models

CONFIG = models.ModelConfig("paired", 16, (0.0,), (255.0,), class_names=("a", "b"), outputs=2)

class NNX(nnx.Module):
    def __init__(self, outputs=3):
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, outputs, rngs=nnx.Rngs(1))
    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean((1, 2)))

class Linen(linen.Module):
    outputs: int = 3
    @linen.compact
    def __call__(self, x):
        x = nnx.relu(linen.Conv(4, (3, 3))(x)).reshape(x.shape[0], -1)
        return linen.Dense(self.outputs)(x)

def of_linen(outputs=3):
    """Takes images of 16 x 16 only: a dense layer looks at all of them."""
    net = Linen(outputs)
    return functools.partial(net.apply, net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))

def of_equinox():
    import equinox as eqx
    conv, head = (eqx.nn.Conv2d(3, 4, 3, key=jax.random.key(0)),
                  eqx.nn.Linear(4, 3, key=jax.random.key(1)))
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        head: eqx.nn.Linear
        def __call__(self, x):
            def one(image):
                found = jax.nn.relu(self.conv(image.transpose(2, 0, 1)))
                return self.head(found.mean((1, 2)))
            return jax.vmap(one)(x)
    return Net(conv, head)

def of_haiku():
    import haiku as hk
    def net(x):
        x = jax.nn.relu(hk.Conv2D(4, 3)(x)).mean((1, 2))
        return hk.Linear(3)(x)
    net = hk.without_apply_rng(hk.transform(net))
    return functools.partial(net.apply, net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))

def of_keras():
    import keras
    return keras.Sequential([
        keras.layers.Input((16, 16, 3)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ])

def squares_only():
    return of_linen(20)

def any_shape():
    return NNX(20)

def plain(x):
    return jax.nn.relu(x).mean((1, 2))

paired = (NNX(2), CONFIG)
number = 3

def vector(x):
    return x.mean((1, 2, 3))

class Words:
    def __init__(self, text):
        pass
'''
HOW = ["--input-size", "16", "--pixels", "0..1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the module, which only the command's own search finds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "names.txt").write_text("cat\ndog\n\ncup\n")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    yield
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    "name", ["NNX", "of_linen", "of_equinox", "of_haiku", "of_keras", "plain", "paired"]
)
def test_a_network_of_any_framework_is_explained(name, capsys):
    argv = ["explain", "image.png", "--model", f"mine:{name}", "--methods", "grad-cam,gradient"]
    argv += ["--save-maps", "maps.npz", "--dpi", "60"]
    argv += [] if name == "paired" else [*HOW, "--classes", "names.txt"]
    assert cli.main([*argv, "--class", "b" if name == "paired" else "dog"]) == 0
    found = jaxplain.Explanation.load("maps.npz")
    assert found.targets == (1,) and found.model == name
    import mine  # pyright: ignore[reportMissingImports]

    made = {"NNX": mine.NNX, "plain": lambda: mine.plain, "paired": lambda: mine.paired[0]}
    network = made.get(name, getattr(mine, name))()
    x = models.preprocess(
        jaxplain.data.read_image("image.png"), mine.CONFIG, crop=False
    )  # 16 pixels, 0 to 1
    if name != "of_keras":  # whose weights are drawn anew
        np.testing.assert_allclose(
            found.maps["gradient"], jaxplain.gradient(network, x, 1), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(found.scores, network(x)[0, 1:2], rtol=1e-5, atol=1e-6)
    assert found.maps["gradient"].any()


def test_layers_and_classes_by_number(capsys):
    assert cli.main(["layers", "--model", "mine:NNX", *HOW]) == 0
    assert "conv" in capsys.readouterr().out
    argv = ["explain", "image.png", "--model", "mine:NNX", *HOW, "--methods", "gradient"]
    assert cli.main([*argv, "--classes", "3", "--dpi", "60"]) == 0
    assert "class 2 (2)" in capsys.readouterr().out


def test_protocols_and_runs_take_them(capsys, tmp_path):
    """A network of squares sees stretched images, one of any shape sees them with their aspect."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
            folder / f"JPEGImages/00000{i}.jpg"
        )
        (folder / f"Annotations/00000{i}.xml").write_text(
            "<annotation><size><width>60</width><height>40</height></size><object><name>cat</name>"
            "<difficult>0</difficult><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax>"
            "<ymax>30</ymax></bndbox></object></annotation>"
        )
    (folder / "ImageSets/Main/test.txt").write_text("000000\n000001\n")
    (tmp_path / "voc.txt").write_text("\n".join(jaxplain.data.VOC_CLASSES))
    common = ["--data", str(folder), "--split", "test", "--classes", "voc.txt", *HOW]
    for name, stretched in (("squares_only", True), ("any_shape", False)):
        asked = ["evaluate", "pointing", "--model", f"mine:{name}", "--methods", "gradient"]
        assert cli.main([*asked, *common, "--output", name, "--short", "16"]) == 0
        assert (tmp_path / name / "pointing.json").is_file()
        out, err = capsys.readouterr()
        assert f"{name} on VOC" in out and ("they are stretched" in err) == stretched
    asked = ["explain-dataset", "--model", "mine:squares_only", "--methods", "gradient", *common]
    assert cli.main([*asked, "--class", "cat", "--output", "run"]) == 0
    maps = jaxplain.data.open_maps(tmp_path / "run")
    assert len(maps) == 2
    asked = ["evaluate", "sanity", "--model", "mine:squares_only", "--methods", "gradient", *common]
    assert cli.main(asked) == 2
    assert "randomises the layers of Flax NNX networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["mine:NNX"], "has no config"),
        (["mine:NNX", "--input-size", "16"], "--pixels"),
        (["mine:nothing", *HOW], "no 'nothing'"),
        (["yours:NNX", *HOW], "no module 'yours'"),
        (["mine:number", *HOW], "int, which cannot be called"),
        (["mine:vector", *HOW], "must give scores (B, N)"),
        (["mine:Words", *HOW], "'mine:Words'"),
        (["mine:NNX", *HOW, "--classes", "4"], "has 3 scores, and not 4 classes"),
        (["mine:NNX", *HOW, "--classes", "0"], "at least 1"),
        (["mine:NNX", *HOW, "--classes", "no.txt"], "neither a number nor a file"),
        (["mine:NNX", *HOW, "--classes", "empty.txt"], "holds no name"),
        (["efficientnet_lite0", "--input-size", "16"], "--input-size is for MODULE:NAME"),
        (["efficientnet_lite0", "--classes", "4"], "are for files"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, argv, words):
    (tmp_path / "empty.txt").write_text("\n")
    assert cli.main(["explain", "image.png", "--methods", "gradient", "--model", *argv]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("jaxplain: error") == 1, err


def test_a_checkpoint_with_other_classes(cache, tmp_path, capsys):
    """`convert --classes` makes a folder that `--model` and from_pretrained take."""
    from jaxplain.models.entries import ENTRIES

    entry = ENTRIES["cifar_resnet20"]
    network = entry.build(3, rngs=nnx.Rngs(0))
    source = entry.sources[0].names
    shapes = jaxplain.weights_convert.parameter_shapes(network)
    own = {n: np.asarray(v.get_value()) for n, v in _leaves(network)}
    theirs = {
        t: own[o].transpose(3, 2, 0, 1) if own[o].ndim == 4 else own[o].T
        for o, t in source.resolve(shapes).items()
    }
    path = wf.write(tmp_path, "three.npz", wf.npz(theirs))
    argv = ["convert", "cifar_resnet20", str(path), "--classes", "names.txt"]
    assert cli.main(argv) == 2 and "needs --output" in capsys.readouterr().err
    assert cli.main([*argv, "--output", "three"]) == 0
    net = models.from_pretrained(tmp_path / "three")
    assert net.config.class_names == ("cat", "dog", "cup") and net.config.outputs == 3
    x = jnp.ones((1, 32, 32, 3))
    np.testing.assert_allclose(net(x), network(x), rtol=1e-4, atol=1e-5)
    by_number = models.from_pretrained(path, network="cifar_resnet20", class_names=3)
    assert by_number.config.outputs == 3 and by_number.config.class_names == ()
    again = models.from_pretrained(tmp_path / "three", class_names=["x", "y", "z"])
    assert again.config.class_names == ("x", "y", "z")
    with pytest.raises(ValueError, match="has 3 classes, not 4"):
        models.from_pretrained(tmp_path / "three", class_names=4)
    assert cli.main(["convert", "cifar_resnet20", str(path), "--output", "ten"]) == 2
    assert "(10, 64)" in capsys.readouterr().err


def _leaves(network):
    return [
        (".".join(map(str, path)), leaf) for path, leaf in nnx.to_flat_state(nnx.state(network))
    ]
