"""Wheel and sdist hold everything, the extras are right, and importing jaxplain stays light."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _python(code: str, *, path: Path | None = None) -> str:
    """Standard output of `code` in a fresh interpreter, in a folder that is not the repository."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    arguments = [sys.executable, "-c", code]
    if path is not None:
        arguments.append(str(path))
    done = subprocess.run(
        arguments, cwd=Path(sys.prefix), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel, built from a copy that leaves the repository alone."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    skip = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "build", "__pycache__", ".jax_cache"
    )
    shutil.copytree(ROOT, source, ignore=skip, symlinks=True)
    build = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built) -> set[str]:
    """The names of the files in the source distribution, below its one folder."""
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def _files(folder: str, suffix: str = "") -> set[str]:
    """The files below a folder of the repository, without what programs leave there."""
    found = (ROOT / folder).rglob(f"*{suffix}")
    return {
        f.relative_to(ROOT).as_posix()
        for f in found
        if f.is_file() and "__pycache__" not in f.parts
    }


def _package_files() -> set[str]:
    """The modules and data of the package; globbing passes by its links, so these are named."""
    code = _files("jaxplain", ".py")
    for link in ("models", "weights_convert", "examples"):
        code |= _files(f"jaxplain/{link}", ".py")
    data = _files("jaxplain/models/data") | _files("jaxplain/page/static")
    return code | data | {"jaxplain/py.typed", "jaxplain/examples/cat_and_cup.jpg"}


def test_wheel_holds_every_module_and_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = _package_files()
    assert len(wanted) > 100 and "jaxplain/models/data/imagenet_classes.txt" in wanted
    assert not wanted - names, f"the wheel lacks {sorted(wanted - names)}"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"jaxplain"}, "the wheel must bring one import root only"


def test_sdist_holds_what_its_tests_and_the_readme_need(sdist):
    """The links of the repository are folders there, so that no system needs to know links."""
    wanted = _package_files()
    for folder in ("tests", "benchmarks", "examples", "docs", ".ci", ".github"):
        wanted |= _files(folder)
    wanted |= {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"}
    wanted |= {"pyproject.toml", "MANIFEST.in"}
    assert not wanted - sdist, f"the sdist lacks {sorted(wanted - sdist)}"
    assert not [name for name in sdist if "__pycache__" in name]


def test_links_of_the_repository_lead_to_the_folders_at_its_top():
    if not (ROOT / "models").is_dir():
        pytest.skip("an unpacked source distribution has folders instead of links")
    for name in ("models", "weights_convert", "examples"):
        link = ROOT / "jaxplain" / name
        assert link.is_symlink() and os.readlink(link) == f"../{name}"


_IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys

root = pathlib.Path(sys.argv[1])
# The editable install of the test environment must not answer in place of the wheel.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
sys.path.insert(0, str(root))
import jaxplain

names = [name for name in dir(jaxplain) if not name.startswith("_")]
for name in set(names) | set(jaxplain.__all__):
    getattr(jaxplain, name)
modules = [info.name for info in pkgutil.walk_packages(jaxplain.__path__, "jaxplain.")]
for name in modules:
    file = importlib.import_module(name).__file__
    assert pathlib.Path(file).is_relative_to(root), file
for name in ("core", "rules", "explainers", "viz", "models", "weights_convert", "cli"):
    assert "jaxplain." + name in modules, name
for name in ("models", "weights_convert"):
    assert name not in sys.modules, "imported under a second name: " + name
print(len(jaxplain.__all__))
"""


def test_every_public_name_imports_from_the_installed_wheel(wheel, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target"]
    done = subprocess.run([*install, str(tmp_path), str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(_python(_IMPORT_ALL, path=tmp_path)) >= 20


def test_import_brings_nothing_but_jax_and_flax():
    loaded = """
import json, sys
{imports}
roots = {{name.partition(".")[0] for name in list(sys.modules)}}
print(json.dumps(sorted(r for r in roots - set(sys.stdlib_module_names) if r[0] != "_")))
"""
    base = set(json.loads(_python(loaded.format(imports="import jax, flax.nnx"))))
    ours = set(json.loads(_python(loaded.format(imports="import jaxplain"))))
    extra = ours - base - {"jaxplain"}
    assert not extra, f"import jaxplain also imports {sorted(extra)}"
    heavy = {
        "matplotlib",
        "PIL",
        "orbax",
        "tensorflow",
        "tensorflow_datasets",
        "grain",
        "pycocotools",
    }
    assert not ours & heavy


def test_import_starts_no_backend():
    code = """
import jax._src.xla_bridge as bridge
import jaxplain
print(bridge.backends_are_initialized())
"""
    assert _python(code).strip() == "False"


def _requirements(extra: str) -> set[str]:
    lines = PROJECT["project"]["optional-dependencies"][extra]
    return {re.split(r"[>=<]", line)[0] for line in lines}


def test_base_install_is_lean():
    base = {line.split(">")[0] for line in PROJECT["project"]["dependencies"]}
    assert base == {"jax", "flax", "numpy", "tqdm"}


def test_extras_are_apart():
    """What few people need is in an extra of its own, and `all` holds every one for users."""
    extras = set(PROJECT["project"]["optional-dependencies"])
    (everything,) = _requirements("all")
    named = set(everything.removeprefix("jaxplain[").removesuffix("]").split(","))
    assert named == extras - {"all", "test", "dev", "docs", "data-prepare", "ray", "app"}
    for extra, package in (
        ("coco", "pycocotools"),
        ("tfds", "tensorflow-datasets"),
        ("export", "flatbuffers"),
    ):
        assert package in _requirements(extra) and package not in _requirements("data")


def test_every_extra_that_a_message_names_exists():
    extras = set(PROJECT["project"]["optional-dependencies"])
    for file in _package_files():
        if file.endswith(".py"):
            for named in re.findall(r"jaxplain\[([\w,-]+)\]", (ROOT / file).read_text("utf-8")):
                assert set(named.split(",")) <= extras, f"{file} names the extra {named}"


def test_versions_agree():
    """The lists of pyproject.toml, the changes and the citation speak of the same release."""
    version = PROJECT["project"]["version"]
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in PROJECT["project"]["classifiers"]:
        if found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line):
            assert f"where {found[1]} " in run, f"CI does not try Python {found[1]}"
