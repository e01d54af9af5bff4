"""The wheel holds everything, and importing jaxplain stays light."""

import json
import os
import shutil
import subprocess
import sys
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
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy so that the build leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    skip = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=skip)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*build, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        for file in (ROOT / folder).rglob("*.py"):
            inside = Path(*package.split(".")) / file.relative_to(ROOT / folder)
            assert inside.as_posix() in names, f"{file.relative_to(ROOT)} is not in the wheel"
    assert "jaxplain/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"jaxplain"}, "the wheel must bring one import root only"


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


def test_base_install_is_lean():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {
        "zoo",
        "viz",
        "localise",
        "data",
        "data-prepare",
        "finetune",
        "benchmark",
        "all",
        "test",
    }
    base = {line.split(">")[0] for line in PROJECT["project"]["dependencies"]}
    assert base == {"jax", "flax", "numpy"}
