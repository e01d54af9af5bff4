"""What is known of a method: the form of an entry of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One entry: how to call the explainer, and how to show what it returns.

    Attributes:
        title: as it is written over its picture.
        place: ``file.function``: a file of `jaxplain.explainers`, and the explainer in it.
        style: a style of `jaxplain.viz`.
        about: what it is, for the README's table; "" where another entry has the same function.
        paper: where it comes from, for the README's table, in Markdown.
        also: other functions that belong to it.
        aliases: other spellings of its name that people use.
        options: of the function, which the command line sets.
        at_layer: explained at a layer, which ``--layer`` chooses; else at the image.
        layer: the kind of layer at which it looks by default, of `ModelConfig.layers`; None where
            the function's own default is right.
        random: needs a PRNG key.
        blurred: its map at the image is sparse: the pointing game blurs it, as its paper does.
        opens: which operations its backward rules must see through, so that it refuses what hides
            them: ``"all"`` of them, ``"relus"``, or None for none, as the plain gradient.
        attention: defined for networks with attention alone.
        per_class: one map for each class; else maps that no class changes.
        rows: drawn by ``jaxplain explain`` in rows of its own, not in those of the classes.
        needs: an argument, besides network, images and targets, that it cannot do without.
        shown: its place in what ``jaxplain explain`` shows by default; None for none.
    """

    title: str
    place: str
    style: Literal["heat", "gray", "signed"]
    about: str = ""
    paper: str = ""
    also: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    at_layer: bool = False
    layer: str | None = None
    random: bool = False
    blurred: bool = False
    opens: Literal["all", "relus"] | None = None
    attention: bool = False
    per_class: bool = True
    rows: bool = False
    needs: str | None = None
    shown: int | None = None

    @property
    def file(self) -> str:
        """The module of `jaxplain.explainers` that holds it."""
        return self.place.partition(".")[0]

    @property
    def function(self) -> str:
        """The name of the explainer, an attribute of `jaxplain`."""
        return self.place.partition(".")[2]
