"""The traced network: its operations, its layers' names, and the analyses on them."""

from __future__ import annotations

import functools
import re
import threading
from typing import Any, NamedTuple

from jaxplain.core import _compat
from jaxplain.core.errors import UnknownLayerError, UnsupportedOperationError, nearest
from jaxplain.core.flatten import Program, is_scan, unroll
from jaxplain.core.folding import Chain, find_chain
from jaxplain.core.intervals import Facts, literal, propagate
from jaxplain.core.operations import KINDS, Operation, classify
from jaxplain.core.rules import Rule, RuleSet


class Layer(NamedTuple):
    """A value in the network that has a name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    also: tuple[str, ...]
    source: str


class Effect(NamedTuple):
    """``debug.print``, a callback or an assertion: its equations, and the values that they read."""

    equations: tuple[Any, ...]
    reads: frozenset


class Graph:
    """What is static of a traced function: a flat program and what is known about it.

    ``constants`` are the program's leading inputs (weights), ``inputs`` the ones that are
    explained. ``ops`` are the operations on the way from the inputs to the outputs, in order, and
    ``out_tree`` is the structure of the outputs. ``names`` are the values that have one, and
    ``keep_alive`` the objects whose addresses the key of the graph's cache holds.
    Graphs compare by identity; :func:`jaxplain.core.trace` gives equal programs the same graph.
    """

    def __init__(
        self, program: Program, n_constants: int, in_tree: Any = None, out_tree: Any = None
    ):
        self.program, self.in_tree, self.out_tree = program, in_tree, out_tree
        self.constants, self.inputs = program.invars[:n_constants], program.invars[n_constants:]
        self.outputs = program.outvars
        self._lock = threading.Lock()
        self._unrolled: tuple[Graph, dict, dict] | None = None
        self.constant_equations, self.ops = classify(program, self.inputs)
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
    def variables(self) -> frozenset:
        """All values that can be computed, perturbed or replaced."""
        made = (v for op in self.ops for v in op.outputs)
        fixed = (v for eqn in self.constant_equations for v in eqn.outvars)
        return frozenset((*self.program.invars, *made, *fixed))

    def _unroll(self) -> tuple[Graph, dict, dict]:
        if not any(map(is_scan, self.program.eqns)):
            return self, {}, {}
        with self._lock:  # variables belong to one graph: there must be only one
            if self._unrolled is None:
                program, own = unroll(self.program)
                graph = Graph(program, len(self.constants), self.in_tree, self.out_tree)
                whole: dict = {}
                for v, u in own.items():
                    if not isinstance(u, _compat.Literal):
                        whole.setdefault(u, v)
                self._unrolled = graph, whole, own
            return self._unrolled

    # -- effects -----------------------------------------------------------------------------

    @functools.cached_property
    def effects(self) -> list[Effect]:
        """What the network does besides computing, in order."""
        program = self.program
        known = {*program.invars}
        known.update(v for eqn in self.constant_equations for v in eqn.outvars)
        known.update(v for op in self.ops for v in op.outputs)
        makers = {v: eqn for eqn in [*program.eqns, *program.effects] for v in eqn.outvars}
        order = {id(eqn): i for i, eqn in enumerate([*program.eqns, *program.effects])}
        found = []
        for effect in program.effects:
            if not effect.effects:
                continue
            equations, reads, stack = {id(effect): effect}, set(), [effect]
            while stack:
                for v in stack.pop().invars:
                    if isinstance(v, _compat.Literal):
                        continue
                    if v in known:
                        reads.add(v)
                    elif id(makers[v]) not in equations:
                        equations[id(makers[v])] = makers[v]
                        stack.append(makers[v])
            steps = sorted(equations.values(), key=lambda eqn: order[id(eqn)])
            found.append(Effect(tuple(steps), frozenset(reads)))
        return found

    # -- layers ------------------------------------------------------------------------------

    @functools.cached_property
    def names(self) -> dict[str, Any]:
        tags: dict[str, list] = {}
        paths = _Paths()
        counted: dict[str, list] = {}
        numbered: list[tuple[str, int, Any]] = []
        for op in self.ops:
            floating = op.output.aval.dtype.kind in "fV"  # "V": bfloat16 and its like
            paths.add(op, op.output if floating else None)
            if not floating:
                continue
            if op.name == "name":
                tags.setdefault(op.equations[0].params["name"], []).append(op.output)
            if op.kind != "structural":
                for label in dict.fromkeys((op.name, op.kind)):
                    values = counted.setdefault(label, [])
                    numbered.append((label, len(values), op.output))
                    values.append(op.output)
        names = {"input": self.inputs[0]} if self.inputs else {}
        repeated: dict[str, tuple[str, int]] = {}
        for kind, values_of in (("tag", tags), ("module path", paths.calls)):
            for name, values in values_of.items():
                if len(values) == 1:
                    names.setdefault(name, values[0])
                elif values and name not in names and name not in repeated:
                    repeated[name] = (kind, len(values))
                    names.update({f"{name}:{i}": v for i, v in enumerate(values)})
        for label, i, v in sorted(numbered, key=lambda n: n[0] in KINDS):  # the specific name first
            if label not in repeated:
                names.setdefault(f"{label}:{i}", v)
        self._counts = {label: len(values) for label, values in counted.items()}
        self._counts.update({name: count for name, (_, count) in repeated.items()})
        #: Tags and paths that occur more than once -> what they are, and how often.
        self.repeated = repeated
        return names

    @functools.cached_property
    def layers(self) -> list[Layer]:
        """Every named value in order of computation, under its first name."""
        grouped: dict[Any, list[str]] = {}
        for name, v in self.names.items():
            grouped.setdefault(v, []).append(name)
        rows = []
        for v in [*self.inputs[:1], *(op.output for op in self.ops)]:
            if v in grouped:
                first, *also = grouped[v]
                kind, source = self._kind_and_source(v)
                shape, dtype = tuple(v.aval.shape), v.aval.dtype.name
                rows.append(Layer(first, shape, dtype, kind, tuple(also), source))
        return rows

    def _kind_and_source(self, v: Any) -> tuple[str, str]:
        op = self.producer.get(v)
        if op is None:
            return "input", ""
        tagged = self.producer.get(op.inputs[0], op) if op.name == "name" else op
        return tagged.name, op.source

    def layer(self, name: str) -> Any:
        """The variable behind a layer's name."""
        if not isinstance(name, str):
            raise TypeError(
                f"a layer is addressed by its name, a str, not by {type(name).__name__}"
            )
        dotted = name.replace("/", ".")
        for candidate in (name, dotted):
            if candidate in self.names:
                return self.names[candidate]
        counted = re.fullmatch(r"(.+):(-?\d+)", name)
        if counted and counted[1] in self._counts:
            n, i = self._counts[counted[1]], int(counted[2])
            if -n <= i < n:
                return self.names[f"{counted[1]}:{i % n}"]
            raise UnknownLayerError(
                f"there is no layer {name!r}: the network has {n} of "
                f"{counted[1]!r}, numbered 0 to {n - 1} or -{n} to -1"
            )
        for again in (name, dotted):
            if again in self.repeated:
                raise UnknownLayerError(_repeated(again, *self.repeated[again]))
        ends = [n for n in [*self.names, *self.repeated] if n.endswith("." + dotted)]
        if len(ends) == 1 and ends[0] in self.repeated:
            raise UnknownLayerError(_repeated(ends[0], *self.repeated[ends[0]]))
        if len({self.names.get(n) for n in ends}) == 1:
            return self.names[ends[0]]
        if ends:
            raise UnknownLayerError(
                f"the layer {name!r} is ambiguous; say which of {', '.join(ends)}"
            )
        raise UnknownLayerError(
            f"there is no layer {name!r}; the nearest names are "
            f"{nearest(name, self.names)} (jaxplain.layers lists all)"
        )

    def name_of(self, v: Any) -> str:
        return next((n for n, u in self.names.items() if u is v), "an unnamed value")

    @functools.cached_property
    def last_spatial(self) -> str:
        """The last layer whose value is a batch of maps, (B, H, W, C) with more than one pixel."""
        chosen = None
        for op in self.ops:
            shape = op.output.aval.shape
            named = op.name == "name"  # a tag may show as (B, H, W, C) what is transposed inside
            if (
                (named or op.kind not in ("structural", "opaque", "scale", "bias"))
                and len(shape) == 4
                and shape[1] * shape[2] > 1
                and op.output not in self.outputs
            ):
                chosen = op.output
        if chosen is None:
            raise UnknownLayerError(
                "the network has no layer with a batch of maps (B, H, W, C); "
                "name the layer to explain with layer="
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
        facts: dict[Any, Facts] = {}
        for eqn in self.constant_equations:
            known = [
                literal(v) if isinstance(v, _compat.Literal) else facts.get(v, Facts())
                for v in eqn.invars
            ]
            facts[eqn.outvars[0]] = propagate(eqn, known)
        return facts

    @functools.cached_property
    def chains(self) -> dict[Operation, Chain]:
        """The affine chain (batch norm ...) behind each linear operation."""
        producers = {v: eqn for eqn in self.constant_equations for v in eqn.outvars}
        outputs = {v for v in self.outputs if not isinstance(v, _compat.Literal)}
        return {
            op: find_chain(op, self.consumers, producers, outputs, self.facts)
            for op in self.ops
            if op.kind == "linear"
        }

    # -- rules -------------------------------------------------------------------------------

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def assign(self, rules: RuleSet, sources: frozenset | None = None) -> dict[Operation, Rule]:
        """The rule of every operation downstream of ``sources`` (all, if None) that has one.

        Raises UnsupportedOperationError for an operation that the set must handle and cannot.
        """
        ops = [op for op in self.ops if sources is None or op in self.downstream(sources)]
        weighted = [op for op in ops if op.weighted]
        special: dict[Operation, Rule] = {}
        for address, rule in rules.overrides.items():
            if address in ("first_linear", "last_linear"):
                if weighted:
                    # "first" is the network's own first layer, even when a map stops above it
                    everywhere = [op for op in self.ops if op.weighted]
                    op = everywhere[0] if address == "first_linear" else everywhere[-1]
                    special[op] = rule
            else:
                op = self.producer.get(self.layer(address))
                while op is not None and op.kind in ("structural", "scale", "bias", "activation"):
                    op = self.producer.get(op.inputs[0])
                if op is None:
                    raise UnknownLayerError(f"no operation computes the layer {address!r}")
                special[op] = rule
        chosen = {}
        for op in ops:
            rule = special.get(op) or rules.lookup(op.kind, op.name)
            if rule is not None:
                chosen[op] = rule
            elif op.kind in rules.requires:
                raise UnsupportedOperationError(
                    f"no rule for the operation {op.name!r} (kind {op.kind!r}) at {op.source}; "
                    f"add a rule for {op.kind!r} to the rule set, or explain a layer above it"
                )
            elif op.kind == "opaque" and (rules.rules or rules.overrides):
                self._refuse_opaque(op, rules)
        return chosen

    def _refuse_opaque(self, op: Operation, rules: RuleSet) -> None:
        has_body = bool(_compat.inner_jaxprs(op.equations[-1]))
        if not has_body and "linear" not in rules.requires:
            return
        remedy = {
            "while": "unroll the loop in Python or write it as a lax.scan of fixed length",
            "cond": "choose the branch in Python, or with a predicate that is known at trace time",
            "scan": "shorten the scan: only scans of up to 256 steps are unrolled",
            "custom_vjp_call": "write it without custom_vjp",
            "custom_jvp_call": "write it without custom_jvp",
        }.get(
            op.equations[-1].primitive.name,
            "write it with operations that have a rule, or pass a rule for 'opaque'",
        )
        raise UnsupportedOperationError(
            f"the primitive {op.equations[-1].primitive.name!r} at {op.source} lies between the "
            f"layer and the output, and the rules cannot see through it; {remedy}, "
            "or explain a layer above it"
        )


def _repeated(name: str, kind: str, count: int) -> str:
    what = "occurs" if kind == "tag" else "is called"
    return (
        f"the {kind} {name!r} {what} more than once in the network ({count} times); "
        f"say which with {name + ':0'!r}, {name + ':1'!r}, ..."
    )


class _Paths:
    """The last value of each call of each module path."""

    def __init__(self) -> None:
        self._values: dict[str, list] = {}
        self._open: dict[str, tuple] = {}

    def add(self, op: Operation, value: Any) -> None:
        """``value`` is None for one that can be no layer."""
        around: dict[str, tuple] = {}
        path, before = "", ()
        stack = _compat.name_stack(op.equations[-1])
        for i, name in enumerate(stack):
            if _compat.is_mark(name):
                before = (*before, name)
                continue
            path = f"{path}.{name}" if path else name
            own = stack[i + 1] if i + 1 < len(stack) and _compat.is_mark(stack[i + 1], "call") else ""
            around[path] = (before, own)
        for path, call in around.items():
            values = self._values.setdefault(path, [])
            if self._open.get(path) != call:  # another call, or the same scope entered again
                values.append(None)
            if value is not None:
                values[-1] = value
        self._open = around

    @property
    def calls(self) -> dict[str, list]:
        return {p: [v for v in values if v is not None] for p, values in self._values.items()}
