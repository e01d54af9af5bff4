"""What `jaxplain.explain` gives back."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxplain.core import Table
from jaxplain.core.extras import missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True, eq=False)
class MethodMaps:
    """The maps of one method.

    Attributes:
        name: of the method, as it was asked for.
        title: the same as it is written over pictures, with what was set.
        style: how it is drawn, of `jaxplain.viz.STYLES`.
        layer: where it looked, as far as that is known by name; None for the function's default.
        options: what was set, in words.
        maps: part -> array. One part ``""``, ``(K, h, w)``, of a method that gives one map for each
            class; of several layers one part each, by name. Dense Attention has the parts
            ``"layers/NAME"`` and ``"cumulative/NAME"``, ``(h, w)``; PFV ``"colours"``, ``(h, w,
            3)``, and ``"weights"``, ``(h, w)``.
    """

    name: str
    title: str
    style: Literal["heat", "gray", "signed"]
    layer: str | tuple[str, ...] | None
    options: Mapping[str, str]
    maps: Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Explanation:
    """A picture, what a network makes of it, and the maps that explain that.

    It shows itself in a notebook. `save` writes everything into one ``.npz`` file or into a folder,
    and `load` reads both.

    Attributes:
        name: of the picture; "" where it has none.
        image: the picture, uint8 ``(H, W, 3)``.
        model: the network's name.
        targets: the classes that are explained, by index; K of them.
        class_names: their names.
        scores: ``(K,)``: their scores, which are what is explained.
        probabilities: ``(K,)``: their shares in the softmax of all scores.
        labels: what stands beside their rows in a figure.
        methods: name -> `MethodMaps`.
        left_out: title -> why the network does not allow it; with ``methods="all"`` only.
        predictions: the most probable classes: name, index, score and probability.

    Example:
        >>> import numpy as np, jaxplain
        >>> image = np.zeros((8, 8, 3), np.float32)
        >>> fn = lambda x: jaxplain.tag(x, "seen").mean((1, 2)) + 1.0
        >>> found = jaxplain.explain(image, fn, ["gradient"], 2, class_names=["cat", "dog", "cup"])
        >>> found.class_names, found.maps["gradient"].shape, found.map("gradient", "cup").shape
        (('cup',), (1, 8, 8), (8, 8))
        >>> found.overlay("gradient").dtype
        dtype('uint8')
    """

    name: str
    image: np.ndarray
    model: str
    targets: tuple[int, ...]
    class_names: tuple[str, ...]
    scores: np.ndarray
    probabilities: np.ndarray
    labels: tuple[str, ...]
    predictions: Table[Any] = dataclasses.field(default_factory=Table)
    methods: dict[str, MethodMaps] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """All maps as they came, float32: ``"METHOD"`` or ``"METHOD/PART"`` -> array.

        Of most methods there is one array ``(K, h, w)``, a map for each class; see `MethodMaps`.
        """
        return {
            "/".join(filter(None, (name, part))): array
            for name, method in self.methods.items()
            for part, array in method.maps.items()
        }

    def map(
        self, method: str | None = None, target: int | str | None = None, *, part: str | None = None
    ) -> np.ndarray:
        """One map: ``(h, w)``, or ``(h, w, 3)`` of PFV's colours.

        Args:
            method: None for the first.
            target: a class, by name or index, of those explained; None for the first.
            part: a layer where several were asked for, else as in `MethodMaps`; None for the first.

        Raises:
            ValueError: there is no such method, class or part.
        """
        return self._find(method, target, part)[1]

    def _find(self, method: Any, target: Any, part: Any) -> tuple[MethodMaps, np.ndarray]:
        from jaxplain.explainers.catalogue import canonical

        if method is not None and method not in self.methods:
            method = canonical(method)
        found = self.methods[_among(method, self.methods, "method")]
        part = _among(part, found.maps, f"part of {found.name}")
        array = found.maps[part]
        if array.ndim == 3 and part != "colours":
            array = array[self._row(target)]
        elif target is not None:
            raise ValueError(f"{found.name} knows no class: its map is of the picture alone")
        return found, array

    def _row(self, target: int | str | None) -> int:
        if target is None:
            return 0
        if not isinstance(target, str):
            known, alike = [*map(str, self.targets)], [target == one for one in self.targets]
        else:
            known = self.class_names
            alike = [target == one or target in one.split(", ") for one in known]
        if any(alike):
            return alike.index(True)
        raise ValueError(f"class {target!r} was not explained; those are {', '.join(known)}")

    # -- pictures ---------------------------------------------------------------------------------

    def overlay(
        self,
        method: str | None = None,
        target: int | str | None = None,
        *,
        part: str | None = None,
        style: str | None = None,
        cmap: str | None = None,
        strength: float = 0.65,
    ) -> np.ndarray:
        """A map over the picture, uint8 ``(H, W, 3)``.

        Args:
            method, target, part: as of `map`.
            style: of `jaxplain.viz.STYLES`; None for the method's own.
            cmap: a colour map of matplotlib in place of the style's.
            strength: largest share of the colour, in [0, 1].

        Raises:
            ValueError: as `map` and `jaxplain.viz.overlay`.
        """
        from jaxplain import viz

        found, one = self._find(method, target, part)
        if one.ndim == 3:
            picture = viz.feature_overlay(self.image, one)
        else:
            style = style or found.style
            picture = viz.overlay(self.image, one, style, strength=strength, cmap=cmap)
        return np.rint(255 * picture).astype(np.uint8)

    def figure(
        self,
        *,
        cmap: str | None = None,
        colour_bar: bool = False,
        boxes: float | None = None,
        max_columns: int = 7,
        cell: float = 1.75,
    ) -> Figure:
        """All maps over the picture: a row for each class, a column for each method.

        Args:
            cmap: the colour map of heat maps, by matplotlib's name; None for the default.
            colour_bar: draw what the colours mean below.
            boxes: draw the tightest box around the pixels above so many means of each map.
            max_columns: longer rows are wrapped.
            cell: width of a picture in inches.

        Returns:
            A matplotlib `Figure` of 200 dots to the inch, which belongs to no pyplot state;
            ``figure.savefig("x.pdf")`` or `save` writes it.
        """
        from jaxplain.explanation import drawing

        return drawing.figure(
            [self],
            cmap=cmap,
            colour_bar=colour_bar,
            boxes=boxes,
            max_columns=max_columns,
            cell=cell,
        )

    def to_pil(
        self, method: str | None = None, target: int | str | None = None, **options: Any
    ) -> Image:
        """The `overlay` of a method as a Pillow image; without a method, the whole `figure`."""
        from PIL import Image as pillow

        if method is not None:
            return pillow.fromarray(self.overlay(method, target, **options))
        with pillow.open(io.BytesIO(_png(self.figure(**options)))) as image:
            return image.convert("RGB")

    # -- files and other forms --------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, dpi: float = 200) -> None:
        """Writes everything, or a picture; the name decides.

        - ``x.npz``: maps, scores, classes, the picture and all that is known of them, in one file.
        - ``x.png``, ``x.pdf`` and other pictures: the `figure`.
        - a name without a suffix: a new folder with ``maps.npz`` (as above), ``manifest.json``,
          ``figure.png`` and the folder ``overlays``, with a picture for each map.

        Raises:
            ValueError: a suffix that means nothing.
            FileExistsError: the folder exists already.
            OSError: it cannot be written.
        """
        from jaxplain.explanation import files

        files.save(self, path, dpi)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """What `save` wrote into a ``.npz`` file or a folder.

        Raises:
            ValueError: the file is not one of `save`.
            FileNotFoundError: there is none.
        """
        from jaxplain.explanation import files

        return files.load(path)

    def to_xarray(self) -> Any:
        """The maps as an `xarray.Dataset`, with a variable for each array of `maps`.

        Classes are the coordinate ``target``; ``rows_H`` and ``columns_W`` count the places of maps
        of a size from 0 to 1 across the picture. Attributes say what the methods are.

        Raises:
            ImportError: xarray is not installed; the message says how to.
        """
        try:
            import xarray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise missing("xarray", "xarray", "Explanation.to_xarray") from error
        variables: dict[str, Any] = {}
        places: dict[str, np.ndarray] = {}
        for name, method in self.methods.items():
            about = {"title": method.title, "style": method.style, "layer": str(method.layer or "")}
            for part, array in method.maps.items():
                of_classes = array.ndim == 3 and part != "colours"
                h, w = array.shape[-2:] if of_classes else array.shape[:2]
                dims = ("target",) * of_classes + (f"rows_{h}", f"columns_{w}")
                dims += ("colour",) * (array.ndim - len(dims))
                places |= {f"rows_{h}": _centres(h), f"columns_{w}": _centres(w)}
                variables["/".join(filter(None, (name, part)))] = (dims, array, about)
        coordinates: dict[str, Any] = {
            **places,
            "target": list(self.targets),
            "class_name": ("target", list(self.class_names)),
            "score": ("target", self.scores),
        }
        attributes = {"model": self.model, "picture": self.name}
        return xarray.Dataset(variables, coordinates, attributes)

    # -- notebooks --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        what = f" of {self.name}" if self.name else ""
        return (
            f"<Explanation{what} by {self.model}: {', '.join(self.labels)}; "
            f"maps: {', '.join(self.maps)}>"
        )

    def _repr_png_(self) -> bytes:
        return _png(self.figure(), 100)

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._repr_png_()).decode()
        heading = " ".join(filter(None, (self.name, f"explained by {self.model}")))
        left_out = "".join(
            f"<p>{html.escape(title)} left out: {html.escape(reason)}</p>"
            for title, reason in self.left_out.items()
        )
        return (
            f"<p><b>{html.escape(heading)}</b></p>{self.predictions._repr_html_()}"
            f'<img alt="maps" src="data:image/png;base64,{picture}"/>{left_out}'
        )


def _among(name: str | None, known: Mapping[str, Any], what: str) -> str:
    if name is None and known:
        return next(iter(known))
    if name is None or name not in known:
        raise ValueError(f"there is no {what} {name!r}; there are {', '.join(map(repr, known))}")
    return name


def _centres(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _png(figure: Figure, dpi: float | None = None) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure" if dpi is None else dpi)
    return buffer.getvalue()
