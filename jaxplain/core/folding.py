"""Which scales and biases belong together, and to which linear layer (batch norm, a mean).

Inference batch norm is an affine map of each channel. A negative scale flips which weights of the
convolution before it are excitatory, and LRP's rules want the merged weight and bias, so both are
read off here at trace time and folded in by the rules' view of the linear layer (`Chain`). Where no
linear layer stands before them, they are a diagonal linear layer of their own (`Run`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from jaxplain.core import _compat
from jaxplain.core.intervals import UNKNOWN, literal
from jaxplain.core.primitives import gives_back, is_identity

#: Norms that divide by a statistic of the value: only the sign of what follows matters before them.
NORMS = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "l2_norm")


@dataclasses.dataclass(frozen=True)
class Step:
    """One link of a chain: ``y`` becomes ``y * c``, ``y / c``, ``y +- c``, ``c - y`` or ``-y``."""

    action: str
    value: Any = None  # a variable, a number, or None for "neg" and "double"

    @property
    def scales(self) -> bool:
        return self.action in ("mul", "div", "neg", "rsub", "double")

    @property
    def shifts(self) -> bool:
        return self.action in ("add", "sub", "rsub")

    @property
    def varies(self) -> bool:
        """Whether it scales different units differently, or by a number known at run time only."""
        return self.scales and isinstance(self.value, _compat.Var)

    def apply(self, scale: Any, bias: Any, c: Any) -> tuple[Any, Any]:
        """The affine map ``(scale, bias)`` after this step, whose value is ``c``."""
        if self.scales:
            negative = self.action in ("neg", "rsub")
            factor = {"mul": c, "div": None, "double": 2.0}.get(
                self.action, -1.0 if negative else c
            )
            factor = 1 / c if factor is None else factor
            scale = factor if scale is None else scale * factor
            bias = None if bias is None else bias * factor
        if self.shifts:
            term = -c if self.action == "sub" else c
            bias = term if bias is None else bias + term
        return scale, bias


def _variables(steps: tuple[Step, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(s.value for s in steps if isinstance(s.value, _compat.Var)))


@dataclasses.dataclass(frozen=True)
class Chain:
    """The affine steps after a linear operation; ``axis`` is its output's channel axis.

    Where channels lie in several axes, it is the first of ``axes``.
    ``beyond`` are the scales behind a norm that follows: of them only the sign matters here.
    ``ops`` are the operations that the steps come from.
    """

    axis: int | None
    steps: tuple[Step, ...]
    beyond: tuple[Step, ...] = ()
    ops: tuple[Any, ...] = ()
    axes: int = 1

    @property
    def variables(self) -> tuple[Any, ...]:
        return _variables(self.steps + self.beyond)

    def affine(self, values: dict, dtype: Any) -> tuple[Any, Any]:
        """Scale and bias, each a number, a ``(channels,)`` array, or None where there is none."""
        return _compose(self.steps, values, dtype)

    def sign(self, values: dict, dtype: Any) -> Any:
        """The sign of the scales behind the norm, 1 for 0; None where there are none."""
        scale = _compose(self.beyond, values, dtype)[0]
        return None if scale is None else jnp.where(jnp.asarray(scale, dtype) < 0, -1, 1)


def _compose(steps: tuple[Step, ...], values: dict, dtype: Any) -> tuple[Any, Any]:
    scale = bias = None
    for step in steps:
        c = step.value
        if isinstance(c, _compat.Var):
            c = jnp.asarray(values[c], dtype).reshape(-1)
            c = c[0] if c.shape == (1,) else c
        scale, bias = step.apply(scale, bias, c)
    return scale, bias


@dataclasses.dataclass(frozen=True)
class Run:
    """Scales and biases that follow each other and fold into no layer: a diagonal linear layer.

    Attributes:
        source: the value that the run begins with.
        steps: its steps; affine_ops: the operations that they come from.
        after_norm: whether a norm computes the source.
    """

    source: Any
    steps: tuple[Step, ...]
    affine_ops: tuple[Any, ...]
    after_norm: bool
    low: float

    @property
    def variables(self) -> tuple[Any, ...]:
        return (self.source, *_variables(self.steps))

    @property
    def varies(self) -> bool:
        return any(s.varies for s in self.steps)

    @property
    def shifts(self) -> bool:
        return any(s.shifts for s in self.steps)

    @property
    def positive_number(self) -> bool:
        """Whether all it does is multiply by a known positive number."""
        return not self.shifts and all(
            not isinstance(s.value, _compat.Var) and s.action != "neg" and (s.value or 2.0) > 0
            for s in self.steps
        )

    def affine(self, values: dict, dtype: Any) -> tuple[Any, Any]:
        """Scale and bias, numbers or arrays that broadcast to the value; None for none."""
        scale = bias = None
        for step in self.steps:
            c = step.value
            c = jnp.asarray(values[c], dtype) if isinstance(c, _compat.Var) else c
            scale, bias = step.apply(scale, bias, c)
        return scale, bias


def channel_span(op: Any) -> tuple[int, int] | None:
    """The first of the channel axes of a convolution's or dense layer's output, and their number.

    A dense layer may give its channels in several axes, as heads and features. None for other
    operations.
    """
    eqn = op.equations[0]
    if op.name == "conv":
        return eqn.params["dimension_numbers"].out_spec[1], 1
    if op.name != "dense":
        return None
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    weight_left = eqn.invars[0] not in op.inputs
    free = [_free(eqn.invars[0], left, left_batch), _free(eqn.invars[1], right, right_batch)]
    own = free[0] if weight_left else free[1]
    start = len(left_batch) + (0 if weight_left else len(free[0]))
    wide = [i for i, n in enumerate(own) if n > 1]
    if not own:
        return None
    if len(wide) > 1:
        axes = weight_axes(op)
        return (start, len(own)) if axes == list(range(axes[0], axes[-1] + 1)) else None
    return start + (wide[0] if wide else 0), 1


def _free(v: Any, contracted: Any, batch: Any) -> list[int]:
    return [n for i, n in enumerate(v.aval.shape) if i not in contracted and i not in batch]


def weight_axes(op: Any) -> list[int]:
    """The output-channel axes of the weight that belong to :func:`channel_span`."""
    eqn = op.equations[0]
    if op.name == "conv":
        return [eqn.params["dimension_numbers"].rhs_spec[0]]
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    if eqn.invars[0] not in op.inputs:
        v, taken = eqn.invars[0], {*left, *left_batch}
    else:
        v, taken = eqn.invars[1], {*right, *right_batch}
    free = [i for i in range(len(v.aval.shape)) if i not in taken]
    wide = [i for i in free if v.aval.shape[i] > 1]
    return free if len(wide) > 1 else wide or free[:1]


def fan_in(op: Any) -> int:
    """How many inputs each output of a linear operation has; 1 of one without weights."""
    if not op.has_kernel:
        return 1
    eqn = op.equations[0]
    if op.name == "conv" or eqn.primitive.name != "dot_general":
        shape = eqn.invars[1].aval.shape
        return math.prod(shape) // shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    axes = eqn.params["dimension_numbers"][0][0]
    return math.prod(eqn.invars[0].aval.shape[i] for i in axes)


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
