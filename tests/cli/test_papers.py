"""docs/papers.md: every table and figure of the papers is in it, and its commands are so."""

import argparse
import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from jax import nn
from PIL import Image

import jaxplain
from jaxplain import cli, models
from jaxplain.cli import explain, method_options
from jaxplain.cli.evaluate import PROTOCOLS
from jaxplain.cli.main import _parser
from jaxplain.explainers.catalogue import canonical

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "papers.md").read_text("utf-8")

#: The papers, and how many figures and tables each has.
PAPERS = {
    "Excitation Backprop": (11, 7),
    "Feedback CNN": (6, 3),
    "Principal Feature Visualisation": (8, 0),
    "Dense Attention": (9, 0),
    "NAFlow": (12, 0),
}

#: What is no `explain`, and the tests that run it on small data.
RUN_BY = {
    "evaluate pointing": ("evaluation/studies/test_pointing.py", "test_command"),
    "evaluate localisation": ("cli/test_evaluate.py", "test_localisation_command"),
    "evaluate feedback": ("cli/test_evaluate.py", "test_feedback_on_real_photographs"),
    "evaluate phrases": (
        "cli/test_evaluate.py",
        "test_phrases_with_segments_and_boxes_of_others",
    ),
    "evaluate fixations": ("cli/test_evaluate.py", "test_fixations_on_real_photographs"),
    "finetune": ("training/test_finetune.py", "test_command_and_what_it_writes"),
    "pfv show": ("cli/test_pfv.py", "test_images_drawn_from_the_classes_of_a_data_set"),
    "pfv untrained": ("cli/test_pfv.py", "test_untrained_weights_see_something_else"),
    "pfv mistake": ("cli/test_pfv.py", "test_a_mistake"),
    "pfv transfer": ("cli/test_pfv.py", "test_transfer"),
}


def commands():
    """The words of each command, `jaxplain` left out."""
    found = re.findall(r"`jaxplain ([^`]+)`", TEXT)
    assert len(found) > 30
    return list(dict.fromkeys(tuple(shlex.split(one)) for one in found))


def name_of(words):
    return " ".join(words[:2] if words[0] in ("evaluate", "pfv") else words[:1])


def numbers(kind, section):
    """The numbers in "Table 1", "Tables 6 and 7", "Fig. 1, 2:" of the first column."""
    found = set()
    for cell in re.findall(r"^\| ([^|:]+)", section, flags=re.MULTILINE):
        for group in re.findall(rf"{kind}s?\.? ((?:\d+(?:, | and )?)+)", cell):
            found |= set(map(int, re.findall(r"\d+", group)))
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_and_figure_has_a_row(paper):
    (section,) = re.findall(rf"^## {paper} .*?(?=^## |\Z)", TEXT, flags=re.M | re.S)
    for kind, count in zip(("Fig", "Table"), PAPERS[paper], strict=True):
        assert numbers(kind, section) == set(range(1, count + 1)), kind


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_command_means_something(words):
    parsed: argparse.Namespace = _parser().parse_args(list(words))
    if "settings" not in parsed:
        return
    if words[0] == "pfv":
        methods = ["pfv"]
    else:
        methods = [canonical(name) for name in parsed.methods.split(",")]
    chosen = method_options.choices(methods, parsed.settings, parsed.layer)
    assert list(chosen) == methods


@pytest.mark.parametrize("name", sorted({name_of(words) for words in commands()} - {"explain"}))
def test_what_is_no_picture_is_run_by_a_test(name):
    file, function = RUN_BY[name]
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_protocol_of_the_papers_is_there():
    of_others = {"sanity", "faithfulness"}
    assert {f"evaluate {p.name}" for p in PROTOCOLS if p.name not in of_others} <= set(RUN_BY)


# ---- the pictures -------------------------------------------------------------------------------

CLASSES = (
    *("chair", "tabby", "zebra", "African elephant", "dog", "man", "ball", "comic book"),
    *("Great Pyrenees", "beagle", "Yorkshire terrier"),
)


class Small(nnx.Module):
    """A network with all the layers that the commands name, and classes of these names."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        for i, (a, b) in enumerate(((3, 4), (4, 5), (5, 6), (6, 7)), 1):
            setattr(self, f"conv{i}", nnx.Conv(a, b, (3, 3), rngs=rngs))
        self.fc = nnx.Linear(7, len(CLASSES), rngs=rngs)
        self.config = models.ModelConfig(
            "small",
            32,
            (127.0,),
            (64.0,),
            class_names=CLASSES,
            layers=(("excitation", "pool2"), ("winner", "pool2"), ("last", "inception_5b")),
            outputs=len(CLASSES),
        )

    def __call__(self, x):
        other = {3: ("res3a",), 4: ("inception_5b", "pool4", "pool5")}
        for i in range(1, 5):
            x = jaxplain.tag(nn.relu(getattr(self, f"conv{i}")(x)), f"layer{i}.1")
            for name in other.get(i, ()):
                x = jaxplain.tag(x, name)
            if i < 4:
                x = jaxplain.tag(nnx.max_pool(x, (2, 2), (2, 2)), f"pool{i}")
        return self.fc(x.mean((1, 2)))


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "explain"], ids=" ".join)
def test_the_picture_is_drawn(words, tmp_path, monkeypatch):
    """With the pictures of the command, small and at random, and a small network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explain, "load_model", lambda *_: Small())
    rng = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    pictures = [word for word in words if re.fullmatch(r"\w+\.(jpg|png)", word)]
    for name in (*pictures, *(f"photographs/{i}.png" for i in range(10))):
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    few = ["--set", "naflow.solver.iterations=2"] if "naflow" in " ".join(words) else []
    assert cli.main([*words, *few]) == 0
    with Image.open("explained.png") as picture:
        assert picture.width > 200
