"""`--layer` and `--set METHOD.OPTION=VALUE`: what the command line tells a method.

What can be set is what the method's function takes, and a value is read as its annotation says, so
that an option of a new method needs no line here.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jaxplain.cli.common import CliError
from jaxplain.cli.composites import load_composite
from jaxplain.core.errors import suggest
from jaxplain.explainers.catalogue import CATALOGUE, canonical
from jaxplain.explanation.choice import (
    Choice,
    Part,
    can_take_layer,
    check_layer,
    members,
    options_of,
)


def add_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds ``--layer`` and ``--set``; ``several`` says that several layers may be named."""
    parser.add_argument(
        "--layer",
        metavar="A,B,C" if several else "NAME",
        help="layer of all methods, see 'jaxplain layers'"
        + ("; of several each has a picture, and naflow knows 'all'" if several else "")
        + "; default: each method's own",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="METHOD.OPTION=VALUE",
        help="an option of a method's function in Python, such as c-mwp.normalise=post, "
        "mwp.residual=branch, feedback.mode=soft, lrp.composite=epsilon_gamma_box, "
        "naflow.solver.damping=0.3 or gradient.layer=pool1; may be repeated",
    )


def choices(
    methods: Sequence[str], settings: Sequence[str], layer: str | None = None
) -> dict[str, Choice]:
    """The methods with what was set for each, by name.

    Raises:
        CliError: a setting that no method can use.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in methods}
    said: dict[str, dict[str, str]] = {name: {} for name in methods}
    for text in settings:
        name, path, value = _split(text)
        if name not in options:
            raise CliError(f"--set {text} has no effect: {name} is not asked for")
        if path in said[name]:
            raise CliError(f"--set {name}.{path} is given twice")
        said[name][path] = value
        _put(options[name], name, path, value)
    layers = {name: own.pop("layer", None) for name, own in options.items()}
    if layer is not None:
        for name in methods:
            if layers[name] is None and not can_take_layer(name):
                raise CliError(
                    f"--layer {layer}: {name} takes no layer; leave it out, or say --set "
                    "METHOD.layer=NAME for those that do"
                )
            layers[name] = layers[name] or _layer(layer)
    for name, own in layers.items():
        check_layer(name, own)
    return {name: Choice(name, layers[name], options[name], said[name]) for name in methods}


def _split(text: str) -> tuple[str, str, str]:
    """Method, option and value of a setting."""
    place, equals, value = text.partition("=")
    name, dot, path = place.partition(".")
    if not (equals and dot and name.strip() and path.strip()):
        raise CliError(
            f"--set takes METHOD.OPTION=VALUE, such as mwp.residual=branch, not {text!r}"
        )
    name, path = canonical(name), path.strip().replace("-", "_")
    if name not in CATALOGUE:
        raise CliError(f"--set {text}: unknown method {name!r}{suggest(name, CATALOGUE)}")
    return name, path, value.strip()


def _put(options: dict[str, Any], method: str, path: str, text: str) -> None:
    """Reads one value, and puts it where the path leads."""
    option, *field = path.split(".", 1)
    known = {key: p.annotation for key, p in options_of(method).items()}
    _require(option, known, f"--set: {method} has no option {option!r}")
    annotation = known[option]
    if not field:
        options[option] = _value(annotation, text, f"{method}.{option}")
        return
    if not dataclasses.is_dataclass(annotation):
        raise CliError(f"--set: {method}.{option} is one value, and has no {field[0]!r}")
    fields = typing.get_type_hints(annotation)
    _require(field[0], fields, f"--set: {method}.{option} has no {field[0]!r}")
    part = options.setdefault(option, Part())
    part[field[0]] = _value(fields[field[0]], text, f"{method}.{path}")
    try:
        dataclasses.replace(options_of(method)[option].default, **part)
    except ValueError as error:  # the record checks itself
        raise CliError(f"--set {method}.{path}={text}: {error}") from None


def _require(name: str, known: Mapping[str, Any], problem: str) -> None:
    if name not in known:
        raise CliError(f"{problem}{suggest(name, known)}")


def _layer(text: str) -> str | tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise CliError("no layer is named")
    return names if names[1:] else names[0]


def _value(annotation: Any, text: str, where: str) -> Any:
    """A text as a value of a type.

    The types are tried from the strictest to the loosest, so that of `int | tuple[int, int]` a
    number is one.
    """
    option = where.rpartition(".")[2]
    if option == "composite":
        return load_composite(text, f"--set {where}")
    if option == "layer":
        return _layer(text)
    wanted = []
    for one in sorted(members(annotation), key=_strictness):
        reader, words = _reader(one)
        if reader is None or (option == "reduce" and one is type(None)):
            continue  # without a reduction there is no map
        wanted.append(words)
        try:
            return reader(text)
        except ValueError:
            continue
    if not wanted:
        raise CliError(f"--set {where}: it cannot be set from the command line")
    raise CliError(f"--set {where} must be {' or '.join(wanted)}, not {text!r}")


_ORDER = (type(None), bool, int, float)


def _strictness(annotation: Any) -> int:
    return _ORDER.index(annotation) if annotation in _ORDER else len(_ORDER)


def _reader(annotation: Any) -> tuple[Callable[[str], Any] | None, str]:
    """How a text becomes a value of this type (None: it cannot), and what it is called."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return functools.partial(_one_of, inner), " or ".join(map(str, inner))
    if annotation is type(None):
        return functools.partial(_word, {"none": None}), "none"
    if annotation is bool:
        words = {"true": True, "yes": True, "false": False, "no": False}
        return functools.partial(_word, words), "true or false"
    if annotation is int:
        return int, "a whole number"
    if annotation is float:
        return float, "a number"
    if annotation is str:
        return _text, "a name"
    if origin is tuple:
        return functools.partial(_tuple, inner), f"{len(inner)} whole numbers, as 7,7"
    if annotation is tuple:
        return lambda text: tuple(map(float, text.split(","))), "numbers, as -2,2"
    if origin is Sequence and inner == (str,):
        return lambda text: tuple(filter(None, map(str.strip, text.split(",")))), "names, as a,b"
    return None, ""


def _one_of(values: tuple, text: str) -> Any:
    return _word({str(value): value for value in values}, text)


def _word(words: Mapping[str, Any], text: str) -> Any:
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _tuple(inner: tuple, text: str) -> tuple:
    parts = text.replace("x", ",").split(",")
    if len(parts) != len(inner):
        raise ValueError(text)
    return tuple(kind(part) for kind, part in zip(inner, parts, strict=True))
