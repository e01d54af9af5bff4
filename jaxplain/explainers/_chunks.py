"""How many classes are explained at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxplain.core import Graph, Model
from jaxplain.explainers._types import ClassChunk

#: Bytes that the signals of the classes that are explained at once may take, about.
BUDGET = 2**28
#: So many signals of the size of the largest value are held at once: of both branches of a block,
#: what a layer reads and what it gives, and a working copy.
_LARGEST = 4


def class_chunk_of(
    class_chunk: ClassChunk,
    model: Model,
    layers: Sequence[str],
    targets: Any,
    holds: Callable[[Graph], Sequence[Any]] | None = None,
) -> int | None:
    """A number of classes, or None for all; ``"auto"`` is what `BUDGET` holds.

    Args:
        class_chunk: what the user says.
        model, layers: the signals are those of the values between these layers and the scores.
        targets: as `check_targets` returns them.
        holds: the values of which every class has copies of its own from beginning to end.

    Raises:
        ValueError: it is neither a positive int nor None nor ``"auto"``.
    """
    if class_chunk is None or (isinstance(class_chunk, int) and class_chunk >= 1):
        return None if class_chunk is None else int(class_chunk)
    if class_chunk != "auto":
        raise ValueError(f'class_chunk must be a positive int, "auto" or None, not {class_chunk!r}')
    if targets is None or targets.ndim < 2:
        return None  # there is one class
    start = [model.variable(name) for name in layers]
    whole = model.whole if all(v in model.whole.variables for v in start) else model.graph
    above = whole.downstream(frozenset(start))
    largest = max(map(_bytes, [*start, *(v for op in above for v in op.outputs)]))
    held = sum(map(_bytes, holds(model.graph))) if holds else 0
    return max(1, BUDGET // (_LARGEST * (largest + held)))


def _bytes(v: Any) -> int:
    return v.aval.size * v.aval.dtype.itemsize
