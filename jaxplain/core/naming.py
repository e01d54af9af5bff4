"""The names of a network's values: tags, module paths, kinds and positions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxplain.core import _compat
from jaxplain.core.errors import UnknownLayerError, nearest, warn_the_caller
from jaxplain.core.operations import KINDS, Operation


class Naming(NamedTuple):
    """Names and the variables behind them, the best name of a value first.

    ``counts`` says how many values are numbered under a name (``"conv:0"``, ``"conv:1"`` ...), and
    ``repeated`` which of those names are tags or module paths that occur more than once. ``moves``
    are the numbered names of slices, concatenations and the like, which are listed nowhere but
    needed where a default layer is such a value.
    """

    names: dict[str, Any]
    counts: dict[str, int]
    repeated: dict[str, str]
    moves: dict[str, Any]

    def with_kinds(self, kinds: dict[str, list]) -> Naming:
        """The same with numbered names of further kinds, behind tags and module paths.

        A tag or module path of such a kind's name that occurs more than once keeps it.
        """
        kinds = {kind: values for kind, values in kinds.items() if kind not in self.repeated}
        own = {n: v for n, v in self.names.items() if not self.counted(n)}
        new = {f"{kind}:{i}": v for kind, found in kinds.items() for i, v in enumerate(found)}
        counts = {**self.counts, **{kind: len(found) for kind, found in kinds.items()}}
        return self._replace(names={**own, **new, **self.names}, counts=counts)

    def of(self, v: Any) -> str:
        """The best name of a value."""
        both = itertools.chain(self.names.items(), self.moves.items())
        return next((name for name, u in both if u is v), "an unnamed value")

    def counted(self, name: str) -> bool:
        """Whether a name says only what kind of operation it is, and the how manieth."""
        label, colon, _ = name.rpartition(":")
        return bool(colon) and label in self.counts and label not in self.repeated

    def find(self, name: str) -> Any:
        """The variable behind a layer's name."""
        if not isinstance(name, str):
            raise TypeError(
                f"a layer is addressed by its name, a str, not by {type(name).__name__}"
            )
        dotted = name.replace("/", ".")
        for candidate in (name, dotted):
            if candidate in self.names:
                return self.names[candidate]
        if name in self.moves:
            return self.moves[name]
        counted = re.fullmatch(r"(.+):(-?\d+)", name)
        if counted and counted[1] in self.counts:
            n, i = self.counts[counted[1]], int(counted[2])
            if -n <= i < n:
                return self.names[f"{counted[1]}:{i % n}"]
            if not n:
                raise UnknownLayerError(
                    f"there is no layer {name!r}: the network has no {counted[1]!r} "
                    "(jaxplain.layers lists its layers)"
                )
            raise UnknownLayerError(
                f"there is no layer {name!r}: the network has {n} of "
                f"{counted[1]!r}, numbered 0 to {n - 1} or -{n} to -1"
            )
        for candidate in (name, dotted):
            if candidate in self.repeated:
                return self._first_of(candidate)
        ends = [n for n in [*self.names, *self.repeated] if n.endswith("." + dotted)]
        if len(ends) == 1 and ends[0] in self.repeated:
            return self._first_of(ends[0])
        if len({self.names.get(n) for n in ends}) == 1:
            return self.names[ends[0]]
        if ends:
            raise UnknownLayerError(
                f"the layer {name!r} is ambiguous; say which of {', '.join(ends)}"
            )
        raise UnknownLayerError(
            f"there is no layer {name!r}; the nearest names are "
            f"{nearest(name, self.names)} (jaxplain.layers lists all)"
        )

    def _first_of(self, name: str) -> Any:
        """The value of the first call of a module, with a warning; tags must be told apart."""
        calls = f"{name + ':0'!r}, {name + ':1'!r}, ..."
        if self.repeated[name] == "tag":
            raise UnknownLayerError(
                f"the tag {name!r} occurs more than once in the network; say which with {calls}"
            )
        warn_the_caller(
            f"the module path {name!r} is called {self.counts[name]} times in the network, and "
            f"stands for its first call; say which with {calls}"
        )
        return self.names[f"{name}:0"]


def name_values(inputs: Sequence[Any], ops: Sequence[Operation]) -> Naming:
    """Name the operations' outputs: by tag, else by module path, else by kind and position."""
    tags: dict[str, list] = {}
    paths = _Paths()
    counted: dict[str, list] = {}
    numbered: list[tuple[str, int, Any]] = []
    moves: dict[str, list] = {}
    for op in ops:
        floating = op.output.aval.dtype.kind in "fV"  # "V": bfloat16 and its like
        paths.add(op, op.output if floating else None)
        if not floating:
            continue
        if op.name == "name":
            tags.setdefault(op.equations[0].params["name"], []).append(op.output)
        if op.kind != "structural":
            for label in dict.fromkeys((op.name, op.kind)):
                values = counted.setdefault(label, [])
                numbered.append((label, len(values), op.output))
                values.append(op.output)
        elif op.name != "name":
            moves.setdefault(op.name, []).append(op.output)
    names = {"input": inputs[0]} if inputs else {}
    repeated: dict[str, str] = {}
    counts = {label: len(values) for label, values in counted.items()}
    for kind, found in (("tag", tags), ("module path", paths.calls)):
        for name, values in found.items():
            if name in names or name in repeated or not values:
                continue
            if len(values) == 1:
                names[name] = values[0]
            else:
                repeated[name], counts[name] = kind, len(values)
                names.update({f"{name}:{i}": v for i, v in enumerate(values)})
    for label, i, v in sorted(numbered, key=lambda n: n[0] in KINDS):  # the specific name first
        if label not in repeated:
            names.setdefault(f"{label}:{i}", v)
    moved = {f"{label}:{i}": v for label, values in moves.items() for i, v in enumerate(values)}
    return Naming(names, counts, repeated, {n: v for n, v in moved.items() if n not in names})


class _Paths:
    """The last value of each call of each module path."""

    def __init__(self) -> None:
        self._values: dict[str, list] = {}
        self._open: dict[str, tuple] = {}

    def add(self, op: Operation, value: Any) -> None:
        """The next operation and its value, None where that can be no layer."""
        around: dict[str, tuple] = {}
        path, before = "", ()
        stack = (*_compat.name_stack(op.equations[-1]), "")
        for name, following in zip(stack, stack[1:], strict=False):
            if _compat.is_mark(name):
                before = (*before, name)
                continue
            path = f"{path}.{name}" if path else name
            around[path] = (before, following if _compat.is_mark(following, "call") else "")
        for path, call in around.items():
            values = self._values.setdefault(path, [])
            if self._open.get(path) != call:  # another call, or the same scope entered again
                values.append(None)
            if value is not None:
                values[-1] = value
        self._open = around

    @property
    def calls(self) -> dict[str, list]:
        return {p: [v for v in values if v is not None] for p, values in self._values.items()}
