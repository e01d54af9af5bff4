"""Names that are imported when they are asked for: all are there, whatever was imported before."""

import subprocess
import sys
import types

import jaxplain
from jaxplain import core, engine, explainers, explanation
from jaxplain.explainers.catalogue import CATALOGUE


def test_every_name_is_there_and_is_what_its_file_says():
    for package in (jaxplain, core, engine, explainers, explanation):
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            found = getattr(package, name)
            assert isinstance(found, types.ModuleType) == (name in jaxplain._MODULES)
    files = {method.file for method in CATALOGUE.values()}
    modules = [sys.modules[f"jaxplain.explainers.{file}"] for file in files]
    assert set(explainers.__all__) == {name for module in modules for name in module.__all__}


def test_a_function_is_no_module_of_its_name():
    code = (
        "import jaxplain.explainers.feedback, jaxplain.core.trace, jaxplain.explainers.pfv\n"
        "from jaxplain.explainers.pfv import PFVBasis\n"
        "from jaxplain.core import trace\n"
        "import jaxplain\n"
        "print(all(map(callable, (trace, jaxplain.explainers.pfv, jaxplain.feedback))), "
        "jaxplain.trace is trace, jaxplain.PFVBasis is PFVBasis, hasattr(jaxplain, 'nothing'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True True True False\n"


def test_who_has_imported_jax_finds_all_methods_imported():
    code = "import jax, jaxplain, sys\n" + (
        "print({m.file for m in jaxplain.explainers.catalogue.CATALOGUE.values()}"
        " <= {name.rpartition('.')[2] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
