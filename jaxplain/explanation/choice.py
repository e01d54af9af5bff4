"""A method as it was asked for, in Python or on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxplain.core.errors import suggest
from jaxplain.explainers.calling import explainer, parameters, takes_layer
from jaxplain.explainers.catalogue import CATALOGUE, canonical
from jaxplain.explainers.method import Method

if TYPE_CHECKING:
    from jaxplain.models import ModelConfig
    from jaxplain.rules import RuleSet

#: Arguments that change what comes back, which must be maps.
NOT_SET = ("fit", "details", "channels")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A method as it was asked for.

    Attributes:
        name: in the catalogue; or a name of the user's own, with their `function`.
        layer: a name, several, or None for the method's default.
        options: what was set, by argument; `Part` where parts of an argument were set.
        said: the same in the user's words, for titles and files.
        function: a method that is not of the catalogue: network, images and targets to maps.
    """

    name: str
    layer: str | tuple[str, ...] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    said: Mapping[str, str] = dataclasses.field(default_factory=dict)
    function: Callable | None = None

    @property
    def method(self) -> Method | None:
        """Its entry in the catalogue; None for one of the user's own."""
        return None if self.function is not None else CATALOGUE[self.name]

    @property
    def title(self) -> str:
        """As it is written over a picture and into a table: what was set stands behind it."""
        title = self.name if self.method is None else self.method.title
        if not self.said:
            return title
        return f"{title} ({', '.join(f'{key}={value}' for key, value in self.said.items())})"

    @property
    def sparse(self) -> bool:
        """Whether its map is one at the image that the pointing game blurs."""
        method = CATALOGUE[self.name]
        return method.blurred and (method.at_layer or self.layer in (None, "input"))

    @property
    def one_layer(self) -> str | None:
        """The layer, where only one can be meant.

        Raises:
            ValueError: several were named.
        """
        if isinstance(self.layer, tuple):
            raise ValueError(f"{self.name} is asked for at several layers; name one")
        return self.layer

    def known_layer(self, config: ModelConfig | None) -> str | tuple[str, ...] | None:
        """The layer that is looked at, as far as the network's ``config`` knows it."""
        method = self.method
        if self.layer is not None or method is None or method.layer is None or config is None:
            return self.layer
        return config.layer(method.layer)

    def arguments(self, config: ModelConfig | None, **defaults: Any) -> dict[str, Any]:
        """The function's arguments but for the layer; ``defaults`` hold where nothing is set."""
        found = {**defaults}
        for key, value in self.options.items():
            if isinstance(value, Part):
                base = found.get(key, parameters(self.name)[key].default)
                value = dataclasses.replace(base, **value)
            found[key] = value
        if self.name == "lrp" and config is not None and "composite" in found:
            box = _box_of_pixels(found["composite"], config)
            if box is not None:
                found.setdefault("box", box)
        return found

    def explainer(self, config: ModelConfig | None, **defaults: Any) -> Callable:
        """Network, images and targets to maps."""
        if self.function is not None:
            return self.function
        layer = None if fitted(self.name) else self.layer  # which is where the fit was made
        return explainer(self.name, config, layer, **self.arguments(config, **defaults))


class Part(dict[str, Any]):
    """Fields of an argument that is a record, such as NAFlow's solver."""


def fitted(method: str) -> bool:
    """Whether a method learns from images first, at a layer of its own."""
    return CATALOGUE[method].needs == "fit"


def layer_of_fit(choice: Choice, config: ModelConfig | None) -> str | None:
    """Where a method that learns from images is fitted: the layer asked for, or its default."""
    if isinstance(choice.layer, str):
        return choice.layer
    return None if config is None else config.layer(CATALOGUE[choice.name].layer or "last")


def can_take_layer(method: str) -> bool:
    """Whether a layer means something to a method: where it is explained, or fitted."""
    return takes_layer(method) or fitted(method)


def check_layer(method: str, layer: str | tuple[str, ...] | None) -> None:
    """An error if a method cannot be explained there.

    Raises:
        ValueError: several layers for a method of one, or all for one that does not know that.
    """
    if layer == "all" and method != "naflow":
        raise ValueError(f"only naflow takes the layer 'all'; name layers for {method}")
    if isinstance(layer, tuple) and not _takes_several(method):
        raise ValueError(f"{method} is explained at one layer, not at {', '.join(layer)}")


def _takes_several(method: str) -> bool:
    if fitted(method):
        return False
    annotation = parameters(method)["layer"].annotation
    return any(typing.get_origin(one) is Sequence for one in members(annotation))


def members(annotation: Any) -> tuple:
    """The types of a union; a type by itself is one."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(m for one in typing.get_args(annotation) for m in members(one))
    return (annotation,)


def options_of(method: str) -> dict[str, inspect.Parameter]:
    """What can be set of a method's function."""
    return {key: p for key, p in parameters(method).items() if key not in NOT_SET}


def names_of_methods(names: Iterable[str], known: Iterable[str] | None = None) -> list[str]:
    """The methods in the catalogue's spelling, in order and once each.

    Raises:
        ValueError: none is named, or one that is not ``known``; the nearest are suggested.

    >>> names_of_methods(["Grad_CAM", "saliency", "grad-cam"])
    ['grad-cam', 'gradient']
    """
    known = list(CATALOGUE if known is None else known)
    chosen = [canonical(name) for name in names if name.strip()]
    if not chosen:
        raise ValueError(f"no method given; known: {', '.join(known)}")
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown method {name!r}{suggest(name, known)}")
    return list(dict.fromkeys(chosen))


def choices_of(
    methods: str | Sequence[str] | Mapping[str, Any], layer: str | Sequence[str] | None
) -> tuple[dict[str, Choice], bool]:
    """What `jaxplain.explain` was asked for, by name; and whether that was all methods.

    Raises:
        ValueError: an unknown method or option, or a layer for a method that takes none.
    """
    every = methods == "all"
    if every:
        methods = [name for name in CATALOGUE if layer is None or can_take_layer(name)]
    if isinstance(methods, str):
        methods = methods.split(",")
    if not isinstance(methods, Mapping):
        methods = dict.fromkeys(methods)
    own = {name for name, value in methods.items() if callable(value)}
    catalogued = [name for name in methods if name not in own]
    called = dict(zip(catalogued, map(_one_name, catalogued), strict=True))
    found = {}
    for name, value in methods.items():
        if name in own:
            found[name] = Choice(name, function=value)
        else:
            found[called[name]] = _choice(called[name], value, layer)
    if not found:
        raise ValueError("no method given")
    return found, every


def _one_name(name: str) -> str:
    return names_of_methods([name or " "])[0]


def _choice(name: str, options: Mapping[str, Any] | None, layer: Any) -> Choice:
    given = dict(options or {})
    known = options_of(name) | ({"layer": None} if can_take_layer(name) else {})
    for key in given:
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}{suggest(key, known)}")
    said = {key: getattr(value, "__name__", str(value)) for key, value in given.items()}
    chosen = given.pop("layer", None)
    if chosen is None and layer is not None:
        if not can_take_layer(name):
            raise ValueError(f"{name} takes no layer: leave it out, or name layers by method")
        chosen = layer
    if chosen is not None and not isinstance(chosen, str):
        chosen = tuple(chosen)
    check_layer(name, chosen)
    return Choice(name, chosen, given, said)


def _box_of_pixels(composite: str | RuleSet, config: ModelConfig) -> tuple | None:
    """Least and greatest value of the network's input, where a rule needs them; else None."""
    import numpy as np

    from jaxplain import rules
    from jaxplain.rules.boxes import has_box

    made = rules.composite(composite) if isinstance(composite, str) else composite
    if not has_box(made):
        return None
    mean, scale = np.asarray(config.mean), np.asarray(config.scale)
    return (0 - mean) / scale, (255 - mean) / scale
