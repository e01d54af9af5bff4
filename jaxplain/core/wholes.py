"""Find operations that are written in several equations: activations, norms, softmax, pools.

Each is a *whole*: a region of the graph that begins at one value, ends at one equation and leaks
nothing on the way. A piece of one is no operation of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxplain.core import _compat
from jaxplain.core.elementwise import HOMOGENEOUS, Curve, curve, is_call, is_elementwise
from jaxplain.core.intervals import UNKNOWN, Facts, literal
from jaxplain.core.primitives import AFFINE, CLASS, is_identity, literal_number, of_class

#: An activation of more equations than this is not looked for.
_LONGEST = 48
_POWERS = {"rsqrt", "sqrt", "pow"}
_JOINS = AFFINE - {"neg"} | {"div", "select_n"}


@dataclasses.dataclass(frozen=True)
class Whole:
    """Equations, by their numbers, that are one operation on the value ``root``."""

    members: frozenset[int]
    root: Any
    kind: str
    name: str
    facts: Facts | None = None  # None: follow from the equations


class Wholes:
    """The wholes of a list of equations that depend on ``inputs``.

    Attributes:
        equations: the equations, all of which depend on the inputs.
        at: for each equation the whole that ends at it, or None.
    """

    def __init__(
        self,
        equations: list,
        active: set,
        inputs: list,
        outputs: list,
        facts: dict,
        constant_producers: dict,
    ):
        self.equations, self.active, self.facts = equations, active, facts
        self.constant_producers = constant_producers
        self.producer = {v: i for i, eqn in enumerate(equations) for v in eqn.outvars}
        self.users: dict = {}
        for i, eqn in enumerate(equations):
            for v in self.actives(eqn):
                self.users.setdefault(v, set()).add(i)
        for v in outputs:
            if self._is_active(v):
                self.users.setdefault(v, set()).add(len(equations))
        self._dominators(inputs)
        self.at: list[Whole | None] = []
        self._shifts: dict[int, tuple[set[int], Any]] = {}
        for i in range(len(equations)):
            found = self._pool(i) or self._exponential(i) or self._activation(i) or self._norm(i)
            self.at.append(found)

    def groups(self) -> list[tuple[list[int], Whole | None]]:
        """All equations, each in one group, in the order of their last members."""
        taken: set[int] = set()
        groups = []
        for i in reversed(range(len(self.equations))):
            if i not in taken:
                whole = self.at[i]
                members = sorted(whole.members) if whole else [i]
                taken.update(members)
                groups.append((members, whole))
        return groups[::-1]

    # -- the graph ---------------------------------------------------------------------------

    def _is_active(self, atom: Any) -> bool:
        return not isinstance(atom, _compat.Literal) and atom in self.active

    def actives(self, eqn: Any) -> list:
        """The distinct inputs of an equation that depend on the network's input."""
        return list(dict.fromkeys(v for v in eqn.invars if self._is_active(v)))

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

    def _private(self, root: Any, members: set[int]) -> bool:
        """Whether a value is computed for these equations alone."""
        return root in self.producer and self.users.get(root, set()) <= members

    def _region(self, end: int, allowed: Any) -> tuple[set[int], Any] | None:
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

    def _joins_wholes(self, end: int, root: Any, kinds: tuple[str, ...]) -> bool:
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

    # -- activations ---------------------------------------------------------------------------

    def _activation(self, end: int) -> Whole | None:
        """A known activation that ends here, of the fewest equations; else a nameless one."""
        eqn = self.equations[end]
        out = eqn.outvars[0]
        if (
            not jnp.issubdtype(out.aval.dtype, jnp.floating)
            or not is_elementwise(eqn)
            or self.identity(end)
            or eqn.primitive.name == "stop_gradient"
        ):
            return None
        members: set[int] = set()
        passed: set[str] = set()
        nameless, clipped, i = None, None, end
        while len(members) < _LONGEST:
            step = self._step_back(i, end)
            if step is None or (clipped and not self._is_flat(i)):
                break
            more, root, piece = step
            if not jnp.issubdtype(root.aval.dtype, jnp.floating):
                break
            members |= more
            shape = self._curve(members, root, out)
            if shape is None or shape[0].y is None:
                break
            graph, exact = shape
            name = self._name(graph, exact) if out.aval.shape == root.aval.shape else None
            if name and name not in passed and not (name in HOMOGENEOUS and passed & HOMOGENEOUS):
                facts = graph.facts if exact else None
                found = Whole(frozenset(members), root, "activation", name, facts)
                if name not in ("relu6", "hard_sigmoid"):
                    return found
                if clipped is None or not self.identity(i):
                    clipped = found  # perhaps more scales and biases belong to a hard sigmoid
            if not clipped and self._is_nameless(i, end, root, graph, piece, nameless, passed):
                label = self._label(members, end)
                nameless = Whole(frozenset(members), root, "activation", label)
            if piece:
                passed.add(piece)
            if not self._private(root, members):
                break
            i = self.producer[root]
        return clipped or nameless

    def _step_back(self, i: int, end: int) -> tuple[set[int], Any, str | None] | None:
        """What ends at an equation, where it begins, and its name if it is an activation."""
        if i != end and (whole := self.at[i]) and whole.kind == "activation":
            return set(whole.members), whole.root, whole.name
        eqn = self.equations[i]
        if not is_elementwise(eqn):
            return None
        values = self.actives(eqn)
        if len(values) > 1:
            region = self._region(i, is_elementwise)
            return None if region is None else (*region, None)
        constants = (v for v in eqn.invars if not self._is_active(v))
        if any(self.static(v) is None for v in constants):
            return None
        return {i}, values[0], None

    def _curve(self, members: set[int], root: Any, out: Any) -> tuple[Curve, bool] | None:
        """The graph of the function, and whether all its constants are known."""
        eqns = [self.equations[i] for i in sorted(members)]
        inside = {v for eqn in eqns for v in eqn.outvars}
        outer = [
            v
            for eqn in eqns
            for v in eqn.invars
            if not isinstance(v, _compat.Literal) and v not in inside and v is not root
        ]
        constants = {v: self.static(v) for v in outer}
        unknown = [v for v, c in constants.items() if c is None]
        if any(not jnp.issubdtype(v.aval.dtype, jnp.floating) for v in unknown):
            return None
        return curve(eqns, root, out, constants), not unknown

    @staticmethod
    def _name(graph: Curve, exact: bool) -> str | None:
        name = graph.name if graph.known else None
        return "prelu" if name == "leaky_relu" and not exact else name

    def _is_nameless(self, i, end, root, graph, piece, nameless, passed) -> bool:
        """Whether the equations so far are, or lengthen, an activation without a known name."""
        curved = not (graph.known and graph.affine)
        if i == end:
            joins = len(self.actives(self.equations[i])) > 1
            adds = self.equations[i].primitive.name in ("add", "add_any", "sub")
            return curved and not (joins and adds and self._joins_wholes(i, root, ("activation",)))
        if nameless is None or not passed <= _RAW:
            return False
        return not self._is_flat(i) and (piece is None or piece in _RAW)

    def _is_flat(self, i: int) -> bool:
        eqn = self.equations[i]
        affine = eqn.primitive.name in (*AFFINE, "div") and len(self.actives(eqn)) == 1
        return affine or self.identity(i)

    def _label(self, members: set[int], end: int) -> str:
        eqn = self.equations[end]
        if len(members) > 1:
            return "activation"
        if is_call(eqn):
            return str(eqn.params.get("name") or "activation")
        name = eqn.primitive.name
        known = {"div": "reciprocal", "mul": "square", "max": "activation", "min": "activation"}
        return known.get(name) or name

    # -- norms, softmax ------------------------------------------------------------------------

    def _norm(self, end: int) -> Whole | None:
        eqn = self.equations[end]
        name = eqn.primitive.name
        if name in _compat.CUSTOM_CALLS:
            return self._custom_norm(end)
        if name not in _JOINS or len(self.actives(eqn)) < 2:
            return None
        found = self._region(end, _reducible)
        if found is None:
            return None
        members, root = found
        out = eqn.outvars[0]
        if root.aval.size != out.aval.size or not self._reduces(members):
            return None
        if name == "sub" and self._is_shift(members):
            self._shifts[end] = members, root
            stopped = any(self.equations[i].primitive.name == "stop_gradient" for i in members)
            return Whole(frozenset(members), root, "normalise", "shift") if stopped else None
        if not self._is_curved(members) or self._joins_wholes(end, root, ("normalise",)):
            return None
        members, root = self._with_exponential(members, root)
        label = self._norm_name(members, root, end)
        if label == "normalise" and name not in ("mul", "div"):
            return None
        facts = Facts(0, 1) if label == "softmax" else None
        return Whole(frozenset(members), root, "normalise", label, facts)

    def _exponential(self, end: int) -> Whole | None:
        """A softmax that is written as the exponential of a log-softmax."""
        eqn = self.equations[end]
        if eqn.primitive.name != "exp":
            return None
        members, (value,) = {end}, self.actives(eqn)
        while self._private(value, members):
            i = self.producer[value]
            whole = self.at[i]
            if whole and whole.name == "log_softmax":
                members |= whole.members
                root = whole.root
                return Whole(frozenset(members), root, "normalise", "softmax", Facts(0, 1))
            if not self.identity(i):
                break
            members.add(i)
            (value,) = self.actives(self.equations[i])
        return None

    def _custom_norm(self, end: int) -> Whole | None:
        """A softmax or norm with a derivative of its own."""
        eqn = self.equations[end]
        values = self.actives(eqn)
        inner, _ = _compat.body(eqn)
        eqns = _inner(inner)
        reducible = all(_reducible(e) for e in eqns) and any(_adds(e) for e in eqns)
        if len(values) != 1 or len(eqn.outvars) != 1 or not reducible:
            return None
        if values[0].aval.shape != eqn.outvars[0].aval.shape or not any(map(_curves, eqns)):
            return None
        names = {e.primitive.name for e in eqns}
        label = "normalise"
        if {"exp", "reduce_sum"} <= names:
            label = "log_softmax" if "log" in names else "softmax"
        elif names & _POWERS:
            label = _statistics_name(eqns, values[0])
        facts = Facts(0, 1) if label == "softmax" else None
        return Whole(frozenset({end}), values[0], "normalise", label, facts)

    def _reduces(self, members: set[int]) -> bool:
        return any(_adds(e) or of_class(e.primitive.name, "extreme") for e in self._all(members))

    def _all(self, members: set[int]) -> list:
        """The equations, calls replaced by what is in them."""
        found = []
        for i in sorted(members):
            eqn = self.equations[i]
            found += _inner(_compat.body(eqn)[0]) if is_call(eqn) else [eqn]
        return found

    def _is_curved(self, members: set[int]) -> bool:
        for i in members:
            eqn = self.equations[i]
            if is_call(eqn) or _curves(eqn):
                return True
            name, values = eqn.primitive.name, self.actives(eqn)
            if name == "mul" and len(values) + (eqn.invars[0] is eqn.invars[1]) > 1:
                return True
            if name == "div" and self._is_active(eqn.invars[1]):
                return True
        return False

    def _is_shift(self, members: set[int]) -> bool:
        """Whether this is ``x - max(x)``, as in softmax."""
        eqns = [self.equations[i] for i in members]
        names = {e.primitive.name for e in eqns}
        return any(of_class(n, "extreme") for n in names) and all(
            of_class(n, "extreme", "identity", "move", "discrete") or n in ("max", "min", "sub")
            for n in names
        )

    def _with_exponential(self, members: set[int], root: Any) -> tuple[set[int], Any]:
        """``exp`` and the shift before a quotient by a sum belong to it: a softmax."""
        names = {self.equations[i].primitive.name for i in members}
        sums = "reduce_sum" in names and not names & _POWERS
        found = (set(members), root, bool(names & {"exp", "exp2"}))
        while sums and self._private(found[1], found[0]):
            members_, root_, exponential = found
            i = self.producer[root_]
            eqn = self.equations[i]
            if exponential and i in self._shifts:
                shift, root = self._shifts[i]
                return members_ | shift, root
            masks = eqn.primitive.name in ("select_n", "mul") and not exponential
            exp = eqn.primitive.name in ("exp", "exp2") and not exponential
            if len(self.actives(eqn)) != 1 or not (masks or exp or self.identity(i)):
                break
            found = (members_ | {i}, self.actives(eqn)[0], exponential or exp)
            if exp:
                members, root = found[0], found[1]
        return members, root

    def _norm_name(self, members: set[int], root: Any, end: int) -> str:
        eqns = self._all(members)
        names = {e.primitive.name for e in eqns}
        if names & {"exp", "exp2"} and "reduce_sum" in names and not names & _POWERS:
            if self.equations[end].primitive.name in ("div", "mul"):
                return "softmax"
            return "log_softmax" if "log" in names else "normalise"
        return _statistics_name(eqns, root) if names & _POWERS else "normalise"

    # -- pools ---------------------------------------------------------------------------------

    def _pool(self, end: int) -> Whole | None:
        """A sum over windows, divided by the number of places in each: an average pool."""
        eqn = self.equations[end]
        if eqn.primitive.name != "div" or not self._is_active(eqn.invars[0]):
            return None
        value, counts = eqn.invars
        if self._is_active(counts) or isinstance(counts, _compat.Literal):
            return None
        members = {end}
        while self._private(value, members) and self.identity(self.producer[value]):
            members.add(self.producer[value])
            (value,) = self.actives(self.equations[self.producer[value]])
        if not self._private(value, members):
            return None
        total = self.equations[self.producer[value]]
        if total.primitive.name != "reduce_window_sum" or not self._counts(counts, total):
            return None
        members.add(self.producer[value])
        root = total.invars[0]
        known = self.facts.get(root, UNKNOWN)
        padded = any(any(p) for p in total.params["padding"])
        low, high = (min(0, known.low), max(0, known.high)) if padded else known[:2]
        return Whole(frozenset(members), root, "linear", "avg_pool", Facts(low, high))

    def _counts(self, v: Any, total: Any) -> bool:
        """Whether a constant is the sum of ones over the same windows."""
        eqn = self.constant_producers.get(v)
        while eqn is not None and (
            is_identity(eqn) or eqn.primitive.name in ("broadcast_in_dim", "reshape", "squeeze")
        ):
            v = eqn.invars[0]
            eqn = None if isinstance(v, _compat.Literal) else self.constant_producers.get(v)
        if eqn is None or eqn.primitive.name != "reduce_window_sum":
            return False
        if self.static(eqn.invars[0]) != 1:
            return False
        same = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
        wide = [i for i, n in enumerate(total.params["window_dimensions"]) if n > 1]
        ndim = len(total.params["window_dimensions"])
        if len(eqn.params["window_dimensions"]) != ndim:
            return False
        return all(
            eqn.params[key][i] == total.params[key][i] for key in (*same, "padding") for i in wide
        )


#: Activations that are single primitives and no known activation: pieces of longer ones.
_RAW = frozenset(n for n, c in CLASS.items() if c == "elementwise" and n != "tanh") | {
    "activation",
    "reciprocal",
}


def _inner(jaxpr: Any) -> list:
    found = []
    for eqn in jaxpr.eqns:
        found += _inner(_compat.body(eqn)[0]) if is_call(eqn) else [eqn]
    return found


def _reducible(eqn: Any) -> bool:
    """Whether an equation may stand within a norm."""
    name = eqn.primitive.name
    if name in _compat.CUSTOM_CALLS:
        return all(map(_reducible, _inner(_compat.body(eqn)[0])))
    return is_elementwise(eqn) or of_class(name, "identity", "move", "sum", "extreme")


def _adds(eqn: Any) -> bool:
    return of_class(eqn.primitive.name, "sum")


def _curves(eqn: Any) -> bool:
    name = eqn.primitive.name
    flat = name in (*AFFINE, "div", "max", "min", "sign", "floor", "ceil", "round")
    return of_class(name, "elementwise") and not flat


def _statistics_name(eqns: list, root: Any) -> str:
    """What a value divided by a statistic of itself is called."""
    names = [e.primitive.name for e in eqns]
    squares = any(
        n == "square"
        or (n == "integer_pow" and e.params["y"] == 2)
        or (n == "pow" and not isinstance(e.invars[1], _compat.Var))
        or (n == "mul" and e.invars[0] is e.invars[1])
        for n, e in zip(names, eqns, strict=True)
    )
    if not squares or "logistic" in names:
        return "normalise"
    if any(n in ("reduce_window_sum", "cumsum") for n in names):
        return "lrn"
    sums = [e for e in eqns if e.primitive.name == "reduce_sum"]
    if len(sums) < 2:
        mean = any(
            n in ("div", "mul") and any(literal_number(v) for v in e.invars)
            for n, e in zip(names, eqns, strict=True)
        )
        return "rms_norm" if mean else "l2_norm"
    if "sub" not in names:
        return "normalise"
    axes = sums[0].params["axes"]
    ndim = len(sums[0].invars[0].aval.shape)
    if len(sums[0].invars[0].aval.shape) != len(root.aval.shape) or len(axes) == ndim - 2 > 1:
        same = len(sums[0].invars[0].aval.shape) == len(root.aval.shape)
        return "instance_norm" if same and ndim - 1 not in axes and ndim == 4 else "group_norm"
    return "layer_norm"


def varies_with(jaxpr_eqns: list, sources: set) -> set:
    """The values that equations compute from any of ``sources``."""
    found = set(sources)
    for eqn in jaxpr_eqns:
        if any(not isinstance(v, _compat.Literal) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return found


__all__ = ["Whole", "Wholes", "varies_with"]
