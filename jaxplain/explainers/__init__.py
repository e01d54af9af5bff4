"""The explainers: pure functions from a network, images and targets to maps.

The catalogue says which files hold them; what the ``__all__`` of each file names is exported here
and from `jaxplain`. Type checkers read ``__init__.pyi``, which is generated from the signatures
(``python tests/helpers/explainer_stub.py``).
"""

import importlib

from jaxplain.explainers.catalogue import CATALOGUE


def _exported() -> dict[str, object]:
    files = sorted({method.file for method in CATALOGUE.values()})
    # All are imported first: an import sets a module where a function of its name shall stand.
    modules = [importlib.import_module(f"{__name__}.{file}") for file in files]
    return {name: getattr(module, name) for module in modules for name in module.__all__}


globals().update(_exported())
__all__ = sorted(_exported())  # pyright: ignore[reportUnsupportedDunderAll]
