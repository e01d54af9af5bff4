"""The form of a name map: what one source of checkpoints calls the parameters of a network.

A map is data. A family's file in this folder holds one table a source, to be read beside the
source's own names:

    TORCHVISION = NameMap(
        source="torchvision",
        modules={
            "conv1": "conv1",
            "layer{stage}.{block}.conv1": "layer{stage}.{block}.conv1",
            "fc": "fc",
        },
        **TORCH,
    )
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

#: What is said of a source once: its names of parameters, their separator and axis order.
TORCH: Mapping[str, Any] = dict(
    leaves={"kernel": "weight", "scale": "weight", "bias": "bias"},
    norm_leaves={
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    },
    counters=("num_batches_tracked", "*.num_batches_tracked"),
)
CAFFE: Mapping[str, Any] = dict(leaves={"kernel": "0", "bias": "1"}, norm_leaves={})
KERAS: Mapping[str, Any] = dict(
    leaves={"kernel": "kernel", "bias": "bias"},
    norm_leaves={
        "scale": "gamma",
        "bias": "beta",
        "mean": "moving_mean",
        "var": "moving_variance",
    },
    separator="/",
    layout="keras",
    epsilon=1e-3,
)
#: Keras 3 numbers the variables of a layer instead of naming them.
_KERAS_NUMBERS = {
    "kernel": "vars/0",
    "bias": "vars/1",
    "gamma": "vars/0",
    "beta": "vars/1",
    "moving_mean": "vars/2",
    "moving_variance": "vars/3",
}
#: The name of a tensor of theirs, or of several that are one of ours.
Theirs: TypeAlias = str | tuple[str, ...]
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VALUE = re.compile(r"\{(\w+)(?:\+(\d+)|:(letter))?\}")


@dataclasses.dataclass(frozen=True)
class NameMap:
    """Rules from our dotted parameter names to those of one source's checkpoints.

    Attributes:
        source: who names tensors so: ``"torchvision"``, ``"caffe"``, ``"keras"`` ...
        modules: our module -> theirs. ``{x}`` in ours matches one component (between dots) or a
            part of it; in theirs it stands for the same text, ``{x+1}`` for the number plus 1 and
            ``{x:letter}`` for the letter of that number (0 is a). A pattern without placeholders
            comes before one with, and an earlier one before a later one. Instead of their module a
            mapping can be given, from our leaf to the full name of their tensor, for modules whose
            tensors do not lie together, or to several names, whose tensors ours joins along the
            outputs (queries, keys and values). It may hold two leaves that we have not: ``factor``,
            by which mean and variance are to be divided (the third blob of Caffe's BatchNorm), and
            ``shift``, a bias added before normalisation, which is taken off the mean.
        leaves: our last component -> theirs; ``norm_leaves`` likewise, in batch normalisation
            (modules that have a ``mean``).
        separator: what stands between their module and their leaf.
        layout: order of their axes: ``"torch"`` is (out, in, h, w) and (out, in), with a flatten
            before a dense layer that puts channels first (Caffe too); ``"keras"`` is (h, w, in,
            out) and (in, out), with channels last.
        bgr: our module whose kernel sees the image, where theirs sees BGR; None for RGB.
        epsilon: what they add to the variance in batch normalisation; None for the same as ours.
        auxiliary: shell patterns of the auxiliary heads' tensors, dropped and reported.
        counters: shell patterns of counters of training steps, dropped and reported.
        numbered: a pattern such as ``blocks.{stage}.{block}``: ``{n}`` in ``modules``' values is
            the running number of its match, through all stages.
    """

    source: str
    modules: Mapping[str, str | Mapping[str, Theirs]]
    leaves: Mapping[str, str]
    norm_leaves: Mapping[str, str]
    separator: str = "."
    layout: str = "torch"
    bgr: str | None = None
    epsilon: float | None = 1e-5
    auxiliary: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    numbered: str | None = None

    def resolve(self, parameters: Iterable[str]) -> dict[str, Theirs]:
        """Our parameter name -> theirs, for each of ``parameters``, and for factors and shifts.

        Of a parameter that joins several tensors of theirs it is a tuple of names.

        Raises:
            KeyError: the map says nothing of a parameter (an error in the map).

        Example:
            >>> from jaxplain.weights_convert.name_maps import TORCH, NameMap
            >>> names = NameMap("x", {"layer{i}.conv": "stage{i+1}{i:letter}.conv"}, **TORCH)
            >>> names.resolve(["layer0.conv.kernel"])
            {'layer0.conv.kernel': 'stage1a.conv.weight'}
        """
        parameters = list(parameters)
        numbers = self._numbers(parameters)
        norms = {p.rpartition(".")[0] for p in parameters if p.endswith(".mean")}
        resolved = {}
        for parameter in parameters:
            module, _, leaf = parameter.rpartition(".")
            theirs, values = self._find(module, numbers)
            if isinstance(theirs, str):
                leaves = self.norm_leaves if module in norms else self.leaves
                theirs = {leaf: f"{theirs}{self.separator}{leaves[leaf]}"}
            for ours in (leaf, "factor", "shift"):
                if ours == leaf or ours in theirs:
                    names = theirs[ours]
                    resolved[f"{module}.{ours}"] = (
                        _fill(names, values)
                        if isinstance(names, str)
                        else tuple(_fill(name, values) for name in names)
                    )
        return resolved

    def _find(self, module: str, numbers) -> tuple[str | Mapping[str, Theirs], dict[str, str]]:
        if module in self.modules:
            return self.modules[module], {}
        for pattern, theirs in self.modules.items():
            if match := _regex(pattern).fullmatch(module):
                values = match.groupdict()
                if self.numbered and (place := _regex(self.numbered).match(module)):
                    values["n"] = numbers[place.groups()]
                return theirs, values
        raise KeyError(f"The name map {self.source!r} says nothing of the module {module!r}.")

    def _numbers(self, parameters) -> dict[tuple[str, ...], str]:
        if self.numbered is None:
            return {}
        matches = (_regex(self.numbered).match(p) for p in parameters)
        places = {m.groups() for m in matches if m}
        ordered = sorted(places, key=lambda place: [int(part) for part in place])
        return {place: str(n) for n, place in enumerate(ordered)}


def _regex(pattern: str) -> re.Pattern:
    parts = _PLACEHOLDER.split(pattern)  # text, name, text, name, ..., text
    text = (f"(?P<{p}>[^.]+?)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    return re.compile("".join(text) + r"(?![^.])")


def _fill(theirs: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match) -> str:
        text = values[match[1]]
        if match[2]:
            return str(int(text) + int(match[2]))
        return chr(ord("a") + int(text)) if match[3] else text

    return _VALUE.sub(value, theirs)


def caffe_norm(norm: str, scale: str) -> dict[str, str]:
    """The tensors of a Caffe BatchNorm layer and the Scale layer after it, for ``modules``."""
    return {
        "mean": f"{norm}.0",
        "var": f"{norm}.1",
        "factor": f"{norm}.2",
        "scale": f"{scale}.0",
        "bias": f"{scale}.1",
    }


def keras_numbered(names: NameMap) -> NameMap:
    """The map of Keras 3 files (``layer/vars/0``) from one of named weights (``layer/kernel``)."""

    def number(name: Theirs) -> str:
        (whole,) = each_name([name])
        head, slash, leaf = whole.rpartition("/")
        return head + slash + _KERAS_NUMBERS[leaf]

    def numbers(theirs: Theirs) -> Theirs:
        return number(theirs) if isinstance(theirs, str) else tuple(map(number, theirs))

    return dataclasses.replace(
        names,
        source=f"{names.source}-3",
        modules={
            ours: theirs
            if isinstance(theirs, str)
            else {leaf: numbers(names) for leaf, names in theirs.items()}
            for ours, theirs in names.modules.items()
        },
        leaves={leaf: number(name) for leaf, name in names.leaves.items()},
        norm_leaves={leaf: number(name) for leaf, name in names.norm_leaves.items()},
    )


def each_name(resolved: Iterable[Theirs]) -> Iterator[str]:
    """The names of ``NameMap.resolve``'s values one by one.

    Example:
        >>> from jaxplain.weights_convert.name_maps import each_name
        >>> list(each_name(["a", ("b", "c")]))
        ['a', 'b', 'c']
    """
    for theirs in resolved:
        yield from (theirs,) if isinstance(theirs, str) else theirs


def own_names(parameters: Iterable[str]) -> NameMap:
    """The map of files that use our own names and axes, as exported by ``jaxplain convert``."""
    parameters = list(parameters)
    same = {p.rpartition(".")[2]: p.rpartition(".")[2] for p in parameters}
    modules = {p.rpartition(".")[0]: p.rpartition(".")[0] for p in parameters}
    return NameMap("jaxplain", modules, same, same, layout="keras", epsilon=None)
