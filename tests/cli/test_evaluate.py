"""`jaxplain evaluate`: each protocol on folders in the data sets' own layout."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from squares import SIZE, Net, picture

import jaxplain
from jaxplain import cli, models
from jaxplain.models.layers import Conv, WindowDense, lrn, max_pool


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """ImageNet with XML boxes, CUB-200-2011, Flickr30k Entities and lists of fixations."""
    rng, root = np.random.default_rng(8), tmp_path_factory.mktemp("data")
    for name in (
        "imagenet/Data/CLS-LOC/val/n01440764",
        "imagenet/Annotations/CLS-LOC/val",
        "cub/images/001.Bird",
        "flickr/Annotations",
        "flickr/Sentences",
        "photos",
        "looked",
        "proposals",
    ):
        (root / name).mkdir(parents=True)
    tables = {
        name: ""
        for name in (
            "images",
            "image_class_labels",
            "train_test_split",
            "bounding_boxes",
            "classes",
        )
    }
    for i in range(3):
        box = (10 + i, 8, 40, 36 + i)
        image = Image.fromarray(picture(rng, (48, 64), [(i % 2, *box)]))
        inclusive = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))

        def xml(name, inclusive=inclusive):
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in inclusive.items())
            return (
                f"<annotation><object><name>{name}</name><bndbox>{corners}</bndbox></object>"
                "</annotation>"
            )

        image.save(root / f"imagenet/Data/CLS-LOC/val/n01440764/{i}.jpg")
        (root / f"imagenet/Annotations/CLS-LOC/val/{i}.xml").write_text(xml("n01440764"))
        image.save(root / f"cub/images/001.Bird/{i}.jpg")
        for table, value in dict(
            images=f"001.Bird/{i}.jpg",
            image_class_labels=1,
            train_test_split=0,
            bounding_boxes=f"{box[0]} {box[1]} {box[2] - box[0]} {box[3] - box[1]}",
        ).items():
            tables[table] += f"{i + 1} {value}\n"
        image.save(root / f"photos/{i}.jpg")
        (root / f"flickr/Annotations/{i}.xml").write_text(xml("7"))
        sentence = "[/EN#7/other A ball] and [/EN#8/scene it]."
        (root / f"flickr/Sentences/{i}.txt").write_text(sentence)
        (root / f"looked/{i}.csv").write_text("20,20,200\n30,25,100\n")
        np.savetxt(root / f"proposals/{i}.csv", [box, (0, 0, 64, 48)], delimiter=",")
    tables["classes"] = "1 001.Bird\n"
    for name, text in tables.items():
        (root / f"cub/{name}.txt").write_text(text)
    return root


def run(name, folder, monkeypatch, tmp_path, net, *options):
    monkeypatch.setattr(models, "from_pretrained", lambda *a, **k: net)
    asked = [
        "evaluate",
        name,
        "--data",
        str(folder),
        "--model",
        "net",
        "--output",
        str(tmp_path / "out"),
        *options,
    ]
    status = cli.main(asked)
    if status:
        return None
    text = (tmp_path / "out" / f"{name}.md").read_text()
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 3000
    return text, json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_localisation_command(folders, tmp_path, monkeypatch, capsys):
    broken = folders / "imagenet/Data/CLS-LOC/val/n01440764/broken.jpg"
    broken.write_bytes(b"no picture")
    try:
        text, written = run(
            "localisation",
            folders / "imagenet",
            monkeypatch,
            tmp_path,
            Net(1000, ()),
            "--split",
            "val",
            "--methods",
            "gradient",
            "--held-out",
            "1",
            "--batch-size",
            "2",
        )
    finally:
        broken.unlink()
    out, err = capsys.readouterr()
    assert "Localisation of dominant objects: net on ImageNet" in out and "| Gradient |" in text
    assert "could not be read: broken" in err and written["failures"][0][0] == "broken"
    assert written["images"] == 3 and written["options"]["held_out"] == 1
    found = written["methods"]["Gradient"]
    assert found["trials"] + found["held_out"][1] == 3 and len(found["held_out"][0]) == 21


def test_feedback_command(folders, tmp_path, monkeypatch, capsys):
    options = ["--methods", "gradient", "--limit", "2", "--batch-size", "2"]
    base = ("feedback", folders / "cub", monkeypatch, tmp_path, Net(1, ()), *options)
    text, written = run(*base)
    assert written["images"] == 2 and written["methods"]["Gradient"]["trials"] == 2
    assert "net on CUB-200-2011" in text and "| Whole image |" in text
    assert written["options"]["segmentation"] == "boykov_jolly"
    # The network has one output, so that its best is always the class.
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,class,left,top,right,bottom\n0,Bird,10,8,40,36\n1,Bird,0,0,9,9\n")
    text, written = run(*base, "--top", "5", "--boxes", str(boxes))
    assert written["top"] == 1 and written["known"] == 2
    assert (
        "| Supervised | 50.0 | 1 of 2 | 9.5 to 90.5 |" in text
        and "Supervised: boxes for 2 of 2" in text
    )
    for line, said in (
        ("0,Bird,10,8,40", "line 1: not image, class, left, top, right, bottom"),
        ("0,Brid,10,8,40,36", "line 1: CUB-200-2011 has no class 'Brid'; did you mean Bird?"),
        ("0,Bird,10,8,x,36", "line 1: the corners must be numbers"),
        ("0,Bird,10,8,10,36", "line 1: no box has the corners"),
    ):
        boxes.write_text(line)
        assert run(*base, "--boxes", str(boxes)) is None
        assert said in capsys.readouterr().err
    pytest.importorskip("cv2")
    _, written = run(*base, "--segmentation", "grabcut")
    assert written["methods"]["Gradient"]["trials"] == 2


def test_feedback_on_real_photographs(test_data, tmp_path, monkeypatch):
    """The real SqueezeNet and its five best on the first photographs of VOC."""
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path / "cache"))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("2007_000032,aeroplane,104,78,375,183\n2007_000123,bird,0,0,500,375\n")
    asked = [
        *("evaluate", "feedback", "--data", str(test_data / "images/VOCdevkit/VOC2012")),
        *("--model", str(test_data / "weights" / "squeezenet_v1.1.caffemodel")),
        *("--network", "squeezenet1_1", "--methods", "gradient", "--limit", "2"),
        *("--top", "5", "--boxes", str(boxes), "--output", str(tmp_path)),
    ]
    assert cli.main(asked) == 0
    written = json.loads((tmp_path / "feedback.json").read_text())
    trials = written["methods"]["Gradient"]["trials"]
    assert written["top"] == 5 and 0 < written["known"] <= trials
    assert written["methods"]["Supervised"]["hits"] == 1  # there is no bird


def test_phrases_command(folders, tmp_path, monkeypatch, capsys):
    table = tmp_path / "words.json"
    table.write_text('{"ball": ["red ball", 1]}')
    options = [
        "--images",
        str(folders / "photos"),
        "--methods",
        "c-mwp",
        "--short",
        "32",
        "--words",
        str(table),
    ]
    base = (folders / "flickr", monkeypatch, tmp_path, Net())
    text, written = run("phrases", *base, *options, "--proposals", str(folders / "proposals"))
    assert "| c-MWP |" in text and written["phrases"] == 2 and written["held_out"] == 1
    assert written["methods"]["c-MWP"]["all"]["recall"][1:] == [1, 1]  # one of the two boxes is it
    assert written["methods"]["c-MWP"]["small"]["recall"] == [None] * 3  # no object is small
    (tmp_path / "empty").mkdir()
    for extra, content, said in (
        (["--proposals", str(tmp_path / "empty")], None, "has no proposals for the image"),
        ([], "{", "is no JSON"),
        ([], '{"ball": 3}', "must hold a JSON object of lists"),
        ([], '{"ball": ["tree"]}', "names the class 'tree'"),
    ):
        if content is not None:
            table.write_text(content)
        assert run("phrases", *base, *options, *extra) is None
        assert said in capsys.readouterr().err


def test_phrases_with_segments_and_boxes_of_others(folders, tmp_path, monkeypatch, capsys):
    """MCG's segments and scores, EdgeBoxes' boxes, and CCA's boxes, gamma chosen on val."""
    for split, lines in (("test", "0\n1\n"), ("val", "2\n")):
        (folders / f"flickr/{split}.txt").write_text(lines)
    mcg, cca = tmp_path / "mcg", tmp_path / "cca"
    for folder in (mcg, cca):
        folder.mkdir()
    for i in range(3):
        masks = np.zeros((2, 48, 64), bool)
        masks[0, 10:30, 12:38] = masks[1, :5, :5] = True
        np.savez_compressed(mcg / f"{i}.npz", masks=masks, scores=np.array([0.1, 0.9]))
        (cca / f"{i}.csv").write_text("a BALL,10,8,40,37,0.7\nit,0,0,5,5,0.2\n")
    table = tmp_path / "words.json"
    table.write_text('{"ball": ["red ball", 1]}')
    options = [
        *("--images", str(folders / "photos"), "--methods", "c-mwp", "--short", "32"),
        *("--words", str(table), "--split", "test", "--gamma-split", "val"),
    ]
    base = ("phrases", folders / "flickr", monkeypatch, tmp_path, Net(), *options)
    named = ["--proposals", f"MCG={mcg}", "--proposals", f"EB={folders / 'proposals'}"]
    text, written = run(*base, *named, "--phrase-boxes", f"CCA={cca}")
    assert set(written["methods"]) == {
        *("Uniform map (MCG)", "c-MWP (MCG)", "MCG base"),
        *("Uniform map (EB)", "c-MWP (EB)", "CCA"),
    }
    assert (written["phrases"], written["held_out"]) == (2, 1)
    assert written["methods"]["MCG base"]["gamma"] is None
    assert written["methods"]["MCG base"]["all"]["recall"] == [0, 1, 1]
    assert written["methods"]["CCA"]["all"]["recall"] == [1, 1, 1]
    assert "| MCG base | - |" in text
    (tmp_path / "no").mkdir()
    for extra, said in (
        ([*named, "--proposals", str(mcg)], "each needs a name: --proposals MCG=FOLDER"),
        (["--proposals", f"A={mcg}", "--proposals", f"A={cca}"], "two folders have the name 'A'"),
        (["--proposals", "A=nowhere"], "there is no folder nowhere"),
        (["--held-out", "1"], "gamma is chosen on --gamma-split or on --held-out images"),
        (["--phrase-boxes", str(tmp_path / "no")], "has no boxes for the image 0 (0.csv)"),
    ):
        assert run(*base, *extra) is None
        assert said in capsys.readouterr().err


def test_fixations_command(folders, tmp_path, monkeypatch):
    text, written = run(
        "fixations",
        folders / "looked",
        monkeypatch,
        tmp_path,
        Net(),
        "--images",
        str(folders / "photos"),
        "--methods",
        "gradient,dense-attention",
        "--batch-size",
        "3",
    )
    names = set(written["methods"])
    assert {"Gradient", "centre baseline", "empty map", "Dense Attention 1 (relu:0)"} <= names
    assert "| centre baseline |" in text
    found = written["methods"]["Gradient"]
    assert len(found["per_image"]["nss"]) == 3
    for score, (low, high) in found["interval"].items():
        assert min(found["per_image"][score]) <= low <= found["mean"][score] <= high
    low, high = found["interval"]["mae"]
    assert f"| Gradient | {low:.3f} to {high:.3f} |" in text


def test_fixations_with_a_fitted_cam(folders, tmp_path, monkeypatch, capsys):
    """On a network that ends in a global pool it is CAM: the regression finds its weights."""
    many = tmp_path / "many"
    many.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        colour = rng.integers(0, 160, 3)
        noise = rng.integers(0, 90, (48, 48, 3)) + colour
        Image.fromarray(noise.astype(np.uint8)).save(many / f"{i}.png")
    base = ("fixations", folders / "looked", monkeypatch, tmp_path, Net())
    options = ["--images", str(folders / "photos"), "--batch-size", "3", "--layer", "relu:0"]
    text, written = run(
        *(*base, *options, "--methods", "cam,fitted-cam", "--fit-images", str(many))
    )
    one, other = (written["methods"][name]["per_image"] for name in ("CAM", "Fitted CAM"))
    for score in ("nss", "cc"):
        np.testing.assert_allclose(one[score], other[score], atol=0.02)
    assert "| Fitted CAM |" in text and "regression at relu:0 on 24 images, whose R^2" in text
    text, _ = run(*base, *options, "--methods", "fitted-cam")
    assert "regression at relu:0 on 3 images" in text  # the photographs themselves
    options = options[:-2]
    assert run(*base, *options, "--methods", "gradient", "--fit-images", "x") is None
    assert "--fit-images has no effect without the method fitted-cam" in capsys.readouterr().err


def test_fixations_on_real_photographs(test_data, tmp_path, monkeypatch, capsys):
    """The real ResNet-20 on two photographs of MIT1003, made small, scored at their sizes."""
    monkeypatch.setenv("JAXPLAIN_CACHE", str(tmp_path / "cache"))
    for kind in ("stimuli", "fixation_maps"):
        (tmp_path / kind).mkdir()
        for file in sorted((test_data / "images" / "mit1003" / kind).iterdir())[:2]:
            Image.open(file).reduce(8).save(tmp_path / kind / file.name)
    asked = [
        *("evaluate", "fixations", "--data", str(tmp_path / "fixation_maps")),
        *("--images", str(tmp_path / "stimuli"), "--methods", "fitted-cam,grad-cam"),
        *("--model", str(test_data / "weights" / "resnet20-12fca82f.th")),
        *("--network", "cifar_resnet20", "--output", str(tmp_path)),
        *("--fit-images", str(test_data / "images" / "cifar10_samples")),
    ]
    assert cli.main(asked) == 0
    assert "regression at layer3.2 on 20 images" in capsys.readouterr().out
    written = json.loads((tmp_path / "fixations.json").read_text())
    assert len(written["methods"]["Fitted CAM"]["per_image"]["mae"]) == 2


def test_sanity_command(folders, tmp_path, monkeypatch, capsys):
    base = ("sanity", folders / "cub", monkeypatch, tmp_path, Net())
    text, written = run(*base, "--methods", "gradient", "--limit", "2", "--batch-size", "2")
    assert written["layers"] == ["head", "conv"] and written["images"] == 2
    assert np.shape(written["similarity"]["cascading"]["Gradient"]["hog"]) == (2, 2)
    assert "down to conv" in text
    assert run(*base, "--layers", "middle") is None
    assert "no submodule 'middle'" in capsys.readouterr().err


def test_what_is_set_stands_in_titles_and_in_the_file(folders, tmp_path, monkeypatch):
    options = ["--methods", "gradient,mwp", "--limit", "2", "--held-out", "1"]
    options += ["--set", "gradient.reduce=l2", "--set", "gradient.layer=relu:0"]
    base = ("localisation", folders / "cub", monkeypatch, tmp_path, Net(1, ()))
    text, written = run(*base, *options, "--layer", "relu:0")
    assert "| Gradient (reduce=l2, layer=relu:0) |" in text and "| MWP |" in text
    assert set(written["methods"]) >= {"Gradient (reduce=l2, layer=relu:0)", "MWP"}
    assert written["options"]["settings"] == ["gradient.reduce=l2", "gradient.layer=relu:0"]
    assert written["options"]["layer"] == "relu:0"


def test_faithfulness_command(folders, tmp_path, monkeypatch):
    options = ["--methods", "gradient", "--steps", "4", "--flips", "3", "--batch-size", "3"]
    text, written = run("faithfulness", folders / "cub", monkeypatch, tmp_path, Net(), *options)
    assert "| Random order |" in text and written["images"] == 3
    assert len(written["curves"]["deletion"]["methods"]["Gradient"]["scores"]) == 5


# ---- networks that do not allow every method ----------------------------------------------------


class Dense(nnx.Module):
    """In the shape of VGG, or of AlexNet with its norms: dense layers behind the last pool."""

    def __init__(self, kind, outputs, names, fully_convolutional=False):
        rngs = nnx.Rngs(0)
        self.kind = kind
        widths = (3, 4, 6, 8)
        for i in range(3):
            setattr(self, f"conv{i}", Conv(widths[i], widths[i + 1], 3, padding=1, rngs=rngs))
        self.fc6 = WindowDense(6, 6, 8, 10, fully_convolutional=fully_convolutional, rngs=rngs)
        self.fc7 = nnx.Linear(10, 10, rngs=rngs)
        self.classifier = nnx.Linear(10, outputs, rngs=rngs)
        self.config = models.ModelConfig(
            f"small {kind}", SIZE, (127.0,), (128.0,), class_names=names, outputs=outputs
        )

    def __call__(self, x):
        for i in range(3):
            x = nnx.relu(getattr(self, f"conv{i}")(x))
            if self.kind == "alexnet" and i < 2:
                x = lrn(x, 5, 1e-4, 0.75, 1.0)
            x = jaxplain.tag(max_pool(x, 2, 2), f"pool{i}")
        x = nnx.relu(self.fc6(x))
        return self.classifier(nnx.relu(self.fc7(x)))


@pytest.mark.parametrize("kind", ["vgg", "alexnet"])
@pytest.mark.parametrize("protocol", ["pointing", "localisation", "phrases", "fixations"])
def test_what_a_network_does_not_allow_is_left_out(
    kind, protocol, folders, tmp_path, monkeypatch, capsys
):
    """The default methods of Zhang et al. and Ebrahimpour et al., on networks without CAM."""
    one_class = protocol in ("pointing", "localisation")
    about = (1, ()) if one_class else (3, ("red ball", "green ball", "blue cup, mug"))

    def load(*_, fully_convolutional=False, **__):
        return Dense(kind, *about, fully_convolutional=fully_convolutional)

    options = {
        "pointing": [str(folders / "cub"), "--short", "48"],
        "localisation": [str(folders / "cub"), "--held-out", "1"],
        "phrases": [str(folders / "flickr"), "--images", str(folders / "photos"), "--short", "48"],
        "fixations": [str(folders / "looked"), "--images", str(folders / "photos")],
    }[protocol]
    if protocol == "phrases":
        options += ["--proposals", str(folders / "proposals"), "--words", str(tmp_path / "words")]
        (tmp_path / "words").write_text('{"ball": ["red ball"]}')
    monkeypatch.setattr(models, "from_pretrained", load)
    asked = ["evaluate", protocol, "--model", "net", "--output", str(tmp_path / "out"), "--data"]
    assert cli.main([*asked, *options, "--limit", "2"]) == 0
    out, err = capsys.readouterr()
    assert "CAM left out: cam needs a network that ends in a global average pool" in err
    (row, *_) = [line for line in out.splitlines() if line.startswith("| CAM |")]
    assert set(row.replace("| CAM ", "").split()) == {"|", "-"}
    written = json.loads((tmp_path / "out" / f"{protocol}.json").read_text())
    assert list(written["left_out"]) == ["CAM"] and "CAM" not in written["methods"]
    assert {"MWP", "c-MWP"} <= set(written["methods"])


def test_a_network_that_allows_none_of_the_methods(folders, tmp_path, monkeypatch, capsys):
    base = ("localisation", folders / "cub", monkeypatch, tmp_path, Dense("vgg", 1, ()))
    assert run(*base, "--methods", "cam") is None
    err = capsys.readouterr().err
    assert "CAM left out" in err and "error: small vgg allows none of these methods" in err
    base = ("localisation", folders / "cub", monkeypatch, tmp_path, Dense("vgg", 1, ()))
    assert run(*base, "--methods", "mwp,gradient", "--layer", "pool7") is None  # no refusal
    assert "there is no layer 'pool7'" in capsys.readouterr().err


def test_commands_say_what_is_wrong(folders, tmp_path, capsys):
    base = ["--data", str(folders / "cub"), "--model", "efficientnet_lite0"]
    (tmp_path / "file").write_text("")
    for protocol, extra, said in (
        ("localisation", ["--held-out", "0"], "--held-out must be positive"),
        ("feedback", ["--methods", "gradiant"], "unknown method 'gradiant'; did you mean gradient"),
        ("faithfulness", ["--methods", " , "], "no method given"),
        ("sanity", ["--limit", "0"], "--limit must be positive"),
        ("sanity", ["--methods", "rise", "--layer", "x"], "rise takes no layer"),
        ("pointing", ["--methods", "mwp", "--layer", "a,b"], "asked for at several layers"),
        ("sanity", ["--set", "mwp.residul=branch"], "did you mean residual?"),
        ("localisation", ["--output", str(tmp_path / "file")], "is not a folder"),
        ("phrases", [], "--images"),
        ("fixations", ["--images", str(tmp_path / "no")], "no folder"),
        ("sanity", ["--data", str(tmp_path)], "layout of"),
    ):
        assert cli.main(["evaluate", protocol, *base, *extra]) == 2, (protocol, extra)
        assert said in capsys.readouterr().err, (protocol, extra)
