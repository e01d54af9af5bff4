"""Each room of the package imports only what it may: the table of CONTRIBUTING.md, as data."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxplain"

#: Room -> the rooms that it may import, from the top of the house to its foundation. ``jaxplain``
#: is the face of the package, ``jaxplain/__init__.py``. ``models`` stands on ``weights_convert``:
#: a network's entry holds the name maps of its sources; ``weights_convert`` knows no network.
ROOMS: dict[str, tuple[str, ...]] = {
    "__main__": ("cli",),
    "cli": (
        *("jaxplain", "page", "explanation", "engine", "digits", "evaluation.studies"),
        *("evaluation", "training", "viz", "data", "explainers", "rules"),
        *("postprocess", "models", "weights_convert", "core"),
    ),
    "examples": ("jaxplain", "explainers", "viz", "postprocess", "models", "core"),
    "jaxplain": (
        *("page", "explanation", "engine", "evaluation.studies", "evaluation", "training", "viz"),
        *("data", "explainers", "rules", "postprocess", "models", "weights_convert", "core"),
    ),
    "page": (
        *("explanation", "engine", "evaluation.studies", "evaluation", "viz", "data"),
        *("explainers", "postprocess", "models", "core"),
    ),
    "explanation": (
        *("evaluation", "viz", "data", "explainers", "rules", "postprocess", "models", "core"),
    ),
    "engine": ("data", "explainers", "core"),
    "digits": (
        *("evaluation.studies", "evaluation", "training", "viz", "data", "explainers"),
        *("postprocess", "models", "core"),
    ),
    "evaluation.studies": ("evaluation", "viz", "data", "postprocess", "core"),
    "evaluation": ("postprocess", "core"),
    "training": ("data", "weights_convert", "core"),
    "viz": ("postprocess", "core"),
    "data": ("core",),
    "explainers": ("rules", "postprocess", "core"),
    "rules": ("core",),
    "postprocess": ("core",),
    "models": ("weights_convert", "core"),
    "weights_convert": ("core",),
    "core": (),
}

#: (module, what it may import besides) -> why.
EXCEPTIONS = {
    ("evaluation.studies.localisation", "explainers.segmentation"): (
        "a box by graph cut is made from a map; it is no explainer, and takes none"
    ),
    ("evaluation.studies.features", "training.last_layer"): (
        "the study of features trains an output layer on each of them"
    ),
    ("training.finetune", "evaluation.classification"): (
        "validation is scored by the same average precision as the tables"
    ),
    ("data.imagenet", "models.imagenet"): "networks and the data set share the classes of ImageNet",
    ("data.images", "models.pixels"): "networks and data sets share one way to read an image",
    ("engine.job", "jaxplain"): "a run notes the version of the package, and calls methods by name",
    ("explanation.files", "jaxplain"): "a folder of maps notes the version of the package",
    ("explainers.calling", "jaxplain"): "a method's function is looked up when it is called",
}

#: What its name calls private to its room, and other rooms may import all the same.
SHARED = {"core._compat"}  # the one file for what is spelt differently in different releases of jax

_FOLDERS = ("models", "weights_convert", "examples")  # links in jaxplain/, which globbing passes by


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package, by its dotted name below ``jaxplain``, with its file."""
    folders = [PACKAGE, *(PACKAGE / name for name in _FOLDERS)]
    seen = set()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(PACKAGE).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name not in seen:
                seen.add(name)
                yield name, file


def room(module: str) -> str:
    """The room that a module stands in; ``""`` is the package itself."""
    if f"{module}.".startswith("evaluation.studies."):
        return "evaluation.studies"
    return module.partition(".")[0] or "jaxplain"


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, module below ``jaxplain`` and name of each import, but for type checkers' own."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(ast.Module([other], []))
            continue
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found = [(module, alias.name) for alias in node.names]
        else:
            yield from imports(node)
            continue
        for module, name in found:
            top, _, below = module.partition(".")
            if module.startswith(".") or top == "jaxplain":
                if f"{below}.{name}".strip(".") in _MODULES:  # from jaxplain import models
                    below, name = f"{below}.{name}".strip("."), ""
                yield node.lineno, module if module.startswith(".") else below, name


_MODULES = dict(modules())


def complaints() -> Iterator[str]:
    for module, file in _MODULES.items():
        own = room(module)
        for line, target, name in imports(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(ROOT)}, line {line}: "
            shown = f"jaxplain.{target}".strip(".") + (f" ({name})" if name else "")
            if target.startswith("."):
                yield f"{where}the import from {target} should name the module in full"
                continue
            other = room(target)
            if own == other:
                continue
            private = [part for part in f"{target}.{name}".split(".") if part.startswith("_")]
            if any(not part.startswith("__") for part in private) and target not in SHARED:
                yield f"{where}{own} imports {shown}, which is private to {other}"
            allowed = ROOMS.get(own, ())
            if other not in allowed and (module, target or "jaxplain") not in EXCEPTIONS:
                may = ", ".join(allowed) or "no other room"
                yield f"{where}{own} imports {shown}, but may import {may} only"


def test_every_exception_is_needed():
    found = {
        (module, target or "jaxplain")
        for module, file in _MODULES.items()
        for _, target, _ in imports(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert set(EXCEPTIONS) <= found, f"nothing needs {sorted(set(EXCEPTIONS) - found)} any more"


def test_rooms_import_only_what_they_may():
    found = list(complaints())
    assert not found, "\n" + "\n".join(found)


def test_every_room_is_in_the_table_and_there_is_no_other():
    rooms = {room(module) for module in _MODULES}
    assert rooms <= set(ROOMS), f"the table has no room {sorted(rooms - set(ROOMS))}"
    assert set(ROOMS) == rooms
    below = set(ROOMS)
    for name, allowed in ROOMS.items():  # the table itself leads downwards only
        below.discard(name)
        assert set(allowed) <= below, f"{name} may not import {sorted(set(allowed) - below)}"


def test_the_reader_of_imports_sees_them_all():
    """What the other tests rest on, on a text with every form of import."""
    text = """
import jaxplain.viz.panels, os
from typing import TYPE_CHECKING
from jaxplain import models, grad_cam
from . import x
if TYPE_CHECKING:
    from jaxplain import cli
else:
    from jaxplain.core import _compat
def f():
    try:
        from jaxplain.data.record import Record
    except ImportError:
        import jaxplain
"""
    assert {(target, name) for _, target, name in imports(ast.parse(text))} == {
        ("viz.panels", ""),
        ("models", ""),
        ("", "grad_cam"),
        (".", "x"),
        ("core._compat", ""),
        ("data.record", "Record"),
        ("", ""),
    }


def test_no_loose_module_at_the_root():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "postprocess"}


def test_the_contributors_guide_shows_this_table():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = guide.split("\n## The house\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| (.+) \|$", section, flags=re.MULTILINE)
    shown = {name: tuple(re.findall(r"`([\w.]+)`", may)) for name, may in rows}
    assert list(shown) == list(ROOMS)
    assert dict(rows)["cli"] == "every room below"
    assert shown | {"cli": ROOMS["cli"]} == ROOMS
