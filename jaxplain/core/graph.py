"""The traced network: its operations, its layers' names, and the analyses on them."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from jaxplain.core import _compat
from jaxplain.core.axes import Layout
from jaxplain.core.errors import UnknownLayerError, UnsupportedOperationError, nearest
from jaxplain.core.folding import Chain, find_chain
from jaxplain.core.intervals import Facts, literal, propagate
from jaxplain.core.operations import KINDS, Operation, classify
from jaxplain.core.rules import Rule, RuleSet
from jaxplain.core.spatial import Places


class Layer(NamedTuple):
    """A value in the network that has a name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    also: tuple[str, ...]
    source: str


class Graph:
    """What is static of a traced function: a flat program and what is known about it.

    ``constants`` are the program's leading inputs (weights), ``inputs`` the ones that are
    explained. ``ops`` are the operations on the way from the inputs to the outputs, in order.
    Graphs compare by identity; :func:`jaxplain.core.trace` gives equal programs the same graph.
    """

    def __init__(self, jaxpr: Any, n_constants: int):
        self.jaxpr = jaxpr
        self.constants, self.inputs = jaxpr.invars[:n_constants], jaxpr.invars[n_constants:]
        self.outputs = jaxpr.outvars
        self.constant_equations, self.ops = classify(jaxpr, self.inputs)
        self.consumers: dict = {}
        self.producer: dict = {}
        for op in self.ops:
            for v in op.inputs:
                self.consumers.setdefault(v, []).append(op)
            for v in op.outputs:
                self.producer[v] = op
        self._names = self._name_values()

    # -- layers ------------------------------------------------------------------------------

    def _name_values(self) -> dict[str, Any]:
        tags: dict[str, list] = {}
        paths: dict[str, Any] = {}
        counted: dict[str, list] = {}
        numbered: list[tuple[str, int, Any]] = []
        for op in self.ops:
            if op.output.aval.dtype.kind not in "fV":  # "V": bfloat16 and its like
                continue
            if op.name == "name":
                tags.setdefault(op.equations[0].params["name"], []).append(op.output)
            scopes = op.scopes
            for i in range(1, len(scopes) + 1):
                paths[".".join(scopes[:i])] = op.output
            if op.kind != "structural":
                for label in dict.fromkeys((op.name, op.kind)):
                    values = counted.setdefault(label, [])
                    numbered.append((label, len(values), op.output))
                    values.append(op.output)
        names = {"input": self.inputs[0]} if self.inputs else {}
        self.repeated_tags = {t for t, values in tags.items() if len(values) > 1}
        for tag, values in tags.items():
            if len(values) == 1:
                names.setdefault(tag, values[0])
            else:
                names.update({f"{tag}:{i}": v for i, v in enumerate(values)})
        for path, v in paths.items():
            names.setdefault(path, v)
        for label, i, v in sorted(numbered, key=lambda n: n[0] in KINDS):  # the specific name first
            names.setdefault(f"{label}:{i}", v)
        self._counts = {label: len(values) for label, values in counted.items()}
        return names

    @functools.cached_property
    def layers(self) -> list[Layer]:
        """Every named value in order of computation, under its first name."""
        grouped: dict[Any, list[str]] = {}
        for name, v in self._names.items():
            grouped.setdefault(v, []).append(name)
        rows = []
        for v in [*self.inputs[:1], *(op.output for op in self.ops)]:
            if v in grouped:
                op = self.producer.get(v)
                first, *also = grouped[v]
                named = (
                    op if op is None or op.name != "name" else self.producer.get(op.inputs[0], op)
                )
                rows.append(
                    Layer(
                        first,
                        tuple(v.aval.shape),
                        v.aval.dtype.name,
                        "input" if op is None else named.name,
                        tuple(also),
                        "" if op is None else op.source,
                    )
                )
        return rows

    def layer(self, name: str) -> Any:
        """The variable behind a layer's name."""
        if not isinstance(name, str):
            raise TypeError(
                f"a layer is addressed by its name, a str, not by {type(name).__name__}"
            )
        dotted = name.replace("/", ".")
        for candidate in (name, dotted):
            if candidate in self._names:
                return self._names[candidate]
        counted = re.fullmatch(r"(.+):(-?\d+)", name)
        if counted and counted[1] in self._counts:
            n, i = self._counts[counted[1]], int(counted[2])
            if -n <= i < n:
                return self._names[f"{counted[1]}:{i % n}"]
            raise UnknownLayerError(
                f"there is no layer {name!r}: the network has {n} of "
                f"{counted[1]!r}, numbered 0 to {n - 1} or -{n} to -1"
            )
        if name in self.repeated_tags:
            raise UnknownLayerError(
                f"the tag {name!r} occurs more than once in the network; "
                f"say which with {name + ':0'!r}, {name + ':1'!r}, ..."
            )
        ends = [n for n in self._names if n.endswith("." + dotted)]
        if len({self._names[n] for n in ends}) == 1:
            return self._names[ends[0]]
        if ends:
            raise UnknownLayerError(
                f"the layer {name!r} is ambiguous; say which of {', '.join(ends)}"
            )
        raise UnknownLayerError(
            f"there is no layer {name!r}; the nearest names are "
            f"{nearest(name, self._names)} (jaxplain.layers lists all)"
        )

    def name_of(self, v: Any) -> str:
        return next((n for n, u in self._names.items() if u is v), "an unnamed value")

    @functools.cached_property
    def places(self) -> Places:
        """Which values have a place in the image."""
        return Places(self)

    def layout(self, v: Any) -> Layout | None:
        """How maps lie in a value; None where it has none, or nothing is known of its axes."""
        return self.places.layouts.get(v)

    @functools.cached_property
    def last_spatial(self) -> str:
        """The last layer with a place in the image, see :meth:`Places.default`."""
        chosen = self.places.default()
        if chosen is None:
            raise UnknownLayerError(
                "the network has no layer of which it is known where in the image its values lie; "
                "name the layer to explain with layer=, and its grid with tokens=(h, w)"
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
        """The most convolutions and dense layers on a path from ``stop`` (or the input) to ``v``."""
        op = self.producer.get(v)
        if v is stop or op is None:
            return 0
        return op.weighted + max(self.linear_depth(u, stop) for u in op.inputs)

    def branch_depths(self, op: Operation) -> list[int]:
        """Convolutions and dense layers on each input's way from where an addition's branches part."""
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
            f"the primitive {op.equations[-1].primitive.name!r} at {op.source} lies between the layer "
            f"and the output, and the rules cannot see through it; {remedy}, "
            "or explain a layer above it"
        )
