"""Classify the equations of a flat jaxpr into operations, each of one kind.

Most operations are one equation. An activation (``where(x > 0, x, 0)``, GELU ...) or a
normalisation (LRN, LayerNorm, softmax) written out in several equations is one operation too;
:mod:`jaxplain.core.wholes` finds those.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.intervals import UNKNOWN, Facts, literal, propagate
from jaxplain.core.operations import Operation
from jaxplain.core.primitives import is_identity, of_class
from jaxplain.core.wholes import Whole, Wholes

#: Whole numbers up to this, as constants of one element, are part of the program.
_LARGEST_NUMBER = 8


def known_numbers(constants: Sequence[Any]) -> dict[int, float]:
    """Position -> value of the constants that are small whole numbers, of one element.

    Such a number may be the 0 of a ReLU or the 6 of a hard sigmoid, so its value, unlike a
    weight's, is part of the program.
    """
    found = {}
    for i, v in enumerate(constants):
        if math.prod(np.shape(v)) != 1 or isinstance(v, _compat.Tracer):
            continue
        if not jax.numpy.issubdtype(v.dtype, np.number):
            continue
        n = float(np.asarray(v, np.float64).reshape(()))
        if n.is_integer() and abs(n) <= _LARGEST_NUMBER:
            found[i] = n
    return found


def is_active(atom: Any, active: set) -> bool:
    return not isinstance(atom, _compat.Literal) and atom in active


def classify(
    jaxpr: Any, inputs: list, numbers: dict[Any, float] | None = None
) -> tuple[list[Any], list[Operation]]:
    """The equations that do not depend on ``inputs``, and the operations that do, in order.

    ``numbers`` are the values of inputs of the program that are known to be one number.
    """
    active: set = set(inputs)
    facts: dict = {v: Facts(n, n, n) for v, n in (numbers or {}).items()}
    inactive_eqns, active_eqns = [], []
    for eqn in _live(jaxpr):
        depends = any(is_active(v, active) for v in eqn.invars)
        if depends:
            active.update(eqn.outvars)
            active_eqns.append(eqn)
        else:
            inactive_eqns.append(eqn)
            _note(eqn, facts)
    makers = {v: eqn for eqn in inactive_eqns for v in eqn.outvars}
    wholes = Wholes(active_eqns, active, inputs, jaxpr.outvars, facts, makers)
    fixed = _Fixed(jaxpr, inputs, inactive_eqns, active_eqns)
    operations: list[Operation] = []
    producer: dict = {}
    for group, whole in wholes.groups():
        op = _operation([active_eqns[i] for i in group], whole, active, facts, producer, fixed)
        operations.append(op)
        producer.update((v, op) for v in op.outputs)
    return inactive_eqns, _mark(operations, jaxpr.outvars)


def _note(eqn: Any, facts: dict) -> None:
    """Records the facts of an equation's outputs."""
    known = [
        literal(v) if isinstance(v, _compat.Literal) else facts.get(v, UNKNOWN) for v in eqn.invars
    ]
    found = propagate(eqn, known)
    facts.update((v, found) for v in eqn.outvars)


def _live(jaxpr: Any) -> list:
    needed = {v for v in jaxpr.outvars if not isinstance(v, _compat.Literal)}
    kept = []
    for eqn in reversed(_one_by_one(jaxpr.eqns)):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            kept.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, _compat.Literal))
    return kept[::-1]


def _one_by_one(eqns: list) -> list:
    """Barriers around several values as one for each: they compute nothing together."""
    found = []
    for eqn in eqns:
        if eqn.primitive.name == "optimization_barrier" and len(eqn.invars) > 1:
            pairs = zip(eqn.invars, eqn.outvars, strict=True)
            found += [eqn.replace(invars=[u], outvars=[v]) for u, v in pairs]
        else:
            found.append(eqn)
    return found


class _Fixed:
    """Which multiplications are by numbers that the program makes itself: interpolations.

    Weights come from arrays that the network holds, or are drawn at random.
    """

    def __init__(self, jaxpr: Any, inputs: list, inactive: list, active: list):
        self.held = set(jaxpr.invars) - set(inputs)
        for eqn in inactive:
            random = eqn.primitive.name.startswith(("random", "threefry"))
            if random or any(is_active(v, self.held) for v in eqn.invars):
                self.held.update(eqn.outvars)
        self.none_held = not any(self._multiplies_held(eqn) for eqn in active)

    def _multiplies_held(self, eqn: Any) -> bool:
        return of_class(eqn.primitive.name, "linear") and any(
            is_active(v, self.held) for v in eqn.invars
        )

    def __call__(self, eqn: Any) -> bool:
        return not self.none_held and not self._multiplies_held(eqn)


def _mark(operations: list[Operation], outputs: Any) -> list[Operation]:
    """Marks what stands within gates, and what stands between layers with weights."""
    reached = {v for v in outputs if not isinstance(v, _compat.Literal)}
    leading: set = set()  # values on whose way to the output there is a layer
    marked = []
    for op in reversed(operations):
        within = not any(v in reached for v in op.outputs)
        after = any(v in leading for v in op.outputs)
        if not within:
            gates = (op.gates if op.kind == "gate" else None) or [False] * len(op.inputs)
            reached.update(v for v, is_gate in zip(op.inputs, gates, strict=True) if not is_gate)
        if after or op.weighted:
            leading.update(op.inputs)
        marked.append(dataclasses.replace(op, within_gate=within, hidden=after))
    behind: set = set()
    found = []
    for op in reversed(marked):
        before = any(v in behind for v in op.inputs)
        if before or op.weighted:
            behind.update(op.outputs)
        found.append(dataclasses.replace(op, hidden=before and op.hidden))
    return found


def _operation(
    eqns: list, whole: Whole | None, active: set, facts: dict, producer: dict, fixed: _Fixed
) -> Operation:
    inside = {v for eqn in eqns for v in eqn.outvars}
    outer = [
        v
        for eqn in eqns
        for v in eqn.invars
        if not isinstance(v, _compat.Literal) and v not in inside
    ]
    inputs = tuple(dict.fromkeys(v for v in outer if v in active))
    constants = tuple(dict.fromkeys(v for v in outer if v not in active))
    for eqn in eqns:
        _note(eqn, facts)
    output = eqns[-1].outvars[0]
    if whole and whole.facts:
        facts[output] = whole.facts
    identity = len(eqns) == 1 and is_identity(eqns[0], lambda v: _number(v, facts))
    if whole:
        kind, name = whole.kind, whole.name
    elif identity:
        prim = eqns[0].primitive.name
        kind, name = "structural", prim if of_class(prim, "identity", "move") else "identity"
    else:
        kind, name = _kind(eqns[-1], inputs, active, fixed)
    # A derivative that its author wrote is not ours to replace, but by that of a known function.
    foreign = any(eqn.primitive.name == "custom_vjp_call" for eqn in eqns)
    if foreign and not identity and not (whole and whole.kind == "activation" and whole.facts):
        kind, name = "opaque", "custom_vjp_call"
    known = [facts.get(v, UNKNOWN) for v in inputs]
    gates = divisor = None
    gate_low = -math.inf
    if kind == "gate" and len(inputs) == 2:
        divisor = _divisor(name, eqns[-1], inputs, producer)
        gates = _gates(name, inputs, known, producer)
        if divisor is not None:
            gates = (divisor == 0, divisor == 1)
        if gates:
            gate_low = known[gates.index(True)].low
    return Operation(
        kind,
        name,
        tuple(eqns),
        inputs,
        constants,
        output,
        min(f.low for f in known),
        facts.get(output, UNKNOWN),
        gates,
        divisor,
        gate_low,
        identity=identity,
    )


def _number(atom: Any, facts: dict) -> float | None:
    known = literal(atom) if isinstance(atom, _compat.Literal) else facts.get(atom, UNKNOWN)
    return known.static


def _gates(name: str, inputs: tuple, known: list, producer: dict) -> tuple[bool, ...] | None:
    """Which factor of a product is a gate; None if that is not clear.

    It is the one between 0 and 1; else, of an elementwise product, the smaller one; else the one
    that comes out of an activation, where the other does not.
    """
    if name not in ("mul", "matmul"):
        return None
    sizes = [v.aval.size for v in inputs]
    tests = [
        [f.low >= 0 and f.high <= 1 for f in known],
        [name == "mul" and n < max(sizes) for n in sizes],
        [_is_activated(v, producer) for v in inputs],
    ]
    return next((tuple(t) for t in tests if sum(t) == 1), None)


def _origin(v: Any, producer: dict, through: tuple[str, ...]) -> Operation | None:
    """The operation that makes a value, which was moved since, or changed by a number.

    ``through`` are the kinds of operations with a number that are passed.
    """
    op = producer.get(v)
    while op is not None and len(op.inputs) == 1:
        if op.kind != "structural" and not (op.kind in through and not op.constants):
            break
        op = producer.get(op.inputs[0])
    return op


def _is_activated(v: Any, producer: dict) -> bool:
    op = _origin(v, producer, ("scale", "bias"))
    return op is not None and op.kind == "activation"


def _divisor(name: str, eqn: Any, inputs: tuple, producer: dict) -> int | None:
    if name == "div":
        return inputs.index(eqn.invars[1])
    divides = [_is_reciprocal(v, producer) for v in inputs]
    return divides.index(True) if name == "mul" and sum(divides) == 1 else None


def _is_reciprocal(v: Any, producer: dict) -> bool:
    """Whether a value is ``c / u``, ``u ** -0.5`` or the like, moved perhaps."""
    op = _origin(v, producer, ("scale",))
    if op is None or op.name not in ("reciprocal", "rsqrt", "integer_pow", "activation"):
        return False
    eqn = op.equations[-1]
    prim = eqn.primitive.name
    if prim == "integer_pow":
        return eqn.params["y"] < 0
    if prim == "div":
        made = {u for e in op.equations for u in e.outvars} | set(op.inputs)
        return not is_active(eqn.invars[0], made)
    return prim == "rsqrt"


def _kind(eqn: Any, inputs: tuple, active: set, fixed: _Fixed) -> tuple[str, str]:
    """The kind and name of an operation that is one equation."""
    prim = eqn.primitive.name
    two = len(inputs) > 1
    if prim in _compat.CUSTOM_CALLS:
        return "opaque", str(eqn.params.get("name") or prim)
    if of_class(prim, "discrete"):
        return "structural", prim
    if of_class(prim, "linear"):
        name = "conv" if prim == "conv_general_dilated" else "dense"
        if two or sum(is_active(v, active) for v in eqn.invars) > 1:
            return "gate", "matmul"
        return "linear", "resize" if fixed(eqn) else name
    if prim in ("reduce_sum", "reduce_window_sum"):
        return "linear", "avg_pool"
    if of_class(prim, "extreme"):
        return "max_pool", "max_pool" if "window" in prim else prim
    if prim in ("max", "min"):
        return ("max_pool", "maximum") if two else ("activation", "activation")
    if prim in ("add", "add_any", "sub"):
        return _sum(eqn, inputs)
    if prim in ("neg", "mul", "div"):
        return _product(prim, eqn, inputs)
    if of_class(prim, "elementwise"):
        return ("opaque" if two else "activation"), prim
    indexed = prim in ("gather", "dynamic_slice", "dynamic_update_slice") and any(
        is_active(v, active) for v in eqn.invars[2 if prim == "dynamic_update_slice" else 1 :]
    )
    if of_class(prim, "identity", "move") and not indexed:
        return "structural", prim
    return "opaque", prim


def _sum(eqn: Any, inputs: tuple) -> tuple[str, str]:
    prim = eqn.primitive.name
    if len(inputs) > 1:
        return "add", "sub" if prim == "sub" else "add"
    same = eqn.invars[0] is eqn.invars[1]
    reverse = prim == "sub" and eqn.invars[1] in inputs
    return ("scale", "scale") if same or reverse else ("bias", "bias")


def _product(prim: str, eqn: Any, inputs: tuple) -> tuple[str, str]:
    if len(inputs) > 1:
        return "gate", prim
    by_input = prim == "div" and eqn.invars[1] in inputs
    return ("activation", "reciprocal") if by_input else ("scale", "scale")
