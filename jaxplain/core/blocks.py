"""Where a network's residual blocks end, and the tokens that they read.

A block is what adds to the stream: its output is the addition, or the last of several additions of
which only the first's branch looks at other places (attention, then a perceptron for each token).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from jaxplain.core import _compat
from jaxplain.core.attention import Attention, find_attention, mixes_places
from jaxplain.core.reach import needed_for

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph


class Blocks:
    """The attention layers, residual blocks and token layers of a network.

    Attributes:
        attention: the attention layers, in order.
        outputs: the outputs of the residual blocks, which are cuts of the graph: every way from the
            image to the scores leads through each of them.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.attention: list[Attention] = find_attention(graph)
        self.outputs: list[Any] = self._outputs()

    def _outputs(self) -> list[Any]:
        """The additions on the stream behind which no addition comes that looks at one place."""
        ends: list[Any] = []
        mixes = False
        cuts = self._cuts()
        products = {a.product for a in self.attention}
        for op in self.graph.ops:
            mixes = mixes or op in products or mixes_places(self.graph, op)
            if op.kind != "add" or op.output not in cuts:
                continue
            if ends and not mixes:
                ends.pop()
            ends.append(op.output)
            mixes = False
        return [self._activated(v) for v in ends]

    def _cuts(self) -> set:
        """The values through which every way from the input to the output leads."""
        graph = self.graph
        outputs = {v for v in graph.outputs if not isinstance(v, _compat.Literal)}
        needed = [op for op in graph.ops if op in needed_for(graph, graph.outputs, ())]
        last = {v: i for i, op in enumerate(needed) for v in op.inputs}
        last.update(dict.fromkeys(outputs, len(needed)))
        open_, found = set(graph.inputs), set()
        for i, op in enumerate(needed):
            open_ = {v for v in open_ if last.get(v, -1) > i}
            open_.update(v for v in op.outputs if last.get(v, -1) > i)
            if len(open_) == 1:
                found.update(open_)
        return found - outputs

    def _activated(self, v: Any) -> Any:
        """The value behind the tag and the activation that alone read an addition."""
        while True:
            users = self.graph.consumers.get(v, ())
            tag = len(users) == 1 and users[0].name == "name"
            if len(users) != 1 or not (tag or users[0].kind == "activation"):
                return v
            v = users[0].output

    @functools.cached_property
    def tokens(self) -> list[Any]:
        """The tokens that each mixing of tokens reads, behind its norm; last those of the head."""
        places, found = self.graph.places, []
        for op in self.graph.ops:
            if places.mixes(op):
                v = places.norm_before(op)
                found += [] if v is None else [v]
        last = places.last_tokens()
        found += [last] if found and last is not None else []
        return list(dict.fromkeys(found))

    @property
    def kinds(self) -> dict[str, list[Any]]:
        """The kinds of these layers, as names number them: ``"attention:0"``, ``"block:-1"``."""
        return {
            "attention": [a.weights for a in self.attention],
            "block": self.outputs,
            "tokens": self.tokens,
        }
