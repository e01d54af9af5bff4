"""What the attention methods share: which layers follow each other, and whose row is the map."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import Graph, UnsuitableNetworkError, trace
from jaxplain.core.attention import Attention, mixes_places
from jaxplain.core.axes import Layout, single
from jaxplain.core.primitives import is_fused
from jaxplain.core.tokens import read_tokens
from jaxplain.core.views import view_of
from jaxplain.explainers._chunks import class_chunk_of
from jaxplain.explainers._common import (
    check_images,
    check_targets,
    over_targets,
    run_traced,
)
from jaxplain.explainers._types import ClassChunk, Images, Network, Targets, Tokens

_REMEDY = "use lrp, or grad_cam at a layer, which need no product over blocks"


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Attention layers one behind the other, all among the same tokens.

    Attributes:
        blocks: them, in order, each with square weights.
        pooling: an attention by one learned query that reads the tokens at the end, or None.
        readers: how much each token counts for the scores, where there is no pooling: 1 for a class
            token, equal shares of 1 for patches that are averaged.
    """

    blocks: tuple[Attention, ...]
    pooling: Attention | None
    readers: np.ndarray | None

    @property
    def layers(self) -> tuple[Attention, ...]:
        return (*self.blocks, self.pooling) if self.pooling else self.blocks

    @property
    def tokens(self) -> int:
        return _shape(self.layers[0])[3]

    def restricted(self, numbers: Sequence[int]) -> Flow:
        """The same with these of the blocks alone."""
        return dataclasses.replace(self, blocks=tuple(self.blocks[i] for i in numbers))


@functools.lru_cache(maxsize=64)
def flow(graph: Graph, method: str) -> Flow:
    """The attention layers of a network of which the product over blocks is defined.

    Raises:
        UnsuitableNetworkError: it is not, and why.
    """
    found = graph.blocks.attention
    if not found:
        _refuse(method, _no_attention(graph), "use a method that needs no attention")
    for i, layer in enumerate(found):
        _check(graph, method, i, layer, found)
    *before, last = found
    pooling = last if _shape(last)[2] == 1 < _shape(last)[3] else None
    blocks = tuple(before) if pooling else tuple(found)
    if before:
        _check_between(graph, method, found)
    if pooling:
        return Flow(blocks, pooling, None)
    return Flow(blocks, None, _readers(graph, method, last))


def _refuse(method: str, why: str, remedy: str = _REMEDY) -> NoReturn:
    raise UnsuitableNetworkError(
        f"{method} needs attention layers one behind the other that all look from every token to "
        f"every token, but {why}; {remedy}"
    )


def _no_attention(graph: Graph) -> str:
    for op in graph.ops:
        if is_fused(op.equations[-1]):
            name = op.equations[-1].primitive.name
            return (
                f"the network computes {name!r} at {op.place} in one fused kernel, which has no "
                'attention weights to look at; give jax.nn.dot_product_attention implementation="'
                'xla", or switch the fused kernel off'
            )
    return "the network has no attention (no softmax over tokens whose values are summed with it)"


def _shape(layer: Attention) -> tuple[int, int, int, int]:
    assert layer.view is not None
    return layer.view.shape


def _check(graph: Graph, method: str, i: int, layer: Attention, found: list[Attention]) -> None:
    name = f"attention:{i}"
    if layer.view is None:
        graph.weights_view(name)  # says what is not known
    if layer.windows:
        _refuse(method, f"{graph.describe(name)} is attention within windows")
    images, _, queries, keys = _shape(layer)
    ends = layer is found[-1] and queries == 1 < keys
    if queries != keys and not ends:
        _refuse(method, f"{graph.describe(name)} looks from {queries} tokens to {keys} others")
    first = _shape(found[0])[3]
    if keys != first:
        _refuse(
            method,
            f"'attention:0' is among {first} tokens, and {graph.describe(name)} among {keys}",
        )


def _check_between(graph: Graph, method: str, found: Sequence[Attention]) -> None:
    """An error if attention layers are not one behind the other, or something else mixes tokens."""
    products = {layer.product for layer in found}
    behind = graph.downstream(frozenset([found[0].weights]))
    for i, (layer, following) in enumerate(zip(found, found[1:], strict=False)):
        ahead = graph.downstream(frozenset([layer.weights]))
        if graph.producer[following.weights] not in ahead:
            _refuse(method, f"'attention:{i}' and 'attention:{i + 1}' stand side by side")
    before_last: set = set()
    stack = [found[-1].weights, *found[-1].product.inputs]
    while stack:
        op = graph.producer.get(stack.pop())
        if op is not None and op not in before_last:
            before_last.add(op)
            stack += op.inputs
    for op in graph.ops:
        if op in behind and op in before_last and op not in products and mixes_places(graph, op):
            _refuse(method, f"{op.name!r} at {op.place} mixes tokens between them too")


def _readers(graph: Graph, method: str, last: Attention) -> np.ndarray:
    """How much each token counts: a class token's row, or the mean of those of the patches."""
    n, keys = _shape(last)[2], last.keys
    reads = None
    if last.query is not None:
        reads = read_tokens(graph, last.product.output, last.query)
    if reads is None:
        _refuse(method, "it cannot be told which tokens the scores read", _REMEDY)
    patches = range(keys.before, n - keys.after) if keys.factors else range(n)
    chosen = sorted(reads.single or reads.pooled.intersection(patches) or reads.pooled)
    if not chosen:
        _refuse(method, "the scores read none of the tokens", _REMEDY)
    weights = np.zeros(n)
    weights[chosen] = 1 / len(chosen)
    return weights


def spans(graph: Graph, found: Flow) -> tuple[list[Any], list[Any], Any]:
    """The stream before and behind each block, and the last block's output, which the head reads.

    None is the image before the first block, and stands for all that a network without blocks is.

    Raises:
        UnsuitableNetworkError: blocks cannot be told, or have outputs of several shapes.
    """
    outputs = graph.blocks.outputs
    if found.pooling:
        read = graph.downstream(frozenset([found.pooling.weights]))
        outputs = [v for v in outputs if graph.producer[v] not in read]
        if not found.blocks:
            return [None], [None], None
    starts: list[Any] = []
    ends: list[Any] = []
    for layer in found.blocks:
        behind = graph.downstream(frozenset([layer.weights]))
        i = next((i for i, v in enumerate(outputs) if graph.producer[v] in behind), None)
        if i is None:
            _refuse("legrad", f"behind {graph.name_of(layer.weights)!r} ends no residual block")
        starts.append(outputs[i - 1] if i else None)
        ends.append(outputs[i])
    last = outputs[-1]
    for v in ends:
        if v.aval.shape != last.aval.shape:
            _refuse(
                "legrad",
                f"the output {graph.name_of(v)!r} of a block has shape {v.aval.shape}, and the "
                f"last one's is {last.aval.shape}, which the head reads",
            )
    return starts, ends, last


def chosen_blocks(blocks: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The numbers of the attention layers that count, in order; an error for one there is not."""
    if blocks is None:
        return tuple(range(count))
    if isinstance(blocks, str) or not hasattr(blocks, "__iter__"):
        raise TypeError(f"blocks must be a sequence of ints, such as range(6, 12), not {blocks!r}")
    numbers = list(blocks)
    for i in numbers:
        if isinstance(i, bool) or not isinstance(i, int | np.integer):
            raise TypeError(f"blocks must be ints, and not {type(i).__name__}")
        if not -count <= i < count:
            raise ValueError(
                f"there is no block {i}: the network has {count} attention layers, numbered 0 to "
                f"{count - 1} or -{count} to -1"
            )
    if not numbers:
        raise ValueError("blocks is empty; name at least one, or leave it out for all")
    return tuple(sorted({int(i) % count for i in numbers}))


def canonical(layer: Attention, value: jax.Array) -> jax.Array:
    """Weights, or what belongs to them, as ``(B, heads, queries, keys)`` in float32 or wider."""
    assert layer.view is not None
    wide = jnp.promote_types(value.dtype, jnp.float32)
    return layer.view.maps(value).astype(wide)


def whole(weights: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """The same with 0 in rows of NaN: a query all of whose keys are masked looks at none."""
    masked = jnp.isnan(weights).all(-1, keepdims=True)
    return tuple(jnp.where(masked, 0, v) for v in (weights, *others))


def read_out(found: Flow, matrix: jax.Array, last: jax.Array | None) -> jax.Array:
    """The map's row ``(B, tokens)`` of what every token is made of, a matrix ``(B, N, N)``.

    ``last`` is the pooling's row ``(B, 1, N)``.
    """
    if last is not None:
        return (last @ matrix)[:, 0]
    return jnp.einsum("q,bqk->bk", jnp.asarray(found.readers, matrix.dtype), matrix)


def run(
    impl: Callable,
    method: str,
    fn: Network,
    x: Images,
    targets: Targets,
    tokens: Tokens,
    blocks: Sequence[int] | None,
    class_chunk: ClassChunk = None,
    **static: Any,
) -> jax.Array:
    """Check the arguments, trace ``fn`` and make maps of what ``impl`` returns.

    ``impl(model, found, x, **static)`` gives the scores, and a function from a signal at them to
    rows ``(B, tokens)``.
    """
    x = check_images(x)
    model = trace(fn, x)
    targets = check_targets(model.whole, targets, x.shape[0])
    found = flow(model.graph, method)
    numbers = chosen_blocks(blocks, len(found.blocks))
    layout = token_layout(model.graph, found, tokens)
    return run_traced(
        _maps,
        model,
        x,
        targets,
        rows_of=impl,
        method=method,
        layout=layout,
        numbers=numbers,
        class_chunk=class_chunk_of(class_chunk, model, ["input"], targets),
        options=tuple(static.items()),
    )


def _maps(model, x, targets, *, rows_of, method, layout, numbers, class_chunk, options):
    found = flow(model.graph, method).restricted(numbers)
    scores, rows = rows_of(model, found, x, **dict(options))

    def one(seed):
        row = rows(seed)
        return layout.maps(row[..., None])[..., 0]

    return over_targets(one, scores, targets, class_chunk)


def token_layout(graph: Graph, found: Flow, tokens: Any) -> Any:
    """How maps lie in tokens ``(B, N, 1)``, by the analysis of axes or the word of the user."""
    batch, n = graph.inputs[0].aval.shape[0], found.tokens
    axes = (single("batch", batch), found.layers[0].keys, single("channel", 1))
    layout = Layout.of(axes)
    if layout is not None and layout.batch == batch and layout.height * layout.width > 1:
        if tokens is None:
            return layout
        raise ValueError(
            "tokens= is for networks of which it is not known how maps lie in their tokens; those "
            f"of this one are known to be {str(layout)!r}: leave it out"
        )
    if tokens is None:
        raise ValueError(
            f"it is not known where in the image the {n} tokens of the attention layers lie; say "
            "it with tokens=(height, width), or with a function from values (B, tokens, C) to maps "
            "(B, h, w, C), such as lambda v: v[:, 1:].reshape(len(v), h, w, -1)"
        )
    return view_of(f"the tokens of shape ({batch}, {n}, 1)", (batch, n, 1), (), batch, tokens)
