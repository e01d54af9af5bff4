"""Find operations that are written in several equations: activations, norms, softmax, pools.

Each is a *whole*: a region of the graph that begins at one value, ends at one equation and leaks
nothing on the way. A piece of one is no operation of its own.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.core import _compat
from jaxplain.core.elementwise import HOMOGENEOUS, Curve, curve, is_call, is_elementwise
from jaxplain.core.intervals import UNKNOWN, Facts
from jaxplain.core.norms import Norms
from jaxplain.core.paths import Paths, Whole
from jaxplain.core.primitives import AFFINE, CLASS, is_identity

#: An activation of more equations than this is not looked for.
_LONGEST = 48

#: Activations that are single primitives and no known activation: pieces of longer ones.
_RAW = frozenset(n for n, c in CLASS.items() if c == "elementwise" and n != "tanh") | {
    "activation",
    "reciprocal",
}


class Wholes(Paths):
    """The wholes of a list of equations that depend on ``inputs``, found in order."""

    def __init__(
        self,
        equations: list,
        active: set,
        inputs: list,
        outputs: list,
        facts: dict,
        constant_producers: dict,
    ):
        super().__init__(equations, active, inputs, outputs, facts)
        self.constant_producers = constant_producers
        norms = Norms(self)
        for i in range(len(equations)):
            found = self._pool(i) or norms.exponential(i) or self._activation(i) or norms.norm(i)
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
            if not self.is_private(root, members):
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
            region = self.region(i, is_elementwise)
            return None if region is None else (*region, None)
        constants = (v for v in eqn.invars if not self.is_active(v))
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
            return curved and not (joins and adds and self.joins_wholes(i, root, ("activation",)))
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

    # -- pools ---------------------------------------------------------------------------------

    def _pool(self, end: int) -> Whole | None:
        """A sum over windows, divided by the number of places in each: an average pool."""
        eqn = self.equations[end]
        if eqn.primitive.name != "div" or not self.is_active(eqn.invars[0]):
            return None
        value, counts = eqn.invars
        if self.is_active(counts) or isinstance(counts, _compat.Literal):
            return None
        members = {end}
        while self.is_private(value, members) and self.identity(self.producer[value]):
            members.add(self.producer[value])
            (value,) = self.actives(self.equations[self.producer[value]])
        if not self.is_private(value, members):
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
