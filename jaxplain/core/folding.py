"""Find which scales and biases belong together, and to which linear layer (batch norm, a mean).

Inference batch norm is an affine map of each channel. A negative scale flips which weights of the
convolution before it are excitatory, and LRP's rules want the merged weight and bias, so both are
read off here at trace time, for the rules' view of the layer (:mod:`jaxplain.core.affine`).
"""

from __future__ import annotations

import math
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.affine import Chain, Run, Step, channel_span
from jaxplain.core.intervals import UNKNOWN, literal
from jaxplain.core.primitives import gives_back, is_identity

#: Norms that divide by a statistic of the value: only the sign of what follows matters before them.
NORMS = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "l2_norm")

#: More moves than this, there and back, are not followed.
_LONGEST_DETOUR = 8


def _give_back(ops: list) -> bool:
    moves = [op.equations[-1] for op in ops if not op.identity]
    return not moves or gives_back(moves)


class Folder:
    """Finds chains and runs in a graph.

    Args:
        consumers, producer: of each value the operations that read it, the one that computes it.
        makers: the equations that compute the constants.
        outputs: the network's outputs.
        facts: what is known of the constants.
    """

    def __init__(self, consumers: dict, producer: dict, makers: dict, outputs: set, facts: dict):
        self.consumers, self.producer, self.makers = consumers, producer, makers
        self.outputs, self.facts = outputs, facts

    def _only_reader(self, value: Any) -> Any:
        readers = self.consumers.get(value, ())
        return readers[0] if value not in self.outputs and len(readers) == 1 else None

    def _number(self, atom: Any) -> float | None:
        if isinstance(atom, _compat.Literal):
            return literal(atom).static
        return self.facts.get(atom, UNKNOWN).static

    def chain(self, op: Any) -> Chain:
        """Follows the only readers of a linear operation as long as they are affine by channel."""
        start = axis = channel_span(op)  # a span of axes, where the channels are split
        steps: list[Step] = []
        beyond: list[Step] | None = None
        ops: list[Any] = []
        value = op.output
        while (user := self._only_reader(value)) is not None:
            eqn = user.equations[-1]
            step = None
            if detour := self.detour(value):
                user = detour[-1]
            elif user.kind == "structural" and is_simple_move(eqn):
                if axis is not None and (axis := _follow(eqn, axis)) is None:
                    break
            elif user.kind in ("scale", "bias"):
                step = self._step(eqn, value, axis)
                if step is None:
                    break
            elif (
                beyond is None
                and op.weighted
                and user.name in NORMS
                and user.output.aval.shape == value.aval.shape
            ):
                beyond = self._within(user, axis)
            else:
                if user.name == "sub" and user.inputs[0] is not value:  # a - v is a + (-v)
                    (steps if beyond is None else beyond).append(Step("neg"))
                break
            if step:
                if beyond is None:
                    steps.append(step)
                    ops.append(user)
                elif step.scales:
                    beyond.append(step)
            value = user.output
        first, count = start or (None, 1)
        return Chain(first, tuple(steps), tuple(beyond or ()), tuple(ops), count)

    def _within(self, norm: Any, axis: tuple[int, int] | None) -> list[Step]:
        """The scales by constants that a norm applies itself."""
        found = []
        if axis is None or axis[1] > 1:
            return found
        computed = set(norm.inputs)
        for eqn in norm.equations:
            computed.update(eqn.outvars)
            name = eqn.primitive.name
            if name not in ("mul", "div") or len(eqn.invars) != 2:
                continue
            first, second = (
                not isinstance(v, _compat.Literal) and v in computed for v in eqn.invars
            )
            if first == second or (name == "div" and second):
                continue
            other = _per_channel(eqn.invars[1 if first else 0], axis[0], self.makers, strict=True)
            if other is not None:
                found.append(Step(name, other))
        return found

    def run(self, last: Any, folded: set, stop: frozenset) -> Run | None:
        """The run of scales and biases that ends with an operation; None where it is no end of one.

        Args:
            last: the operation.
            folded: operations that belong to a linear layer.
            stop: values that a run may begin with, but not hold.
        """
        if not self._affine(last) or last in folded:
            return None
        after = self._next(last)
        if after is not None and after not in folded and last.output not in stop:
            return None
        steps, ops, op = [], [], last
        while True:
            steps.append(self._any_step(op))
            ops.append(op)
            passed = self._before(op.inputs[0], stop)
            before = self.producer.get(passed[-1].inputs[0] if passed else op.inputs[0])
            reader = ops[-1] if not passed else passed[-1]
            if (
                before is None
                or before in folded
                or not self._affine(before)
                or before.output in stop
                or self._only_reader(before.output) is not reader
            ):
                break
            op = before
        source = ops[-1].inputs[0]
        before = self.producer.get(source)
        while before is not None and (
            before.identity
            or (before.kind == "structural" and is_simple_move(before.equations[-1]))
        ):
            before = self.producer.get(before.inputs[0])
        after_norm = before is not None and before.kind == "normalise"
        return Run(source, tuple(steps[::-1]), tuple(ops[::-1]), after_norm, ops[-1].low)

    def _affine(self, op: Any) -> bool:
        return op.kind in ("scale", "bias")

    def detour(self, value: Any) -> list:
        """The operations that read a value and only give it back, moves there and back included."""
        found: list[Any] = []
        while len(found) < _LONGEST_DETOUR:
            user = self._only_reader(value)
            if user is None or user.kind != "structural":
                return []
            found.append(user)
            if _give_back(found):
                return found
            value = user.output
        return []

    def _before(self, value: Any, stop: frozenset) -> list:
        """As `detour`, the operations that a value comes through, last first, and all of them."""
        passed: list[Any] = []
        found: list[Any] = []
        while len(found) < _LONGEST_DETOUR and value not in stop:
            op = self.producer.get(value)
            if op is None or op.kind != "structural" or self._only_reader(value) is None:
                break
            found.append(op)
            if _give_back(found[::-1]):
                passed, found = passed + found, []
            value = op.inputs[0]
        return passed

    def _next(self, op: Any) -> Any:
        """The scale or bias that goes on from here, identities left out."""
        value = op.output
        while detour := self.detour(value):
            value = detour[-1].output
        user = self._only_reader(value)
        return user if user is not None and self._affine(user) else None

    def _any_step(self, op: Any) -> Step:
        """The step of a scale or bias, by any constant."""
        eqn = op.equations[-1]
        action = _action(eqn, op.inputs[0])
        if action in ("neg", "double"):
            return Step(action)
        other = eqn.invars[1] if eqn.invars[0] is op.inputs[0] else eqn.invars[0]
        number = self._number(other)
        return Step(action, other if number is None else number)

    def _step(self, eqn: Any, value: Any, axis: tuple[int, int] | None) -> Step | None:
        action = _action(eqn, value)
        if action in ("neg", "double"):
            return Step(action)
        other = eqn.invars[1] if eqn.invars[0] is value else eqn.invars[0]
        number = self._number(other)
        if number is not None:
            return Step(action, number)
        if isinstance(other, _compat.Literal):
            return None
        if axis is not None and axis[1] > 1:
            other = _over_span(other, axis, value.aval.shape)
        else:
            other = _per_channel(other, axis and axis[0], self.makers)
        return None if other is None else Step(action, other)


def _action(eqn: Any, value: Any) -> str:
    name = eqn.primitive.name
    if name == "neg":
        return "neg"
    if eqn.invars[0] is eqn.invars[1]:
        return "double"
    if name == "sub":
        return "sub" if eqn.invars[0] is value else "rsub"
    return "add" if name == "add_any" else name


def is_simple_move(eqn: Any) -> bool:
    """Whether an equation only changes the shape or order of axes, or nothing."""
    return is_identity(eqn) or eqn.primitive.name in (
        "reshape",
        "squeeze",
        "expand_dims",
        "transpose",
        "broadcast_in_dim",
    )


def _follow(eqn: Any, axis: tuple[int, int]) -> tuple[int, int] | None:
    """Where a span of axes goes in a change of shape, None where it does not stay together."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    name, (start, count) = eqn.primitive.name, axis
    if is_identity(eqn):
        return axis
    span = range(start, start + count)
    if name == "transpose":
        moved = [eqn.params["permutation"].index(i) for i in span]
        return (moved[0], count) if moved == list(range(moved[0], moved[0] + count)) else None
    if name == "broadcast_in_dim":
        if math.prod(old) != math.prod(new):
            return None
        moved = [eqn.params["broadcast_dimensions"][i] for i in span]
        return (moved[0], count) if moved == list(range(moved[0], moved[0] + count)) else None
    before, channels = math.prod(old[:start]), math.prod(old[i] for i in span)
    for i in range(len(new)):
        if math.prod(new[:i]) == before and (new[i] > 1 or channels == 1):
            for j in range(i + 1, len(new) + 1):
                if math.prod(new[i:j]) == channels:
                    return i, j - i
            return None
    return None


def _over_span(v: Any, span: tuple[int, int], shape: tuple[int, ...]) -> Any:
    """A variable with one value for each channel, or one for all, of channels in several axes."""
    own = v.aval.shape
    if math.prod(own) == 1:
        return v
    axes = range(span[0], span[0] + span[1])
    fits = len(own) == len(shape) and all(
        n == (shape[i] if i in axes else 1) for i, n in enumerate(own)
    )
    return v if fits else None


def _per_channel(v: Any, axis: int | None, makers: dict, strict: bool = False) -> Any:
    """The variable whose only extent is the channel axis, looking through broadcasts."""
    if isinstance(v, _compat.Literal):
        return None
    wide = [i for i, n in enumerate(v.aval.shape) if n > 1]
    if (not wide and not strict) or wide == [axis]:
        return v
    eqn = makers.get(v)
    if eqn is None or not (is_identity(eqn) or eqn.primitive.name == "broadcast_in_dim"):
        return None
    source = eqn.invars[0]
    if isinstance(source, _compat.Literal):
        return None
    if eqn.primitive.name != "broadcast_in_dim":
        return _per_channel(source, axis, makers, strict)
    dims = eqn.params["broadcast_dimensions"]
    if axis in dims:
        return _per_channel(source, dims.index(axis), makers, strict)
    return source if math.prod(source.aval.shape) == 1 and not strict else None
