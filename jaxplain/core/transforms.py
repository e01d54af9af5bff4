"""The function transformations: with_rules, capture, split; and the tables layers and coverage."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.core.assignment import assign
from jaxplain.core.layer_table import Layer, layer_rows
from jaxplain.core.model import Model
from jaxplain.core.rule_sets import RuleSet
from jaxplain.core.rules import gradient_rule
from jaxplain.core.table import Table
from jaxplain.core.trace import trace


def with_rules(fn: Callable, rules: RuleSet) -> Callable:
    """A function with the values of ``fn`` and the VJP that ``rules`` define.

    The rules replace the derivative with respect to the arguments only: arrays that ``fn`` closes
    over are constants to them. With an empty rule set the VJP is that of ``fn``, bit for bit.

    Raises:
        UnsupportedOperationError: when called, where ``rules`` must handle an operation and cannot.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> rules = jaxplain.RuleSet({"relu": jaxplain.core.pass_rule})
    >>> straight = jaxplain.with_rules(jax.nn.relu, rules)
    >>> jax.grad(lambda x: straight(x).sum())(jnp.array([-1.0, 2.0])).tolist()
    [1.0, 1.0]
    """
    if not isinstance(rules, RuleSet):
        raise TypeError(f"rules must be a jaxplain.RuleSet, not {type(rules).__name__}")

    def ruled(*inputs: Any) -> Any:
        if not (rules.rules or rules.overrides or rules.requires):
            return fn(*inputs)
        model = trace(fn, *inputs)
        outputs = model.evaluate(jax.tree.leaves(inputs), rules)
        return jax.tree.unflatten(model.whole.out_tree, outputs)

    return ruled


def capture(fn: Callable, names: Sequence[str]) -> Callable:
    """``x -> (fn(x), {name: activation})`` for the named layers.

    Activations are as the network has them; those of ``"attention:i"`` are the attention weights
    (B, heads, queries, keys), or (B * windows, heads, queries, keys) of attention within windows.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> captured = jaxplain.capture(lambda x: jax.nn.relu(x).sum(), ["relu:0"])
    >>> y, acts = captured(jnp.array([-1.0, 2.0]))
    >>> acts["relu:0"].tolist()
    [0.0, 2.0]
    """
    names = [names] if isinstance(names, str) else list(names)

    def captured(*inputs: Any) -> tuple[Any, dict[str, jax.Array]]:
        model = trace(fn, *inputs)
        outputs = model.whole.outputs
        variables = [model.variable(name) for name in names]
        values = model.evaluate(jax.tree.leaves(inputs), outputs=[*outputs, *variables])
        n = len(outputs)
        y = jax.tree.unflatten(model.whole.out_tree, values[:n])
        found = dict(zip(names, values[n:], strict=True))
        views = {name: model.graph.weights_view(name) for name in names}
        return y, {k: v.maps(found[k]) if (v := views[k]) else found[k] for k in names}

    return captured


def split(fn: Callable, name: str, *inputs: Any) -> tuple[Callable, Callable]:
    """Cut ``fn`` at a layer: ``(below, above)`` with ``above(below(*inputs)) == fn(*inputs)``.

    ``inputs`` are an example of the shapes; ``above`` keeps the weights ``fn`` has now.

    Raises:
        ValueError: where the layer is no cut, since another path (a skip connection) bypasses it.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> x = jnp.array([-1.0, 2.0])
    >>> below, above = jaxplain.split(lambda x: 3 * jax.nn.relu(x), "relu:0", x)
    >>> above(below(x)).tolist()
    [0.0, 6.0]
    """
    model = trace(fn, *inputs)
    graph = model.graph
    v = graph.layer(name)
    needed = model.needed(graph.outputs, {v: None})
    above_layer = graph.downstream(frozenset({v}))
    for op in graph.ops:
        if op in needed and op not in above_layer:
            raise ValueError(
                f"the layer {name!r} is no cut of the network: the operation {op.name!r} at "
                f"{op.place} reaches the output without passing through it; choose a layer "
                "outside the skip connection (the addition's output)"
            )

    def below(*inputs: Any) -> jax.Array:
        inner = trace(fn, *inputs)
        return inner.evaluate(jax.tree.leaves(inputs), outputs=[inner.graph.layer(name)])[0]

    def above(value: jax.Array) -> Any:
        zeros = [jnp.zeros(u.aval.shape, u.aval.dtype) for u in graph.inputs]
        outputs = model.evaluate(zeros, given={v: value})
        return jax.tree.unflatten(graph.out_tree, outputs)

    return below, above


def layers(
    fn: Callable, *inputs: Any, all: bool = False, defaults: Mapping[str, str] | None = None
) -> Table[Layer]:
    """The layers of a network, in order of computation.

    A layer is addressed by its tag (:func:`jaxplain.tag`), else by its module path, else by kind
    and position (``"conv:-1"``, ``"relu:0"``). The rows say its name, shape and dtype; what its
    axes mean (``"B H W C"``, ``"B C H W"``, ``"tokens 14x14 + 1"`` with a class token, ``?`` for
    what is not known); its kind; what it is the default for; its other names; and the line of the
    user's code that made it, which what is made in installed packages has not.

    Args:
        fn: a callable, a module, or a model of :func:`jaxplain.trace`.
        inputs: examples of its arguments.
        all: False lists the image, tags and modules with a place in the image (or, where that is
            not known, a possible one), and the defaults; of a network without tags and modules,
            whatever has a place. True lists every value that has a name.
        defaults: kinds of layer and the layers that they are, to be marked, as in
            ``dict(config.layers)`` of a network of `jaxplain.models`. None marks as ``"last"`` what
            explainers with ``layer=None`` take for the last layer with a place in the image.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> network = lambda x: jaxplain.tag(jax.nn.relu(x), "out").mean((1, 2))
    >>> [(row.name, row.meaning) for row in jaxplain.layers(network, jnp.ones((2, 4, 4, 3)))]
    [('input', 'B H W C'), ('out', 'B H W C')]
    """
    graph = trace(fn, *inputs).graph
    if defaults is None:
        places = graph.places
        last = places.default()
        told = last is not None and places.lost(last) is None and places.rival(last) is None
        defaults = {"last": graph.name_of(last)} if told else {}
    return Table(layer_rows(graph, defaults, all), Layer._fields)


class Covered(NamedTuple):
    """One operation on the path from input to output, and the rule that it got."""

    kind: str
    name: str
    layer: str
    shape: tuple[int, ...]
    rule: str
    mass: float | None
    source: str


class Coverage(Table[Covered]):
    """The rows of :func:`coverage`; ``counts`` is the number of operations by (kind, rule).

    ``rule_set`` is the name of the rules, "" of those without one.
    """

    rule_set = ""

    def __str__(self) -> str:
        named = f"\n\nThe rules are those of {self.rule_set!r}." if self.rule_set else ""
        return super().__str__() + named

    __repr__ = __str__

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        return dict(collections.Counter((row.kind, row.rule) for row in self))


def coverage(fn: Callable, x: jax.Array, rules: RuleSet, *, mass: bool = False) -> Coverage:
    """Every operation on the path from the input to the output, with the rule that it gets.

    With ``mass=True`` (concrete ``x`` only) also the sum of the signal that arrives at each
    operation's output, for a signal of one at each image's top class, averaged over the batch:
    it shows where a method loses signal (the Z = 0 case of Excitation Backprop).

    Raises:
        UnsupportedOperationError: for an operation that the rules must handle and cannot.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> table = jaxplain.coverage(lambda x: jax.nn.relu(x), jnp.ones((1, 3)), jaxplain.RuleSet())
    >>> table.counts
    {('activation', 'plain gradient'): 1}
    """
    model = trace(fn, x)
    assigned = assign(model.graph, rules)
    sums = _mass(model, x, rules) if mass else {}
    names = {}
    for name, v in model.graph.names.items():
        names.setdefault(v, name)
    table = Coverage(
        Covered(
            op.kind,
            op.name,
            names.get(op.output, ""),
            tuple(op.output.aval.shape),
            _rule_name(assigned[op]) if op in assigned else "plain gradient",
            sums.get(op),
            op.source,
        )
        for op in model.graph.ops
    )
    table.rule_set = rules.name
    return table


def _mass(model: Model, x: jax.Array, rules: RuleSet) -> dict[Any, float]:
    floating = {
        op: op.output
        for op in model.graph.ops
        if jnp.issubdtype(op.output.aval.dtype, jnp.floating)
    }

    @jax.jit
    def sums(model: Model, x: jax.Array) -> dict:
        scores, _, pull = model.pull_values(
            x, {i: v for i, v in enumerate(floating.values())}, rules
        )
        seed = jax.nn.one_hot(scores.argmax(-1), scores.shape[-1], dtype=scores.dtype)
        return {i: s.sum() / len(x) for i, s in pull(seed).items()}

    return dict(zip(floating, map(float, sums(model, x).values()), strict=True))


def _rule_name(rule: Any) -> str:
    if rule is gradient_rule:
        return "plain gradient"
    if isinstance(rule, type) or not hasattr(rule, "__name__"):
        return repr(rule)
    return rule.__name__
