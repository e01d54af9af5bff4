"""The paths through a list of equations: where they part and meet, and what leaks nothing.

A *whole* is such a region that is one operation; :mod:`jaxplain.core.wholes` finds them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.intervals import Facts, literal
from jaxplain.core.primitives import AFFINE, is_identity


@dataclasses.dataclass(frozen=True)
class Whole:
    """Equations, by their numbers, that are one operation on the value ``root``."""

    members: frozenset[int]
    root: Any
    kind: str
    name: str
    facts: Facts | None = None  # None: follow from the equations


class Paths:
    """The graph of equations that depend on ``inputs``.

    Attributes:
        equations: the equations, all of which depend on the inputs.
        at: for each equation, as far as they are known, the whole that ends at it, or None.
    """

    def __init__(self, equations: list, active: set, inputs: list, outputs: list, facts: dict):
        self.equations, self.active, self.facts = equations, active, facts
        self.producer = {v: i for i, eqn in enumerate(equations) for v in eqn.outvars}
        self.users: dict = {}
        for i, eqn in enumerate(equations):
            for v in self.actives(eqn):
                self.users.setdefault(v, set()).add(i)
        for v in outputs:
            if self.is_active(v):
                self.users.setdefault(v, set()).add(len(equations))
        self._dominators(inputs)
        self.at: list[Whole | None] = []

    def is_active(self, atom: Any) -> bool:
        return not isinstance(atom, _compat.Literal) and atom in self.active

    def actives(self, eqn: Any) -> list:
        """The distinct inputs of an equation that depend on the network's input."""
        return list(dict.fromkeys(v for v in eqn.invars if self.is_active(v)))

    def static(self, atom: Any) -> float | None:
        """The number that a value is everywhere, if that is known."""
        known = literal(atom) if isinstance(atom, _compat.Literal) else self.facts.get(atom)
        return known.static if known else None

    def identity(self, i: int) -> bool:
        return is_identity(self.equations[i], self.static)

    def _dominators(self, inputs: list) -> None:
        """The value that every path from the inputs to a value passes through last."""
        self.depth, self.parent = {None: 0}, {None: None}
        for v in inputs:
            self.parent[v], self.depth[v] = None, 1
        for eqn in self.equations:
            root = self._meeting_point(self.actives(eqn))
            for v in eqn.outvars:
                self.parent[v], self.depth[v] = root, self.depth[root] + 1

    def _meeting_point(self, values: list) -> Any:
        root = values[0]
        for v in values[1:]:
            while root is not v:
                if self.depth[root] >= self.depth[v]:
                    root = self.parent[root]
                else:
                    v = self.parent[v]
        return root

    def is_private(self, root: Any, members: set[int]) -> bool:
        """Whether a value is computed for these equations alone."""
        return root in self.producer and self.users.get(root, set()) <= members

    def region(self, end: int, allowed: Any) -> tuple[set[int], Any] | None:
        """All between an equation and the value where the paths to it part, if it is private."""
        values = self.actives(self.equations[end])
        root = self._meeting_point(values)
        if root is None:
            return None
        region, stack = {end}, [v for v in values if v is not root]
        while stack:
            i = self.producer[stack.pop()]
            if i not in region:
                if not allowed(self.equations[i]):
                    return None
                region.add(i)
                stack += [u for u in self.actives(self.equations[i]) if u is not root]
        interior = [v for i in region - {end} for v in self.equations[i].outvars]
        if any(not self.users.get(v, set()) <= region for v in interior):
            return None
        return region, root

    def joins_wholes(self, end: int, root: Any, kinds: tuple[str, ...]) -> bool:
        """Whether a branch that meets at an equation is an operation of one of these kinds."""
        for v in self.actives(self.equations[end]):
            while v is not root:
                i = self.producer[v]
                whole = self.at[i]
                if whole and whole.kind in kinds and v.aval.size == root.aval.size:
                    return True
                eqn = self.equations[i]
                simple = eqn.primitive.name in (*AFFINE, "div") or self.identity(i)
                if not simple or len(self.actives(eqn)) != 1:
                    break
                (v,) = self.actives(eqn)
        return False
