"""What the README says is so: its code runs, its names, commands and picture exist."""

import re
from pathlib import Path

import jax

from jaxplain.explainers import catalogue
from jaxplain.models.entries import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _run(text: str, page: str) -> dict:
    """The names that the one block of Python of a page leaves."""
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    return names


def _checked(names: dict, shapes: dict) -> None:
    assert {name: names[name].shape for name in shapes} == shapes
    results = [names[name] for name in shapes]
    assert all(bool(jax.numpy.isfinite(array).all()) for array in results)
    assert all(float(abs(array).max()) > 0 for array in results)


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = _run(README, "README.md")
    _checked(names, {"top": (2, 32, 32), "many": (2, 3, 32, 32), "pull": (2, 32, 32, 3)})
    assert {name: m.shape for name, m in names["both"].items()} == {
        "seen": (2, 32, 32),
        "input": (2, 32, 32),
    }
    assert names["found"].maps["occlusion"].shape == (2, 32, 32)
    assert (tmp_path / "explained.npz").is_file()


def test_code_of_the_guide_runs():
    names = _run((ROOT / "docs/guide.md").read_text(encoding="utf-8"), "guide.md")
    shapes = {
        "top": (2, 16, 16),
        "maps": (2, 16, 16),
        "many": (2, 3, 32, 32),
        "large": (2, 32, 32),
        "pull": (2, 32, 32, 3),
    }
    _checked(names, shapes)
    assert {name: m.shape for name, m in names["both"].items()} == {
        "pool": (2, 16, 16),
        "input": (2, 32, 32),
    }


def test_table_of_methods_is_the_catalogues():
    """`jaxplain.explainers.catalogue.markdown_table` prints it."""
    table = README.split("## Methods\n\n")[1].split("\n\n## ")[0]
    assert table == catalogue.markdown_table()


def test_table_lists_every_network():
    table = (ROOT / "docs/networks.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(ENTRIES)


def test_options_of_the_command_line_exist(capsys):
    from jaxplain.cli.main import _parser

    for line in re.findall(r"jaxplain (explain .*|layers.*)$", README, flags=re.MULTILINE):
        _parser().parse_args(line.split())


def test_files_that_are_shown_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"the README shows {target}, which does not exist"
