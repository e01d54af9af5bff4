"""The traced network: its operations, its layers' names, and the analyses on them."""

from __future__ import annotations

import functools
import threading
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.affine import Chain, Run
from jaxplain.core.attention import WeightsView
from jaxplain.core.axes import Layout
from jaxplain.core.blocks import Blocks
from jaxplain.core.effects import Effect, find_effects
from jaxplain.core.errors import UnknownLayerError
from jaxplain.core.flatten import Program, is_scan, unroll
from jaxplain.core.folding import Folder
from jaxplain.core.intervals import Facts, literal, propagate
from jaxplain.core.kinds import classify
from jaxplain.core.naming import Naming, name_values
from jaxplain.core.operations import Operation
from jaxplain.core.spatial import Places


class Graph:
    """What is static of a traced function: a flat program and what is known about it.

    ``constants`` are the program's leading inputs (weights), ``inputs`` the ones that are
    explained. ``ops`` are the operations on the way from the inputs to the outputs, in order, and
    ``out_tree`` is the structure of the outputs. ``names`` are the values that have one, and
    ``keep_alive`` the objects whose addresses the key of the graph's cache holds.
    Graphs compare by identity; :func:`jaxplain.core.trace` gives equal programs the same graph.
    """

    def __init__(
        self,
        program: Program,
        n_constants: int,
        in_tree: Any = None,
        out_tree: Any = None,
        numbers: dict[int, float] | None = None,
    ):
        """``numbers`` are the values of constants, by position, that are part of the program."""
        self.program, self.in_tree, self.out_tree = program, in_tree, out_tree
        self.constants, self.inputs = program.invars[:n_constants], program.invars[n_constants:]
        self.outputs = program.outvars
        self.input_types = [(v.aval.shape, v.aval.dtype) for v in self.inputs]
        self._lock = threading.Lock()
        self._unrolled: tuple[Graph, dict, dict] | None = None
        self.known_numbers = numbers or {}
        self._numbers = {self.constants[i]: n for i, n in self.known_numbers.items()}
        self.constant_equations, self.ops = classify(program, self.inputs, self._numbers)
        self.consumers: dict = {}
        self.producer: dict = {}
        for op in self.ops:
            for v in op.inputs:
                self.consumers.setdefault(v, []).append(op)
            for v in op.outputs:
                self.producer[v] = op

    # -- scans -------------------------------------------------------------------------------

    @property
    def unrolled(self) -> Graph:
        """The same network with its scans unrolled, so that all operations are seen."""
        return self._unroll()[0]

    @property
    def counterparts(self) -> dict[Any, Any]:
        """The variables of :attr:`unrolled` that are outside scans -> those of this graph."""
        return self._unroll()[1]

    @property
    def inside(self) -> dict[Any, Any]:
        """The variables of this graph -> those of :attr:`unrolled`."""
        return self._unroll()[2]

    @functools.cached_property
    def scans(self) -> frozenset:
        """The operations that :attr:`unrolled` would open."""
        return frozenset(op for op in self.ops if any(map(is_scan, op.equations)))

    @functools.cached_property
    def _has_scans(self) -> bool:
        return any(map(is_scan, self.program.eqns))

    @functools.cached_property
    def variables(self) -> frozenset:
        """All values that can be computed, perturbed or replaced."""
        made = (v for op in self.ops for v in op.outputs)
        fixed = (v for eqn in self.constant_equations for v in eqn.outvars)
        return frozenset((*self.program.invars, *made, *fixed))

    def _unroll(self) -> tuple[Graph, dict, dict]:
        if not self._has_scans:
            return self, {}, {}
        with self._lock:  # variables belong to one graph: there must be only one
            if self._unrolled is None:
                program, own = unroll(self.program)
                trees = self.in_tree, self.out_tree
                graph = Graph(program, len(self.constants), *trees, self.known_numbers)
                whole: dict = {}
                for v, u in own.items():
                    if not isinstance(u, _compat.Literal):
                        whole.setdefault(u, v)
                self._unrolled = graph, whole, own
            return self._unrolled

    @functools.cached_property
    def effects(self) -> list[Effect]:
        """What the network does besides computing, in order."""
        made = (v for op in self.ops for v in op.outputs)
        fixed = (v for eqn in self.constant_equations for v in eqn.outvars)
        return find_effects(self.program, {*self.program.invars, *made, *fixed})

    # -- layers ------------------------------------------------------------------------------

    @functools.cached_property
    def _naming(self) -> Naming:
        return name_values(self.inputs, self.ops).with_kinds(self.blocks.kinds)

    @functools.cached_property
    def blocks(self) -> Blocks:
        """The attention layers and residual blocks."""
        return Blocks(self)

    def weights_view(self, name: str) -> WeightsView | None:
        """How attention weights lie in a layer of the name ``"attention:i"``; None for others.

        Raises:
            ValueError: it cannot be told which axes are those of images, heads, queries and keys.
        """
        kind, _, number = name.partition(":")
        if kind != "attention" or not number or kind in self._naming.repeated:
            return None
        v = self.layer(name)
        view = next(a.view for a in self.blocks.attention if a.weights is v)
        if view is None:
            raise ValueError(
                f"it cannot be told which axes of {self.describe(name)} are those of images, "
                "heads, queries and keys; jaxplain.layers(..., all=True) has other names of it, "
                "under which it is captured as it is"
            )
        return view

    @property
    def names(self) -> dict[str, Any]:
        """The names of values, and the variables behind them."""
        return self._naming.names

    def is_counted(self, name: str) -> bool:
        """See :meth:`Naming.counted`."""
        return self._naming.counted(name)

    def layer(self, name: str) -> Any:
        """The variable behind a layer's name."""
        return self._naming.find(name)

    def name_of(self, v: Any) -> str:
        return self._naming.of(v)

    @functools.cached_property
    def places(self) -> Places:
        """Which values have a place in the image."""
        return Places(self)

    def layout(self, v: Any) -> Layout | None:
        """How maps lie in a value; None where it has none, or nothing is known of its axes."""
        return self.places.layouts.get(v)

    def lacks_meaning(self, v: Any) -> bool:
        """Whether a value may hold maps, but it is not known how they lie in it."""
        return len(v.aval.shape) > 2 and self.layout(v) is None and self.places.anywhere(v)

    def describe(self, name: str) -> str:
        """A layer in a message: its name, shape, module and line."""
        return self.describe_value(self.layer(name), name)

    def describe_value(self, v: Any, name: str) -> str:
        """The same of a value that need not have a name."""
        op = self.producer.get(v)
        place = f" ({op.place})" if op is not None and op.place else ""
        return f"the layer {name!r} of shape {tuple(v.aval.shape)}{place}"

    def check_place(self, name: str) -> None:
        """An error if a layer may hold maps, but it is not known how they lie in it."""
        if self.lacks_meaning(self.layer(name)):
            raise ValueError(
                f"it is not known where in the image the values of {self.describe(name)} lie; "
                "say it with tokens=(height, width), or with a function from the values to maps "
                "(B, h, w, C), where the method takes it, as grad_cam does; or name with layer= "
                "one of which jaxplain.layers shows it"
            )

    @functools.cached_property
    def last_spatial(self) -> str:
        """The last layer with a place in the image, see :meth:`Places.default`."""
        chosen = self.places.default()
        lost = self.places.lost(chosen)
        if lost is not None:
            name = self.name_of(lost)
            earlier = "" if chosen is None else f", or layer={self.name_of(chosen)!r} before it"
            raise UnknownLayerError(
                "the last layer with a place in the image cannot be told: it is not known where in "
                f"the image the values of {self.describe_value(lost, name)} lie; name it with "
                "layer=, and say how they lie with tokens=(height, width) or with a function from "
                f"its values to maps (B, h, w, C){earlier}"
            )
        if chosen is None:
            raise UnknownLayerError(
                "the network has no layer of which it is known where in the image its values lie; "
                "name the layer to explain with layer=, and its grid with tokens=(h, w)"
            )
        rival = self.places.rival(chosen)
        if rival is not None:
            names = [self.name_of(v) for v in (rival, chosen)]
            raise UnknownLayerError(
                "the network has several last layers with a place in the image, and a map of one "
                f"would tell a part: {self.describe_value(rival, names[0])} and "
                f"{self.describe_value(chosen, names[1])}; name one, or several, with layer="
            )
        return self.name_of(chosen)

    # -- paths -------------------------------------------------------------------------------

    @functools.lru_cache(maxsize=64)  # noqa: B019 (graphs are few and long-lived)
    def downstream(self, sources: frozenset) -> frozenset:
        """The operations that depend on any of these values."""
        reached, found = set(sources), set()
        for op in self.ops:
            if any(v in reached for v in op.inputs):
                found.add(op)
                reached.update(op.outputs)
        return frozenset(found)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def linear_depth(self, v: Any, stop: Any) -> int:
        """The most convolutions and dense layers on a path from ``stop`` or the input to ``v``."""
        op = self.producer.get(v)
        if v is stop or op is None:
            return 0
        return op.weighted + max(self.linear_depth(u, stop) for u in op.inputs)

    def branch_depths(self, op: Operation) -> list[int]:
        """How many convolutions and dense layers each branch has, from where an addition's part."""
        ancestors = [self._ancestors(v) for v in op.inputs]
        common = set.intersection(*ancestors)
        order = {v: i for i, v in enumerate([*self.inputs, *(o.output for o in self.ops)])}
        stop = max((v for v in common if v in order), key=order.__getitem__, default=None)
        return [self.linear_depth(v, stop) for v in op.inputs]

    def _ancestors(self, v: Any) -> set:
        found, stack = {v}, [v]
        while stack:
            op = self.producer.get(stack.pop())
            for u in op.inputs if op else ():
                if u not in found:
                    found.add(u)
                    stack.append(u)
        return found

    @functools.cached_property
    def facts(self) -> dict:
        """Bounds of the values that do not depend on the input."""
        facts: dict[Any, Facts] = {v: Facts(n, n, n) for v, n in self._numbers.items()}
        for eqn in self.constant_equations:
            known = [
                literal(v) if isinstance(v, _compat.Literal) else facts.get(v, Facts())
                for v in eqn.invars
            ]
            facts.update(dict.fromkeys(eqn.outvars, propagate(eqn, known)))
        return facts

    @functools.cached_property
    def _folder(self) -> Folder:
        makers = {v: eqn for eqn in self.constant_equations for v in eqn.outvars}
        outputs = {v for v in self.outputs if not isinstance(v, _compat.Literal)}
        return Folder(self.consumers, self.producer, makers, outputs, self.facts)

    @functools.cached_property
    def chains(self) -> dict[Operation, Chain]:
        """The affine chain (batch norm ...) behind each linear operation."""
        return {op: self._folder.chain(op) for op in self.ops if op.kind == "linear"}

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def runs(self, sources: frozenset | None = None) -> dict[Operation, Run]:
        """The scales and biases that fold into no layer: by the last operation of each run.

        ``sources`` are values that runs do not reach across.
        """
        folded = {op for chain in self.chains.values() for op in chain.ops}
        found = {op: self._folder.run(op, folded, sources or frozenset()) for op in self.ops}
        return {op: run for op, run in found.items() if run is not None}

    def detour(self, v: Any) -> list[Operation]:
        """The operations that alone read a value and only give it back: identities, a transpose
        and its inverse."""
        return self._folder.detour(v)

    def first_layers(self) -> list[Operation]:
        """The layers with weights that have none before them on some path."""
        clean, found = set(self.inputs), []
        for op in self.ops:
            if any(v in clean for v in op.inputs):
                if op.weighted:
                    found.append(op)
                else:
                    clean.update(op.outputs)
        return found

    def last_layers(self) -> list[Operation]:
        """The layers with weights that have none after them on some path."""
        clean = {v for v in self.outputs if not isinstance(v, _compat.Literal)}
        found = []
        for op in reversed(self.ops):
            if any(v in clean for v in op.outputs):
                if op.weighted:
                    found.append(op)
                else:
                    clean.update(op.inputs)
        return found
