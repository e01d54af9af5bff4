"""The questions that a data set asks of a map, in groups that go through the network together.

A question is an image and one of its classes: where is it? Images of one shape are explained
together, so that few programs are compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import data, postprocess
from jaxplain.core import Graph, trace
from jaxplain.core.model import Model
from jaxplain.core.numerics import class_scores
from jaxplain.core.program import Program
from jaxplain.evaluation import pointing

__all__ = [
    "Explainer",
    "Group",
    "Question",
    "Questions",
    "boxes_of",
    "predicted",
    "questions",
    "together",
]

#: Images ``(B, h, w, 3)`` and signals over the outputs ``(B, K, N)`` to maps ``(B, K, h', w')``.
#: It is traced by JAX, as `jax.jit` does.
Explainer = Callable[[jax.Array, jax.Array], jax.Array]

_MAPS, _MAP_LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A class to be found in an image.

    Attributes:
        item: the image.
        label: the class.
        difficult: whether it is in the difficult subset.
        mask: bool ``(H, W)`` of the class's objects; None where only their boxes are known.
    """

    item: data.Item
    label: int
    difficult: bool
    mask: np.ndarray | None


def questions(item: data.Item) -> Iterator[Question]:
    """The classes that are asked for in an image.

    A class whose objects are all marked as difficult is left out; otherwise all its objects count,
    the ones marked as difficult too. Masks are used where the record has them, boxes elsewhere.
    """
    record = item.record
    if record.boxes is None and record.masks is None:
        raise ValueError(f"record {record.id} has neither boxes nor masks; the protocol needs them")
    present = np.unique(record.labels)
    for label in present:
        own = record.labels == label
        if record.difficult[own].all():
            continue
        if record.masks is not None:
            area, mask = record.masks[own].sum(), record.masks[own].any(0)
        else:
            boxes = np.asarray(record.boxes)[own]
            area, mask = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum(), None
        hard = bool(pointing.is_difficult(area, math.prod(record.size), len(present)))
        yield Question(item, int(label), hard, mask)


def boxes_of(question: Question) -> np.ndarray:
    """The boxes ``(n, 4)`` of the class's objects; around their masks where there are no boxes."""
    record = question.item.record
    own = record.labels == question.label
    if record.boxes is not None:
        return record.boxes[own]
    return postprocess.tightest_box(record.masks[own])


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Questions about images of one shape, K about each of them.

    Attributes:
        questions: at most the batch size; the K of an image stand together.
        full: ``B K`` questions: the same, those of the last image repeated up to the size of an
            earlier group of this shape, so that it needs no program of its own.
        pixels: uint8 ``(B, h, w, 3)``, the images of ``full``.
        signals: ``(B, K, N)`` of ``full``.
    """

    questions: list[Question]
    full: list[Question]
    pixels: jax.Array
    signals: jax.Array


class Questions:
    """All questions that a data set asks of a network. Iterate once; then see what was left out.

    Args:
        source: records with boxes or masks.
        prepare: a record to uint8 pixels ``(h, w, 3)`` of one of few shapes.
        signals: ``(classes, N)``, what a class is to the network's outputs, see `data.cue_signals`.
            Classes with a row of zeros are not asked for.
        batch_size: questions in a group. So many images of one question are in it, or half as many
            of two, and so on by powers of two: three questions about an image are two and one.
            What does not fill a group is asked one by one.
        indices: which records; None for all.
        workers: processes that read; 0 for threads.
        progress: called with the number of images that are done, and of all.

    Attributes:
        images: how many were read.
        failures: (id, reason) of those that could not be.
        not_asked: class -> how many questions were left out as the network has no output for it.
    """

    def __init__(
        self,
        source: data.Source,
        prepare: Callable[[data.Record], np.ndarray],
        signals: np.ndarray,
        *,
        batch_size: int = 8,
        indices: Iterable[int] | None = None,
        workers: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.source, self.prepare, self.signals = source, prepare, signals
        self.batch_size, self.workers, self.progress = batch_size, workers, progress
        self.indices = None if indices is None else list(indices)
        self.images = 0
        self.failures: list[tuple[str, str]] = []
        self.not_asked: dict[str, int] = {}

    def __iter__(self) -> Iterator[Group]:
        waiting: dict[tuple, list[list[Question]]] = {}  # of (shape, K), K questions each
        full: set[tuple[int, ...]] = set()  # shapes that have filled a batch of single questions
        none = True
        for own in self._asked():
            none = False
            shape = own[0].item.pixels.shape
            for part in _parts(own, self.batch_size):
                key = shape, len(part)
                waiting.setdefault(key, []).append(part)
                if len(waiting[key]) * len(part) > self.batch_size - len(part):
                    full |= {shape} if len(part) == 1 else set()
                    yield self._group(waiting.pop(key))
                    self._tell(waiting)
        # A program for each number of questions would take longer to compile than it saves.
        rest: dict[tuple[int, ...], list[list[Question]]] = {}
        for (shape, _), parts in waiting.items():
            rest.setdefault(shape, []).extend([q] for part in parts for q in part)
        for shape, single in rest.items():
            for start in range(0, len(single), self.batch_size):
                self._tell(rest)
                own = single[start : start + self.batch_size]
                full |= {shape} if len(own) == self.batch_size else set()
                # A shape that comes up now for the first time compiles anew in any case.
                yield self._group(own, self.batch_size if shape in full else len(own))
                rest[shape] = single[start + self.batch_size :]
        self._tell({})
        if none:
            raise ValueError(
                "there was no question to ask: no image could be read, or the network has no "
                "output for any class in them"
            )

    def _tell(self, waiting: Mapping[Any, list[list[Question]]]) -> None:
        if self.progress is not None:
            unfinished = {own[0].item.index for group in waiting.values() for own in group}
            total = len(self.source) if self.indices is None else len(self.indices)
            self.progress(self.images + len(self.failures) - len(unfinished), total)

    def _asked(self) -> Iterator[list[Question]]:
        """Those of each image that has any."""
        items = data.load(self.source, self.prepare, indices=self.indices, workers=self.workers)
        for item in items:
            if item.error is not None:
                self.failures.append((item.error.record, item.error.reason))
                continue
            self.images += 1
            own = []
            for question in questions(item):
                if self.signals[question.label].any():
                    own.append(question)
                else:
                    name = self.source.class_names[question.label]
                    self.not_asked[name] = self.not_asked.get(name, 0) + 1
            if own:
                yield own

    def _group(self, own: list[list[Question]], size: int = 0) -> Group:
        _free_programs()
        full = own + [own[-1]] * (size - len(own))
        pixels = jnp.asarray(np.stack([image[0].item.pixels for image in full]))
        signals = [[self.signals[q.label] for q in image] for image in full]
        return Group(sum(own, []), sum(full, []), pixels, jnp.asarray(np.stack(signals)))


def _parts(own: list[Question], limit: int) -> Iterator[list[Question]]:
    """An image's questions in parts whose lengths are powers of two, at most the limit."""
    while own:
        size = 1 << (min(len(own), limit).bit_length() - 1)
        yield own[:size]
        own = own[size:]


def together(
    methods: Mapping[str, Callable], to_input: Callable[[jax.Array], jax.Array] = lambda x: x
) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Pixels and targets to the maps of all methods, by one program that has one forward pass.

    Args:
        methods: name -> images and targets to maps.
        to_input: pixels to images.

    Returns:
        Pixels and targets, classes ``(B,)`` or ``(B, K)`` or signals ``(B, K, N)``, to name -> maps
        ``(B, h, w)`` or ``(B, K, h, w)``. A method whose maps have another shape is a `ValueError`.
    """

    def explain(pixels: jax.Array, targets: jax.Array) -> list[jax.Array]:
        x, found = to_input(pixels), []
        lead = targets.shape if jnp.issubdtype(targets.dtype, jnp.integer) else targets.shape[:-1]
        for name, method in methods.items():
            maps = method(x, targets)
            if maps.ndim != len(lead) + 2 or maps.shape[: len(lead)] != lead:
                raise ValueError(f"{name} must give maps {(*lead, 'h', 'w')}, not {maps.shape}")
            found.append(maps)
        return found

    program = Program(explain)  # of a list, for JAX sorts the names of a dict
    return lambda pixels, targets: dict(zip(methods, program(pixels, targets), strict=True))


def _free_programs() -> None:
    """Drops compiled programs when Linux will soon map no more of them, for XLA crashes then.

    On a CPU a large network's program takes hundreds of maps, for every shape and method.
    """
    try:
        limit = int(_MAP_LIMIT.read_text())
        used = _MAPS.read_text().count("\n")
    except OSError:  # no Linux: no such limit
        return
    if used > limit / 2:
        jax.clear_caches()


def predicted(fn: Callable, x: jax.Array, top: int | None = None) -> jax.Array:
    """The class of the highest score, ``(B,)``; of a score map its mean. One compiled program.

    With ``top`` it is so many classes, ``(B, top)``, the best first.

    Example:
        >>> fn, x = lambda x: x.mean((1, 2)), jnp.array([[3.0, 1, 2], [1, 3, 2]])[:, None, None]
        >>> predicted(fn, x).tolist(), predicted(fn, x, top=2).tolist()
        ([0, 1], [[0, 2], [1, 2]])
    """
    model = trace(fn, x)
    classes = _predicted(model.graph, 1 if top is None else top, model.constants, x)
    return classes[:, 0] if top is None else classes


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predicted(graph: Graph, top: int, constants: list, x: jax.Array) -> jax.Array:
    scores = class_scores(Model(graph, constants).forward(x)[0])
    return jax.lax.top_k(scores, min(top, scores.shape[-1]))[1]
