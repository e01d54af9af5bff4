"""Recognise norms and softmax that are written in several equations, or in a call."""

from __future__ import annotations

from typing import Any

from jaxplain.core import _compat
from jaxplain.core.elementwise import is_call, is_elementwise
from jaxplain.core.intervals import Facts
from jaxplain.core.paths import Paths, Whole
from jaxplain.core.primitives import AFFINE, literal_number, of_class

_POWERS = {"rsqrt", "sqrt", "pow"}
_JOINS = AFFINE - {"neg"} | {"div", "select_n"}


class Norms:
    """Which norm ends at an equation; to be asked of one after the other, in order."""

    def __init__(self, paths: Paths):
        self.paths = paths
        self._shifts: dict[int, tuple[set[int], Any]] = {}

    def norm(self, end: int) -> Whole | None:
        """A norm or softmax that ends here, or the shift that a softmax begins with."""
        eqn = self.paths.equations[end]
        name = eqn.primitive.name
        if name in _compat.CUSTOM_CALLS:
            return self._custom_norm(end)
        if name not in _JOINS or len(self.paths.actives(eqn)) < 2:
            return None
        found = self.paths.region(end, _reducible)
        if found is None:
            return None
        members, root = found
        out = eqn.outvars[0]
        if root.aval.size != out.aval.size or not self._reduces(members):
            return None
        if name == "sub" and self._is_shift(members):
            self._shifts[end] = members, root
            names = {self.paths.equations[i].primitive.name for i in members}
            stopped = "stop_gradient" in names
            return Whole(frozenset(members), root, "normalise", "shift") if stopped else None
        if not self._is_curved(members) or self.paths.joins_wholes(end, root, ("normalise",)):
            return None
        members, root = self._with_exponential(members, root)
        label = self._norm_name(members, root, end)
        if label == "normalise" and name not in ("mul", "div"):
            return None
        facts = Facts(0, 1) if label == "softmax" else None
        return Whole(frozenset(members), root, "normalise", label, facts)

    def exponential(self, end: int) -> Whole | None:
        """A softmax that is written as the exponential of a log-softmax."""
        eqn = self.paths.equations[end]
        if eqn.primitive.name != "exp":
            return None
        members, (value,) = {end}, self.paths.actives(eqn)
        while self.paths.is_private(value, members):
            i = self.paths.producer[value]
            whole = self.paths.at[i]
            if whole and whole.name == "log_softmax":
                members |= whole.members
                root = whole.root
                return Whole(frozenset(members), root, "normalise", "softmax", Facts(0, 1))
            if not self.paths.identity(i):
                break
            members.add(i)
            (value,) = self.paths.actives(self.paths.equations[i])
        return None

    def _custom_norm(self, end: int) -> Whole | None:
        """A softmax or norm with a derivative of its own."""
        eqn = self.paths.equations[end]
        values = self.paths.actives(eqn)
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
            eqn = self.paths.equations[i]
            found += _inner(_compat.body(eqn)[0]) if is_call(eqn) else [eqn]
        return found

    def _is_curved(self, members: set[int]) -> bool:
        for i in members:
            eqn = self.paths.equations[i]
            if is_call(eqn) or _curves(eqn):
                return True
            name, values = eqn.primitive.name, self.paths.actives(eqn)
            if name == "mul" and len(values) + (eqn.invars[0] is eqn.invars[1]) > 1:
                return True
            if name == "div" and self.paths.is_active(eqn.invars[1]):
                return True
        return False

    def _is_shift(self, members: set[int]) -> bool:
        """Whether this is ``x - max(x)``, as in softmax."""
        eqns = [self.paths.equations[i] for i in members]
        names = {e.primitive.name for e in eqns}
        return any(of_class(n, "extreme") for n in names) and all(
            of_class(n, "extreme", "identity", "move", "discrete") or n in ("max", "min", "sub")
            for n in names
        )

    def _with_exponential(self, members: set[int], root: Any) -> tuple[set[int], Any]:
        """``exp`` and the shift before a quotient by a sum belong to it: a softmax."""
        names = {self.paths.equations[i].primitive.name for i in members}
        sums = "reduce_sum" in names and not names & _POWERS
        found = (set(members), root, bool(names & {"exp", "exp2"}))
        while sums and self.paths.is_private(found[1], found[0]):
            members_, root_, exponential = found
            i = self.paths.producer[root_]
            eqn = self.paths.equations[i]
            if exponential and i in self._shifts:
                shift, root = self._shifts[i]
                return members_ | shift, root
            masks = eqn.primitive.name in ("select_n", "mul") and not exponential
            exp = eqn.primitive.name in ("exp", "exp2") and not exponential
            if len(self.paths.actives(eqn)) != 1 or not (masks or exp or self.paths.identity(i)):
                break
            found = (members_ | {i}, self.paths.actives(eqn)[0], exponential or exp)
            if exp:
                members, root = found[0], found[1]
        return members, root

    def _norm_name(self, members: set[int], root: Any, end: int) -> str:
        eqns = self._all(members)
        names = {e.primitive.name for e in eqns}
        if names & {"exp", "exp2"} and "reduce_sum" in names and not names & _POWERS:
            if self.paths.equations[end].primitive.name in ("div", "mul"):
                return "softmax"
            return "log_softmax" if "log" in names else "normalise"
        return _statistics_name(eqns, root) if names & _POWERS else "normalise"


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
