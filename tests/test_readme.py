"""What the README says is so: its code runs, its names, commands and picture exist."""

import re
from pathlib import Path

import jax

from jaxplain.explainers import catalogue
from jaxplain.models import registry as models

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_code_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    shapes = {name: names[name].shape for name in ("top", "maps", "many", "large", "pull")}
    assert shapes == {
        "top": (2, 16, 16),
        "maps": (2, 16, 16),
        "many": (2, 3, 32, 32),
        "large": (2, 32, 32),
        "pull": (2, 32, 32, 3),
    }
    assert {name: m.shape for name, m in names["both"].items()} == {
        "pool": (2, 16, 16),
        "input": (2, 32, 32),
    }
    results = [names[name] for name in shapes]
    assert all(bool(jax.numpy.isfinite(array).all()) for array in results)
    assert all(float(abs(array).max()) > 0 for array in results)


def test_table_of_methods_is_the_catalogues():
    """`jaxplain.explainers.catalogue.markdown_table` prints it."""
    table = README.split("## Methods\n\n")[1].split("\n\n## ")[0]
    assert table == catalogue.markdown_table()


def test_table_lists_every_network():
    table = README.split("## Networks")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(models.REGISTRY)


def test_options_of_the_command_line_exist(capsys):
    from jaxplain.cli.main import _parser

    for line in re.findall(r"jaxplain (explain .*|layers.*)$", README, flags=re.MULTILINE):
        _parser().parse_args(line.split())


def test_files_that_are_shown_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), f"the README shows {target}, which does not exist"
