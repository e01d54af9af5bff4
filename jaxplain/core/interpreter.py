"""Walk a graph: evaluate its operations, with rules in place of their gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax

from jaxplain.core import _compat
from jaxplain.core.assignment import assign, dense_parts, folded
from jaxplain.core.effects import happen
from jaxplain.core.graph import Graph
from jaxplain.core.reach import needed_for
from jaxplain.core.rule_sets import RuleSet
from jaxplain.core.rules import apply_rule, gradient_rule


def interpret(
    graph: Graph,
    weights: Sequence[Any],
    inputs: Sequence[Any],
    rules: RuleSet | None,
    outputs: Sequence[Any],
    added: dict,
    given: dict,
    edits: dict,
    *,
    ends: Sequence[Any] | None,
) -> list:
    """The values of ``outputs`` of a graph with these weights; see :meth:`Model.evaluate`."""
    run = _Run(graph, rules, added, given, edits, outputs if ends is None else ends)
    env = {**dict(zip(graph.constants, weights, strict=True)), **given}
    for v, value in zip(graph.inputs, inputs, strict=True):
        run.write(env, v, value)
    for eqn in graph.constant_equations:
        with _compat.equation_context(eqn):
            values = _compat.bind(eqn, *(_read(env, v) for v in eqn.invars))
        env.update(zip(eqn.outvars, values, strict=True))
    needed = needed_for(graph, outputs, given)
    computed = {*env, *(v for op in needed for v in op.outputs)}
    effects = [effect for effect in graph.effects if effect.reads <= computed]
    wanted = {v for v in outputs if not isinstance(v, _compat.Literal)}
    wanted.update(*(effect.reads for effect in effects))
    run.operations([op for op in graph.ops if op in needed], env, wanted, 0)
    for effect in effects:
        happen(effect, env)
    return [_read(env, v) for v in outputs]


class _Run:
    """One evaluation of operations, with what replaces or perturbs their values."""

    def __init__(
        self,
        graph: Graph,
        rules: RuleSet | None,
        added: dict,
        given: dict,
        edits: dict,
        ends: Sequence[Any],
    ):
        self.graph, self.rules = graph, rules
        self.sources = frozenset(added) if added else None
        self.assigned = assign(graph, rules, self.sources) if rules else {}
        self.parts: dict = {}
        if rules and not edits:
            own = tuple(v for v in ends if not isinstance(v, _compat.Literal))
            self.parts = dense_parts(graph, rules, self.sources, own)
        self.added, self.given, self.edits = added, given, edits

    def write(self, env: dict, v: Any, value: Any) -> None:
        if v not in self.given:
            value = self.edits[v](value) if v in self.edits else value
            env[v] = value + self.added[v] if v in self.added else value

    def operations(self, ops: list, env: dict, wanted: set, depth: int) -> None:
        """Evaluate the operations; those of a ``checkpoint`` in a checkpoint of the same kind.

        ``wanted`` are the values that are read after the last of them.
        """
        groups = [
            (region, list(group))
            for region, group in itertools.groupby(ops, lambda op: _region(op, depth))
        ]
        later, needed_after = set(wanted), []
        for _, group in reversed(groups):
            needed_after.append(set(later) if len(groups) > 1 else later)
            later.update(*(self._reads(op) for op in group))
        for (region, group), after in zip(groups, reversed(needed_after), strict=True):
            if region is None:
                for op in group:
                    self._operation(op, env)
            else:
                self._checkpoint(region, group, env, after, depth + 1)

    def _checkpoint(self, region: int, ops: list, env: dict, after: set, depth: int) -> None:
        made = {v for op in ops for v in op.outputs}
        reads = list(dict.fromkeys(v for op in ops for v in self._reads(op) if v in env))
        results = [v for v in made if v in after and v not in env]

        def body(values: list) -> list:
            local = dict(zip(reads, values, strict=True))
            self.operations(ops, local, set(results), depth)
            return [local[v] for v in results]

        policy, prevent_cse = self.graph.program.regions[region]
        call = jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)
        env.update(zip(results, call([env[v] for v in reads]), strict=True))

    def _reads(self, op: Any) -> tuple:
        view = self._view(op)
        return (*op.inputs, *op.constants, *(view.variables if view else ()))

    def _view(self, op: Any) -> Any:
        if self.rules is None or op not in self.assigned:
            return None
        return folded(self.graph, op, self.rules, self.sources)

    def _operation(self, op: Any, env: dict) -> None:
        values = tuple(_read(env, v) for v in op.inputs)
        constants = tuple(_read(env, v) for v in op.constants)
        rule, part = self.assigned.get(op), self.parts.get(op)
        if rule is None or (rule is gradient_rule and part is None):
            outs = op.evaluate(values, constants)
        else:
            view = self._view(op)
            extras = tuple(_read(env, v) for v in view.variables) if view else ()
            outs = apply_rule(op, rule, view, part, values, constants, extras)
        for v, value in zip(op.outputs, outs, strict=True):
            self.write(env, v, value)


def _region(op: Any, depth: int) -> int | None:
    regions = _compat.regions(op.equations[-1])
    return regions[depth] if depth < len(regions) else None


def _read(env: dict, atom: Any) -> Any:
    return atom.val if isinstance(atom, _compat.Literal) else env[atom]
