"""Tables of what the rules of a method do in a network: which goes where, and what arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import core
from jaxplain.core.images import by_image, image_axis
from jaxplain.core.numerics import safe_divide
from jaxplain.explainers._chunks import class_chunk_of
from jaxplain.explainers._common import (
    check_images,
    check_option,
    check_targets,
    explained_score,
    over_targets,
    run_traced,
)
from jaxplain.explainers._types import ClassChunk, Composite, Images, Network, Targets
from jaxplain.rules import boxes, composites

__all__ = ["Conservation", "Conserved", "conservation", "coverage"]


def coverage(
    fn: Network, x: jax.Array, rules: Composite | None = None, *, mass: bool = False
) -> core.Coverage:
    """Every operation on the path from the input to the output, with the rule that it gets.

    With ``mass=True`` (concrete ``x`` only) also the sum of the signal that arrives at each
    operation's output, for a signal of one at each image's top class, averaged over the batch:
    it shows where a method loses signal (the Z = 0 case of Excitation Backprop).

    Args:
        fn: a callable, a module, or a model of `jaxplain.trace`.
        x: images ``(B, H, W, C)``, or whatever ``fn`` takes.
        rules: a `RuleSet`, or the name of an LRP composite. None is what `jaxplain.lrp` takes for
            this network; the table says which that is.
        mass: whether to measure the signal.

    Returns:
        The table; its ``counts`` are the numbers of operations by (kind, rule), its ``rule_set`` is
        the name of the rules.

    Raises:
        UnsupportedOperationError: for an operation that the rules must handle and cannot.

    Example:
        >>> import jax, jax.numpy as jnp, jaxplain
        >>> x = jnp.ones((1, 2, 2, 3))
        >>> table = jaxplain.coverage(lambda x: jax.nn.relu(x).mean((1, 2)), x, jaxplain.RuleSet())
        >>> table.counts[("activation", "plain gradient")]
        1
        >>> jaxplain.coverage(lambda x: jax.nn.relu(x).mean((1, 2)), x).rule_set
        'epsilon_plus'
    """
    model = core.trace(fn, x)
    return core.coverage(
        model, cast(jax.Array, x), composites.resolved(rules, model.graph), mass=mass
    )


class Conserved(NamedTuple):
    """How much of the score is at one layer: the mean over the images, the least and the most."""

    layer: str
    shape: tuple[int, ...]
    mean: float
    least: float
    most: float


class Conservation(core.Table[Conserved]):
    """The rows of `conservation`.

    Attributes:
        shares: layer -> the share of the score at it, of every image ``(B,)``, or ``(B, K)`` for K
            targets; `jaxplain.viz.score_bars` draws them.
        rule_set: the name of the rules.
    """

    shares: dict[str, np.ndarray]
    rule_set: str


def conservation(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | Sequence[str] | None = None,
    composite: Composite | None = None,
    seed: Literal["score", "one"] = "score",
    class_chunk: ClassChunk = "auto",
) -> Conservation:
    """How much of the score arrives at each layer: the sum of the relevance there over the score.

    Where a rule set conserves, all shares are 1. What is missing, or too much, was absorbed on the
    way by biases, stabilisers and the constants in norms; under Excitation Backprop it ended where
    no child is excitatory. All layers come from one backward pass, and so do their maps:
    ``jaxplain.lrp(..., layer=[...])``.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: as in `jaxplain.lrp`.
        layer: one layer or several, by name. None takes the input and the layers that all paths
            from the image to the scores pass through: tags and modules, or, where fewer than two of
            those are such layers, all operations. A layer that a skip connection goes around holds
            only a part of the score.
        composite: the rules, as in `jaxplain.lrp`; `jaxplain.rules.excitation_rules()` are those of
            Excitation Backprop.
        seed: the relevance at the scores that the share is of: the ``"score"`` or ``"one"``.
        class_chunk: how many of K classes to take at once: with ``"auto"`` as many as 256
            MiB hold; None takes all.

    Returns:
        A table with a row for each layer, in order of computation.

    Raises:
        TypeError, ValueError, UnsupportedOperationError: as in `jaxplain.lrp`.

    Reference: Ali et al., *XAI for transformers: better explanations through conservative
    propagation*, ICML 2022.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> weight, bias = jnp.array([[3.0], [1.0]]), 1.0
        >>> fn = lambda x: jaxplain.tag(x * 2, "twice").reshape(1, -1) @ weight + bias
        >>> x = jnp.ones((1, 1, 2, 1))  # the score is 9, of which the bias is 1
        >>> table = jaxplain.conservation(fn, x, 0, layer=["input", "twice"], composite="epsilon")
        >>> [(row.layer, round(row.mean, 3)) for row in table]
        [('input', 0.889), ('twice', 0.889)]
    """
    check_option("seed", seed, ("score", "one"))
    x = check_images(x)
    model = core.trace(fn, x)
    targets = check_targets(model.whole, targets, x.shape[0])
    rules = composites.resolved(composite, model.graph)
    boxes.require_box(rules, composite if isinstance(composite, str) else "")
    if layer is None:
        names = ("input", *_cuts(model.graph))
    else:
        names = (layer,) if isinstance(layer, str) else tuple(layer)
    if not names:
        raise ValueError("layer is an empty sequence; name at least one layer")
    chunk = class_chunk_of(class_chunk, model, names, targets)
    found = run_traced(
        _shares, model, x, targets, layers=names, class_chunk=chunk, rules=rules, seed=seed
    )
    shares = {name: np.asarray(found[name]) for name in names}
    table = Conservation(
        Conserved(name, tuple(model.variable(name).aval.shape), *_statistics(share))
        for name, share in shares.items()
    )
    table.shares, table.rule_set = shares, rules.name
    return table


def _statistics(share: np.ndarray) -> tuple[float, float, float]:
    return float(share.mean()), float(share.min()), float(share.max())


def _shares(
    model: core.Model, x: jax.Array, targets: Any, *, layers, class_chunk, rules, seed
) -> dict[str, jax.Array]:
    model.check_gradient(layers, rules)
    values = {name: model.variable(name) for name in layers}
    places = {name: image_axis(model.whole, v) for name, v in values.items()}
    lost = next((name for name, place in places.items() if place is None), None)
    if lost is not None:
        raise ValueError(
            f"it is not known where the images of the batch lie in {model.graph.describe(lost)}; "
            "give one image, or leave the layer out"
        )
    scores, _, pull = model.pull_values(x, values, rules)

    def total(name: str, relevance: jax.Array) -> jax.Array:
        wide = relevance.astype(jnp.promote_types(relevance.dtype, jnp.float32))
        return by_image(wide, cast(tuple, places[name])).sum(1)

    def one(signal: jax.Array) -> dict[str, jax.Array]:
        seeded = signal * scores if seed == "score" else signal
        whole = explained_score(jnp.ones_like(seeded), seeded)
        return {name: safe_divide(total(name, r), whole) for name, r in pull(seeded).items()}

    return over_targets(one, scores, targets, class_chunk)


def _cuts(graph: core.Graph) -> list[str]:
    """The layers that all paths from the input to the output pass through."""
    last: dict[Any, int] = {}
    for i, op in enumerate(graph.ops):
        last.update(dict.fromkeys(op.inputs, i))
    for v in graph.outputs:
        last[v] = len(graph.ops)
    found, open_until = [], last.get(graph.inputs[0], -1)
    for i, op in enumerate(graph.ops):
        if open_until <= i and len(op.outputs) == 1:
            found.append(op.output)
        open_until = max([open_until, *(last.get(v, -1) for v in op.outputs)])
    names: dict[Any, str] = {}
    for name, v in graph.names.items():
        names.setdefault(v, name)
    floating = [v for v in found if v in names and jnp.issubdtype(v.aval.dtype, jnp.floating)]
    own = [names[v] for v in floating if not graph.is_counted(names[v])]
    if len(own) > 1:
        return own
    return [names[v] for v in floating if not graph.producer[v].identity]
