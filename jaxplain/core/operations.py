"""Classify the equations of a flat jaxpr into operations: the kinds that rules are written against.

Most operations are one equation. An activation (``where(x > 0, x, 0)``, GELU ...) or a
normalisation (LRN, LayerNorm, softmax) written out in several equations is one operation too: a
region of the graph that begins at one value, ends at one equation and leaks nothing on the way.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.elementwise import (
    DISCRETE,
    ELEMENTWISE,
    KNOWN,
    UNARY,
    Function,
    primitive_names,
)
from jaxplain.core.intervals import STRUCTURAL, UNKNOWN, Facts, literal, propagate

KINDS = (
    "linear",
    "scale",
    "bias",
    "activation",
    "max_pool",
    "add",
    "gate",
    "normalise",
    "structural",
    "opaque",
)

_REDUCING = {
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_window_sum",
    "reduce_window_max",
    "cumsum",
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "expand_dims",
    "slice",
    "pad",
    "concatenate",
    "transpose",
}
_CURVED = {"exp", "log", "rsqrt", "sqrt", "integer_pow", "square", "pow", "div", "logistic"}
_POOLS = {"reduce_window_max", "reduce_max", "reduce_window_min", "reduce_min"}
_SUMS = {"reduce_sum", "reduce_window_sum"}


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the traced network.

    ``inputs`` are the values that depend on the network's input, ``constants`` the ones that do
    not. ``low`` is a lower bound of all inputs; ``facts`` bound the output. ``within_gate`` says
    that every path to the network's output leads through a gate (attention): a rule that gives
    gates no signal gives none to this operation either.
    """

    kind: str
    name: str
    equations: tuple[Any, ...]
    inputs: tuple[Any, ...]
    constants: tuple[Any, ...]
    output: Any
    low: float
    facts: Facts
    input_facts: tuple[Facts, ...]
    within_gate: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        return _compat.scopes(self.equations[-1])

    @property
    def source(self) -> str:
        return next(filter(None, map(_compat.source_line, reversed(self.equations))), "")

    @property
    def outputs(self) -> tuple[Any, ...]:
        return tuple(self.equations[-1].outvars)

    @property
    def weighted(self) -> bool:
        return self.kind == "linear" and self.name in ("conv", "dense")

    @property
    def gates(self) -> tuple[bool, ...] | None:
        """Which factors of a product are gates: in [0, 1], else the smaller; None if unclear."""
        gates = [f.low >= 0 and f.high <= 1 for f in self.input_facts]
        if not any(gates) or all(gates):
            sizes = [v.aval.size for v in self.inputs]
            gates = [n < max(sizes) for n in sizes]
        return tuple(gates) if self.name == "mul" and sum(gates) == len(gates) - 1 else None

    def evaluate(self, inputs: Any, constants: Any) -> list:
        """The operation's outputs from the values of ``inputs`` and ``constants``."""
        env = dict(zip(self.inputs, inputs, strict=True))
        env.update(zip(self.constants, constants, strict=True))
        for eqn in self.equations:
            values = [v.val if isinstance(v, _compat.Literal) else env[v] for v in eqn.invars]
            with _compat.equation_context(eqn):
                env.update(zip(eqn.outvars, _compat.bind(eqn, *values), strict=True))
        return [env[v] for v in self.outputs]


def is_active(atom: Any, active: set) -> bool:
    return not isinstance(atom, _compat.Literal) and atom in active


def classify(jaxpr: Any, inputs: list) -> tuple[list[Any], list[Operation]]:
    """The equations that do not depend on ``inputs``, and the operations that do, in order."""
    equations = _live(jaxpr)
    active: set = set(inputs)
    facts: dict = {}
    inactive_eqns, active_eqns = [], []
    for eqn in equations:
        depends = any(is_active(v, active) for v in eqn.invars)
        (active_eqns if depends else inactive_eqns).append(eqn)
        if depends:
            active.update(eqn.outvars)
        known = [
            literal(v) if isinstance(v, _compat.Literal) else facts.get(v, UNKNOWN)
            for v in eqn.invars
        ]
        facts[eqn.outvars[0]] = _custom_facts(eqn, known)
    grouping = _Regions(active_eqns, active, inputs, jaxpr.outvars, facts)
    operations = [grouping.operation(group) for group in grouping.groups()]
    return inactive_eqns, _mark_within_gates(operations, jaxpr.outvars)


def _mark_within_gates(operations: list[Operation], outputs: Any) -> list[Operation]:
    reached = {v for v in outputs if not isinstance(v, _compat.Literal)}
    marked = []
    for op in reversed(operations):
        within = not any(v in reached for v in op.outputs)
        if not within:
            gates = (op.gates if op.kind == "gate" else None) or [False] * len(op.inputs)
            reached.update(v for v, is_gate in zip(op.inputs, gates, strict=True) if not is_gate)
        marked.append(dataclasses.replace(op, within_gate=True) if within else op)
    return marked[::-1]


def _live(jaxpr: Any) -> list:
    needed = {v for v in jaxpr.outvars if not isinstance(v, _compat.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
    return kept[::-1]


def _custom_facts(eqn: Any, known: list[Facts]) -> Facts:
    if eqn.primitive.name not in _compat.CUSTOM_CALLS:
        return propagate(eqn, known)
    unary = Function.of([eqn], eqn.invars[-1], dict(zip(eqn.invars[:-1], known, strict=False)))
    return unary.facts if unary else UNKNOWN


class _Regions:
    """Groups equations into operations."""

    def __init__(self, equations: list, active: set, inputs: list, outputs: list, facts: dict):
        self.equations, self.active, self.facts = equations, active, facts
        self.inputs = inputs
        self.producer = {v: i for i, eqn in enumerate(equations) for v in eqn.outvars}
        self.users: dict = {}
        for i, eqn in enumerate(equations):
            for v in self._active_inputs(eqn):
                self.users.setdefault(v, set()).add(i)
        for v in outputs:
            if is_active(v, active):
                self.users.setdefault(v, set()).add(len(equations))
        self._dominators()

    def _active_inputs(self, eqn: Any) -> list:
        return list(dict.fromkeys(v for v in eqn.invars if is_active(v, self.active)))

    def _dominators(self) -> None:
        """The value that every path from the inputs to a value passes through last."""
        self.depth, self.parent = {None: 0}, {None: None}
        for v in self.inputs:
            self.parent[v], self.depth[v] = None, 1
        for eqn in self.equations:
            root = self._root(self._active_inputs(eqn))
            for v in eqn.outvars:
                self.parent[v], self.depth[v] = root, self.depth[root] + 1

    def _root(self, values: list) -> Any:
        root = values[0]
        for v in values[1:]:
            while root is not v:
                if self.depth[root] >= self.depth[v]:
                    root = self.parent[root]
                else:
                    v = self.parent[v]
        return root

    def groups(self) -> list[list[int]]:
        taken: set[int] = set()
        groups = []
        for i in reversed(range(len(self.equations))):
            if i not in taken:
                region = self._region(i) or self._clip(i) or [i]
                taken.update(region)
                groups.append(region)
        return groups[::-1]

    def _region(self, end: int) -> list[int] | None:
        """A private region that ends where paths from one value meet again."""
        eqn = self.equations[end]
        names = [v for v in eqn.invars if is_active(v, self.active)]
        if len(names) < 2 or eqn.primitive.name not in ELEMENTWISE:
            return None
        root = self._root(list(dict.fromkeys(names)))
        if root is None:
            return None
        region, stack = {end}, [v for v in names if v is not root]
        while stack:
            v = stack.pop()
            i = self.producer[v]
            if i not in region:
                name = self.equations[i].primitive.name
                if name not in ELEMENTWISE and name not in _REDUCING:
                    return None
                region.add(i)
                stack += [u for u in self._active_inputs(self.equations[i]) if u is not root]
        interior = [v for i in region - {end} for v in self.equations[i].outvars]
        if any(not self.users.get(v, set()) <= region for v in interior):
            return None
        kinds = {self.equations[i].primitive.name for i in region}
        if kinds & _REDUCING - {"broadcast_in_dim"}:
            last, same = eqn.primitive.name, root.aval.shape == eqn.outvars[0].aval.shape
            curved = kinds & _CURVED and last in ("mul", "div", "sub", "add")
            shifted = "stop_gradient" in kinds and last == "sub"  # softmax subtracts the maximum
            if not (same and (curved or shifted)):
                return None
        return sorted(region)

    def _clip(self, end: int) -> list[int] | None:
        """``min(max(x, low), high)`` and the like: the upper bound belongs to the activation."""
        eqn = self.equations[end]
        if eqn.primitive.name not in ("max", "min"):
            return None
        inner = self._active_inputs(eqn)
        if len(inner) != 1 or inner[0] not in self.producer or self.users[inner[0]] != {end}:
            return None
        start = self.producer[inner[0]]
        before = self.equations[start]
        opposite = {"max": "min", "min": "max"}[eqn.primitive.name]
        if before.primitive.name == opposite and len(self._active_inputs(before)) == 1:
            return [start, end]
        return None

    def operation(self, group: list[int]) -> Operation:
        eqns = [self.equations[i] for i in group]
        inside = {v for eqn in eqns for v in eqn.outvars}
        outer = [
            v
            for eqn in eqns
            for v in eqn.invars
            if not isinstance(v, _compat.Literal) and v not in inside
        ]
        inputs = tuple(dict.fromkeys(v for v in outer if v in self.active))
        constants = tuple(dict.fromkeys(v for v in outer if v not in self.active))
        output = eqns[-1].outvars[0]
        input_facts = tuple(self.facts.get(v, UNKNOWN) for v in inputs)
        function = None
        if len(inputs) == 1:
            function = Function.of(eqns, inputs[0], {v: self.facts.get(v, UNKNOWN) for v in outer})
        foreign = any(eqn.primitive.name == "custom_vjp_call" for eqn in eqns)
        if foreign and (function is None or function.name not in KNOWN):
            kind, name = (
                "opaque",
                "custom_vjp_call",
            )  # its author's backward pass is not ours to replace
        elif function:
            kind, name = "activation", function.name
            self.facts[output] = function.facts
        else:
            kind, name = self._kind(eqns, inputs)
        if kind == "normalise" and name == "softmax":
            self.facts[output] = Facts(0, 1)
        return Operation(
            kind,
            name,
            tuple(eqns),
            inputs,
            constants,
            output,
            min(f.low for f in input_facts),
            self.facts.get(output, UNKNOWN),
            input_facts,
        )

    def _kind(self, eqns: list, inputs: tuple) -> tuple[str, str]:
        eqn, prim = eqns[-1], eqns[-1].primitive.name
        if len(eqns) > 1:
            names = {e.primitive.name for e in eqns}
            if names & _REDUCING - {"broadcast_in_dim"}:
                return "normalise", ("softmax" if prim == "div" and "exp" in names else "normalise")
            return "activation", "activation"
        if prim in _compat.CUSTOM_CALLS:
            return self._custom_kind(eqn, inputs)
        if prim in DISCRETE:
            return "structural", prim
        two = len(inputs) > 1
        if prim in ("conv_general_dilated", "dot_general"):
            name = "conv" if prim[0] == "c" else "dense"
            return ("gate", "matmul") if two else ("linear", name)
        if prim in _SUMS:
            return "linear", "avg_pool"
        if prim in _POOLS:
            return "max_pool", "max_pool" if "window" in prim else prim
        if prim in ("add", "add_any", "sub"):
            if two:
                return "add", "add" if prim != "sub" else "sub"
            reversed_sub = prim == "sub" and eqn.invars[1] in inputs
            return ("scale", "scale") if reversed_sub else ("bias", "bias")
        if prim == "neg":
            return "scale", "scale"
        if prim == "mul":
            return ("gate", "mul") if two else ("scale", "scale")
        if prim == "div":
            if two:
                return "gate", "div"
            return ("scale", "scale") if eqn.invars[0] in inputs else ("activation", "reciprocal")
        if prim in ("max", "min"):
            return ("max_pool", "maximum") if two else ("activation", "activation")
        if prim in UNARY and not two:
            return "activation", prim
        if prim in ("select_n", "concatenate", "stack", "pad", "dynamic_update_slice"):
            return "structural", prim
        indices_active = prim in ("gather", "dynamic_slice") and any(
            is_active(v, self.active) for v in eqn.invars[1:]
        )
        if prim in STRUCTURAL and not indices_active:
            return "structural", prim
        return "opaque", prim

    def _custom_kind(self, eqn: Any, inputs: tuple) -> tuple[str, str]:
        inner, _ = _compat.body(eqn)
        names = primitive_names(inner)
        label = str(eqn.params.get("name") or eqn.primitive.name)
        same = len(inputs) == 1 and inputs[0].aval.shape == eqn.outvars[0].aval.shape
        if same and names <= ELEMENTWISE | {"broadcast_in_dim"}:
            return "activation", label
        if same and names <= ELEMENTWISE | _REDUCING and names & _CURVED:
            return "normalise", "softmax" if "softmax" in label else label
        return "opaque", label
