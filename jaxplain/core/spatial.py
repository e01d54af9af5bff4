"""Where a network's values have a place in the image: their layouts, and its last spatial layer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxplain.core import _compat
from jaxplain.core.axes import HIDDEN, SPACE, Axes, Layout
from jaxplain.core.axis_flow import AxisFlow

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph
    from jaxplain.core.operations import Operation

_PICKS = ("slice", "dynamic_slice", "gather", "split")
#: What turns the scores of a score map into the output: no layer below the classifier.
_AFTER_SCORES = ("structural", "bias", "scale", "normalise")


class Places:
    """Which values are maps, which of them the output reads, and where explainers look by default.

    Attributes:
        axes: value -> its axes.
        layouts: value -> how maps lie in it, for the outputs of operations that have maps.

    Args:
        given: the axes of values, where the user says them.
    """

    def __init__(self, graph: Graph, given: Mapping[Any, Axes] | None = None):
        self.graph = graph
        equations = [*graph.constant_equations, *(e for op in graph.ops for e in op.equations)]
        self.axes: dict[Any, Axes] = AxisFlow(equations, graph.constants, graph.inputs, given).axes
        values = [*graph.inputs, *(v for op in graph.ops for v in op.outputs)]
        found = {v: Layout.of(self.axes[v]) for v in values if v in self.axes}
        # What has other images than the network was given belongs to some of them, or to all.
        images = graph.inputs[0].aval.shape[0] if graph.inputs[0].aval.ndim == 4 else 1
        self.layouts = {
            v: layout
            for v, layout in found.items()
            if layout is not None and layout.batch == images
        }

    def anywhere(self, v: Any) -> bool:
        """Whether a value has, or may have, a place in the image: it is no vector of features."""
        axes = self.axes.get(v, ())
        return any(f.kind in {*SPACE, *HIDDEN} for axis in axes for f in axis.factors)

    def meaning(self, v: Any) -> str:
        """What a value's axes mean: ``"B H W C"``, ``"tokens 14x14 + 1"``; ``?`` is unknown."""
        return str(self.layouts.get(v) or " ".join(map(str, self.axes.get(v, ()))))

    def default(self) -> Any:
        """The last layer with a place in the image, as its user would name it; None if none has.

        That is the value after bias, norm and activation from which nothing but moves lead to
        where space ends. Of networks whose last mixing of positions is attention (or a dense layer
        over tokens), it is the norm in front of that: where only a class token is read, patches
        say nothing behind it.
        """
        read = self._read()
        scores = self._score_side()
        chosen = None
        for op in self.graph.ops:
            v = op.output
            if not self._has_space(v) or v in scores:
                continue
            if v in read and not self._operand(v) and v not in self.graph.outputs:
                chosen = v
        mixing = self._last_mixing()
        if mixing is not None and not self._convolves_after(mixing):
            norm = self.norm_before(mixing)
            chosen = chosen if norm is None else norm
        return None if chosen is None else self._before_moves(chosen)

    def lost(self, after: Any) -> Any:
        """The last value of unknown meaning on the way from a value to the output; None if none.

        Such a value may be what its user would call the last layer. ``after`` is the layer that is
        taken by default, or None where there is none.
        """
        graph, read, scores = self.graph, self._read(), self._score_side()
        start = graph.inputs[0] if after is None else after
        behind = graph.downstream(frozenset([start]))
        for op in reversed(graph.ops):
            v = op.output
            unknown = v not in self.layouts and self.anywhere(v)
            maps = unknown and v.aval.ndim > 2 and v.aval.dtype.kind in "fV"
            seen = op in behind and v in read - scores and not self._operand(v)
            if seen and maps and not self._regained(v):
                return v
        return None

    def rival(self, chosen: Any) -> Any:
        """Another value where space ends, on a way of its own to the output; None if none is.

        A network that is called on an image and on its mirror image has two last layers, and maps
        of one would tell half.
        """
        graph, read, scores = self.graph, self._read(), self._score_side()
        behind = graph.downstream(frozenset([chosen]))
        for op in reversed(graph.ops):
            v = op.output
            if not self._has_space(v) or v not in read - scores or self._operand(v) or op in behind:
                continue
            ends = any(not self._has_space(user.output) for user in graph.consumers.get(v, ()))
            if ends and v is not chosen:
                start = self._before_moves(v)
                ahead = graph.downstream(frozenset([start]))
                if start is not chosen and graph.producer.get(chosen) not in ahead:
                    return start
        return None

    def _has_space(self, v: Any) -> bool:
        layout = self.layouts.get(v)
        return layout is not None and layout.height * layout.width > 1

    def _regained(self, v: Any) -> bool:
        """Whether nothing but moves lead from it to known values: a piece of a roll, say."""
        users = self.graph.consumers.get(v, ())
        return bool(users) and all(
            op.kind == "structural" and (op.output in self.layouts or self._regained(op.output))
            for op in users
        )

    def _read(self) -> set:
        """The values of whose positions any reaches the output; behind a class token none does."""
        outputs = {v for v in self.graph.outputs if not isinstance(v, _compat.Literal)}
        read = set(outputs)
        for op in reversed(self.graph.ops):
            if self.layouts.keys() & set(op.outputs):
                if read & set(op.outputs) or self.mixes(op):
                    read.update(op.inputs)
            elif op.name not in _PICKS:
                read.update(op.inputs)
        return read

    def mixes(self, op: Operation) -> bool:
        """Whether it sums over positions by weights or activations: attention, token mixing."""
        eqn = op.equations[-1]
        if eqn.primitive.name != "dot_general" or op.name == "resize":
            return False
        for contracted, v in zip(eqn.params["dimension_numbers"][0], eqn.invars, strict=True):
            axes = None if isinstance(v, _compat.Literal) else self.axes.get(v)
            if axes is not None and any(axes[d].spatial for d in contracted):
                return True
        return False

    def _score_side(self) -> set:
        """The output, and the score maps that only moves, biases and resizes lead to it."""
        found = {v for v in self.graph.outputs if v in self.layouts}
        for op in reversed(self.graph.ops):
            if op.output in found and (op.kind in _AFTER_SCORES or op.name == "resize"):
                found.update(op.inputs)
        return found

    def _operand(self, v: Any) -> bool:
        """Whether it only goes, without another layer between, into a product of activations."""
        if v in self._within_attention:
            return True
        users = self.graph.consumers.get(v, ())
        return bool(users) and all(
            (op.kind == "gate" and op.name == "matmul")
            or (op.kind in _AFTER_SCORES and self._operand(op.output))
            for op in users
        )

    @functools.cached_property
    def _within_attention(self) -> frozenset:
        """Scores and weights of attention, which are no layers with a place."""
        return frozenset().union(*(a.within for a in self.graph.blocks.attention))

    def _last_mixing(self) -> Operation | None:
        found = [op for op in self.graph.ops if self.mixes(op)]
        return found[-1] if found else None

    def _convolves_after(self, mixing: Operation) -> bool:
        ops = self.graph.ops
        return any(op.name == "conv" for op in ops[ops.index(mixing) + 1 :])

    def norm_before(self, mixing: Operation) -> Any:
        """The norm that a mixing's operands are made of: not one of queries and keys."""
        stack = [(v, mixing.weighted) for v in mixing.inputs]
        seen, norms = set(), []
        while stack:
            v, weighted = stack.pop()
            op = self.graph.producer.get(v)
            if op is None or (v, weighted) in seen:
                continue
            seen.add((v, weighted))
            if op.kind == "normalise" and op.name != "softmax" and weighted and v in self.layouts:
                norms.append(op)
            elif op.kind == "add" and weighted:
                continue  # the stream: norms below belong to other blocks
            else:
                stack += [(u, weighted or op.weighted) for u in op.inputs]
        if not norms:
            return None
        order = {op: i for i, op in enumerate(self.graph.ops)}
        v = max(norms, key=order.__getitem__).output
        return self._end_of_chain(v)

    def last_tokens(self) -> Any:
        """The last value with a place in the image that is made and not only moved; else None."""
        scores = self._score_side()
        for op in reversed(self.graph.ops):
            v = op.output
            made = self._has_space(v) and op.kind != "structural" and v not in scores
            if made and not self._operand(v):
                return self._end_of_chain(v)
        return None

    def _end_of_chain(self, v: Any) -> Any:
        while True:
            users = self.graph.consumers.get(v, ())
            if len(users) != 1 or not (
                users[0].kind in ("scale", "bias")
                or users[0].name in ("name", "convert_element_type")
            ):
                return v
            v = users[0].output

    def _before_moves(self, v: Any) -> Any:
        """The value without the changes of order and shape after it; a tag stays."""
        while True:
            op = self.graph.producer.get(v)
            if (
                op is None
                or op.kind != "structural"
                or op.name in ("name", "concatenate", "pad", "slice")
                or self.layouts.get(op.inputs[0]) is None
            ):
                return v
            v = op.inputs[0]
