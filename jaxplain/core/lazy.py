"""Packages whose names are imported when they are first asked for (PEP 562), so that help is quick.

Type checkers do not see this: the package imports the same names under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    _places: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self._places:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        place, whole = f"{self.__name__}.{self._places[name]}", self._places[name] == name
        module = importlib.import_module(place)
        found = module if whole and not hasattr(module, name) else getattr(module, name)
        super().__setattr__(name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # An import sets a module where a function of its name shall stand.
        if not (isinstance(value, ModuleType) and name in self._places):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._places})


def import_when_asked(package: str, places: Mapping[str, str]) -> None:
    """Has a package import its names when they are asked for.

    Args:
        package: its name.
        places: name -> the module below it that has the name, or is it.

    Example:
        >>> import jaxplain, sys
        >>> "grad_cam" in dir(jaxplain), jaxplain.grad_cam.__name__
        (True, 'grad_cam')
    """
    module: Any = sys.modules[package]
    module.__dict__["_places"] = dict(places)
    module.__class__ = _Package
