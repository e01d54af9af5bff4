"""What a gallery tells of each map: classes, whether they are right, and numbers to sort by."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import data
from jaxplain.evaluation import pointing, similarity, stability
from jaxplain.evaluation.studies.pointing import pointed_at
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.explanation.choice import Choice
from jaxplain.postprocess import resize_matrix

#: Places, down and across, at which the maps of methods are compared.
_GRID = 14
#: Maps of one shape are measured so many at once; the last ones are filled up.
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Look:
    """A method of the run: its name in the maps, how it is called and drawn, and how it points."""

    name: str
    title: str
    style: str
    blur: bool


@dataclasses.dataclass(eq=False)
class Entry:
    """A record and a class that was explained for it.

    Attributes:
        record: the number of its picture in the gallery.
        right: whether the predicted class is one of the record's labels; None where unknown.
        maps: of each method, raw.
        size: (height, width) of the record's image.
        boxes: of the objects of the class, in shares of the image; points, hits: of each method.
    """

    id: str
    record: int
    size: tuple[int, int]
    target: int
    score: float | None
    predicted: int | None
    right: bool | None
    labels: list[int]
    maps: list[np.ndarray]
    boxes: Any
    agreement: float | None = None
    concentration: list[float] = dataclasses.field(default_factory=list)
    points: list[list[float]] = dataclasses.field(default_factory=list)
    hits: list[bool | None] = dataclasses.field(default_factory=list)

    def forget(self) -> None:
        """Lets the maps go, which are written."""
        self.maps = []


def looks_of(maps: data.Maps) -> list[Look]:
    """The methods of a run, in the order of the maps."""
    found = []
    for name in maps[0].maps:
        catalogued, _, part = name.partition("/")
        method = CATALOGUE.get(catalogued)
        if method is None:  # one's own, of which it is not known whether it has a sign
            found.append(Look(name, name, "signed", False))
            continue
        said = maps.settings.get("settings", {}).get(catalogued, {})
        layer = said.get("layer", maps.settings.get("layer"))
        choice = Choice(catalogued, layer, said=said)
        title = f"{choice.title}, {part}" if part else choice.title
        found.append(Look(name, title, method.style, choice.sparse))
    return found


class Labels:
    """What classes are called, and which predictions and boxes belong to which.

    Attributes:
        target_names, output_names, label_names: of the classes explained, of the network, of the
            data set.
        unknown: what cannot be told, in sentences.
    """

    def __init__(self, maps: data.Maps, source: Any, class_names: Sequence[str] | int | None):
        self.label_names = tuple(source.class_names)
        given = maps.class_names if class_names is None else class_names
        count = given if isinstance(given, int) else len(given)
        self.output_names = () if isinstance(given, int) else tuple(given)
        self._of_labels = str(maps.settings["targets"]).startswith("labels ")
        self.target_names = self.label_names if self._of_labels else self.output_names
        self.unknown: list[str] = []
        self._signals: np.ndarray | None = None
        if maps[0].scores is None:
            self.unknown.append(
                "Scores and predicted classes are not known: the maps were made before these were "
                "kept."
            )
        if not self.label_names:
            self.unknown.append(
                "Whether a prediction is right is not known: the data set has no labels."
            )
            return
        try:
            if not count:
                raise ValueError("name the classes of the network, which the maps do not tell.")
            signals = data.cue_signals(self.label_names, count, self.output_names)
            self._signals = signals > 0
        except ValueError as error:
            self.unknown.append(f"Whether a prediction is right is not known: {error}")

    def entries(self, one: data.Explanation, record: Any, number: int) -> Iterator[Entry]:
        """An entry for each class that was explained for a record."""
        present = sorted({int(label) for label in record.labels})
        right = None
        if self._signals is not None and one.predicted is not None and present:
            right = bool(self._signals[present, self._output(one.predicted)].any())
        several = one.targets.ndim == 1
        for k, target in enumerate(one.targets.tolist() if several else [int(one.targets)]):
            yield Entry(
                id=one.id,
                record=number,
                size=one.size,
                target=target,
                score=None if one.scores is None else float(one.scores.reshape(-1)[k]),
                predicted=one.predicted,
                right=right,
                labels=present,
                maps=[m[k] if several else m for m in one.maps.values()],
                boxes=self._boxes(record, target),
            )

    def _output(self, index: int) -> int:
        assert self._signals is not None
        if index >= self._signals.shape[1]:
            raise ValueError(
                f"The network has a class {index}, so it cannot have {self._signals.shape[1]} "
                "classes."
            )
        return index

    def _boxes(self, record: Any, target: int) -> np.ndarray | list:
        """The boxes ``(n, 4)`` of the objects of a class."""
        if record.boxes is None:
            return []
        if self._of_labels:
            return record.boxes[record.labels == target]
        if self._signals is None:
            return []
        return record.boxes[self._signals[record.labels, self._output(target)]]

    @staticmethod
    def called(names: Sequence[str], used: Iterable[int | None]) -> dict[int, str]:
        """The names of the classes that occur; those without one are called by their number."""
        return {
            i: names[i] if i < len(names) else f"class {i}"
            for i in sorted({i for i in used if i is not None})
        }


def measure(entries: Sequence[Entry], looks: Sequence[Look]) -> None:
    """Fills in concentration, agreement, and whether each map points at an object of the class."""
    every = [m for entry in entries for m in entry.maps]
    gini = iter(of_shapes(jax.jit(stability.gini), every))
    for entry in entries:
        entry.concentration = [float(next(gini)) for _ in looks]
        for m, look in zip(entry.maps, looks, strict=True):
            row, column = pointed_at(m, entry.size, blur=look.blur).tolist()
            height, width = entry.size
            entry.points.append([round((column + 0.5) / width, 4), round((row + 0.5) / height, 4)])
            hit = None
            if len(entry.boxes):
                hit = bool(pointing.on_boxes(np.array([row, column]), np.asarray(entry.boxes)))
            entry.hits.append(hit)
        scale = np.array([entry.size[1], entry.size[0]] * 2)
        boxes = np.asarray(entry.boxes, np.float64).reshape(-1, 4) / scale
        entry.boxes = boxes.round(4).tolist()
    pairs = list(itertools.combinations(range(len(looks)), 2))
    if not pairs or not entries:
        return
    grids = [_grid(m, look) for e in entries for m, look in zip(e.maps, looks, strict=True)]
    maps = np.stack(grids).reshape(len(entries), len(looks), _GRID, _GRID)
    correlate = jax.jit(similarity.rank_correlation)
    sums = np.zeros(len(entries))
    for a, b in pairs:
        both = np.stack([maps[:, a], maps[:, b]], 1)
        sums += of_shapes(lambda m: correlate(m[:, 0], m[:, 1]), list(both))
    for entry, total in zip(entries, sums, strict=True):
        entry.agreement = float(total / len(pairs))


def _grid(heat_map: np.ndarray, look: Look) -> np.ndarray:
    """A map at few places, each the mean of what lies there."""
    heat_map = np.abs(heat_map) if look.style == "gray" else heat_map
    rows, columns = (resize_matrix(n, _GRID, "bilinear", antialias=True) for n in heat_map.shape)
    return (rows @ heat_map @ columns.T).astype(np.float32)


def of_shapes(function: Any, maps: Sequence[np.ndarray]) -> list[Any]:
    """A function of stacked arrays, of arrays of few shapes; one program for each shape."""
    found: list[Any] = [None] * len(maps)
    shapes: dict[tuple, list[int]] = {}
    for i, one in enumerate(maps):
        shapes.setdefault(one.shape, []).append(i)
    for places in shapes.values():
        for begin in range(0, len(places), _AT_ONCE):
            own = places[begin : begin + _AT_ONCE]
            filled = own + own[-1:] * (_AT_ONCE - len(own))
            results = np.asarray(function(np.stack([maps[i] for i in filled])))
            for i, result in zip(own, results, strict=False):
                found[i] = result
    return found
