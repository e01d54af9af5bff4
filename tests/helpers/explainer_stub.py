"""The type stub of `jaxplain.explainers`, made from the signatures of its functions.

A function that takes one layer or several returns one array or a dict. That is said by overloads,
which for some twenty functions nobody wants to write, or read beside the code, by hand.

``python tests/helpers/explainer_stub.py`` writes the file; a test compares it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

from jaxplain import explainers
from jaxplain.explainers import _types

PATH = Path(explainers.__file__).with_suffix(".pyi")
#: The cases (annotation, return type) of an annotation of ``layer``.
LAYERS = {
    "Layer": (("str | None", "jax.Array"), ("Sequence[str]", "dict[str, jax.Array]")),
    # Not Sequence: a str is one too, and this overload may be called without a layer.
    "Layers": (
        ("str", "jax.Array"),
        ("list[str] | tuple[str, ...] | None", "dict[str, jax.Array]"),
    ),
}
#: Where else the names in annotations come from.
IMPORTS = {
    "collections.abc": ("Callable", "Iterable", "Sequence"),
    "typing": ("Any", "Literal", "overload"),
}
HEADER = '"""Made by tests/helpers/explainer_stub.py from the signatures; not to be edited."""\n'


def stub() -> str:
    """The text of ``__init__.pyi``."""
    functions, imports = [], {}
    for name in explainers.__all__:
        thing = getattr(explainers, name)
        variants = overloads(thing) if inspect.isfunction(thing) else []
        if variants:
            functions += variants
        else:
            imports.setdefault(thing.__module__, []).append(name)
    body = "\n".join(functions)
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    lines = [HEADER]
    for module, names in IMPORTS.items():
        chosen = [name for name in names if name in used]
        lines += [f"from {module} import {', '.join(chosen)}"] if chosen else []
        used -= set(chosen)
    lines += ["", "import jax", ""]
    types = sorted(used & {name for name in vars(_types) if name[0].isupper()})
    for module in sorted([*imports, _types.__name__]):
        if module == _types.__name__:
            lines += [f"from {module} import (", *(f"    {name}," for name in types), ")"]
        else:
            lines += [f"from {module} import {name} as {name}" for name in sorted(imports[module])]
    exported = "".join(f"    {name!r},\n" for name in explainers.__all__)
    return "\n".join([*lines, "", f"__all__ = [\n{exported}]", "", body, ""]).replace("'", '"')


def overloads(function: Callable) -> list[str]:
    """The overloads of a function; none if its own annotations say all."""
    signature = inspect.signature(function)
    parameters = signature.parameters
    cases = ()
    if "Maps" in signature.return_annotation.split(" | "):
        cases = LAYERS[parameters["layer"].annotation]
    record = signature.return_annotation.rpartition(" | ")[2] if "details" in parameters else ""
    if not (cases or record):
        return []
    found = []
    for annotation, result in cases or (("", "jax.Array"),):
        changed = {"layer": annotation} if annotation else {}
        if record:
            changed["details"] = "Literal[False]"
        found.append(_overload(function, changed, result))
    if record:
        found.append(_overload(function, {"details": "Literal[True]"}, record))
    return found


def _overload(function: Callable, changed: dict[str, str], result: str) -> str:
    """One overload, with some annotations changed; a default that does not fit is left out."""
    lines = ["@overload", f"def {function.__name__}("]
    keyword_only = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("    *,")
            keyword_only = True
        annotation = changed.get(name, parameter.annotation)
        default = _default(parameter.default, annotation if name in changed else None)
        lines.append(f"    {name}: {annotation}{default},")
    return "\n".join([*lines, f") -> {result}: ..."])


def _default(value: object, changed: str | None) -> str:
    if value is inspect.Parameter.empty:
        return ""
    type_ = {None: "None", True: "Literal[True]", False: "Literal[False]"}.get(value, "str")
    if changed and type_ not in changed.split(" | "):
        return ""
    if isinstance(value, str):
        return f' = "{value}"'
    return f" = {value!r}" if value is None or isinstance(value, bool | int | float) else " = ..."


if __name__ == "__main__":
    PATH.write_text(stub(), "utf-8")
