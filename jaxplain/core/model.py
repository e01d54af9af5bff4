"""A graph with its weights: evaluate it, tap it, and pull signals back through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax

from jaxplain.core import _compat
from jaxplain.core.graph import Graph
from jaxplain.core.operations import Operation
from jaxplain.core.rules import RuleSet, apply_rule


class Model:
    """The traced network with the values of its constants (weights)."""

    def __init__(self, graph: Graph, constants: Sequence[Any]):
        self.graph, self.constants = graph, constants

    def evaluate(
        self,
        inputs: Sequence[Any],
        rules: RuleSet | None = None,
        added: dict[Any, Any] | None = None,
        outputs: Sequence[Any] | None = None,
        given: dict[Any, Any] | None = None,
        edits: dict[Any, Callable] | None = None,
    ) -> list:
        """The values of ``outputs`` (the function's own, by default).

        ``added`` perturbs values; rules then act only downstream of those, so that everything
        else keeps its true derivative. ``given`` replaces values instead of computing them, and
        ``edits`` are functions of the computed value that replace it (gates).
        """
        graph, added, given, edits = self.graph, added or {}, given or {}, edits or {}
        wanted: Sequence[Any] = graph.outputs if outputs is None else outputs
        sources = frozenset(added) if added else None
        assigned = graph.assign(rules, sources) if rules else {}
        env = {**dict(zip(graph.constants, self.constants, strict=True)), **given}

        def read(v: Any) -> Any:
            return v.val if isinstance(v, _compat.Literal) else env[v]

        def write(v: Any, value: Any) -> None:
            if v not in given:
                value = edits[v](value) if v in edits else value
                env[v] = value + added[v] if v in added else value

        for v, value in zip(graph.inputs, inputs, strict=True):
            write(v, value)
        for eqn in graph.constant_equations:
            with _compat.equation_context(eqn):
                values = _compat.bind(eqn, *map(read, eqn.invars))
            env.update(zip(eqn.outvars, values, strict=True))
        needed = self.needed(wanted, given)
        for op in graph.ops:
            if op not in needed:
                continue
            values = tuple(map(read, op.inputs))
            constants = tuple(map(read, op.constants))
            rule = assigned.get(op)
            if rule is None or rules is None:
                outs = op.evaluate(values, constants)
            else:
                view = graph.view(op, rules, sources)
                extras = tuple(read(v) for v in view.variables) if view else ()
                outs = apply_rule(op, rule, view, values, constants, extras)
            for v, value in zip(op.outputs, outs, strict=True):
                write(v, value)
        return [read(v) for v in wanted]

    def needed(self, outputs: Sequence[Any], given: Collection[Any]) -> set[Operation]:
        """The operations that compute ``outputs`` from the inputs and the values ``given``."""
        wanted = {v for v in outputs if not isinstance(v, _compat.Literal)} - set(given)
        needed = set()
        for op in reversed(self.graph.ops):
            if any(v in wanted for v in op.outputs):
                needed.add(op)
                wanted.update(v for v in op.inputs if v not in given)
        return needed

    def forward(self, x: jax.Array, layers: Sequence[str] = ()) -> tuple[jax.Array, dict]:
        """The scores, and the activations of the named layers."""
        variables = [self.graph.layer(name) for name in layers]
        scores, *acts = self.evaluate([x], outputs=[self.graph.outputs[0], *variables])
        return scores, dict(zip(layers, acts, strict=True))

    def pullback(
        self, x: jax.Array, layers: Sequence[str], rules: RuleSet | None = None
    ) -> tuple[jax.Array, dict, Callable[[jax.Array], dict]]:
        """Scores, activations, and ``pull(seed) -> {layer: signal}`` under the rules.

        One forward pass. Signals are cotangents of zeros added at the layers, so that the
        compiler drops everything below the lowest one.
        """
        return self.pull_values(x, {name: self.graph.layer(name) for name in layers}, rules)

    def pull_values(
        self, x: jax.Array, values: dict[Any, Any], rules: RuleSet | None = None
    ) -> tuple[jax.Array, dict, Callable[[jax.Array], dict]]:
        """:meth:`pullback` to any values of the graph, under keys of the caller's choice."""
        distinct = list(dict.fromkeys(values.values()))
        index = {v: i for i, v in enumerate(distinct)}
        zeros = [_compat.zeros_like_varying(v.aval.shape, v.aval.dtype, x) for v in distinct]

        def perturbed(*zeros: jax.Array) -> tuple:
            added = dict(zip(distinct, zeros, strict=True))
            scores, *acts = self.evaluate([x], rules, added, [self.graph.outputs[0], *distinct])
            return scores, acts

        scores, vjp, acts = jax.vjp(perturbed, *zeros, has_aux=True)

        def pull(seed: jax.Array) -> dict:
            signals = vjp(_compat.vary_like(seed.astype(scores.dtype), scores))
            return {key: signals[index[v]] for key, v in values.items()}

        return scores, {key: acts[index[v]] for key, v in values.items()}, pull
