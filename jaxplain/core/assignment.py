"""Which rule acts on which operation of a graph, and what of the operation it acts on."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from jaxplain.core import _compat
from jaxplain.core.affine import Chain, Run
from jaxplain.core.errors import UnknownLayerError, UnsupportedOperationError
from jaxplain.core.live import Part, live_parts, whole
from jaxplain.core.operations import Operation
from jaxplain.core.primitives import is_fused
from jaxplain.core.rule_sets import RuleSet
from jaxplain.core.rules import Rule, pass_rule

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph


#: How messages write the names of operations.
_TITLES = {"relu": "ReLU", "relu6": "ReLU6"}


@functools.lru_cache(maxsize=256)
def assign(graph: Graph, rules: RuleSet, sources: frozenset | None = None) -> dict[Operation, Rule]:
    """The rule of every operation downstream of ``sources`` (all, if None) that has one.

    Raises UnsupportedOperationError for an operation that the set must handle and cannot.
    """
    downstream = None if sources is None else graph.downstream(sources)
    ops = [op for op in graph.ops if downstream is None or op in downstream]
    special = _overridden(graph, rules)
    chosen: dict[Operation, Rule] = {}
    for op in ops:
        rule = special.get(op) or rules.lookup(op.kind, op.name)
        if rule is not None:
            chosen[op] = rule
        elif op.kind in rules.requires:
            raise UnsupportedOperationError(
                f"no rule for the operation {op.name!r} (kind {op.kind!r}) at {op.place}; "
                f"add a rule for {op.kind!r} to the rule set, or explain a layer above it"
            )
        elif op.kind == "opaque" and (rules.rules or rules.overrides):
            _refuse_opaque(op, rules)
    _require_names(graph, rules)
    affine = rules.rules.get("affine")
    if affine is not None and rules.fold:
        for last, run in graph.runs(sources).items():
            if last in chosen:
                _ask(affine, dataclasses.replace(last, kind="linear", low=run.low))
                chosen |= dict.fromkeys(run.affine_ops, pass_rule)
                chosen[last] = affine
    for op, rule in chosen.items():
        if rule is not affine:
            _ask(rule, op)
    return chosen


def _ask(rule: Rule, op: Operation) -> None:
    """An error where a rule says that it cannot act on an operation."""
    verdict = getattr(rule, "accepts", lambda op: True)(op)
    if verdict is not True:
        raise UnsupportedOperationError(
            f"the operation {op.name!r} (kind {op.kind!r}) at {op.place} {verdict}"
        )


def _overridden(graph: Graph, rules: RuleSet) -> dict[Operation, Rule]:
    """The rules that a set's overrides give to single operations."""
    special: dict[Operation, Rule] = {}
    for address, rule in rules.overrides.items():
        if address in ("first_linear", "last_linear"):
            # "first" is the network's own first layer, even when a map stops above it
            ends = graph.first_layers() if address == "first_linear" else graph.last_layers()
            special |= dict.fromkeys(ends, rule)
            continue
        op = graph.producer.get(graph.layer(address))
        while op is not None and op.kind in ("structural", "scale", "bias", "activation"):
            op = graph.producer.get(op.inputs[0])
        if op is None:
            raise UnknownLayerError(f"no operation computes the layer {address!r}")
        special[op] = rule
    return special


def _refuse_opaque(op: Operation, rules: RuleSet) -> None:
    has_body = bool(_compat.inner_jaxprs(op.equations[-1]))
    if not has_body and "linear" not in rules.requires:
        return
    remedy = {
        "while": "unroll the loop in Python or write it as a lax.scan of fixed length",
        "cond": "choose the branch in Python, or with a predicate that is known at trace time",
        "scan": "shorten the scan: only scans of up to 256 steps are unrolled",
        "fused": (
            "a fused kernel has no operations to explain: call "
            'jax.nn.dot_product_attention with implementation="xla", or write it in jax.numpy'
        ),
        "custom_vjp_call": "write it without custom_vjp",
        "custom_jvp_call": "write it without custom_jvp",
    }.get(
        "fused" if is_fused(op.equations[-1]) else op.equations[-1].primitive.name,
        "write it with operations that have a rule, or pass a rule for 'opaque'",
    )
    raise UnsupportedOperationError(
        f"the primitive {op.equations[-1].primitive.name!r} at {op.place} lies between the "
        f"layer and the output, and the rules cannot see through it; {remedy}, "
        "or explain a layer above it"
    )


def _require_names(graph: Graph, rules: RuleSet) -> None:
    if rules.needs and not any(op.name in rules.needs for op in graph.ops):
        found = dict.fromkeys(op.name for op in graph.ops if op.kind == "activation")
        wanted = " or ".join(_TITLES.get(name, name) for name in rules.needs)
        others = f" (its activations are {', '.join(found)})" if found else ""
        raise UnsupportedOperationError(
            f"the network has no {wanted} between image and scores{others}, and the method is "
            "defined by them; use gradient, grad_cam or another method without such a rule"
        )


def folded(
    graph: Graph, op: Operation, rules: RuleSet, sources: frozenset | None
) -> Chain | Run | None:
    """What belongs to an operation when a rule acts on it."""
    if not rules.fold:
        return None
    return graph.chains.get(op) or (
        graph.runs(sources).get(op) if "affine" in rules.rules else None
    )


@functools.lru_cache(maxsize=64)
def dense_parts(
    graph: Graph, rules: RuleSet, sources: frozenset | None, ends: tuple
) -> dict[Operation, Part]:
    """The dense layers of which a signal from ``ends`` reaches a part alone, with that part.

    None where a rule is not ours: it need not send its signal where the gradient goes.
    """
    assigned = assign(graph, rules, sources)
    if not all(map(_is_ours, assigned.values())):
        return {}

    def silent(op: Operation) -> tuple[bool, ...]:
        tells = getattr(assigned.get(op), "silences", None)
        return tells(op) if tells else (False,) * len(op.inputs)

    found = live_parts(graph.ops, list(ends), silent)
    parts = {
        op: found.get(op.output)
        for op in assigned
        if op.name == "dense" and op.equations[-1].primitive.name == "dot_general"
    }
    return {op: p for op, p in parts.items() if p is not None and p != whole(op.output)}


def _is_ours(rule: Rule) -> bool:
    made = rule if hasattr(rule, "__name__") else type(rule)
    return str(made.__module__).startswith(f"{__name__.partition('.')[0]}.")
