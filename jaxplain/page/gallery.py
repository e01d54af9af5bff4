"""A static gallery: what a run over a data set has found, as a folder for a browser.

The folder needs no server: its page works from a disk, where a page may load scripts and pictures
but fetch nothing. So the numbers of all maps are one script, and what is shown of a single record
in full is a script and a picture of its own, loaded when it is opened. Files are named by numbers:
what a record or a class is called is text, and never a path or markup.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain import data
from jaxplain.core.addresses import local
from jaxplain.core.writing import new_folder
from jaxplain.page.drawing import Drawn, Shown, colour_table, draw, jpeg, thumbnail
from jaxplain.page.numbers import Entry, Labels, Look, looks_of, measure

__all__ = ["GallerySummary", "gallery"]

_STATIC = ("index.html", "gallery.css", "gallery.js", "detail.js")
#: Records that are measured at once.
_TOGETHER = 32


@dataclasses.dataclass(frozen=True)
class GallerySummary:
    """What a gallery holds.

    Attributes:
        records: how many records are shown.
        entries: how many pairs of a record and an explained class.
        failures: (id, reason) of records that are not shown.
        unknown: what cannot be told, in sentences: whether predictions are right, for example.
    """

    records: int
    entries: int
    failures: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]


def gallery(
    maps: str | os.PathLike[str],
    source: Any,
    output: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | int | None = None,
    size: int = 448,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> GallerySummary:
    """Makes a page of the maps that `jaxplain.explain_dataset` has written, finished or not.

    Each pair of a record and a class that was explained for it is a thumbnail, with one map over
    the image. They can be sorted and filtered by class, score, whether the prediction is right,
    whether the map's maximum lies on an object of the class (the pointing game of Zhang et al.
    2018), concentration (`jaxplain.evaluation.stability.gini`), and agreement of the methods: the
    mean of Spearman's rank correlation over all pairs, at 14 x 14 places.

    Args:
        maps: the folder or address that the run wrote to.
        source: the data set that was explained, whose images are shown: of `jaxplain.data`, or
            whatever `data.as_source` takes.
        output: the folder to make; it appears when it is complete.
        class_names: of the network, or how many classes it has; by default what the maps say.
        size: the longest side of an image in full.
        workers: processes that read images; 0 for threads.
        progress: called with the number of records that are done, and of all.

    Raises:
        FileNotFoundError: there are no maps.
        FileExistsError: ``output`` exists.
        ValueError: the maps are of another data set, no record can be shown, or an argument is
            wrong.
        ImportError: pillow, matplotlib, grain or array-record is not installed.

    Example:
        >>> import numpy as np, tempfile
        >>> from pathlib import Path
        >>> from jaxplain import explain_dataset
        >>> from jaxplain.page import gallery
        >>> images = [np.full((4, 6, 3), 10 * i, np.uint8) for i in range(3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = explain_dataset(
        ...         lambda x: x.mean((1, 2)), images, f"{folder}/maps",
        ...         {"grey": lambda fn, x, targets: x.mean(-1)}, prepare=lambda r: r.image,
        ...         to_input=lambda pixels: pixels / 255.0)
        ...     made = gallery(f"{folder}/maps", images, f"{folder}/page")
        ...     names = sorted(path.name for path in Path(folder, "page").iterdir())
        >>> made.records, names[:3]
        (3, ['data.js', 'detail.js', 'gallery.css'])
    """
    if size < 1:
        raise ValueError(f"size must be positive, not {size}.")
    found, source, output = data.open_maps(maps), data.as_source(source), local(output)
    _check(found, source)
    if not len(found):
        raise ValueError(f"The run in {os.fspath(maps)} has no maps yet.")
    labels = Labels(found, source, class_names)
    looks = looks_of(found)
    with new_folder(output) as folder:
        page = _Page(folder, looks)
        for group in _groups(found, source, Shown(size), workers):
            page.add(group, labels)
            if progress is not None:
                progress(page.done, len(found))
        if not page.entries:
            raise ValueError(
                f"None of the {len(found)} records can be shown: {page.failures[0][0]}: "
                f"{page.failures[0][1]}"
            )
        page.failures += found.failures
        page.finish(found, source, labels)
    found.close()
    return GallerySummary(
        page.records, len(page.entries), tuple(page.failures), tuple(labels.unknown)
    )


def _check(maps: data.Maps, source: Any) -> None:
    for what, now in (("source", source.name), ("records of the source", len(source))):
        before = maps.settings.get(what)
        if before != now:
            raise ValueError(
                f"The maps are of a data set with {what} = {json.dumps(before)}, not "
                f"{json.dumps(now)}; name the data set and split that were explained."
            )


def _groups(
    maps: data.Maps, source: Any, prepare: Shown, workers: int
) -> Iterator[list[tuple[data.Explanation, data.Item]]]:
    items = data.load(source, prepare, indices=maps.indices, workers=workers)
    pairs = zip(maps, items, strict=True)
    while group := list(itertools.islice(pairs, _TOGETHER)):
        yield group


class _Page:
    """The folder as it grows."""

    def __init__(self, folder: Path, looks: Sequence[Look]):
        self.folder, self.looks = folder, looks
        self.entries: list[Entry] = []
        self.failures: list[tuple[str, str]] = []
        self.records = self.done = 0
        for name in ("thumbnails", "pictures", "records"):
            (folder / name).mkdir()

    def add(self, group: Sequence[tuple[data.Explanation, data.Item]], labels: Labels) -> None:
        """Measures and draws some records."""
        entries, photos = [], []
        for one, item in group:
            self.done += 1
            reason = _refusal(one, item)
            if reason is not None:
                self.failures.append((one.id, reason))
                continue
            jpeg(item.pixels, self.folder / "pictures" / f"{self.records}.jpg")
            for own in labels.entries(one, item.record, self.records):
                entries.append(own)
                photos.append(item.pixels)
            self.records += 1
        measure(entries, self.looks)
        for entry, photo, drawn in zip(entries, photos, draw(entries, self.looks), strict=True):
            number = len(self.entries)
            for i, (look, one) in enumerate(zip(self.looks, drawn, strict=True)):
                path = self.folder / "thumbnails" / f"{number}-{i}.jpg"
                jpeg(thumbnail(photo, one, look.style), path)
            self._write_entry(number, entry, drawn)
            entry.forget()
            self.entries.append(entry)

    def _write_entry(self, number: int, entry: Entry, drawn: Sequence[Drawn]) -> None:
        """What is shown of an entry that is opened."""
        about = {
            "maps": [one.packed() for one in drawn],
            "range": [[_short(m.min()), _short(m.max())] for m in entry.maps],
            "boxes": entry.boxes,
            "points": entry.points,
        }
        self._script(f"records/{number}.js", f"galleryEntry({number}, ", about, ")")

    def finish(self, maps: data.Maps, source: Any, labels: Labels) -> None:
        """Writes the page and the numbers of all entries."""
        content: dict[str, Any] = {
            "title": f"{maps.settings.get('model', 'A network')} on {source.name}",
            "run": {
                "records": maps.settings["records"],
                "shown": self.records,
                "finished": maps.complete,
            },
            "methods": [
                {"title": look.title, "style": look.style, "colours": colour_table(look.style)}
                for look in self.looks
            ],
            "targets": labels.called(labels.target_names, (e.target for e in self.entries)),
            "outputs": labels.called(labels.output_names, (e.predicted for e in self.entries)),
            "labels": labels.called(
                labels.label_names, (one for e in self.entries for one in e.labels)
            ),
            "failures": [list(one) for one in self.failures],
            "unknown": labels.unknown,
            "entries": {
                "id": [e.id for e in self.entries],
                "record": [e.record for e in self.entries],
                "size": [list(e.size) for e in self.entries],
                "target": [e.target for e in self.entries],
                "score": [_short(e.score) for e in self.entries],
                "predicted": [e.predicted for e in self.entries],
                "right": [e.right for e in self.entries],
                "labels": [e.labels for e in self.entries],
                "agreement": [_short(e.agreement) for e in self.entries],
                "concentration": [[_short(v) for v in e.concentration] for e in self.entries],
                "hit": [e.hits for e in self.entries],
            },
        }
        self._script("data.js", "const GALLERY = ", content, ";")
        static = importlib.resources.files("jaxplain.page") / "static"
        for name in _STATIC:
            (self.folder / name).write_bytes((static / name).read_bytes())

    def _script(self, name: str, before: str, value: Any, after: str) -> None:
        # ASCII alone, so that no encoding is mistaken; without "<", so that it is never markup.
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        (self.folder / name).write_text(f"{before}{text}{after}\n", "ascii")


def _refusal(one: data.Explanation, item: data.Item) -> str | None:
    """Why a record cannot be shown."""
    if item.error is not None:
        return item.error.reason
    if item.record.id != one.id or tuple(item.record.size) != one.size:
        return "the data set has another image in this place than the one that was explained"
    broken = [name for name, m in one.maps.items() if not np.isfinite(m).all()]
    return f"its map of {broken[0]} holds NaN or infinity" if broken else None


def _short(value: float | None) -> float | None:
    """Four digits of a number, which JSON knows."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")
