"""What the page in the browser computes: predictions, layers, and compiled maps of one picture."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxplain import core, data
from jaxplain.core import UnsupportedOperationError
from jaxplain.core.layer_table import Layer
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.explanation import Explanation
from jaxplain.explanation.choice import Choice, can_take_layer
from jaxplain.explanation.computing import fill
from jaxplain.explanation.explaining import input_of, load, subject_of
from jaxplain.explanation.outputs import kind
from jaxplain.explanation.result import MethodMaps

#: The most pixels of a picture that is dropped: a photograph of any camera.
MOST_PIXELS = 1 << 26
#: Compiled programs that are kept, each for a method, layer and number of classes.
_KEPT = 64

#: Methods with one map for each class, which need nothing but picture and network.
METHODS = tuple(
    name for name, m in CATALOGUE.items() if m.per_class and not m.rows and m.needs is None
)


class PictureError(ValueError):
    """A picture that cannot be explained, in a sentence for the page."""


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture that a visitor gave.

    Raises:
        PictureError: it is none, or has too many pixels.
    """
    try:
        return data.read_image(path, most_pixels=MOST_PIXELS)
    except data.UnreadableImageError as error:
        raise PictureError(f"This picture cannot be read: {error.reason}.") from error


class Studio:
    """A network and its compiled explainers.

    Args:
        model, class_names, config, preprocess: as of `jaxplain.explain`.
        said: how the network is named in Python, for those who want to do the same there.
    """

    def __init__(
        self,
        model: Any,
        *,
        class_names: Sequence[str] | None = None,
        config: Any = None,
        preprocess: Callable | None = None,
        said: str = "network",
    ):
        self.network, self.config = load(model, config)
        if kind(self.config) != "classes":
            raise ValueError(f"The page explains classes, and {said} gives none.")
        self.preprocess, self.said = preprocess, said
        more = {"class_names": class_names, "config": config, "preprocess": preprocess}
        self.given = tuple(key for key, value in more.items() if value is not None)
        names = class_names
        if names is None and self.config is not None and self.config.class_names:
            names = self.config.class_names
        self.class_names = None if names is None else tuple(names)
        self._traced: dict[tuple, Any] = {}
        self._compiled: dict[tuple, Any] = {}
        self.count = 0  # of classes, once a picture was seen
        self._scores = jax.jit(lambda model, x: model(x))

    def _model(self, x: jax.Array) -> Any:
        if x.shape not in self._traced:
            self._traced[x.shape] = core.trace(self.network, x)
        return self._traced[x.shape]

    def layers(self, picture: np.ndarray) -> list[Layer]:
        """The layers with a place in the image, in order of computation."""
        _, x = input_of(picture, self.config, self.preprocess)
        rows = core.layers(self._model(x), x)
        return [row for row in rows if row.name != "input" and "H" in row.meaning]

    def explain(
        self,
        picture: np.ndarray,
        methods: Sequence[str],
        targets: Sequence[int | str],
        *,
        against: bool = False,
        layer: str | None = None,
        name: str = "",
        begins: Callable[[int, str], None] | None = None,
    ) -> Explanation:
        """Maps of a picture, compiled once for each method and layer.

        Args:
            picture: uint8 ``(H, W, 3)``.
            methods: of `METHODS`; those that the network does not allow are in ``left_out``.
            targets: classes, by index, or "top1".
            against: of two targets also explains the difference of the scores, first less second,
                as a method of its own, ``NAME-against``.
            layer: of the methods that take one; None for their own.
            name: of the picture.
            begins: called with the number and title of each method.
        """
        shown, x = input_of(picture, self.config, self.preprocess)
        model = self._model(x)
        scores = np.asarray(self._scores(model, x)[0], np.float32)
        self.count = scores.shape[-1]
        subject, _ = subject_of(
            self.network,
            shown,
            x,
            list(targets),
            name=name,
            config=self.config,
            names=self.class_names,
            scores=scores,
        )
        about = subject.about
        if self.config is None:
            about.model = self.said
        choices = {
            one: _Compiled(one, layer if can_take_layer(one) else None, studio=self)
            for one in methods
        }
        places = {one: i for i, one in enumerate(choices)}

        @contextlib.contextmanager
        def around(choice: Choice):
            if begins is not None:
                begins(places[choice.name], choice.title)
            yield

        def refused(choice: Choice, error: Exception) -> None:
            about.left_out[choice.title] = " ".join(str(error).split())

        fill(
            choices,
            model,
            self.config,
            [subject],
            fit=_no_fit,
            refused=refused,
            around=around,
        )
        if against and len(about.targets) == 2:
            self._against(choices, model, x, about)
        return about

    def _against(
        self, choices: Mapping[str, Choice], model: Any, x: jax.Array, about: Explanation
    ) -> None:
        """The maps of the difference of two classes' scores."""
        signal = np.zeros((1, self.count), np.float32)
        signal[0, about.targets[0]], signal[0, about.targets[1]] = 1, -1
        for name, choice in choices.items():
            if name not in about.methods:
                continue
            title = f"{choice.title}, difference"
            try:
                found = choice.explainer(self.config)(model, x, signal)
            except (UnsupportedOperationError, ValueError) as error:
                about.left_out[title] = " ".join(str(error).split())
                continue
            array = np.asarray(found[0], np.float32)
            style = "signed" if (array < 0).any() else CATALOGUE[name].style
            layer = choice.known_layer(self.config)
            about.methods[f"{name}-against"] = MethodMaps(
                f"{name}-against", title, style, layer, {}, {"": array}
            )

    def compiled(self, choice: Choice) -> Callable:
        """Network, images and targets to maps, compiled; the network is that of the studio."""
        key = (choice.name, choice.layer)
        if key not in self._compiled:
            while len(self._compiled) >= _KEPT:
                del self._compiled[next(iter(self._compiled))]
            explain = Choice(choice.name, choice.layer).explainer(self.config)
            # The traced network is an argument: closed over, its weights would be compiled in.
            self._compiled[key] = jax.jit(lambda model, x, targets: explain(model, x, targets))
        jitted = self._compiled[key]
        return lambda _, x, targets: jitted(self._model(x), x, targets)


def _no_fit(choice: Choice) -> Any:
    raise ValueError(f"{choice.title} must be fitted first, which this page cannot do")


@dataclasses.dataclass(frozen=True)
class _Compiled(Choice):
    """A method whose explainer a studio has compiled."""

    studio: Any = None

    def explainer(self, config: Any, **defaults: Any) -> Callable:
        return self.studio.compiled(self)


def code_of(studio: Studio, methods: Sequence[str], about: Explanation, layer: str | None) -> str:
    """The lines of Python that make the same maps."""
    asked = {name: {"layer": layer} if layer and can_take_layer(name) else {} for name in methods}
    given = "".join(f", {name}={name}" for name in studio.given)
    lines = [
        "import jaxplain",
        f"methods, classes = {asked!r}, {list(about.targets)!r}",
        f"found = jaxplain.explain({about.name!r}, {studio.said}, methods, classes{given})",
        'found.save("maps.npz")  # found.maps are the arrays',
        'found.to_pil().save("maps.png")',
    ]
    return "\n".join(lines)
