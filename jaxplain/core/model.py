"""A graph with its weights: evaluate it, tap it, and pull signals back through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain.core import _compat
from jaxplain.core.assignment import assign
from jaxplain.core.attention import WeightsView
from jaxplain.core.axes import Layout
from jaxplain.core.graph import Graph
from jaxplain.core.interpreter import interpret
from jaxplain.core.numerics import safe_divide
from jaxplain.core.operations import Operation
from jaxplain.core.reach import first_cut, needed_for
from jaxplain.core.rule_sets import RuleSet
from jaxplain.core.views import Rearranged, view


@jax.tree_util.register_pytree_node_class
class Model:
    """A traced network with the values of its constants (weights), see :func:`jaxplain.trace`.

    Every explainer, :func:`jaxplain.layers`, :func:`jaxplain.capture` and the like take it in place
    of the function that it was traced from, and then trace nothing. It explains inputs of the
    shapes and dtypes that it was traced at. ``model(x)`` is the network's output.

    A model is a pytree: its leaves are the weights, so that ``jax.jit(jaxplain.grad_cam)(model, x,
    targets)`` compiles once and sees new weights, and ``jax.tree.map`` makes a model of other ones.
    """

    def __init__(
        self,
        graph: Graph,
        constants: Sequence[Any],
        views: Sequence[tuple[str, Layout | Rearranged]] = (),
    ):
        """``views`` say how maps lie in layers of which the analysis of axes cannot know it."""
        self.whole, self.constants, self.views = graph, constants, dict(views)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        # Numbers that are part of the program, as the 0 of a ReLU, are no weights.
        known = self.whole.known_numbers
        leaves = (c for i, c in enumerate(self.constants) if i not in known)
        return tuple(leaves), (self.whole, tuple(self.views.items()))

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: Sequence[Any]) -> Model:
        graph, rest = static[0], iter(leaves)
        constants = [
            np.full(v.aval.shape, graph.known_numbers[i], v.aval.dtype)
            if i in graph.known_numbers
            else next(rest)
            for i, v in enumerate(graph.constants)
        ]
        return cls(graph, constants, static[1])

    @property
    def graph(self) -> Graph:
        """All operations, those within scans included (``whole`` has the scans as they are)."""
        return self.whole.unrolled

    def __repr__(self) -> str:
        inputs = ", ".join(map(_type, self.whole.inputs))
        outputs = ", ".join(map(_type, self.whole.outputs))
        sizes = [int(np.size(c)) for c in self.constants if hasattr(c, "shape")]
        return f"Model({inputs} -> {outputs}; {len(sizes)} arrays of {sum(sizes):,} weights)"

    def __call__(self, *inputs: Any) -> Any:
        """The network's output, as the function returned it."""
        return jax.tree.unflatten(self.whole.out_tree, _outputs(self, self.flat(inputs)))

    def flat(self, inputs: tuple) -> list:
        """The arrays among the inputs; an error unless they are as the model was traced at."""
        values, tree = jax.tree.flatten(inputs)
        types = [(np.shape(v), _dtype(v)) for v in values]
        if tree != self.whole.in_tree or types != self.whole.input_types:
            expected = self.whole.inputs
            given = ", ".join(f"{_dtype(v)}{list(np.shape(v))}" for v in values)
            raise ValueError(
                f"the model was traced at {', '.join(map(_type, expected))}, but is given {given}; "
                "trace the network again at such inputs with jaxplain.trace"
            )
        return values

    # -- evaluation --------------------------------------------------------------------------

    def evaluate(
        self,
        inputs: Sequence[Any],
        rules: RuleSet | None = None,
        added: dict[Any, Any] | None = None,
        outputs: Sequence[Any] | None = None,
        given: dict[Any, Any] | None = None,
        edits: dict[Any, Callable] | None = None,
        ends: Sequence[Any] | None = None,
    ) -> list:
        """The values of ``outputs`` (the function's own, by default).

        ``ends`` are those of the outputs from which signals come (all, by default).

        ``added`` perturbs values; rules then act only downstream of those, so that everything
        else keeps its true derivative. ``given`` replaces values instead of computing them, and
        ``edits`` are functions of the computed value that replace it (gates).

        Scans are unrolled only where a rule must look inside, or one of these values is inside.
        """
        whole = self._seen_from_outside(outputs, added or {}, given or {}, edits or {})
        if whole is not None and not _looks_inside(self.whole, rules, whole[1]):
            found = None if ends is None else [self._outside(v) for v in ends]
            return interpret(self.whole, self.constants, inputs, rules, *whole, ends=found)
        ends = None if ends is None else list(map(self._within, ends))
        outputs = self.graph.outputs if outputs is None else list(map(self._within, outputs))
        added, given, edits = (
            {self._within(v): value for v, value in (values or {}).items()}
            for values in (added, given, edits)
        )
        return interpret(
            self.graph, self.constants, inputs, rules, outputs, added, given, edits, ends=ends
        )

    def needed(self, outputs: Sequence[Any], given: Collection[Any]) -> set[Operation]:
        """The operations that compute ``outputs`` from the inputs and the values ``given``."""
        return needed_for(self.graph, outputs, given)

    def _seen_from_outside(
        self, outputs: Any, *values: dict
    ) -> tuple[list, dict, dict, dict] | None:
        """The same in terms of the graph with whole scans; None if one of the values is inside."""
        if outputs is None:
            outputs = self.whole.outputs
        own = [v for v in outputs if not isinstance(v, _compat.Literal)]
        found = {v: self._outside(v) for v in itertools.chain(own, *values)}
        if None in found.values():
            return None
        added, given, edits = ({found[v]: one for v, one in part.items()} for part in values)
        seen = [v if isinstance(v, _compat.Literal) else found[v] for v in outputs]
        return seen, added, given, edits

    def _outside(self, v: Any) -> Any:
        v = v if v in self.whole.variables else self.whole.counterparts.get(v)
        return v if v in self.whole.variables else None

    def _within(self, v: Any) -> Any:
        if isinstance(v, _compat.Literal) or v in self.graph.variables:
            return v
        return self.whole.inside[v]

    def variable(self, name: str) -> Any:
        """The variable behind a layer's name."""
        return self.whole.inputs[0] if name == "input" else self.graph.layer(name)

    def viewed(self, names: Sequence[str], tokens: Any) -> Model:
        """The model with the word of the user on those of these layers that hold no known maps.

        Raises:
            TypeError, ValueError: ``tokens`` is needed and missing, is not needed, or does not fit.
        """
        if tokens is None:
            for name in names:
                if name not in self.views and self.graph.weights_view(name) is None:
                    self.graph.check_place(name)
            return self
        unknown = [name for name in names if self.layout(name) is None]
        if not unknown:
            name = names[0]
            raise ValueError(
                f"tokens= is for layers of which it is not known how maps lie in them; "
                f"{self.graph.describe(name)} is known to be "
                f"{self.graph.places.meaning(self._inner(name))!r}: leave it out"
            )
        views = {**self.views, **{name: view(self.graph, name, tokens) for name in unknown}}
        return Model(self.whole, self.constants, tuple(views.items()))

    def layout(self, name: str) -> Layout | Rearranged | WeightsView | None:
        """How maps, or attention weights, lie in a layer; None where its values have no place."""
        return (
            self.views.get(name)
            or self.graph.weights_view(name)
            or self.graph.layout(self._inner(name))
        )

    def maps(self, name: str, value: jax.Array) -> jax.Array:
        """A layer's value, or a signal at it, as maps (B, h, w, C), whatever its order of axes.

        Of ``"attention:i"`` the weights (B, heads, queries, keys). Of a layer that has no place in
        the image, the value as it is.
        """
        layout = self.layout(name)
        return value if layout is None else layout.maps(value)

    def _inner(self, name: str) -> Any:
        return self.graph.inputs[0] if name == "input" else self.graph.layer(name)

    def forward(self, x: jax.Array, layers: Sequence[str] = ()) -> tuple[jax.Array, dict]:
        """The scores, and the activations of the named layers, as maps where they are maps."""
        variables = [self.variable(name) for name in layers]
        scores, *acts = self.evaluate([x], outputs=[self.whole.outputs[0], *variables])
        return scores, {n: self.maps(n, a) for n, a in zip(layers, acts, strict=True)}

    def check_gradient(
        self, names: Sequence[str], rules: RuleSet | None = None, end: Any = None
    ) -> None:
        """An error if an operation without a gradient cuts layers off from the scores (or ``end``).

        ``end`` is a value of the graph. Of a layer that it does not depend on, the signal is 0.
        """
        end = self.whole.outputs[0] if end is None else end
        for name in names:
            v = self.variable(name)
            seen = self._seen_from_outside([end], {v: None}, {}, {})
            if seen is None or _looks_inside(self.whole, rules, seen[1]):
                graph, start, stop = self.graph, self._within(v), self._within(end)
            else:
                graph, (stop,), (start,) = self.whole, seen[0], seen[1]
            assigned = assign(graph, rules, frozenset([start])) if rules else {}
            cut = first_cut(graph, start, stop, assigned)
            if cut is not None:
                raise ValueError(
                    f"no gradient gets from the scores to {name!r}: {cut.name!r} at {cut.place} "
                    "has none, as whole numbers, rounding, comparisons and arg max have not; "
                    "explain a layer above it, or use a method without gradients, such as "
                    "occlusion, rise or score_cam"
                )

    def pullback(
        self, x: jax.Array, layers: Sequence[str], rules: RuleSet | None = None
    ) -> tuple[jax.Array, dict, Callable[[jax.Array], dict]]:
        """Scores, activations, and ``pull(seed) -> {layer: signal}`` under the rules.

        One forward pass. Signals are cotangents of zeros added at the layers, so that the
        compiler drops everything below the lowest one. Activations and signals of layers with a
        place in the image are maps (B, h, w, C).
        """
        self.check_gradient(layers, rules)
        values = {name: self.variable(name) for name in layers}
        scores, acts, pull = self.pull_values(x, values, rules)

        def pull_maps(seed: jax.Array) -> dict:
            return {name: self.maps(name, signal) for name, signal in pull(seed).items()}

        return scores, {name: self.maps(name, a) for name, a in acts.items()}, pull_maps

    def pull_values(
        self, x: jax.Array, values: dict[Any, Any], rules: RuleSet | None = None
    ) -> tuple[jax.Array, dict, Callable[[jax.Array], dict]]:
        """:meth:`pullback` to any values of the graph, under keys of the caller's choice.

        Seed and signals are relevance where the rules pass on modified gradients, too.
        """
        distinct = list(dict.fromkeys(values.values()))
        index = {v: i for i, v in enumerate(distinct)}
        zeros = [_compat.zeros_like_varying(v.aval.shape, v.aval.dtype, x) for v in distinct]

        def perturbed(*zeros: jax.Array) -> tuple:
            added = dict(zip(distinct, zeros, strict=True))
            end = self.whole.outputs[0]
            scores, *acts = self.evaluate([x], rules, added, [end, *distinct], ends=[end])
            return scores, acts

        scores, vjp, acts = jax.vjp(perturbed, *zeros, has_aux=True)

        def pull(seed: jax.Array) -> dict:
            seed = seed.astype(scores.dtype)
            if rules is not None and rules.times_input:
                signals = vjp(_compat.vary_like(safe_divide(seed, scores), scores))
                signals = [a * s for a, s in zip(acts, signals, strict=True)]
            else:
                signals = vjp(_compat.vary_like(seed, scores))
            return {key: signals[index[v]] for key, v in values.items()}

        return scores, {key: acts[index[v]] for key, v in values.items()}, pull


@jax.jit
def _outputs(model: Model, inputs: list) -> list:
    return model.evaluate(inputs)


def _type(v: Any) -> str:
    return f"{v.aval.dtype}{list(v.aval.shape)}"


def _dtype(value: Any) -> Any:
    return (
        value.dtype
        if isinstance(value, jax.Array)
        else jax.dtypes.canonicalize_dtype(np.result_type(value))
    )


def _looks_inside(whole: Graph, rules: RuleSet | None, added: dict) -> bool:
    """Whether rules act on a scan; overrides speak of the first and last layer of all."""
    if rules is None or not whole.scans:
        return False
    if rules.overrides or not added:
        return True
    return any(op in whole.scans for op in whole.downstream(frozenset(added)))
