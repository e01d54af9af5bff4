"""Every docstring example of the package runs, each module imported under its one name."""

import doctest
import importlib
import pkgutil

import pytest

# Walked one by one: in an editable install the folders beside jaxplain/ are not below its path.
_ROOTS = ("jaxplain", "jaxplain.models", "jaxplain.weights_convert")


def _modules() -> list[str]:
    names = set(_ROOTS)
    for root in _ROOTS:
        path = importlib.import_module(root).__path__
        names.update(info.name for info in pkgutil.walk_packages(path, f"{root}."))
    return sorted(names)


@pytest.mark.parametrize("name", _modules())
def test_docstring_examples(name):
    module = importlib.import_module(name)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=options)
    report: list[str] = []
    for example in finder.find(module, name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_the_three_top_level_folders_are_walked():
    names = set(_modules())
    assert {"jaxplain.core", "jaxplain.rules", "jaxplain.explainers"} <= names
    assert {"jaxplain.models", "jaxplain.weights_convert", "jaxplain.viz"} <= names
